import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import type { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { openForInjection } from '../../../src/runtime/formats/open-for-injection.js';
import {
  type OrtCheckpoint,
  type Property,
  readOrtCheckpoint,
  writeOrtCheckpoint,
} from '../../../src/runtime/formats/ort-checkpoint.js';
import {
  exportOrtCheckpoint,
  resumeOptimizer,
  toOrtCheckpoint,
} from '../../../src/runtime/formats/ort-state.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { artifactFolder, BATCH } from '../../passes/import/ort-artifacts.js';
import { mlp } from '../../sample.js';

const ADAMW = { optimizer: { name: 'adamw', lr: 0.01 } } as const;

/** The step of the artifacts in a folder, begun where their checkpoint is. */
async function begun(folder: string, options: InjectOptions = ADAMW) {
  const opened = await openForInjection(folder, options);
  const { model } = await inject(opened.model, opened.options, sessionShapes);
  return resumeOptimizer(decodeModel(encodeModel(model)), opened.optimizer);
}

async function after(model: Model, steps: number): Promise<{ model: Model; loss: number }> {
  const trainer = await Trainer.create(model);
  let loss = Number.NaN;
  for (let i = 0; i < steps; i++) ({ loss } = await trainer.step(BATCH));
  const snapshot = trainer.snapshot();
  await trainer.release();
  return { model: snapshot, loss };
}

const bits = (map: ReadonlyMap<string, Tensor>) =>
  Object.fromEntries([...map].map(([name, t]) => [name, Buffer.from(t.bytes).toString('hex')]));

it('resumes from a checkpoint with AdamW as if it had not stopped', async () => {
  const folder = await artifactFolder();
  const start = await begun(folder);
  expect(start.note).toBeUndefined();
  const three = await after(start.model, 3);
  await exportOrtCheckpoint(three.model, join(folder, 'checkpoint'));
  const next = await begun(folder);
  expect(next.note).toBe('resumed from the checkpoint, after 3 updates of AdamW');
  const [whole, resumed] = [await after(start.model, 5), await after(next.model, 2)];
  expect(resumed.loss).toBe(whole.loss);
  const [a, b] = [whole, resumed].map(({ model }) => toOrtCheckpoint(model));
  expect(bits(b!.trainable)).toEqual(bits(a!.trainable));
  expect(b!.optimizers[0]!.step).toBe(5);
  const momentums = (c: OrtCheckpoint) =>
    [...c.optimizers[0]!.momentums].map(([name, map]) => [name, bits(map)]);
  expect(momentums(b!)).toEqual(momentums(a!));
  expect(bits(a!.optimizers[0]!.momentums.get('fc.bias')!)).not.toEqual(
    bits(toOrtCheckpoint(three.model).optimizers[0]!.momentums.get('fc.bias')!),
  );
});

it('keeps what is frozen, and properties', async () => {
  const folder = await artifactFolder();
  const path = join(folder, 'checkpoint');
  const properties = new Map<string, Property>([
    ['epoch', { int: -(2n ** 62n) }],
    ['loss', { float: Number.NaN }],
    ['note', { string: 'über' }],
  ]);
  const read = await readOrtCheckpoint(path);
  read.frozen.set('fc.bias', read.trainable.get('fc.bias')!);
  read.trainable.delete('fc.bias');
  await writeOrtCheckpoint(path, { ...read, properties });
  const start = await begun(folder, { freeze: ['conv.bias'] });
  const out = toOrtCheckpoint((await after(start.model, 2)).model);
  expect([...out.frozen.keys()].sort()).toEqual(['fc.bias', 'scale']);
  expect(bits(out.frozen)).toEqual(bits(read.frozen));
  expect([...out.trainable.keys()].sort()).toEqual([...read.trainable.keys()].sort());
  const moved = [...out.trainable.keys()].filter(
    name => bits(out.trainable)[name] !== bits(read.trainable)[name],
  );
  expect(moved.sort()).toEqual(['conv.weight', 'fc.weight']);
  expect(out.properties).toEqual(properties);
  expect(out.optimizers).toEqual([]);
});

it('leaves AdamW’s momentums to AdamW, and says so', async () => {
  const folder = await artifactFolder();
  await exportOrtCheckpoint((await after((await begun(folder)).model, 1)).model, join(folder, 'checkpoint'));
  const other = await begun(folder, {});
  expect(other.note).toMatch(/momentums after 1 update of AdamW are not used: .*--optimizer adamw/);
  const checkpoint = await readOrtCheckpoint(join(folder, 'checkpoint'));
  checkpoint.optimizers[0]!.momentums.delete('fc.bias');
  await writeOrtCheckpoint(join(folder, 'checkpoint'), checkpoint);
  await expect(begun(folder)).rejects.toMatchObject({
    code: 'bad-state',
    message: expect.stringContaining("lacks 'fc.bias.exp_avg'"),
  });
});

it('writes a checkpoint of any step', async () => {
  const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' }, ...ADAMW }, sessionShapes);
  const path = join(await mkdtemp(join(tmpdir(), 'agd-')), 'checkpoint');
  await exportOrtCheckpoint(model, path);
  const { trainable, frozen, optimizers } = await readOrtCheckpoint(path);
  expect([...trainable.keys()]).toEqual(['fc1.bias', 'fc1.weight', 'fc2.bias', 'fc2.weight']);
  expect([frozen.size, optimizers.length]).toEqual([0, 0]);
});
