/** The memory of a run, estimated; measured values are those of bench/page-memory.mjs. */
import { describe, expect, it } from 'vitest';
import { inject, type Model, planMemory } from '../../../src/index.js';
import { Sketch } from '../../sample.js';

const LOSS = { loss: { kind: 'mse' } } as const;
const MB = 2 ** 20;

/** x[batch,256] -> 4 layers of 256 tanh units. */
function deep(): Model {
  const s = new Sketch();
  let x = s.input('x', ['batch', 256]);
  for (let i = 0; i < 4; i++)
    x = s.add('Tanh', [s.add('MatMul', [x, s.weight(`w${i}`, [256, 256])], `h${i}`)], `a${i}`);
  return s.model([x]);
}
const WEIGHTS = 4 * 256 * 256 * 4;

describe('planMemory', () => {
  it('counts parameters and optimizer state before and after an update', async () => {
    const [sgd, adam] = await Promise.all([
      planMemory(deep(), { ...LOSS, optimizer: { name: 'sgd' }, batchSize: 1 }),
      planMemory(deep(), { ...LOSS, optimizer: { name: 'adamw' }, batchSize: 1 }),
    ]);
    expect(sgd.state / (2 * WEIGHTS)).toBeCloseTo(1, 3);
    expect(adam.state / (2 * 3 * WEIGHTS)).toBeCloseTo(1, 3);
    expect(sgd.largest.bytes).toBe(256 * 256 * 4);
    expect(sgd.fits).toBe(true);
    expect(sgd.advice).toBeUndefined();
  });

  it('counts activations by the samples of a step', async () => {
    const [one, two] = await Promise.all(
      [4096, 8192].map(batchSize => planMemory(deep(), { ...LOSS, optimizer: { name: 'sgd' }, batchSize })),
    );
    // At least four values of each layer that the backward pass reads.
    expect(one!.activations).toBeGreaterThan(4 * 4096 * 256 * 4);
    expect(two!.activations / one!.activations).toBeGreaterThan(1.8);
    expect(two!.activations / one!.activations).toBeLessThan(2);
  });

  it('tells the first change that fits, which inject takes', async () => {
    const options = { ...LOSS, batchSize: 8192 };
    const { total, fits, advice } = await planMemory(deep(), { ...options, limit: 90 * MB });
    expect(fits).toBe(false);
    expect(advice).toMatchObject({ fits: true, change: { batchSize: 2048, accumulate: 4 } });
    expect(advice!.total).toBeLessThan(total);
    const { batchSize: _, ...change } = advice!.change;
    await expect(inject(deep(), { ...LOSS, ...change })).resolves.toHaveProperty('model');
  });

  it('proposes LoRA where parts of a batch do not help', async () => {
    const { advice } = await planMemory(deep(), { ...LOSS, batchSize: 1, limit: 35 * MB });
    expect(advice?.change).toEqual({ lora: [{ match: '*', r: 8 }] });
  });

  it('has no advice where nothing helps, or tensors are larger than the device takes', async () => {
    const { fits, advice } = await planMemory(deep(), { ...LOSS, batchSize: 2, maxBuffer: 1000 });
    expect(fits).toBe(false);
    expect(advice).toBeUndefined();
  });

  it('asks for extents that are open', async () => {
    const s = new Sketch();
    const open = () =>
      s.model([s.add('MatMul', [s.input('x', ['batch', 'length', 4]), s.weight('w', [4, 4])], 'y')]);
    const model = open();
    await expect(planMemory(model, LOSS)).rejects.toThrow(
      "Extent 1 of input 'x' is dynamic: give its size as extents: { length: N }.",
    );
    await expect(planMemory(model, { ...LOSS, extents: { length: 16 } })).resolves.toMatchObject({
      fits: true,
    });
  });
});
