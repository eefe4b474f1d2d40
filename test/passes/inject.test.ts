import { expect, it } from 'vitest';
import { inject } from '../../src/passes/inject.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { mlp } from '../sample.js';

it('refuses an option that there is not', async () => {
  const options = { loss: { kind: 'cross-entropy' }, agd: { lr: 1 } } as const;
  await expect(inject(mlp(), options, sessionShapes)).rejects.toThrow("Unknown option 'agd'.");
});
