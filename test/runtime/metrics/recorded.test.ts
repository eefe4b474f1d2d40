/** Metrics agree with scikit-learn and torchmetrics, whose values recorded.py recorded, whatever the batches. */
import { describe, expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import type { LossSpec } from '../../../src/passes/options.js';
import { METRICS, MetricSet } from '../../../src/runtime/metrics/index.js';
import recorded from './recorded.json' with { type: 'json' };

type Case = (typeof recorded.cases)[number];

/** Samples `from` up to `to`, then `padding` copies of the first of them. */
function cut(tensor: Tensor, from: number, to: number, padding: number): Tensor {
  const { dtype, dims, bytes } = tensor;
  const size = bytes.length / dims[0]!;
  const rows = bytes.subarray(from * size, to * size);
  const filling = Array.from({ length: padding }, () => rows.subarray(0, size));
  return new Tensor(dtype, [to - from + padding, ...dims.slice(1)], Buffer.concat([rows, ...filling]));
}

function measure(
  { loss, dims, scores, targetDims, target, metrics, single, table }: Case,
  size: number,
  pad: boolean,
) {
  const isClasses = targetDims.length < dims.length;
  const output = Tensor.from('float64', dims, Float64Array.from(scores));
  const labels = isClasses
    ? Tensor.from('int64', targetDims, BigInt64Array.from(target, BigInt))
    : Tensor.from('float64', targetDims, Float64Array.from(target));
  const names = new Set(Object.keys({ ...metrics, ...single }).map(name => name.split('/')[0]!));
  const set = new MetricSet(loss as LossSpec, [...names, ...(table ? ['confusion-matrix'] : [])]);
  const samples = dims[0]!;
  for (let from = 0; from < samples; from += size) {
    const to = Math.min(from + size, samples);
    const padding = pad ? size - (to - from) : 0;
    set.add(cut(output, from, to, padding), cut(labels, from, to, padding), to - from, padding);
  }
  return set.result();
}

describe.each(recorded.cases)('of $name', recording => {
  it.each([
    ['one batch', 1000, false],
    ['batches with a smaller last one', 4, false],
    ['batches that are filled up', 4, true],
  ])('equal the record, by %s', (_, size, pad) => {
    const { metrics, confusion } = measure(recording, size, pad);
    const far = (wanted: object, tolerance: number) =>
      Object.entries(wanted).filter(
        ([name, value]) => !(Math.abs(metrics[name]! - value) <= tolerance * Math.max(1, Math.abs(value))),
      );
    expect(far(recording.metrics, 1e-9)).toEqual([]);
    expect(far(recording.single, 2 ** -23)).toEqual([]);
    if (recording.table) expect(confusion?.matrix).toEqual(recording.table);
  });
});

it('all have a record', () => {
  const seen = recorded.cases.flatMap(({ metrics, single, table }) => [
    ...Object.keys({ ...metrics, ...single }).map(name => name.split('/')[0]!),
    ...(table ? ['confusion-matrix'] : []),
  ]);
  const all = [...METRICS.keys()].map(name => (name === 'top-5' ? 'top-3' : name));
  expect(all.filter(name => !seen.includes(name))).toEqual([]);
});
