/** Tries an execution provider, in a process of its own: prints a `Probed` as JSON. */
import { Graph, Model, Node, Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { PROVIDERS } from '../../ops/core/provider.js';
import { Session } from '../session.js';
import type { Probed } from './choose.js';
import { type Concrete, faultOf } from './faults.js';

const SIZE = 512;
const RUNS = 3;
const SLOW_MS = 3000;

/** Y = X X, of ones. */
function product(): Model {
  const type = { kind: 'tensor', dtype: 'float32', shape: [SIZE, SIZE] } as const;
  const graph = new Graph('probe');
  const [x, y] = [new Value('x', type), new Value('y', type)];
  graph.inputs = [x];
  graph.outputs = [y];
  graph.nodes = [new Node('MatMul', [x, x], [y])];
  return Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
}

async function timeOf(device: Concrete): Promise<number> {
  const session = await Session.create(product(), { device });
  const x = Tensor.filled('float32', [SIZE, SIZE], 1);
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i <= RUNS; i++) {
    const start = performance.now();
    const { y } = await session.run({ x });
    // The first run also compiles kernels; where it takes this long, the device is not fast.
    const milliseconds = performance.now() - start;
    if (i > 0 || milliseconds > SLOW_MS) least = Math.min(least, milliseconds);
    if (y!.numbers().some(value => value !== SIZE)) throw new Error('its results are wrong');
    if (i === 0 && milliseconds > SLOW_MS) break;
  }
  await session.release();
  return least;
}

export async function probe(device: Concrete): Promise<Probed> {
  try {
    return { milliseconds: await timeOf(device), cpuMilliseconds: await timeOf('cpu') };
  } catch (error) {
    const { cause, message } = error as Error;
    return { reason: faultOf(cause ?? error, device)?.reason ?? message };
  }
}

const [, , asked] = process.argv;
const device = PROVIDERS.find(name => name === asked);
if (device) {
  process.stdout.write(`${JSON.stringify(await probe(device))}\n`);
  // Drivers may keep threads that never end.
  process.exit();
}
