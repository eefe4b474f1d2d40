/** A recipe goes where the model goes: into its metadata, or into its graph. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { withEntry } from '../../src/graph/patch-metadata.js';
import { encodeModel } from '../../src/graph/proto/codec.js';
import { exportFile, exportFrom, inject } from '../../src/index.js';
import { parseColumns } from '../../src/passes/recipe/columns.js';
import { readRecipe } from '../../src/passes/recipe/read-recipe.js';
import { type Recipe, withRecipe } from '../../src/passes/recipe/recipe.js';
import { fitRecipe } from '../../src/runtime/data/recipe/fit-recipe.js';
import { loadRecipe, saveRecipe } from '../../src/runtime/data/recipe/recipe-file.js';
import { writeAs } from '../conformance/forms.js';
import { mlp } from '../sample.js';
import { sourceOf } from './data/recipe/source.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
});
afterEach(() => rm(folder, { recursive: true }));
const scores = { output: 'logits', loss: 'cross-entropy', classAxis: -1 };
const at = (name: string) => join(folder, name);

const source = sourceOf({
  age: [20, 30, 55],
  city: ['Rome', 'Oslo', 'Bonn'],
  species: ['cat', 'dog', 'emu'],
});

async function recipeOf(): Promise<Recipe> {
  const { recipe } = await fitRecipe(
    source,
    { columns: parseColumns(['x=age:standardize,city']), label: 'species' },
    [
      { name: 'x', dtype: 'float32', shape: ['batch', 4] },
      { name: 'target', dtype: 'int64', shape: ['batch'], isTarget: true, range: { least: 0, most: 2 } },
    ],
  );
  return recipe;
}

async function injected(form: 'inline' | 'one file' = 'inline') {
  const path = at('model.onnx');
  if (form === 'one file') await writeAs('one file', encodeModel(mlp()), path);
  else await saveModel(mlp(), path);
  const original = await readFile(path);
  const { model } = await inject(await loadModel(path), { loss: { kind: 'cross-entropy' }, original });
  return model;
}

const raw = {
  age: new ort.Tensor('float64', [31, 50], [2, 1]),
  city: new ort.Tensor('string', ['Oslo', 'Paris'], [2, 1]),
};

async function classesOf(path: string): Promise<unknown> {
  const session = await ort.InferenceSession.create(path);
  const { species, logits } = await session.run(raw);
  const scores = Array.from(logits!.data as Float32Array);
  const names = ['cat', 'dog', 'emu'];
  const best = [scores.slice(0, 3), scores.slice(3)].map(row => names[row.indexOf(Math.max(...row))]);
  expect(Array.from(species!.data as unknown as string[])).toEqual(best);
  return best;
}

describe('an exported model', () => {
  it('has the recipe in its metadata, and no other byte differs', async () => {
    const [model, recipe] = [await injected(), await recipeOf()];
    await exportFile(model, at('plain.onnx'));
    await exportFile(withRecipe(model, recipe), at('trained.onnx'));
    expect(await readRecipe(await loadModel(at('trained.onnx')))).toEqual({ ...recipe, scores });
    const written = await readFile(at('trained.onnx'));
    const plain = await readFile(at('plain.onnx'));
    expect(Buffer.compare(withEntry(written, 'agd.recipe', undefined), plain)).toBe(0);
    expect(
      Buffer.compare(
        withEntry(withEntry(written, 'agd.recipe', '1'), 'agd.recipe', JSON.stringify({ ...recipe, scores })),
        written,
      ),
    ).toBe(0);
  });
  it('of a model that has a recipe already has one, the new one', async () => {
    await saveModel(withRecipe(mlp(), await recipeOf()), at('old.onnx'));
    const original = await readFile(at('old.onnx'));
    const { model } = await inject(await loadModel(at('old.onnx')), {
      loss: { kind: 'cross-entropy' },
      original,
    });
    const recipe = { ...(await recipeOf()), tokenizers: { new: {} } };
    await exportFile(withRecipe(model, recipe), at('trained.onnx'));
    expect(await readRecipe(await loadModel(at('trained.onnx')))).toEqual({ ...recipe, scores });
    expect((await readFile(at('trained.onnx'))).toString('latin1').split('agd.recipe')).toHaveLength(2);
  });
  it.each(['inline', 'one file'] as const)(
    'takes raw columns where preprocessing is baked, %s',
    async form => {
      const model = withRecipe(await injected(form), await recipeOf());
      await exportFile(model, at('baked.onnx'), { bakePreprocessing: true });
      await classesOf(at('baked.onnx'));
    },
  );
  it('is baked later, too', async () => {
    await exportFile(withRecipe(await injected(), await recipeOf()), at('trained.onnx'));
    await exportFrom(at('trained.onnx'), at('baked.onnx'), { bakePreprocessing: true });
    await classesOf(at('baked.onnx'));
  });
  it('says where there is nothing to bake', async () => {
    await expect(exportFile(await injected(), at('x.onnx'), { bakePreprocessing: true })).rejects.toThrow(
      'There is no recipe: the model was not trained on columns of a table. --recipe FILE gives one.',
    );
  });
});

describe('a recipe in a file', () => {
  it('is read as it was written', async () => {
    const recipe = await recipeOf();
    await saveRecipe(at('recipe.json'), recipe);
    expect(await loadRecipe(at('recipe.json'))).toEqual(recipe);
    await saveModel(withRecipe(mlp(), recipe), at('model.onnx'));
    expect(await loadRecipe(at('model.onnx'))).toEqual(recipe);
  });
  it('is missing from a model without one', async () => {
    await saveModel(mlp(), at('model.onnx'));
    await expect(loadRecipe(at('model.onnx'))).rejects.toThrow('holds no recipe');
    await expect(loadRecipe(at('none.json'))).rejects.toMatchObject({ code: 'io' });
  });
  it('in a damaged model is refused in one line', async () => {
    const model = mlp();
    model.metadata.set('agd.recipe', '{"version":1,"inputs":[{"input":"x"}]}');
    await expect(readRecipe(model)).rejects.toThrow(
      "The metadata entry 'agd.recipe' is not a valid recipe: at 'inputs[0].dtype'",
    );
  });
});
