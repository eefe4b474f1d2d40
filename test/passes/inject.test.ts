import { expect, it } from 'vitest';
import { inject } from '../../src/passes/inject.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { mlp } from '../sample.js';

it('refuses an option that there is not', async () => {
  const options = { loss: { kind: 'cross-entropy' }, agd: { lr: 1 } } as const;
  await expect(inject(mlp(), options, sessionShapes)).rejects.toThrow("Unknown option 'agd'.");
});

it('keeps moments that begin as zeros without an array for each', async () => {
  const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } }, sessionShapes);
  const begin = new Map([...model.graph.initializers].map(([v, tensor]) => [v.name, tensor]));
  const moments = [...begin].filter(([name]) => /_(exp_avg_corrected|diff_sq_sum)$/.test(name));
  expect(moments.length).toBeGreaterThan(0);
  for (const [, tensor] of moments) expect(tensor.isZero).toBe(true);
});
