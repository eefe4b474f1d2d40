/** What metrics are where scores are equal, missing or of one class, and which apply. */
import { describe, expect, it } from 'vitest';
import { defineMetric } from '../../../src/extend.js';
import { Tensor } from '../../../src/graph/tensor.js';
import type { LossSpec } from '../../../src/passes/options.js';
import { type MetricChoice, MetricSet, metricNamed } from '../../../src/runtime/metrics/index.js';
import { Scores } from '../../../src/runtime/metrics/ranking.js';
import { ScoredBatch } from '../../../src/runtime/metrics/scored-batch.js';
import { directionOf } from '../../../src/runtime/train/monitor.js';

const floats = (values: readonly (readonly number[])[]) =>
  Tensor.from('float32', [values.length, values[0]!.length], Float32Array.from(values.flat()));

function measure(
  loss: LossSpec,
  scores: readonly (readonly number[])[],
  target: readonly number[] | readonly (readonly number[])[],
  metrics?: readonly MetricChoice[],
) {
  const set = new MetricSet(loss, metrics);
  const labels =
    typeof target[0] === 'number' ? Tensor.ints(target as number[]) : floats(target as number[][]);
  set.add(floats(scores), labels, scores.length);
  return set.result().metrics;
}

const CLASSES: LossSpec = { kind: 'cross-entropy' };
const LABELS: LossSpec = { kind: 'bce-with-logits' };

describe('equal scores', () => {
  it('predict the first class', () => {
    const scores = [
      [1, 1, 0],
      [1, 1, 0],
    ];
    const found = measure(CLASSES, scores, [0, 1], ['accuracy', 'top-1', 'top-2']);
    expect(found).toEqual({ accuracy: 0.5, 'top-1': 0.5, 'top-2': 1 });
  });
  it('count half in the area under the curve, and are one threshold of the average precision', () => {
    const found = measure(LABELS, [[1], [1], [1], [0]], [[1], [0], [1], [0]], ['auc', 'average-precision']);
    expect(found).toEqual({ auc: (1 + 1 + 0.5 + 0.5) / 4, 'average-precision': 2 / 3 });
  });
  it('are not made by a sigmoid near 1', () => {
    expect(measure(LABELS, [[40], [39]], [[1], [0]], ['auc'])).toEqual({ auc: 1 });
    const pair = [
      [0, 40],
      [0, 39],
    ];
    expect(measure(CLASSES, pair, [1, 0], ['auc'])).toEqual({ auc: 1 });
  });
});

describe('one class only', () => {
  it('leaves no order, and is defined in the others', () => {
    const names = ['auc', 'average-precision', 'accuracy', 'f1', 'balanced-accuracy', 'iou'];
    const scores = [
      [0, 1],
      [0, -1],
    ];
    const found = measure(CLASSES, scores, [1, 1], names);
    expect(found).toMatchObject({ auc: NaN, 'average-precision': NaN, accuracy: 0.5, f1: 2 / 3 });
    expect(found).toMatchObject({ 'balanced-accuracy': 0.5, iou: 0.25 });
  });
  it('of several is left out of the mean', () => {
    const scores = [
      [2, 1, 0],
      [0, 1, -1],
      [1, 0, 3],
    ];
    expect(measure(CLASSES, scores, [0, 1, 1], ['auc']).auc).toBe(
      measure({ ...CLASSES, ignoreIndex: 2 } as LossSpec, scores, [0, 1, 1], ['auc']).auc,
    );
  });
});

it('without a target that counts, every metric is NaN', () => {
  const names = ['accuracy', 'balanced-accuracy', 'f1', 'f1-micro', 'iou', 'top-5', 'auc', 'log-loss'];
  const loss = { kind: 'cross-entropy', ignoreIndex: -100 } as LossSpec;
  const found = measure(loss, [[1, 2, 3]], [-100], [...names, 'perplexity', 'calibration-error']);
  expect(new Set(Object.values(found))).toEqual(new Set([NaN]));
});

it('NaN scores predict nothing, which is wrong, and leave no order and no probability', () => {
  const scores = [
    [1, 0],
    [NaN, 9],
  ];
  const wrong = ['accuracy', 'top-2', 'recall', 'f1', 'iou', 'auc', 'average-precision', 'log-loss'];
  expect(measure(CLASSES, scores, [0, 1], [...wrong, 'calibration-error'])).toEqual({
    ...{ accuracy: 0.5, 'top-2': 0.5, recall: 0, f1: 0, iou: 0.5 },
    ...{ auc: NaN, 'average-precision': NaN, 'log-loss': NaN, 'calibration-error': NaN },
  });
  const labels = measure(LABELS, [[1], [NaN]], [[1], [0]], ['accuracy', 'auc']);
  expect(labels).toEqual({ accuracy: 0.5, auc: NaN });
  const numbers = measure({ kind: 'mse' }, [[1], [NaN]], [[1], [0]], ['mae', 'rmse', 'r2']);
  expect(numbers).toEqual({ mae: NaN, rmse: NaN, r2: NaN });
});

it('R2 of targets that are all the same is 1 where they are met, else 0; of one sample it is not defined', () => {
  expect(measure({ kind: 'mse' }, [[2], [2]], [[2], [2]], ['r2'])).toEqual({ r2: 1 });
  expect(measure({ kind: 'mse' }, [[2], [3]], [[2], [2]], ['r2'])).toEqual({ r2: 0 });
  expect(measure({ kind: 'mse' }, [[2]], [[2]], ['r2'])).toEqual({ r2: NaN });
});

it('bits per byte count the bytes that a class stands for', () => {
  const accumulator = metricNamed('bits-per-byte').accumulator({
    task: 'classes',
    activation: 'softmax',
    classBytes: [1, 4],
  });
  const spec = { task: 'classes', activation: 'softmax' } as const;
  accumulator.add(new ScoredBatch(spec, floats([[0, 0]]), Tensor.ints([1]), 1));
  expect(metricNamed('bits-per-byte').value(accumulator as never)).toBeCloseTo(1 / 4, 12);
});

it('of more scores than memory holds, a random sample is kept, and said', () => {
  const spec = { task: 'labels', activation: 'none' } as const;
  const count = 4000;
  const scores = Array.from({ length: count }, (_, i) => [(i * 7919) % count]);
  const labels = scores.map(([s]) => [s! >= count / 2 ? 1 : 0]);
  const kept = new Scores(spec, 100);
  for (let i = 0; i < count; i += 500)
    kept.add(new ScoredBatch(spec, floats(scores.slice(i, i + 500)), floats(labels.slice(i, i + 500)), 500));
  const [pair] = [...kept.pairs()];
  expect(pair!.positives.length + pair!.negatives.length).toBe(100);
  expect(pair!.positives.length).toBeGreaterThan(30);
  expect(pair!.positives.length).toBeLessThan(70);
  expect(kept.note()).toContain('100 random positions of 4000');
  expect(new Scores(spec).note()).toBeUndefined();
});

describe('the metrics', () => {
  it.each<[string, LossSpec, readonly number[][], readonly (number | number[])[], string[]]>([
    ['two classes', CLASSES, [[0, 1]], [1], ['accuracy', 'auc', 'f1']],
    ['several', CLASSES, [[0, 1, 2]], [1], ['accuracy', 'f1']],
    ['many', CLASSES, [Array(30).fill(0)], [1], ['accuracy', 'top-5']],
    ['a label', LABELS, [[1]], [[1]], ['accuracy', 'auc', 'f1']],
    ['many labels', LABELS, [Array(30).fill(0)], [Array(30).fill(0)], ['accuracy', 'f1']],
    ['probabilities', { kind: 'bce' }, [[0.5]], [[0.4]], ['mae']],
    ['numbers', { kind: 'huber' }, [[1]], [[2]], ['mae', 'rmse', 'r2']],
    ['many numbers', { kind: 'l1' }, [Array(30).fill(0)], [Array(30).fill(0)], ['mae', 'rmse']],
  ])('of %s that nobody chose', (_, loss, scores, target, names) => {
    expect(Object.keys(measure(loss, scores, target as number[]))).toEqual(names);
  });
  it('of images and text that nobody chose', () => {
    const of = (dims: readonly number[], target: readonly number[], loss: LossSpec = CLASSES) => {
      const set = new MetricSet(loss);
      const dtype = loss === CLASSES ? 'int64' : 'float32';
      set.add(Tensor.zeros('float32', dims), Tensor.zeros(dtype, target), dims[0]!);
      return Object.keys(set.result().metrics);
    };
    expect(of([2, 3, 4, 4], [2, 4, 4])).toEqual(['accuracy', 'iou']);
    expect(of([2, 1, 4, 4], [2, 1, 4, 4], LABELS)).toEqual(['accuracy', 'iou', 'dice']);
    expect(of([2, 5, 7], [2, 5])).toEqual(['accuracy', 'perplexity']);
  });
  it('are refused by name, and where they do not apply', () => {
    expect(() => new MetricSet(CLASSES, ['acuracy'])).toThrow(
      "Unknown metric 'acuracy'; did you mean 'accuracy'?",
    );
    expect(() => new MetricSet(CLASSES, ['mae'])).toThrow(
      "Metric 'mae' does not apply to a loss whose target holds class numbers; expected one of accuracy,",
    );
    expect(() => new MetricSet({ kind: 'output', output: 'y' }, ['mae'])).toThrow('computes its loss itself');
    expect(() => new MetricSet(CLASSES, ['top-0'])).toThrow("Unknown metric 'top-0'");
    const set = new MetricSet(CLASSES, ['accuracy']);
    expect(() => set.add(floats([[1, 2]]), Tensor.ints([1, 1]), 1)).toThrow('do not belong together');
  });
});

describe('a metric of one’s own', () => {
  const create = () => {
    let [wrong, seen] = [0, 0];
    return {
      add({ predicted, targets, positions }: ScoredBatch) {
        for (let i = 0; i < positions; i++) if (predicted[i] !== targets[i]) wrong++;
        seen += positions;
      },
      value: () => ({ wrong, rate: wrong / seen }),
    };
  };
  const scores = [
    [0, 1],
    [0, 1],
  ];
  it('is computed beside the others', () => {
    const found = measure(CLASSES, scores, [1, 0], ['accuracy', { name: 'errors', create }]);
    expect(found).toEqual({ accuracy: 0.5, 'errors/wrong': 1, 'errors/rate': 0.5 });
  });
  it('has a name once it is defined, which is its own', () => {
    defineMetric({ name: 'error-counts', better: 'lower', create });
    expect(metricNamed('error-counts').better).toBe('lower');
    expect(measure(CLASSES, scores, [1, 1], ['error-counts'])).toEqual({
      'error-counts/wrong': 0,
      'error-counts/rate': 0,
    });
    expect(() => defineMetric({ name: 'accuracy', create })).toThrow("Metric 'accuracy' exists already");
  });
});

it('bits per byte counts the bytes of each character', () => {
  const recipe = (step: object) =>
    ({
      version: 1,
      inputs: [
        {
          input: 't',
          dtype: 'int64',
          dims: [],
          columns: [{ column: 'text', kind: 'text', width: 1, steps: [step] }],
        },
      ],
      target: 't',
    }) as never;
  const loss = { kind: 'cross-entropy', output: 'y', target: 't' } as const;
  const characters = recipe({ step: 'characters', table: ['a', '\u20ac'], length: null, unknown: 0, pad: 0 });
  const set = new MetricSet(loss, ['bits-per-byte'], false, characters);
  const scores = Tensor.from('float32', [2, 2], new Float32Array(4));
  set.add(scores, Tensor.from('int64', [2], BigInt64Array.of(0n, 1n)), 2);
  expect(set.result().metrics['bits-per-byte']).toBeCloseTo(2 / 4, 12);
});

it('a confusion matrix is of one prediction', () => {
  expect(() => measure(LABELS, [[1, 2]], [[1, 0]], ['confusion-matrix'])).toThrow(
    'A confusion matrix needs one prediction of at most 1000 classes; the model predicts 2 labels.',
  );
});

it('a metric of which no direction is better is not monitored', () => {
  expect(() => directionOf('confusion-matrix')).toThrow(
    '--monitor confusion-matrix: neither higher nor lower values of this metric are better.',
  );
});
