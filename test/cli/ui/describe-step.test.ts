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

it('shows the rates of layers without digits of rounding, and of many layers the first ones', async () => {
  const names = ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias'];
  const groups = names.map((match, i) => ({ match, options: { lr: 0.001 * 0.9 ** (i + 3) } }));
  const { report } = await inject(mlp(), { loss: { kind: 'cross-entropy' }, groups }, sessionShapes);
  const { description } = report;
  expect(describeStep(description)).toContain('group    fc1.weight: lr 0.000729');
  const parameters = Array.from({ length: 11 }, (_, i) => ({
    ...description.parameters[0]!,
    options: { lr: i + 1 },
  }));
  const lines = describeStep({ ...description, parameters }).filter(line => line.startsWith('group'));
  expect(lines).toHaveLength(9);
  expect(lines.at(-1)).toBe('group    and 3 more groups of parameters');
});
