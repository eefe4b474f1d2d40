import { Tensor } from '../../src/graph/tensor.js';
import type { AgdOptions } from '../../src/ops/optimizers/agd.js';
import type { LossSpec } from '../../src/passes/attach-loss.js';
import { gradientModel } from '../../src/passes/gradients.js';
import { inject } from '../../src/passes/inject.js';
import type { Device } from '../../src/runtime/devices.js';
import { type Feeds, Session, sessionShapes } from '../../src/runtime/session.js';
import { Trainer } from '../../src/runtime/trainer.js';
import { type Case, type Check, largestDifference, reference, section } from './case.js';

/** Trains the model as the case says and compares losses, first gradients and final values. */
export async function checkTraining(c: Case, device?: Device): Promise<Check[]> {
  const { info, model, bytes, tensors } = c;
  const loss = info.loss as LossSpec;
  const { batchNorm } = info;
  const { model: injected } = await inject(
    model,
    { loss, optimizer: agdOptions(info.agd), batchNorm, original: bytes },
    sessionShapes,
  );
  const trainer = await Trainer.create(injected, { device });
  const initial = new Map([...injected.graph.initializers].map(([v, t]) => [v.name, t]));
  const losses: number[] = [];
  for (let k = 0; k < info.steps; k++) losses.push((await trainer.step(batch(tensors, k))).loss);
  const final = new Map([...initial, ...trainer.state]);
  await trainer.release();
  const gradients = await firstGradients(c, loss, device);
  return [
    ...tensors
      .get('losses')!
      .numbers()
      .map((want, k) => ({
        what: `loss of step ${k + 1}`,
        error: Math.abs(losses[k]! - want) / (1e-3 * Math.max(1, Math.abs(want))),
      })),
    ...[...section(tensors, 'gradient:').keys()].map(name => {
      const ref = reference(tensors, `gradient:${name}`);
      const allowed = 2e-3 * Math.max(...ref.want.map(Math.abs)) + 1e-6;
      return {
        what: `gradient of ${name}`,
        error: largestDifference(gradients[name]!.numbers(), ref) / allowed,
      };
    }),
    ...[...section(tensors, 'final:').keys()].flatMap(name => {
      const gradient = tensors.get(`gradient:${name}`)?.numbers();
      if (gradient && Math.max(...gradient.map(Math.abs)) < 1e-6) return [];
      const { want, at } = reference(tensors, `final:${name}`);
      const pick = (t: Tensor | undefined) => {
        const values = t?.numbers() ?? [];
        return at ? at.map(i => values[i]!) : values;
      };
      const [start, end] = [pick(initial.get(name)), pick(final.get(name))];
      const moved = norm(want.map((w, i) => w - start[i]!));
      const off = norm(want.map((w, i) => w - end[i]!));
      const error = off === 0 ? 0 : off / (0.02 * moved);
      return { what: `final ${name}`, error: Number.isNaN(error) ? Number.POSITIVE_INFINITY : error };
    }),
  ];
}

const norm = (x: readonly number[]) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));

/** The k-th batch: the case's arrays have a leading axis of steps. */
function batch(tensors: ReadonlyMap<string, Tensor>, k: number): Feeds {
  const arrays = [...section(tensors, 'input:')];
  const target = tensors.get('target');
  if (target) arrays.push(['target', target]);
  return Object.fromEntries(
    arrays.map(([name, t]) => {
      const dims = t.dims.slice(1);
      const bytes = t.byteLength / t.dims[0]!;
      return [name, new Tensor(t.dtype, dims, t.bytes.slice(k * bytes, (k + 1) * bytes))];
    }),
  );
}

async function firstGradients(
  { model, info, tensors }: Case,
  loss: LossSpec,
  device?: Device,
): Promise<Feeds> {
  const wrt = [...section(tensors, 'gradient:').keys()];
  const made = await gradientModel(
    model,
    { loss, wrt, batchNorm: info.batchNorm, dropout: 'train' },
    sessionShapes,
  );
  const session = await Session.create(made.model, { device });
  const results = await session.run(batch(tensors, 0));
  await session.release();
  return Object.fromEntries([...made.gradients].map(([name, out]) => [name, results[out ?? '']!]));
}

/** The case speaks PyTorch's names. */
function agdOptions(options: Record<string, unknown>): Partial<AgdOptions> {
  const camel = (name: string) => name.replace(/_(.)/g, (_, c: string) => c.toUpperCase());
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [camel(name), value]));
}
