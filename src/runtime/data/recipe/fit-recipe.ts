/** From the columns of training data and the inputs of a model to a recipe. */
import { AgdError } from '../../../graph/errors.js';
import type { ColumnsOption } from '../../../passes/recipe/columns.js';
import type { InputRecipe, Recipe } from '../../../passes/recipe/recipe.js';
import { gather } from '../gather.js';
import { lowerBound } from '../some-rows.js';
import type { Source } from '../source.js';
import { Chain } from './chain.js';
import { type Plan, planColumns, type RecipeInput, showPlan } from './plan.js';
import { settleDims } from './settle.js';

export type { RecipeInput };

/** What a user says of columns: `columns` by input, and the column of the target. */
export type RecipeSpec = { columns?: ColumnsOption; label?: string };

export type FitOptions = {
  /** A recipe of the same data, from which inputs that were fitted for the same specification are taken. */
  fitted?: Recipe;
  /**
   * The rows that statistics are of, in ascending order; all if not given. Tables are of all rows in any case, so that the
   * width of an input does not depend on which rows are chosen.
   */
  rows?: Uint32Array;
};

/** Of what an input's recipe was fitted, to tell whether it can be used again. */
const origins = new WeakMap<InputRecipe, string>();

/**
 * Fits a recipe on all blocks of a source, in as many passes as its longest chain of statistics needs (one where nothing
 * follows a scaler). `notes` tell what was decided that the specification does not say. Throws `missing-data` where an
 * input has no column, `bad-shape` where the widths do not fit, `bad-option` for a specification that does not suit the
 * columns, `bad-data` for values.
 */
export async function fitRecipe(
  source: Source,
  spec: RecipeSpec,
  inputs: readonly RecipeInput[],
  { fitted, rows }: FitOptions = {},
): Promise<{ recipe: Recipe; notes: string[] }> {
  const notes: string[] = [];
  const tokenizers: Record<string, unknown> = { ...fitted?.tokenizers };
  const plan = planColumns(source, spec, inputs);
  const known = new Map(fitted?.inputs.map(input => [input.input, input]));
  const originOf = (part: Plan['inputs'][number]) => JSON.stringify([part.spec, part.columns, part.windows]);
  const chains = new Map<Plan['inputs'][number], Chain[]>();
  for (const part of plan.inputs) {
    const before = known.get(part.spec.name);
    if (before && origins.get(before) === originOf(part)) continue;
    chains.set(
      part,
      part.columns.map(
        ({ field, transforms }) =>
          new Chain(part.spec.name, field, [...transforms], { tokenizers, notes }, part.label),
      ),
    );
  }
  await look(source, [...chains.values()].flat(), rows);
  const parts = plan.inputs.map(part => {
    const own = chains.get(part);
    if (!own) return known.get(part.spec.name)!;
    const made = settleDims(part, own, source.name);
    origins.set(made, originOf(part));
    return made;
  });
  notes.unshift(...showPlan(plan, chains));
  const target = plan.inputs.find(part => part.label)?.spec.name;
  return {
    recipe: {
      version: 1,
      inputs: parts,
      ...(target === undefined ? {} : { target }),
      ...(Object.keys(tokenizers).length ? { tokenizers } : {}),
    },
    notes,
  };
}

async function look(source: Source, chains: readonly Chain[], chosen?: Uint32Array): Promise<void> {
  for (;;) {
    const open = chains.filter(chain => chain.prepare());
    if (!open.length) return;
    const columns = [...new Set(open.map(chain => chain.column))];
    let firstRow = 1;
    for (const [i, rows] of source.blocks.entries()) {
      const { values } = await source.read(i, columns);
      const [from, to] = chosen
        ? [firstRow - 1, firstRow - 1 + rows].map(row => lowerBound(chosen, row))
        : [];
      const own = chosen?.subarray(from, to).map(row => row - (firstRow - 1));
      for (const chain of open) {
        const all = values.get(chain.column)!;
        const seen = own && !chain.findsTable ? gather(all, own) : all;
        chain.see(seen, { source: source.name, column: chain.column, firstRow });
      }
      firstRow += rows;
    }
    if (firstRow === 1) throw new AgdError('bad-data', `${source.name} has no rows.`);
    for (const chain of open) chain.finish();
  }
}
