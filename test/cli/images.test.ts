/** Runs on folders of images. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { saveModel } from '../../src/graph/files.js';
import { backbone, withImages } from '../docs/images.js';
import { agdOnnx, workplace } from './run.js';

let folder: string;
beforeAll(async () => {
  folder = await workplace(backbone(32));
  await withImages(folder);
  await saveModel(backbone(32), join(folder, 'small.onnx'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const file = (name: string) => join(folder, name);
const LOSS = ['small.onnx', '--loss', 'cross-entropy', '--data', 'pets/train', '--batch-size', '4'];
const ok = (...args: string[]) => {
  const result = agdOnnx(folder, 'train', ...args);
  expect(result).toMatchObject({ code: 0, err: '' });
  return result.out;
};
const refused = (...args: string[]) => {
  const { code, err } = agdOnnx(folder, 'train', ...args);
  expect(code).toBe(1);
  expect(err.trim().split('\n')).toHaveLength(1);
  return err;
};
const lossesOf = (log: string) =>
  readFileSync(file(log), 'utf8')
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
    .flatMap(({ type, trainLoss, validation }) =>
      type === 'epoch' ? [{ trainLoss, val: validation?.loss }] : [],
    );

const AUGMENT = 'crop:scale=0.5,flip,rotate,color:brightness=0.2+hue=0.1,erase,mixup,cutmix';

describe('training on a folder of images', () => {
  it('is resumed to the bits of a run that was not stopped, with all augmentations', () => {
    const args = [...LOSS, '--augment', AUGMENT, '--seed', '3'];
    ok(...args, '--epochs', '4', '-o', 'w.onnx');
    ok(...args, '--epochs', '2', '--state', 'r.agd.onnx', '-o', 'r.onnx');
    expect(readFileSync(file('r.onnx')).equals(readFileSync(file('w.onnx')))).toBe(false);
    ok(...args, '--epochs', '4', '--state', 'r.agd.onnx', '-o', 'r.onnx');
    expect(readFileSync(file('r.onnx')).equals(readFileSync(file('w.onnx')))).toBe(true);
    const other = ok(
      ...LOSS,
      '--epochs',
      '5',
      '--augment',
      'flip,mixup',
      '--state',
      'r.agd.onnx',
      '-o',
      'r.onnx',
    );
    expect(other).toContain('resumed with --seed 0 (was 3), other --augment');
  });

  it('shows the worst samples and the confusion matrix in the report', () => {
    ok(...LOSS, '--val', 'pets/val', '--report', 'run.html');
    const page = readFileSync(file('run.html'), 'utf8');
    expect(page).toContain('Samples with the largest loss');
    expect(page).toContain('Confusion matrix');
    expect(page.match(/<img [^>]*src="data:image\/png/g)).toHaveLength(6);
  });

  it('predicts a folder of images into a table with the names of files and classes', () => {
    ok(...LOSS, '--val', 'pets/val', '--epochs', '3', '--state', 'p.agd.onnx', '-o', 'p.onnx');
    const predict = (...args: string[]) => {
      const result = agdOnnx(folder, 'predict', ...args);
      expect(result).toMatchObject({ code: 0, err: '' });
    };
    predict('p.onnx', '--data', 'pets/val', '--keep', 'image', '--keep', 'label', '-o', 'p.csv');
    const [head, ...rows] = readFileSync(file('p.csv'), 'utf8').trim().split('\n');
    expect(head).toBe('image,label,class,probability,probability_birds,probability_cats,probability_dogs');
    expect(rows).toHaveLength(6);
    for (const [i, row] of rows.entries()) {
      const [image, label, found] = row.split(',');
      const animal = ['birds', 'cats', 'dogs'][Math.floor(i / 2)];
      expect([image, label]).toEqual([join('pets/val', animal!, `${i % 2}.jpg`), animal]);
      expect(['birds', 'cats', 'dogs']).toContain(found);
    }
    // A folder without classes, by the recipe of another file.
    agdOnnx(folder, 'export', 'p.agd.onnx', '--recipe-out', 'p.json', '-o', 'other.onnx');
    predict('p.onnx', '--recipe', 'p.json', '--data', 'pets/val/cats', '--keep', 'image', '-o', 'cats.csv');
    const cats = readFileSync(file('cats.csv'), 'utf8').trim().split('\n').slice(1);
    expect(cats.map(row => row.split(',').slice(1))).toEqual(
      rows.slice(2, 4).map(row => row.split(',').slice(2)),
    );
  });

  it('augments no validation data', () => {
    const args = [...LOSS, '--val', 'pets/val', '--lr', '0', '--batch-norm', 'eval'];
    ok(...args, '--log', 'plain.jsonl');
    ok(...args, '--log', 'augmented.jsonl', '--augment', AUGMENT);
    const [[plain], [augmented]] = [lossesOf('plain.jsonl'), lossesOf('augmented.jsonl')];
    expect(augmented!.val).toBe(plain!.val);
    expect(augmented!.trainLoss).not.toBe(plain!.trainLoss);
    const split = [...LOSS, '--val-split', '0.5', '--lr', '0', '--batch-norm', 'eval'];
    ok(...split, '--log', 'plain.jsonl');
    ok(...split, '--log', 'augmented.jsonl', '--augment', 'flip:p=1,crop:padding=8');
    expect(lossesOf('augmented.jsonl')[0]!.val).toBe(lossesOf('plain.jsonl')[0]!.val);
  });

  it('says how images feed the model', () => {
    const out = ok(...LOSS, '--verbose');
    expect(out).toContain("--columns 'x=image:image' --label label");
    expect(out).toContain(
      "Images feed 'x' as 32x32 RGB float32 (CHW): fit=cover, filter=bilinear, normalize=0..1",
    );
  });

  it('leaves out damaged images where asked to, else names them', () => {
    const jpeg = readFileSync(file('pets/train/cats/0.jpg'));
    writeFileSync(file('pets/train/cats/9.jpg'), jpeg.subarray(0, jpeg.length - 100));
    writeFileSync(file('pets/train/readme.txt'), '');
    try {
      expect(refused(...LOSS)).toMatch(
        /Image .*9\.jpg cannot be decoded \(.*\); train --skip-damaged leaves such images out/,
      );
      const out = ok(...LOSS, '--skip-damaged', '--verbose');
      expect(out).toMatch(/Left out 1 damaged image: Image .*9\.jpg cannot be decoded/);
      expect(out).toContain('Ignored 1 file of pets/train that are not images');
    } finally {
      rmSync(file('pets/train/cats/9.jpg'));
      rmSync(file('pets/train/readme.txt'));
    }
  });

  it('refuses what cannot be augmented', () => {
    expect(refused(...LOSS, '--augment', 'flop')).toMatch(/--augment: .*flip/);
    expect(
      refused('small.onnx', '--loss', 'cross-entropy', '--data', 'train.npz', '--augment', 'flip'),
    ).toMatch(/--augment flip changes image files, and train\.npz feeds none/);
    const inject = agdOnnx(folder, 'inject', 'small.onnx', '--loss', 'cross-entropy', '-o', 'hard.agd.onnx');
    expect(inject.code).toBe(0);
    expect(refused('hard.agd.onnx', '--data', 'pets/train', '--augment', 'mixup')).toMatch(
      /inject the model with --mix-targets/,
    );
    expect(refused('small.onnx', '--loss', 'mse', '--mix-targets', '--data', 'pets/train')).toMatch(
      /--mix-targets applies to losses over classes, not to mse/,
    );
  });
});
