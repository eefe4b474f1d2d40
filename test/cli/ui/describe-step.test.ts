import { expect, it } from 'vitest';
import { describeStep } from '../../../cli/ui/describe-step.js';
import { inject } from '../../../src/passes/inject.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { mlp } from '../../sample.js';

it('says what is off for a parameter', async () => {
  const groups = [{ match: 'fc1.weight', options: { useMuon: false } }];
  const options = { loss: { kind: 'cross-entropy' }, optimizer: { name: 'muon' }, groups } as const;
  const { report } = await inject(mlp(), options, sessionShapes);
  expect(describeStep(report.description).join('\n')).toMatch(/^group {4}.*: useMuon off/m);
});
