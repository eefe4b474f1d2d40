import { describe, it } from 'vitest';
import type { AttrInit } from '../../src/ops/core/builder.js';
import { checkVjp, floatsOf, type Input, ints, type VjpCase } from './vjp.js';

const scalar = (n: number) => ints([n], []);

describe('DFT', () => {
  /** In the form with the axis as an attribute and in that with the axis as an input. */
  const check = async (shape: readonly number[], axis: number, attrs: AttrInit = {}, length?: number) => {
    const n = length === undefined ? null : scalar(length);
    const c: VjpCase = { wrt: [0], constants: [1, 2] };
    await checkVjp('DFT', [shape, n], { ...c, attrs: { axis, ...attrs } });
    for (const more of [{}, { symbolic: true, constants: [] }])
      await checkVjp('DFT', [shape, n, scalar(axis)], { ...c, attrs, opset: 20, ...more });
  };
  it.each([5, 6])('of %i real numbers', n => check([2, n, 1], 1));
  it.each([5, 6])('of %i complex numbers', n => check([2, n, 2], 1));
  it('along another axis', () => check([4, 3, 2], 0));
  it('along an axis counted from the end', () => check([2, 3, 4, 1], -3));
  it.each([5, 6])('onesided, of %i numbers', n => check([2, n, 1], 1, { onesided: 1 }));
  it.each([1, 2])('inverted, of numbers with %i parts', parts => check([2, 5, parts], 1, { inverse: 1 }));
  it('inverted, of half a spectrum', () => check([2, 4, 2], 1, { inverse: 1, onesided: 1 }));
  describe.each([3, 5, 8])('of length %i, for 5 numbers', n => {
    it.each([1, 2])('with %i parts', parts => check([2, 5, parts], 1, {}, n));
    it('onesided', () => check([2, 5, 1], 1, { onesided: 1 }, n));
    it('inverted', () => check([2, 5, 2], 1, { inverse: 1 }, n));
  });
  // Of a length that wants another number of frequencies ONNX Runtime makes something of its own.
  it.each([8, 9])('inverted, of half a spectrum of length %i', n =>
    check([2, 5, 2], 1, { inverse: 1, onesided: 1 }, n),
  );
});

describe('STFT', () => {
  const check = async (inputs: readonly Input[], attrs: AttrInit = {}) => {
    await checkVjp('STFT', inputs, { attrs, constants: [1, 3] });
    await checkVjp('STFT', inputs, { attrs, symbolic: true, opset: 20 });
  };
  const window = floatsOf([0.2, 0.8, 1.1, 0.5]);
  it('with a window', () => check([[2, 9, 1], scalar(2), window]));
  it('with a window and its length', () => check([[1, 9, 1], scalar(3), window, scalar(4)]));
  it('with a length only', () => check([[1, 8, 1], scalar(2), null, scalar(4)]));
  it('of both sides', () => check([[1, 8, 1], scalar(2), window], { onesided: 0 }));
  it('of complex numbers', () => check([[1, 8, 2], scalar(2), null, scalar(4)], { onesided: 0 }));
});
