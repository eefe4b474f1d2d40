/** Columns of tables through the commands. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { readRecipe } from '../../src/passes/recipe/recipe.js';
import { loadRecipe } from '../../src/runtime/data/recipe/recipe-file.js';
import { agdOnnx, workplace } from './run.js';

const RECIPE = {
  version: 1,
  inputs: [
    {
      input: 'x',
      dtype: 'float32',
      dims: [4],
      columns: [
        { column: 'age', kind: 'number', width: 1, steps: [{ step: 'standardize', mean: 30, std: 10 }] },
        {
          column: 'city',
          kind: 'text',
          width: 3,
          steps: [{ step: 'one-hot', table: ['a', 'b', 'c'], unknown: 'zeros', missing: 'zeros' }],
        },
      ],
    },
  ],
};

it('export takes a recipe, writes it, and bakes it', async () => {
  const folder = await workplace();
  writeFileSync(join(folder, 'recipe.json'), JSON.stringify(RECIPE));
  const injected = agdOnnx(folder, 'inject', 'model.onnx', '--loss', 'cross-entropy', '-o', 'model.agd.onnx');
  expect(injected.code).toBe(0);
  const plain = agdOnnx(
    folder,
    'export',
    'model.agd.onnx',
    '--recipe',
    'recipe.json',
    '--recipe-out',
    'out.json',
  );
  expect([plain.code, plain.err]).toEqual([0, '']);
  expect(plain.out).toContain('wrote out.json');
  expect(await loadRecipe(join(folder, 'out.json'))).toEqual(RECIPE);
  expect(readRecipe(await loadModel(join(folder, 'model.trained.onnx')))?.scores?.output).toBe('logits');
  const baked = agdOnnx(folder, 'export', 'model.trained.onnx', '--bake-preprocessing', '-o', 'baked.onnx');
  expect([baked.code, baked.err]).toEqual([0, '']);
  const session = await ort.InferenceSession.create(join(folder, 'baked.onnx'));
  expect(session.inputNames).toEqual(['age', 'city']);
  const none = agdOnnx(folder, 'export', 'model.agd.onnx', '--bake-preprocessing');
  expect(none.code).toBe(1);
  expect(none.err).toMatch(
    /^agd-onnx: There is no preprocessing to write into the graph: .* \[bad-option\]\n$/,
  );
});
