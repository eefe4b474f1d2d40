/** Every optimizer in every wrapper: each step is that of the optimizer alone from the same state, with what the wrapper does. */
import { describe, expect, it } from 'vitest';
import {
  type AnyOptions,
  OPTIMIZER_NAMES,
  type OptimizerName,
  optimizerNamed,
} from '../../../src/ops/optimizers/index.js';
import { type Wrappers, wrapped } from '../../../src/ops/optimizers/wrappers/index.js';
import { type Numbers, OptimizerRun } from './run.js';

const SHAPES: Record<string, number[]> = { matrix: [3, 2], vector: [3], kernel: [2, 2, 1, 2] };
const CURVATURE = { adahessian: (i: number) => i - 1 } as Partial<
  Record<OptimizerName, (i: number) => number>
>;

const each = (shapes: Record<string, number[]>, value: (i: number) => number): Numbers =>
  Object.fromEntries(
    Object.entries(shapes).map(([name, dims]) => [
      name,
      Array.from({ length: dims.reduce((n, d) => n * d, 1) }, (_, i) => value(i)),
    ]),
  );
const gradients = (t: number) =>
  each(SHAPES, i => 10 ** (1 - (i % 4)) * (0.3 + Math.sin(1.7 * t * (i + 1) + i)));

/** Runs of one optimizer alone and in wrappers. The Hessian of AdaHessian's test is that of vectors. */
async function runs(name: OptimizerName, wrappers: Wrappers, given: AnyOptions = {}) {
  const curvature = CURVATURE[name];
  const shapes = curvature ? {} : SHAPES;
  const start = each(SHAPES, i => 0.5 + Math.cos(2.3 * i));
  const optimizer = optimizerNamed(name);
  const momentum = 'momentum' in optimizer.options ? { momentum: 0.9 } : {};
  const options = { ...momentum, lr: 1 / 128, weightDecay: 0, ...given } as never;
  const [plain, own] = await Promise.all(
    [optimizer, wrapped(optimizer, wrappers)].map(o =>
      OptimizerRun.create(o, options, start, { dtype: 'float64', shapes, curvature }),
    ),
  );
  return { plain: plain!, own: own!, curvature };
}

/** Those of which other wrappers wrap a part: see below. */
const WHOLE = OPTIMIZER_NAMES.filter(name => !optimizerNamed(name).inner);

describe.each(WHOLE)('%s', name => {
  it('is cautious: a step goes nowhere against the gradient, and keeps its size', async () => {
    const { plain, own, curvature } = await runs(name, { cautious: true });
    let left = 0;
    for (let t = 1; t <= 3; t++) {
      const before = Object.keys(SHAPES).map(key => [key, own.get(key)] as const);
      plain.startFrom(own);
      await plain.step(gradients(t));
      await own.step(gradients(t));
      for (const [key, w] of before) {
        const u = plain.get(key).map((x, i) => w[i]! - x);
        const g = gradients(t)[key]!.map((x, i) => x + (curvature?.(i) ?? 0) * w[i]!);
        const agrees = u.map((x, i) => Number(x * g[i]! > 0));
        const share = Math.max(agrees.reduce((n, x) => n + x, 0) / u.length, 1e-3);
        left += agrees.filter(x => !x).length;
        for (const [i, x] of own.get(key).entries())
          expect(x, `${key}[${i}] at ${t}`).toBeCloseTo(w[i]! - (u[i]! * agrees[i]!) / share, 10);
      }
      // A whole update is not one of several parameters at once: sums over all are in another order.
      const rounding = optimizerNamed(name).totals ? 1e-14 : 0;
      for (const state of own.stateNames.filter(s => !(s in SHAPES)))
        for (const [i, x] of plain.get(state).entries())
          expect(Math.abs(own.get(state)[i]! - x), state).toBeLessThanOrEqual(rounding * Math.abs(x));
    }
    // A step without momentum never goes against the gradient.
    if (name !== 'adagrad' && name !== 'adafactor') expect(left).toBeGreaterThan(0);
    await plain.release();
    await own.release();
  });
});

describe.each(WHOLE)('%s with averaged weights', name => {
  const scheduleFree = { momentum: 0.75, weightDecayAtY: 0.25, r: 0.5, weightLrPower: 1 };
  it.each([
    ['alone', {}],
    ['and cautious', { cautious: true }],
  ] as [string, Wrappers][])('%s moves z by its own step', async (_, others) => {
    const curvature = CURVATURE[name];
    const shapes = curvature ? {} : SHAPES;
    const start = each(SHAPES, i => 0.5 + Math.cos(2.3 * i));
    const optimizer = optimizerNamed(name);
    const momentum = 'momentum' in optimizer.options ? { momentum: 0.9 } : {};
    const lr = 1 / 128;
    const options = { ...momentum, lr, weightDecay: 0.125 } as never;
    const [plain, own] = (await Promise.all(
      [others, { ...others, scheduleFree }].map(w =>
        OptimizerRun.create(wrapped(optimizer, w), options, start, { dtype: 'float64', shapes, curvature }),
      ),
    )) as [OptimizerRun, OptimizerRun];
    let [total, largest] = [0, 0];
    for (let t = 1; t <= 4; t++) {
      const keys = Object.keys(SHAPES);
      const before = new Map(
        keys.map(key => {
          const [x, z] = [own.get(key), own.get(`${key}_z`)];
          return [key, { x, z, y: x.map((value, i) => 0.75 * value + 0.25 * z[i]!) }];
        }),
      );
      // Prodigy's rate is d times lr: of the decay that before, of the weights that after the step.
      const factor = () => (name === 'prodigy' ? own.get('matrix_d')[0]! : 1);
      const decay = 0.25 * lr * factor();
      plain.startFrom(own);
      const fed: Record<string, number[]> = {};
      for (const key of keys) {
        const { y, z } = before.get(key)!;
        const from = z.map((value, i) => value - decay * y[i]!);
        plain.set(key, from, shapes[key]);
        fed[key] = gradients(t)[key]!.map((g, i) => g + (curvature?.(i) ?? 0) * (y[i]! - from[i]!));
      }
      await plain.step(fed);
      await own.step(gradients(t));
      largest = Math.max(largest, lr * factor());
      total += Math.sqrt(t) * largest;
      const share = (Math.sqrt(t) * largest) / total;
      for (const key of keys)
        for (const [i, z] of plain.get(key).entries()) {
          const x = before.get(key)!.x[i]!;
          expect(own.get(`${key}_z`)[i], `${key}_z[${i}] at ${t}`).toBeCloseTo(z, 10);
          expect(own.get(key)[i], `${key}[${i}] at ${t}`).toBeCloseTo(x + share * (z - x), 10);
        }
      for (const state of plain.stateNames.filter(s => !(s in SHAPES)))
        for (const [i, x] of plain.get(state).entries()) {
          const got = own.get(state)[i]!;
          expect(Math.abs(got - x), `${state} at ${t}`).toBeLessThanOrEqual(1e-9 * Math.abs(x) + 1e-14);
        }
    }
    await plain.release();
    await own.release();
  });
});

/** Blocks of a state in so many bits, as `quantized` describes it, in float64. */
const FORMS = { 8: { block: 256, signed: 127, square: 255 }, 4: { block: 128, signed: 7, square: 15 } };

function codesOf(bytes: readonly number[], bits: 8 | 4): number[] {
  if (bits === 8) return [...bytes];
  const rows = Array.from({ length: bytes.length / 64 }, (_, i) => bytes.slice(64 * i, 64 * (i + 1)));
  return rows.flatMap(row => [...row.map(x => x & 15), ...row.map(x => x >> 4)]);
}

const numberOf = (k: number, s: number, bits: 8 | 4, isSquare: boolean) => {
  const { signed, square } = FORMS[bits];
  if (isSquare) return ((s * (k + 1)) / (square + 1)) ** 4;
  if (bits === 8)
    return k === signed
      ? 0
      : s * Math.sign(k - signed) * 1e-5 ** ((signed - Math.abs(k - signed)) / (signed - 1));
  const y = (s * (k - signed)) / signed;
  return y * Math.abs(y);
};

describe.each([8, 4] as const)('in %i bits', bits => {
  it.each(OPTIMIZER_NAMES)(
    '%s takes its step from the levels stored, and stores the nearest ones',
    async name => {
      const curvature = CURVATURE[name];
      const shapes: Record<string, number[]> = curvature ? {} : { w: [70, 60] };
      const start = { w: Array.from({ length: 4200 }, (_, i) => 0.5 + Math.cos(2.3 * i)) };
      const optimizer = optimizerNamed(name);
      const options = { lr: 1 / 128, ...('momentum' in optimizer.options ? { momentum: 0.9 } : {}) } as never;
      const [plain, own] = (await Promise.all(
        [optimizer, wrapped(optimizer, { stateBits: bits })].map(o =>
          OptimizerRun.create(o, options, start, { dtype: 'float64', shapes, curvature }),
        ),
      )) as [OptimizerRun, OptimizerRun];
      const rounded = plain.stateNames.filter(s => own.stateNames.includes(`${s}_scale`));
      const { block, signed, square } = FORMS[bits];
      const stored = (state: string) => {
        const [codes, scales] = [codesOf(own.get(state), bits), own.get(`${state}_scale`)];
        const isSquare = /_sq|_var|sum|square_avg|variance/.test(state);
        const at = (i: number, k = codes[i]!) => numberOf(k, scales[Math.floor(i / block)]!, bits, isSquare);
        return { codes, at, top: isSquare ? square : 2 * signed, isSquare };
      };
      for (let t = 1; t <= 3; t++) {
        plain.startFrom(own);
        for (const state of rounded) {
          const { at } = stored(state);
          plain.set(
            state,
            start.w.map((_, i) => at(i)),
            shapes.w,
          );
        }
        const grads = {
          w: start.w.map((_, i) => 10 ** (1 - (i % 4)) * (0.3 + Math.sin(1.7 * t * (i + 1) + i))),
        };
        await plain.step(grads);
        await own.step(grads);
        for (const key of plain.stateNames.filter(s => !rounded.includes(s))) {
          const [got, want] = [own.get(key), plain.get(key)];
          const off = Math.hypot(...got.map((x, i) => x - want[i]!));
          const exact: Record<string, number> = { muon: 1e-6, shampoo: 1e-8 };
          expect(off, `${key} at ${t}`).toBeLessThanOrEqual((exact[name] ?? 1e-10) * Math.hypot(...want));
        }
        for (const state of rounded) {
          const { codes, at, top, isSquare } = stored(state);
          const far = plain.get(state).filter((x, i) => {
            const largest = Math.abs(at(i, top));
            /** In 8 bits, below the least level above 0, the nearest in terms of their numbers. */
            const log = (size: number) => Math.max(0, 127 + (126 * Math.log(size / largest)) / Math.log(1e5));
            const level = (value: number) => {
              if (isSquare) return value ** 0.25;
              const size = Math.abs(value);
              return Math.sign(value) * (bits === 4 ? Math.sqrt(size) : size ? log(size) : 0);
            };
            const k = codes[i]!;
            const distance = (n: number) => Math.abs(level(at(i, n)) - level(x));
            return [k - 1, k + 1].some(n => n >= 0 && n <= top && distance(n) < distance(k) - 1e-9);
          });
          expect(far, `${state} at ${t}`).toEqual([]);
        }
      }
      // Adafactor keeps factors of a matrix, SGD and LARS a momentum.
      const count = {
        adafactor: 0,
        sgd: 1,
        lars: 1,
        lion: 1,
        adagrad: 1,
        muon: 1,
        amsgrad: 3,
        shampoo: 1,
        adan: 4,
        ademamix: 3,
        prodigy: 3,
        'schedule-free-adamw': 1,
        'schedule-free-sgd': 0,
      };
      expect(rounded).toHaveLength((count as Record<string, number>)[name] ?? 2);
      await plain.release();
      await own.release();
    },
  );
});

it('in 8 bits, a coordinate without gradients comes to rest', async () => {
  const shapes = { w: [70, 60] };
  const start = { w: Array.from({ length: 4200 }, (_, i) => 0.5 + Math.cos(2.3 * i)) };
  const optimizer = wrapped(optimizerNamed('agd'), { stateBits: 8 });
  const run = await OptimizerRun.create(optimizer, { lr: 1 / 128 }, start, { dtype: 'float64', shapes });
  /** Every seventh coordinate has small gradients in the first ten steps, and none later. */
  const given = (t: number) => ({
    w: start.w.map((_, i) => {
      const g = Math.sin(1.7 * t * (i + 1) + i);
      return i % 7 ? g : t <= 10 ? g / 300 : 0;
    }),
  });
  for (let t = 1; t <= 150; t++) await run.step(given(t));
  const before = run.get('w');
  for (let t = 151; t <= 170; t++) await run.step(given(t));
  const moved = run.get('w').flatMap((x, i) => (i % 7 ? [] : [Math.abs(x - before[i]!)]));
  expect(Math.max(...moved)).toBe(0);
  await run.release();
});

describe.each([8, 4] as const)('in %i bits, rounded at random', bits => {
  /** Two parameters with states like each other, after steps with such gradients. */
  const run = async (steps: readonly number[], names = ['w', 'v']) => {
    const shapes = Object.fromEntries(names.map(name => [name, [70, 60]]));
    const each = (of: (i: number) => number) =>
      Object.fromEntries(names.map(name => [name, Array.from({ length: 4200 }, (_, i) => of(i))]));
    const given = (t: number) => each(i => 10 ** (1 - (i % 4)) * (0.3 + Math.sin(1.7 * t * (i + 1) + i)));
    const start = each(i => 0.5 + Math.cos(2.3 * i));
    const optimizer = optimizerNamed('adamw');
    const options = { lr: 1 / 128 } as never;
    const [plain, own] = await Promise.all(
      [optimizer, wrapped(optimizer, { stateBits: bits, stateRounding: 'stochastic' })].map(o =>
        OptimizerRun.create(o, options, start, { dtype: 'float64', shapes }),
      ),
    );
    for (const t of steps) for (const o of [plain!, own!]) await o.step(given(t));
    return { plain: plain!, own: own! };
  };

  it.each([
    ['exp_avg', false],
    ['exp_avg_sq', true],
  ] as const)(
    '%s is one of the levels around the number, and on average the number',
    async (name, isSquare) => {
      const { plain, own } = await run([1]);
      const { block, square, signed } = FORMS[bits];
      const state = `w_${name}`;
      const [codes, scales] = [codesOf(own.get(state), bits), own.get(`${state}_scale`)];
      let [error, variance] = [0, 0];
      for (const [i, x] of plain.get(state).entries()) {
        const scale = scales[Math.floor(i / block)]!;
        const at = (k: number) => numberOf(k, scale, bits, isSquare);
        const k = codes[i]!;
        const toward = at(k) < x ? 1 : -1;
        const other = Math.max(0, Math.min(isSquare ? square : 2 * signed, k + toward));
        const [low, high] = [at(k), at(other)].sort((a, b) => a - b) as [number, number];
        // Below the lowest level of squares there is none.
        if (isSquare && x < at(0)) {
          expect(k).toBe(0);
          continue;
        }
        expect(x, `${i}`).toBeGreaterThanOrEqual(low - 1e-9 * Math.abs(low) - 1e-300);
        expect(x, `${i}`).toBeLessThanOrEqual(high + 1e-9 * Math.abs(high));
        // In units of the distance of the levels, away from 0.
        const share = (x - low) / (high - low);
        if (!(share > 0 && share < 1)) continue;
        error += Math.sign(x) * ((at(k) - x) / (high - low));
        variance += share * (1 - share);
      }
      expect(variance).toBeGreaterThan(0);
      expect(Math.abs(error)).toBeLessThan(4 * Math.sqrt(variance));
      await Promise.all([plain.release(), own.release()]);
    },
  );

  it('draws other numbers for another update and another parameter, and the same ones again', async () => {
    const [one, again, later] = [await run([1]), await run([1]), await run([1, 1])];
    const codes = ({ own }: typeof one, name = 'w') => own.get(`${name}_exp_avg`);
    expect(codes(again)).toEqual(codes(one));
    expect(codes(one, 'v')).not.toEqual(codes(one, 'w'));
    expect(codes(later)).not.toEqual(codes(one));
    for (const { plain, own } of [one, again, later]) await Promise.all([plain.release(), own.release()]);
  });
});

/** As the authors' AdamW writes it, in float64. */
it('takes 100 steps of the authors’ cautious AdamW', async () => {
  const [lr, beta1, beta2, eps, weightDecay] = [1 / 128, 0.9, 0.999, 1e-8, 0.1];
  const { own } = await runs('adamw', { cautious: true }, { weightDecay });
  const kept = Object.keys(SHAPES).map(key => {
    const w = own.get(key);
    return { key, w, m: w.map(() => 0), v: w.map(() => 0) };
  });
  for (let t = 1; t <= 100; t++) {
    for (const { key, w, m, v } of kept) {
      const grad = gradients(t)[key]!;
      for (const [i, g] of grad.entries()) {
        m[i] = beta1 * m[i]! + (1 - beta1) * g;
        v[i] = beta2 * v[i]! + (1 - beta2) * g * g;
      }
      const stepSize = (lr * Math.sqrt(1 - beta2 ** t)) / (1 - beta1 ** t);
      const mask = m.map((x, i) => (x * grad[i]! > 0 ? 1 : 0));
      const mean = Math.max(mask.reduce<number>((n, x) => n + x, 0) / mask.length, 1e-3);
      for (const i of w.keys()) {
        const step =
          (stepSize * ((m[i]! * mask[i]!) / mean)) / (Math.sqrt(v[i]!) + eps * Math.sqrt(1 - beta2 ** t));
        w[i]! -= step + lr * weightDecay * w[i]!;
      }
    }
    await own.step(gradients(t));
  }
  for (const { key, w } of kept)
    for (const [i, x] of own.get(key).entries()) expect(x, `${key}[${i}]`).toBeCloseTo(w[i]!, 9);
  await own.release();
});
