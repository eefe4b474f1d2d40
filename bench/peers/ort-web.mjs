/**
 * The racer of ONNX Runtime's own training, in its last release for JavaScript. Its package keeps it from Node, where it
 * runs with one thread if its files are named. AdamW is that of the artifacts, which adds epsilon before the bias
 * correction.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { artifactBatch, serve } from './serve.mjs';

await serve(async ({ artifacts }) => {
  const dist = new URL('../node_modules/onnxruntime-web/dist/', import.meta.url);
  const ort = await import(new URL('ort.training.wasm.min.mjs', dist));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = readFileSync(new URL('ort-training-wasm-simd-threaded.wasm', dist));
  const files = readdirSync(artifacts);
  const bytes = pattern =>
    readFileSync(
      join(
        artifacts,
        files.find(name => pattern.test(name)),
      ),
    );
  const session = await ort.TrainingSession.create({
    checkpointState: new Uint8Array(bytes(/^checkpoint/)),
    trainModel: new Uint8Array(bytes(/^training_model/)),
    evalModel: new Uint8Array(bytes(/^eval_model/)),
    optimizerModel: new Uint8Array(bytes(/^(adamw|optimizer_model)/)),
  });
  const { x, labels } = artifactBatch();
  const feeds = Object.fromEntries(
    [x, labels].map(({ dtype, dims, data }, i) => [
      session.trainingInputNames[i],
      new ort.Tensor(dtype, data, dims),
    ]),
  );
  return {
    async run() {
      const results = await session.runTrainStep(feeds);
      await session.runOptimizerStep();
      await session.lazyResetGrad();
      return [results[session.trainingOutputNames[0]].data[0]];
    },
  };
});
