/** Transforms against values that scikit-learn's encoders gave: see scikit_learn.py. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { applyRecipe } from '../../../../src/runtime/data/recipe/apply-recipe.js';
import { fitRecipe } from '../../../../src/runtime/data/recipe/fit-recipe.js';
import { sourceOf } from './source.js';

type Column = (number | string | null)[];
type Case = { values: Column; fit: number[][]; new: Column; later: number[][] };

const { cases } = JSON.parse(readFileSync(join(import.meta.dirname, 'scikit-learn.json'), 'utf8')) as {
  cases: Record<string, Case>;
};

it.each(Object.entries(cases))('%s is what scikit-learn makes of it', async (name, expected) => {
  const training = sourceOf({ c: expected.values }, { size: 5 });
  const columns = { x: [{ column: 'c', transforms: name.trim() }] };
  const { recipe } = await fitRecipe(training, { columns }, [
    { name: 'x', dtype: 'float64', shape: ['N', null] },
  ]);
  const kept = JSON.parse(JSON.stringify(recipe));
  for (const [values, wanted] of [
    [expected.values, expected.fit],
    [expected.new, expected.later],
  ] as const) {
    const kinds = { c: training.fields[0]!.kind };
    const block = await sourceOf({ c: values }, { size: values.length, kinds }).read(0);
    const x = (await applyRecipe(kept, block)).get('x')!;
    const numbers = x.numbers();
    const width = wanted[0]!.length;
    expect(x.dims).toEqual([values.length, width]);
    wanted.flat().forEach((number, i) => {
      const scale = Math.max(1, Math.abs(number));
      expect(Math.abs(numbers[i]! - number) / scale, `element ${i}`).toBeLessThan(1e-9);
    });
  }
});
