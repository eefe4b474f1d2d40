import { files, saveModel, setRuntime, Tensor, fit as train } from 'agd-onnx/web';
import * as ort from 'onnxruntime-web/wasm';

const COUNT = 250;
const SIDE = 28;
ort.env.wasm.numThreads = 1;
setRuntime(ort);
const fetched = async (name: string) => new Uint8Array(await (await fetch(name)).arrayBuffer());

self.onmessage = async ({ data: { epochs, base } }: MessageEvent<{ epochs: number; base: string }>) => {
  try {
    await files.write('/lenet.onnx', await fetched(`${base}lenet.onnx`));
    const bytes = await fetched(`${base}digits.bin`);
    const pixels = Float32Array.from(bytes.subarray(0, COUNT * SIDE * SIDE), value => value / 255);
    const labels = BigInt64Array.from(bytes.subarray(COUNT * SIDE * SIDE), BigInt);
    const data = {
      input: Tensor.from('float32', [COUNT, 1, SIDE, SIDE], pixels),
      target: Tensor.from('int64', [COUNT], labels),
    };
    const { model, history } = await train('/lenet.onnx', data, {
      loss: 'cross-entropy',
      epochs,
      batchSize: 25,
      onEvent: event =>
        self.postMessage({
          event: JSON.parse(JSON.stringify(event, (_, v) => (typeof v === 'bigint' ? Number(v) : v))),
        }),
    });
    await saveModel(model, '/trained.onnx');
    self.postMessage({ losses: [...history.losses], model: files.read('/trained.onnx') });
  } catch (error) {
    self.postMessage({ error: (error as Error).message });
  }
};
