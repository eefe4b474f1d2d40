import { describe, expect, it } from 'vitest';
import { Tensor } from '../../../../src/graph/tensor.js';
import { parseAugmentations } from '../../../../src/passes/recipe/augmentation.js';
import { mixBatch, mixChunk } from '../../../../src/runtime/data/images/mix.js';

/** A batch of images with one number each, of two channels in 4 x 6. */
const batch = (rows: number[], more = {}) => ({
  images: Float32Array.from({ length: rows.length * 48 }, (_, i) => rows[Math.floor(i / 48)]!),
  dims: [2, 4, 6],
  plane: [1, 2] as const,
  rows,
  seed: 5,
  epoch: 1,
  ...more,
});
const samplesOf = ({ images }: { images: Float32Array }) =>
  Array.from({ length: images.length / 48 }, (_, i) => images.subarray(i * 48, (i + 1) * 48));

describe('mixing', () => {
  it('adds up shares of each sample and the next one', () => {
    const given = batch([10, 20, 40]);
    const own = mixBatch(given, parseAugmentations('flip,mixup:alpha=1'));
    samplesOf(given).forEach((sample, i) => {
      const [x, next] = [[10, 20, 40][i]!, [20, 40, 10][i]!];
      expect(own[i]).toBeGreaterThan(0);
      expect(own[i]).toBeLessThan(1);
      for (const value of sample) expect(value).toBeCloseTo(own[i]! * x + (1 - own[i]!) * next, 4);
    });
  });

  it.each([
    [
      [2, 4, 6],
      [1, 2],
    ],
    [
      [4, 6, 2],
      [0, 1],
    ],
  ] as const)('replaces a rectangle of samples of %j, of the share that it returns', (dims, plane) => {
    let replaced = 0;
    for (let seed = 0; seed < 20; seed++) {
      const given = batch([10, 20, 40], { dims, plane, seed });
      const own = mixBatch(given, parseAugmentations('cutmix'));
      samplesOf(given).forEach((sample, i) => {
        const [x, next] = [[10, 20, 40][i]!, [20, 40, 10][i]!];
        const count = sample.filter(value => value === x).length;
        expect(sample.filter(value => value === next).length).toBe(48 - count);
        expect(own[i]).toBeCloseTo(count / 48, 6);
        const at = (y: number, column: number, c: number) =>
          sample[dims[0] === 2 ? (c * 4 + y) * 6 + column : (y * 6 + column) * 2 + c];
        const cells = [...Array(24).keys()].filter(k => at(Math.floor(k / 6), k % 6, 0) === next);
        const [ys, xs] = [cells.map(k => Math.floor(k / 6)), cells.map(k => k % 6)];
        if (cells.length) {
          replaced++;
          expect((Math.max(...ys) - Math.min(...ys) + 1) * (Math.max(...xs) - Math.min(...xs) + 1)).toBe(
            cells.length,
          );
        }
        for (const k of Array(24).keys())
          expect(at(Math.floor(k / 6), k % 6, 1)).toBe(at(Math.floor(k / 6), k % 6, 0));
      });
    }
    expect(replaced).toBeGreaterThan(20);
  });

  it('follows from seed, epoch and row', () => {
    const shares = (more = {}) => [...mixBatch(batch([1, 2, 3], more), parseAugmentations('mixup,cutmix'))];
    expect(shares()).toEqual(shares());
    expect(shares()).not.toEqual(shares({ epoch: 2 }));
    expect(shares()).not.toEqual(shares({ seed: 6 }));
    const alone = mixBatch(batch([2, 3, 9]), parseAugmentations('mixup'));
    expect(alone[0]).toBe(mixBatch(batch([1, 2, 3]), parseAugmentations('mixup'))[1]);
  });

  it('leaves a batch of one sample as it is, and one without mixing', () => {
    for (const [rows, text] of [
      [[1], 'mixup'],
      [[1, 2], 'flip'],
    ] as const) {
      const given = batch([...rows]);
      expect([...mixBatch(given, parseAugmentations(text))]).toEqual(rows.map(() => 1));
      expect(given.images).toEqual(batch([...rows]).images);
    }
  });
});

describe('mixing of a chunk', () => {
  const list = parseAugmentations('mixup:alpha=1');
  const rows = Uint32Array.of(10, 20, 40, 50, 60, 80);
  const images = () =>
    Tensor.from(
      'float32',
      [2, 3, 1, 2, 2],
      Float32Array.from({ length: 24 }, (_, i) => rows[i >> 2]!),
    );
  const classes = Tensor.from('int64', [2, 3], BigInt64Array.of(1n, 2n, 4n, 5n, 6n, 8n));
  const pass = { seed: 1, epoch: 0 };

  it('stays within each batch, with the classes of the samples that were mixed in', () => {
    const second = { target: 'other', share: 'share' };
    const out = mixChunk({ x: images(), y: classes, z: classes }, rows, pass, {
      list,
      images: 'x',
      target: 'y',
      second,
    });
    expect(out.y!.numbers()).toEqual([1, 2, 4, 5, 6, 8]);
    expect(out.other!.numbers()).toEqual([2, 4, 1, 6, 8, 5]);
    expect(out.other!.dims).toEqual([2, 3]);
    expect(out.z).toBe(classes);
    const share = out.share!.numbers();
    out.x!.numbers().forEach((value, i) => {
      const own = share[i >> 2]!;
      expect(value).toBeCloseTo(
        10 * (own * out.y!.numbers()[i >> 2]! + (1 - own) * out.other!.numbers()[i >> 2]!),
        3,
      );
    });
  });

  it('is the same however many batches a chunk has', () => {
    const mixing = { list, images: 'x' };
    const whole = mixChunk({ x: images() }, rows, pass, mixing).x!.bytes;
    const half = new Tensor('float32', [1, 3, 1, 2, 2], images().bytes.slice(48));
    expect(mixChunk({ x: half }, rows.subarray(3), pass, mixing).x!.bytes).toEqual(whole.slice(48));
  });

  it('mixes targets that are numbers themselves', () => {
    const values = Tensor.from('float32', [2, 3, 1], Float32Array.from(rows));
    const out = mixChunk({ x: images(), y: values }, rows, pass, { list, images: 'x', target: 'y' });
    out.y!.numbers().forEach((value, i) => {
      expect(value).toBeCloseTo(out.x!.numbers()[i * 4]!, 3);
    });
  });

  it('changes nothing without mixing', () => {
    const given = { x: images() };
    expect(mixChunk(given, rows, pass, { list: parseAugmentations('flip'), images: 'x' })).toEqual(given);
  });
});
