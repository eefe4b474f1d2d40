import { expect, it } from 'vitest';
import { Tensor } from '../../src/graph/tensor.js';
import { checkGradients } from '../../src/runtime/check-gradients.js';
import { gradients } from '../../src/runtime/gradients.js';
import { mlp, mlpData } from '../sample.js';

const options = { loss: { kind: 'cross-entropy' } } as const;
const feeds = Object.fromEntries(mlpData(8));

it('passes right gradients and tells wrong ones', async () => {
  const found = await gradients(mlp(), options, feeds);
  const right = await checkGradients(mlp(), options, feeds, found);
  expect(right.map(c => [c.name, c.passed])).toEqual(
    ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias'].map(name => [name, true]),
  );
  const bias = Float32Array.from(found.gradients.get('fc2.bias')!.numbers(), x => 1.1 * x);
  const wrong = new Map([...found.gradients, ['fc2.bias', Tensor.from('float32', [3], bias)]]);
  const checks = await checkGradients(mlp(), options, feeds, { ...found, gradients: wrong });
  expect(checks.filter(c => !c.passed).map(c => c.name)).toEqual(['fc2.bias']);
});

it('needs a loss', async () => {
  await expect(checkGradients(mlp(), {}, feeds, { gradients: new Map() })).rejects.toThrow('need a loss');
});
