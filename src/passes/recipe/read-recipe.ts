/** Recipes as models and files store them. */
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { RECIPE_KEY, type Recipe } from './recipe.js';

/** The recipe stored in a model. Throws `invalid-model` if it is damaged. */
export async function readRecipe({ metadata }: Model): Promise<Recipe | undefined> {
  const text = metadata.get(RECIPE_KEY);
  return text === undefined
    ? undefined
    : parseRecipe(text, `The metadata entry '${RECIPE_KEY}'`, 'invalid-model');
}

/** Throws an error with this code if the text is not a recipe. `what` starts its sentence. */
export async function parseRecipe(
  text: string,
  what: string,
  code: 'invalid-model' | 'bad-data' = 'bad-data',
): Promise<Recipe> {
  let recipe: unknown;
  try {
    recipe = JSON.parse(text);
  } catch {
    throw new AgdError(code, `${what} is not JSON: it is damaged.`);
  }
  const { version } = (recipe ?? {}) as { version?: unknown };
  if (typeof version === 'number' && version !== 1)
    throw new AgdError(
      'unsupported-version',
      `${what} is a recipe of version ${version}; this release reads version 1.`,
    );
  // Loaded when there is a recipe, as most models of a page have none.
  const { checkRecipe } = await import('./check-recipe.js');
  const wrong = checkRecipe(recipe);
  if (wrong !== undefined) throw new AgdError(code, `${what} is not a valid recipe: ${wrong}.`);
  return recipe as Recipe;
}
