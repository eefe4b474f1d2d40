/** Recipes in files of their own. */
import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import { toUtf8 } from '../../../graph/bytes.js';
import { AgdError } from '../../../graph/errors.js';
import { loadModel, writeFileAtomic } from '../../../graph/files.js';
import { parseRecipe, readRecipe } from '../../../passes/recipe/read-recipe.js';
import type { Recipe } from '../../../passes/recipe/recipe.js';

/** The recipe in a JSON file, or in the metadata of a model. Throws `io`, `bad-data`, `invalid-model`. */
export async function loadRecipe(path: string): Promise<Recipe> {
  if (extname(path).toLowerCase() === '.onnx') {
    const recipe = await readRecipe(await loadModel(path));
    if (recipe) return recipe;
    throw new AgdError('bad-data', `${path} holds no recipe: it was not trained on columns of a table.`);
  }
  const text = await readFile(path, 'utf8').catch(error => {
    throw new AgdError('io', `Cannot read ${path}: ${(error as Error).message}.`, { cause: error });
  });
  return parseRecipe(text, path);
}

/** Writes a recipe as JSON. Throws `io`. */
export async function saveRecipe(path: string, recipe: Recipe): Promise<void> {
  await writeFileAtomic(path, [toUtf8(`${JSON.stringify(recipe, undefined, 2)}\n`)]);
}
