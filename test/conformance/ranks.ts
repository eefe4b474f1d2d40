import { Tensor } from '../../src/graph/tensor.js';
import type { AnyOptions } from '../../src/ops/optimizers/index.js';
import { inject } from '../../src/passes/inject.js';
import type { InjectOptions, LossSpec } from '../../src/passes/options.js';
import { type Collective, partOfRank } from '../../src/runtime/collective/collective.js';
import { localCollectives } from '../../src/runtime/collective/local.js';
import { type Feeds, sessionShapes } from '../../src/runtime/session.js';
import { Trainer } from '../../src/runtime/train/trainer.js';
import type { Case, Check } from './case.js';
import { agdOptions, batch } from './training.js';

/** The difference from one process that rounding explains, relative to the largest number of a tensor. */
const BOUND = 1e-6;

/**
 * Trains the case on so many ranks, each with its part of every batch, and on one, and compares losses, parameters and running
 * statistics. The optimizer is SGD, whose updates are as far apart as the gradients; with AGD, which divides by differences of
 * gradients, the ranks are only compared with each other. Errors are in units of 1e-6, infinite if ranks differ in a bit.
 */
export async function checkRanks(c: Case, ranks: number): Promise<Check[]> {
  const sgd = { name: 'sgd', lr: 0.01 } as const;
  const alone = await trained(c, sgd);
  const together = await onRanks(c, sgd, ranks);
  const agd = await onRanks(c, agdOptions(c.info.agd), ranks);
  return [
    { what: 'bits of the ranks', error: [together, agd].every(haveSameBits) ? 0 : Number.POSITIVE_INFINITY },
    ...alone.losses.map((want, k) => ({
      what: `loss of step ${k + 1}`,
      error: Math.abs(together[0]!.losses[k]! - want) / (BOUND * Math.max(1, Math.abs(want))),
    })),
    ...[...alone.state].map(([name, tensor]) => ({
      what: `final ${name}`,
      error: relative(tensor, together[0]!.state.get(name)!) / BOUND,
    })),
  ];
}

type Trained = { losses: number[]; state: ReadonlyMap<string, Tensor> };

async function trained(
  { info, model, tensors }: Case,
  optimizer: InjectOptions['optimizer'] | AnyOptions,
  collective?: Collective,
): Promise<Trained> {
  const loss = info.loss as LossSpec;
  const { batchNorm } = info;
  const options = { loss, optimizer, batchNorm, lossDivisor: true } as InjectOptions;
  const isNormalized = model.graph.nodes.some(n => n.opType === 'BatchNormalization');
  const syncBatchNorm = (collective && isNormalized && batchNorm === 'train') || undefined;
  const { model: injected } = await inject(model, { ...options, syncBatchNorm }, sessionShapes);
  const trainer = await Trainer.create(injected, { threads: 1, collective });
  const losses: number[] = [];
  for (let k = 0; k < info.steps; k++) {
    const whole = batch(tensors, k);
    losses.push((await trainer.step(collective ? partOf(whole, collective) : whole)).loss);
  }
  const names = new Set([
    ...trainer.description.parameters.map(p => p.name),
    ...trainer.description.statistics,
  ]);
  const { graph } = trainer.snapshot();
  await trainer.release();
  return {
    losses,
    state: new Map([...graph.initializers].flatMap(([v, t]) => (names.has(v.name) ? [[v.name, t]] : []))),
  };
}

const onRanks = (c: Case, optimizer: Parameters<typeof trained>[1], ranks: number) =>
  Promise.all(
    localCollectives(ranks).map(async collective => {
      try {
        return await trained(c, optimizer, collective);
      } catch (error) {
        collective.abort(String(error));
        throw error;
      }
    }),
  );

/** The samples of a rank; nothing if it has none. */
function partOf(feeds: Feeds, collective: Collective): Feeds {
  return Object.fromEntries(
    Object.entries(feeds).flatMap(([name, { dtype, dims, bytes, byteLength }]) => {
      const [from, to] = partOfRank(dims[0]!, collective);
      const size = byteLength / dims[0]!;
      const own = new Tensor(dtype, [to - from, ...dims.slice(1)], bytes.slice(from * size, to * size));
      return to > from ? [[name, own]] : [];
    }),
  );
}

function haveSameBits([first, ...others]: readonly Trained[]): boolean {
  return others.every(
    ({ losses, state }) =>
      losses.every((x, k) => x === first!.losses[k]) &&
      [...first!.state].every(([name, { bytes }]) => Buffer.compare(bytes, state.get(name)!.bytes) === 0),
  );
}

function relative(a: Tensor, b: Tensor): number {
  const [x, y] = [a.numbers(), b.numbers()];
  const most = x.reduce((m, v) => Math.max(m, Math.abs(v)), 1e-3);
  return x.reduce((m, v, i) => Math.max(m, Math.abs(v - y[i]!)), 0) / most;
}
