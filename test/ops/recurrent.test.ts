import { describe, expect, it } from 'vitest';
import { Tensor } from '../../src/graph/tensor.js';
import { type AttrInit, float, floats } from '../../src/ops/core/builder.js';
import { checkVjp, type Input, spread, type VjpCase } from './vjp.js';

const [T, B, I, H] = [4, 2, 3, 2];
const strings = (...value: string[]) => ({ type: 'strings', value }) as const;
const lengths = () => Tensor.from('int32', [B], Int32Array.of(4, 2));
const small = (dims: readonly number[], seed: number) => spread(dims, [-0.8, 0.8], seed);

/** Operands of a layer with `gates` matrices in W, in `directions` directions. */
function layer(gates: number, directions = 1) {
  return {
    x: small([T, B, I], 1),
    w: small([directions, gates * H, I], 2),
    r: small([directions, gates * H, H], 3),
    b: small([directions, 2 * gates * H], 4),
    h0: small([directions, B, H], 5),
    c0: small([directions, B, H], 6),
    p: small([directions, 3 * H], 7),
  };
}

const check = async (op: string, inputs: readonly Input[], attrs: AttrInit, c: VjpCase = {}) => {
  const all = { attrs: { hidden_size: H, ...attrs }, outputs: op === 'LSTM' ? 3 : 2, ...c };
  await checkVjp(op, inputs, all);
  await checkVjp(op, inputs, { ...all, symbolic: true });
};

describe('LSTM', () => {
  const all = (directions = 1) => {
    const { x, w, r, b, h0, c0, p } = layer(4, directions);
    return [x, w, r, b, null, h0, c0, p];
  };
  it('with all operands and outputs', () => check('LSTM', all(), {}));
  it('without optional operands', () => check('LSTM', all().slice(0, 3), {}));
  it('without bias and peepholes', () =>
    check('LSTM', [...all().slice(0, 3), null, null, ...all().slice(5, 7)], {}));
  it('reversed', () => check('LSTM', all(), { direction: 'reverse' }));
  it('in both directions', () => check('LSTM', all(2), { direction: 'bidirectional' }));
  it.each(['forward', 'reverse'])('%s, with sequences of several lengths', direction => {
    const operands = all();
    operands[4] = lengths();
    return check('LSTM', operands, { direction });
  });
  it('of which only the last states are read', () => check('LSTM', all(), {}, { cotangents: [1, 2] }));
  it('of which only the sequence is read', () => check('LSTM', all(), {}, { cotangents: [0] }));
  it('with other activations', () =>
    check('LSTM', all(), {
      activations: strings('HardSigmoid', 'Softsign', 'Affine'),
      activation_alpha: floats([0.3, 0.7]),
      activation_beta: floats([0.4, 0.1]),
    }));
  it('with clipping', () => check('LSTM', all().slice(0, 7), { clip: float(0.5) }));
  it('with input and forget gate coupled', () => check('LSTM', all(), { input_forget: 1 }));
  it('names what it cannot do', async () => {
    const attrs = { activations: strings('Sigmoid', 'Tanh', 'Gelu') };
    await expect(check('LSTM', all(), attrs)).rejects.toThrow(/activation/);
  });
});

describe('GRU', () => {
  const all = (directions = 1) => {
    const { x, w, r, b, h0 } = layer(3, directions);
    return [x, w, r, b, null, h0];
  };
  it.each([0, 1])('with linear_before_reset = %i', async linear => {
    const attrs = { linear_before_reset: linear };
    await check('GRU', all(), attrs);
    await check('GRU', all().slice(0, 3), attrs);
    await check('GRU', all(2), { ...attrs, direction: 'bidirectional' });
    const operands = all();
    operands[4] = lengths();
    await check('GRU', operands, { ...attrs, direction: 'reverse' });
  });
  it.each([0, 1])('with clipping, linear_before_reset = %i', linear =>
    check('GRU', all(), { clip: float(0.4), linear_before_reset: linear }, { step: 1e-3 }),
  );
});

describe('RNN', () => {
  const all = (directions = 1) => {
    const { x, w, r, b, h0 } = layer(1, directions);
    return [x, w, r, b, null, h0];
  };
  it.each(['Tanh', 'Relu', 'Sigmoid', 'LeakyRelu', 'Elu', 'Softplus'])('with %s', name =>
    check('RNN', all(), { activations: strings(name) }),
  );
  it('with a scaled Tanh', () => {
    const scale = { activation_alpha: floats([1.5]), activation_beta: floats([0.6]) };
    return check('RNN', all(), { activations: strings('ScaledTanh'), ...scale });
  });
  it('in both directions, with lengths', () => {
    const operands = all(2);
    operands[4] = lengths();
    return check('RNN', operands, { direction: 'bidirectional' });
  });
});
