import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadModel } from '../../src/graph/files.js';
import type { Model } from '../../src/graph/ir.js';
import { tensorsOf } from '../../src/graph/places.js';
import { Tensor } from '../../src/graph/tensor.js';
import { providerOf } from '../../src/ops/core/provider.js';
import type { AgdOptions } from '../../src/ops/optimizers/agd.js';
import { gradientModel } from '../../src/passes/differentiate.js';
import { inject } from '../../src/passes/inject.js';
import type { Device, LossSpec } from '../../src/passes/options.js';
import { exportFile } from '../../src/runtime/export.js';
import { type Feeds, Session, sessionShapes } from '../../src/runtime/session.js';
import { Trainer } from '../../src/runtime/train/trainer.js';
import { type Case, type Check, largestDifference, reference, section } from './case.js';
import { FORMS, type Form, nameAt, writeAs } from './forms.js';

/** The forms of storage in which each case is trained: a case is small where it is in all of them. */
const FEW: readonly Form[] = ['raw', 'typed', 'one file'];
const SMALL = 100_000;

/**
 * Trains the model as the case says, from a file to a file, in several forms of storage, and compares losses, first
 * gradients, and the values that are in the file as written, read anew with the original gone.
 */
export async function checkTraining(c: Case, device?: Device): Promise<Check[]> {
  const { info, tensors, bytes } = c;
  const loss = info.loss as LossSpec;
  const gradients = await firstGradients(c, loss, device);
  const checks = [...section(tensors, 'gradient:').keys()].map(name => {
    const ref = reference(tensors, `gradient:${name}`);
    const allowed = 2e-3 * Math.max(...ref.want.map(Math.abs)) + 1e-6;
    return {
      what: `gradient of ${name}`,
      error: largestDifference(gradients[name]!.numbers(), ref) / allowed,
    };
  });
  // How a file stores its tensors does not depend on the device.
  const all = bytes.length < SMALL ? (Object.keys(FORMS) as Form[]) : FEW;
  const forms: readonly Form[] = (device ?? 'cpu') === 'cpu' ? all : ['raw'];
  for (const form of forms)
    for (const { what, error } of await trainedAs(form, c, loss, device))
      checks.push({ what: `${what}, stored as ${form}`, error });
  return checks;
}

async function trainedAs(form: Form, c: Case, loss: LossSpec, device?: Device): Promise<Check[]> {
  const { info, tensors, bytes } = c;
  const { batchNorm } = info;
  const provider = providerOf(device);
  const folder = await mkdtemp(join(tmpdir(), 'agd-conformance-'));
  try {
    const [path, out] = [join(folder, 'source', 'model.onnx'), join(folder, 'trained.onnx')];
    await mkdir(join(folder, 'source'));
    await writeAs(form, bytes, path);
    const initial = tensorsByName(await loadModel(path));
    const { model: injected } = await inject(
      await loadModel(path),
      { loss, optimizer: agdOptions(info.agd), batchNorm, provider, original: await readFile(path) },
      sessionShapes,
    );
    const trainer = await Trainer.create(injected, { device });
    const losses: number[] = [];
    for (let k = 0; k < info.steps; k++) losses.push((await trainer.step(batch(tensors, k))).loss);
    const sample = batch(tensors, 0);
    const known = await trainer.evaluate([{ inputs: sample, size: 1 }]);
    await trainer.fetchState();
    await exportFile(trainer.snapshot(), out);
    await trainer.release();
    await rm(join(folder, 'source'), { recursive: true });
    const written = await loadModel(out);
    const final = tensorsByName(written);
    const found = await lossOf(written, loss, sample, device);
    return [
      ...tensors
        .get('losses')!
        .numbers()
        .map((want, k) => ({
          what: `loss of step ${k + 1}`,
          error: Math.abs(losses[k]! - want) / (1e-3 * Math.max(1, Math.abs(want))),
        })),
      {
        what: 'loss of the file',
        error: Math.abs(found - known.loss) / (1e-5 * Math.max(1, Math.abs(known.loss))),
      },
      ...[...section(tensors, 'final:').keys()].flatMap(name => {
        const gradient = tensors.get(`gradient:${name}`)?.numbers();
        if (gradient && Math.max(...gradient.map(Math.abs)) < 1e-6) return [];
        const { want, at } = reference(tensors, `final:${name}`);
        const pick = (values: number[] = []) => (at ? at.map(i => values[i]!) : values);
        const [start, end] = [pick(initial.get(name)), pick(final.get(name))];
        const moved = norm(want.map((w, i) => w - start[i]!));
        const off = norm(want.map((w, i) => w - end[i]!));
        const error = off === 0 ? 0 : off / (0.02 * moved);
        return { what: `final ${name}`, error: Number.isNaN(error) ? Number.POSITIVE_INFINITY : error };
      }),
    ];
  } finally {
    await rm(folder, { recursive: true });
  }
}

function tensorsByName(model: Model): Map<string, number[]> {
  return new Map([...tensorsOf(model)].map(({ place, tensor }) => [nameAt(place), tensor.numbers()]));
}

/** The loss of a model in inference form, computed from its file alone. */
async function lossOf(model: Model, loss: LossSpec, inputs: Feeds, device?: Device): Promise<number> {
  const options = { loss, optimizer: { name: 'sgd', lr: 0 }, provider: providerOf(device) } as const;
  const { model: injected } = await inject(model, options, sessionShapes);
  const trainer = await Trainer.create(injected, { device });
  const { loss: found } = await trainer.evaluate([{ inputs, size: 1 }]);
  await trainer.release();
  return found;
}

const norm = (x: readonly number[]) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));

/** The k-th batch: the case's arrays have a leading axis of steps. */
export function batch(tensors: ReadonlyMap<string, Tensor>, k: number): Feeds {
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
    { loss, wrt, batchNorm: info.batchNorm, dropout: 'train', provider: providerOf(device) },
    sessionShapes,
  );
  const session = await Session.create(made.model, { device });
  const results = await session.run(batch(tensors, 0));
  await session.release();
  return Object.fromEntries([...made.gradients].map(([name, out]) => [name, results[out ?? '']!]));
}

/** The case speaks PyTorch's names. */
export function agdOptions(options: Record<string, unknown>): Partial<AgdOptions> {
  const camel = (name: string) => name.replace(/_(.)/g, (_, c: string) => c.toUpperCase());
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [camel(name), value]));
}
