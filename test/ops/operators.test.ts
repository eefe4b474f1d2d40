/** Every operator is known or has a reason, its example agrees with differences, and docs/reference/operators.md says so. */
import { describe, expect, it } from 'vitest';
import { loadOperators, opDef, opTable } from '../../src/ops/index.js';
import { ORT_OPERATORS } from '../../src/ops/ort-gradients/index.js';
import { EXAMPLES, STRAIGHT_THROUGH } from './examples.js';
import { OPERATORS, operatorsPage, trace } from './operators-page.js';
import { checkModel } from './vjp.js';

await loadOperators();

describe.each(EXAMPLES.map(e => [`${e.domain} ${e.op}`.trim(), e] as const))('%s', (_, example) => {
  it.each([false, true])('agrees with differences (extents hidden: %s)', async hidden => {
    const { model, ins, outs } = example.make(hidden);
    await checkModel(model, ins, outs, example.tensors, example.c);
  });
});

it.each(STRAIGHT_THROUGH.map(e => [`${e.domain} ${e.op}`.trim(), e] as const))(
  '%s has a straight-through gradient, on request only',
  async (_, example) => {
    const arrives = async (straightThrough: boolean) =>
      [...(await trace(example, straightThrough, true)).gradients.values()].some(Boolean);
    expect([await arrives(false), await arrives(true)]).toEqual([false, true]);
  },
);

describe('every operator', () => {
  const longName = (domain: string) => domain || 'ai.onnx';
  const known = [...opTable()].map(([domain, op, def]) => ({ key: `${longName(domain)}:${op}`, ...def }));
  const listed = ['ai.onnx', 'com.microsoft'].flatMap(domain =>
    Object.entries(OPERATORS[domain]!).map(([op, facts]) => ({
      key: `${domain}:${op}`,
      op,
      domain,
      ...facts,
    })),
  );
  const keys = (entries: readonly { key: string }[]) => entries.map(e => e.key).sort();

  it('that is known is listed', () => {
    const all = new Set([...keys(listed), ...known.map(k => k.key).filter(k => k.includes('preview'))]);
    expect(keys(known).filter(key => !all.has(key))).toEqual([]);
  });
  it('that is listed is known, or has a reason not to be', () => {
    const handled = new Set([...keys(known), ...ORT_OPERATORS.map(op => `com.microsoft:${op}`)]);
    expect(keys(listed.filter(({ key, missing }) => handled.has(key) === Boolean(missing)))).toEqual([]);
  });
  it('of ai.onnx up to opset 26 that is differentiable has a gradient', () => {
    const smooth = listed.filter(
      e => e.domain === 'ai.onnx' && e.differentiable !== 'no' && Math.min(...e.since) <= 26,
    );
    const without = smooth.filter(
      ({ op }) => !/rule|expansion|zero/.test(opDef({ domain: '', opType: op })?.kind ?? ''),
    );
    expect(keys(without)).toEqual([]);
    expect(smooth.length).toBeGreaterThanOrEqual(128);
  });
  it('that has a gradient has an example', () => {
    const shown = new Set(
      [...EXAMPLES, ...STRAIGHT_THROUGH].map(({ domain, op }) => `${longName(domain)}:${op}`),
    );
    const smooth = known.filter(({ key, kind }) => !key.includes('preview') && kind !== 'none');
    expect(keys(smooth).filter(key => !shown.has(key))).toEqual([]);
  });
});

it('docs/reference/operators.md is up to date', async () => {
  await expect(await operatorsPage()).toMatchFileSnapshot('../../docs/reference/operators.md');
});
