/** Small images and models for the commands of the page on images. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { saveModel } from '../../src/graph/files.js';
import { Tensor } from '../../src/graph/tensor.js';
import { Sketch } from '../sample.js';

const PETS = { birds: '#d0a010', cats: '#806060', dogs: '#403020' };

/** Pets in folders, and in a table; scenes with masks; models that take them. */
export async function withImages(folder: string): Promise<void> {
  const rows = ['file,animal'];
  for (const [part, count] of [
    ['train', 4],
    ['val', 2],
  ] as const)
    for (const [animal, color] of Object.entries(PETS)) {
      mkdirSync(join(folder, 'pets', part, animal), { recursive: true });
      for (let i = 0; i < count; i++) {
        const path = `${part}/${animal}/${i}.jpg`;
        await sharp({ create: { width: 60 + 4 * i, height: 50, channels: 3, background: color } })
          .jpeg()
          .toFile(join(folder, 'pets', path));
        rows.push(`${path},${animal}`);
      }
    }
  writeFileSync(join(folder, 'pets', 'labels.csv'), `${rows.join('\n')}\n`);
  for (const name of ['images', 'masks']) mkdirSync(join(folder, 'scenes', name), { recursive: true });
  for (let i = 0; i < 4; i++) {
    const pixels = Uint8Array.from({ length: 32 * 32 }, (_, p) => Math.floor((p + 7 * i) / 350) % 3);
    const raw = { width: 32, height: 32, channels: 1 } as const;
    const file = (name: string) => join(folder, 'scenes', name, `${i}.png`);
    await sharp(pixels, { raw }).toColourspace('b-w').png().toFile(file('masks'));
    await sharp(
      pixels.map(x => x * 100),
      { raw },
    )
      .png()
      .toFile(file('images'));
  }
  await saveModel(backbone(), join(folder, 'backbone.onnx'));
  await saveModel(segmenter(), join(folder, 'segmenter.onnx'));
}

/** Patches of 16 x 16 pixels to 4 features, their means to three classes. */
export function backbone(size = 224) {
  const s = new Sketch();
  const x = s.input('x', ['N', 3, size, size]);
  const patches = s.add('Conv', [x, s.weight('features.weight', [4, 3, 16, 16])], 'patches', {
    strides: [16, 16],
  });
  const ones = Tensor.filled('float32', [4], 1);
  const zeros = Tensor.filled('float32', [4], 0);
  const normal = s.add(
    'BatchNormalization',
    [
      patches,
      s.weight('norm.weight', ones),
      s.weight('norm.bias', zeros),
      s.weight('norm.mean', zeros),
      s.weight('norm.var', ones),
    ],
    'normal',
  );
  const pooled = s.add('Flatten', [s.add('GlobalAveragePool', [s.add('Relu', [normal], 'a')], 'p')], 'f');
  return s.model([
    s.add('Gemm', [pooled, s.weight('head.weight', [4, 3]), s.weight('head.bias', [3])], 'logits'),
  ]);
}

/** Three classes for each pixel of 32 x 32. */
function segmenter() {
  const s = new Sketch();
  const x = s.input('x', ['N', 3, 32, 32]);
  return s.model([s.add('Conv', [x, s.weight('w', [3, 3, 1, 1]), s.weight('b', [3])], 'logits')]);
}
