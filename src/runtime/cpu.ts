/** What ONNX Runtime's CPU provider does not do by itself for weights that change from step to step. */
import { allGraphs, Graph, Model, Node, Value } from '../graph/ir.js';
import { Tensor } from '../graph/tensor.js';
import { resolveDevice } from './devices/choose.js';
import { Session, type SessionOptions } from './session.js';

/** In WebAssembly, where HardSigmoid takes longer than Greater and Cast, and nothing tells the sizes of caches. */
export const isWasm = process.arch === ('wasm' as string);

/** Lays convolutions and products of a model that is to run on the CPU out for its processor; changes the model's nodes. */
export async function layOut(
  model: Model,
  { device, optimize = true, threads }: SessionOptions,
): Promise<Model> {
  if (!optimize || (await resolveDevice(device)).device !== 'cpu') return model;
  const operators = new Set([...allGraphs(model.graph)].flatMap(graph => graph.nodes.map(n => n.opType)));
  if (operators.has('LSTM')) (await import('../passes/cpu/keep-gates.js')).keepGates(model);
  if (operators.has('Softmax')) {
    (await import('../passes/cpu/shorten-attention.js')).shortenAttention(model);
    (await import('../passes/cpu/swap-in-products.js')).swapInProducts(model);
  }
  if (operators.has('Erf')) (await import('../passes/cpu/shorten-gelu.js')).shortenGelu(model);
  if (operators.has('Relu') && !isWasm) (await import('../passes/cpu/masks-at-once.js')).masksAtOnce(model);
  const block = operators.has('Conv') || operators.has('ConvTranspose') ? await channelBlock() : undefined;
  if (block) (await import('../passes/cpu/block-kernel-gradients.js')).blockKernelGradients(model, block);
  if (block && operators.has('ConvTranspose'))
    (await import('../passes/cpu/untranspose-convolutions.js')).untransposeConvolutions(
      model,
      block,
      threads,
    );
  if (operators.has('MaxUnpool')) (await import('../passes/cpu/pools-as-maxima.js')).poolsAsMaxima(model);
  if (operators.has('LogSoftmax')) (await import('../passes/cpu/weigh-rows-last.js')).weighRowsLast(model);
  if (operators.has('Transpose')) (await import('../passes/cpu/transpose-apart.js')).transposeApart(model);
  if (operators.has('ReduceSum')) (await import('../passes/cpu/sums-first.js')).sumRows(model);
  if (operators.has('ScatterElements')) {
    (await import('../passes/cpu/add-rows.js')).addRows(model);
    (await import('../passes/cpu/share-zeros.js')).shareZeros(model);
  }
  if (block) (await import('../passes/cpu/block-channels.js')).blockChannels(model, block);
  (await import('../passes/common/lend-axes.js')).lendAxes(model);
  return model;
}

/** Takes out of a run of several steps on the CPU what each of them need not do; changes the model's nodes. */
export async function shortenSteps(model: Model, { device, optimize = true }: SessionOptions): Promise<void> {
  if (!optimize || (await resolveDevice(device)).device !== 'cpu') return;
  (await import('../passes/cpu/once-a-run.js')).onceARun(model);
}

let blockSize: Promise<number | undefined> | undefined;

/** Channels side by side in the blocked layout of this processor (8, 16 with AVX-512); undefined where the runtime has none. */
export function channelBlock(): Promise<number | undefined> {
  blockSize ??= askBlockSize();
  return blockSize;
}

/** Two pixels of 32 channels tell by their order how many are side by side. */
async function askBlockSize(): Promise<number | undefined> {
  const { BLOCKED: domain } = await import('../passes/cpu/blocks.js');
  const graph = new Graph('layout');
  const x = new Value('x', { kind: 'tensor', dtype: 'float32', shape: [1, 32, 1, 2] });
  const y = new Value('y');
  graph.inputs = [x];
  graph.outputs = [y];
  graph.nodes = [Object.assign(new Node('ReorderInput', [x], [y]), { domain })];
  const model = Object.assign(new Model(graph), {
    irVersion: 8,
    opsetImports: new Map([
      ['', 18],
      [domain, 1],
    ]),
  });
  try {
    const session = await Session.create(model);
    const order = (
      await session.run({
        x: Tensor.from(
          'float32',
          [1, 32, 1, 2],
          Float32Array.from({ length: 64 }, (_, i) => i),
        ),
      })
    ).y!;
    await session.release();
    // The second pixel of the first channel follows the last channel of the block.
    const block = order.numbers().indexOf(1);
    return block > 1 ? block : undefined;
  } catch {
    return undefined;
  }
}
