import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import type { Model } from '../../../src/ir.js';
import { inject } from '../../../src/passes/inject.js';
import { parseAugmentations } from '../../../src/passes/recipe/augmentation.js';
import { openData } from '../../../src/runtime/data/open.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { type FitOptions, fit as fitModel } from '../../../src/runtime/train/fit.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { backbone, withImages } from '../../docs/images.js';
import { spread } from '../../ops/vjp.js';

const folder = mkdtempSync(join(tmpdir(), 'agd-fit-'));
beforeAll(() => withImages(folder));
afterAll(() => rmSync(folder, { recursive: true }));

const PETS = join(folder, 'pets', 'train');
const OPTIONS: FitOptions = { loss: 'cross-entropy', epochs: 2, batchSize: 4 };
const bytes = (model: Model) => Buffer.from(encodeModel(model));

it('fit augments images, in the words of the command line too', async () => {
  const augment = 'crop:scale=0.5,flip,mixup';
  const once = await fitModel(backbone(32), PETS, { ...OPTIONS, augment });
  const again = await fitModel(backbone(32), PETS, { ...OPTIONS, augment });
  expect(again.history.losses).toEqual(once.history.losses);
  const plain = await fitModel(backbone(32), PETS, OPTIONS);
  expect(plain.history.losses).not.toEqual(once.history.losses);
  const cropped = await fitModel(backbone(32), PETS, { ...OPTIONS, augment: 'crop:padding=8' });
  expect(cropped.history.losses[0]).not.toBe(plain.history.losses[0]);
});

it('evaluates the training data as they are, neither augmented nor mixed', async () => {
  const augment = 'crop:scale=0.3,flip,mixup';
  const options = { ...OPTIONS, augment, epochs: 1, validation: PETS, trainMetrics: true };
  const { history } = await fitModel(backbone(32), PETS, options);
  const [{ training, validation }] = history.epochs as [(typeof history.epochs)[0]];
  expect(training!.loss).toBeCloseTo(validation!.loss, 5);
});

it('fit mixes arrays of images, and nothing else of arrays', async () => {
  const target = Tensor.from(
    'int64',
    [8],
    BigInt64Array.from({ length: 8 }, (_, i) => BigInt(i % 3)),
  );
  const data = { x: spread([8, 3, 32, 32], [0, 1], 4), target };
  const mixed = await fitModel(backbone(32), data, { ...OPTIONS, augment: 'mixup,cutmix' });
  const plain = await fitModel(backbone(32), data, OPTIONS);
  expect(mixed.history.losses).not.toEqual(plain.history.losses);
  expect(bytes(mixed.model).equals(bytes(plain.model))).toBe(false);
  await expect(fitModel(backbone(32), data, { ...OPTIONS, augment: 'flip' })).rejects.toThrow(
    '--augment flip changes image files, and the data feeds none to the model',
  );
});

it('augments each draw of a sample in its own way, with the weighted sampler too', async () => {
  const augment = parseAugmentations('crop:padding=8');
  const images = async (sampler: 'weighted' | 'shuffle') => {
    const data = await openData(PETS, { augment, sampler });
    const trainer = await Trainer.create(
      (await inject(backbone(32), { loss: { kind: 'cross-entropy' } }, sessionShapes)).model,
    );
    const dataset = await data.bind(trainer.inputs, { labels: ['target'] });
    const found = new Set<string>();
    for await (const { inputs } of dataset.batches({ batchSize: 1, shuffle: 0 }))
      found.add(Buffer.from(inputs.x!.bytes).toString('base64'));
    await trainer.release();
    await data.close();
    return found.size;
  };
  expect(await images('shuffle')).toBe(12);
  expect(await images('weighted')).toBe(12);
});
