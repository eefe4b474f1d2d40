import { expect, it } from 'vitest';
import type { Value } from '../../../src/graph/ir.js';
import { type AdaboundOptions, adabound } from '../../../src/ops/optimizers/adabound.js';
import { type AgdOptions, agd } from '../../../src/ops/optimizers/agd.js';
import { defaultsOf } from '../../../src/ops/optimizers/optimizer.js';
import { type GroupOptions, groupParameters } from '../../../src/passes/select/group-parameters.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** A convolution, a normalization whose scale has two axes, and a product. */
async function groupsOf(options: GroupOptions<AgdOptions>, base: Partial<AgdOptions> = {}) {
  const s = new Sketch();
  const weight = (name: string, dims: number[]): Value => {
    const value = s.weight(name, spread(dims));
    value.type = { kind: 'tensor', dtype: 'float32', shape: dims };
    return value;
  };
  const x = s.input('x', [1, 2, 8]);
  const [kernel, bias] = [weight('conv.weight', [4, 2, 3]), weight('conv.bias', [4])];
  const h = s.add('Conv', [x, kernel, bias], 'h');
  const [scale, shift] = [weight('norm.weight', [4, 6]), weight('norm.bias', [4, 6])];
  const n = s.add('LayerNormalization', [h, scale, shift], 'n', { axis: 1 });
  const head = weight('head.weight', [6, 1]);
  s.add('MatMul', [n, head], 'y');
  const params = [kernel, bias, scale, shift, head];
  const groups = await groupParameters(params, agd, { ...defaultsOf(agd), ...base }, options);
  return Object.fromEntries(params.map((p, i) => [p.name, groups[i]]));
}

it('takes decay off vectors and off what normalizations read', async () => {
  expect(await groupsOf({ decayBiasNorm: false })).toEqual({
    'conv.weight': {},
    'conv.bias': { weightDecay: 0 },
    'norm.weight': { weightDecay: 0 },
    'norm.bias': { weightDecay: 0 },
    'head.weight': {},
  });
});

it('applies the last matching group, option by option', async () => {
  const groups = [
    { match: '*.weight', options: { lr: 1e-2, delta: 1e-3 } },
    { match: ['norm.*', 'head*'], options: { lr: 2e-2, weightDecay: 0.5 } },
  ];
  expect(await groupsOf({ decayBiasNorm: false, groups })).toEqual({
    'conv.weight': { lr: 1e-2, delta: 1e-3 },
    'conv.bias': { weightDecay: 0 },
    'norm.weight': { lr: 2e-2, delta: 1e-3, weightDecay: 0.5 },
    'norm.bias': { lr: 2e-2, weightDecay: 0.5 },
    'head.weight': { lr: 2e-2, delta: 1e-3, weightDecay: 0.5 },
  });
});

it('applies the decay of layers to every option that is a learning rate', async () => {
  const value = new Sketch().weight('w', spread([2, 3]));
  const base = { ...defaultsOf<AdaboundOptions>(adabound), finalLr: 0.4 };
  const [own] = await groupParameters([value], adabound, base, { layerDecay: 0.5 }, [1]);
  expect(own).toEqual({ lr: 5e-4, finalLr: 0.2 });
});

it('refuses what fits nothing, and options that the optimizer refuses', async () => {
  const group = (match: string, options: Partial<AgdOptions>) => ({ groups: [{ match, options }] });
  await expect(groupsOf(group('*.wieght', {}))).rejects.toThrow(
    "group '*.wieght' matches no trained parameter",
  );
  await expect(groupsOf(group('*', { betas: [0.9, 2] }))).rejects.toThrow(
    'betas[1] must be a number in [0, 1)',
  );
  await expect(groupsOf(group('*', { weightdecay: 0 } as never))).rejects.toThrow(
    "Unknown option of agd 'weightdecay'; did you mean 'weight_decay'?",
  );
  await expect(groupsOf(group('*', { win: true }), { fixedDecay: true })).rejects.toThrow(
    'win has its own form',
  );
  await expect(groupsOf(group('*', { lr: 1 }), { lr: 0 })).rejects.toThrow('a multiple of lr');
});
