/** Steps on the arrays of .npz and like files, of which each row may have several numbers. */
import { AgdError } from '../../../graph/errors.js';
import { Tensor } from '../../../graph/tensor.js';
import { type ColumnsOption, readColumns } from '../../../passes/recipe/columns.js';
import type { Recipe, Step } from '../../../passes/recipe/recipe.js';
import { moveAxis, permute } from '../convert.js';

/** The order of a row's axes, where the samples of the stored array were moved to its first axis. */
function rowOrder(axes: readonly number[]): number[] {
  const others = axes.slice(1).toSorted((a, b) => a - b);
  return axes.slice(1).map(axis => others.indexOf(axis));
}

/** The shape of a row after these steps. Throws `bad-option` for one that does not apply. */
export function dimsAfter(steps: readonly Step[], dims: readonly number[], where: string): readonly number[] {
  return steps.reduce((now, step) => {
    if (step.step === 'argmax') {
      if (now.length) return now.slice(0, -1);
      throw new AgdError('bad-option', `${where}: argmax takes several numbers per row, and it has one.`);
    }
    if (step.step !== 'transpose') return now;
    if (step.axes.length === now.length + 1) return rowOrder(step.axes).map(axis => now[axis]!);
    throw new AgdError(
      'bad-option',
      `${where}: transpose(${step.axes}) has ${step.axes.length} axes, and the array ${now.length + 1}.`,
    );
  }, dims);
}

/** Rows of an array after these steps. */
export function runArray(array: Tensor, steps: readonly Step[]): Tensor {
  return steps.reduce((now, step) => {
    switch (step.step) {
      case 'transpose':
        return permute(now, [0, ...rowOrder(step.axes).map(axis => axis + 1)]);
      case 'argmax':
        return argmax(now);
      case 'subtract':
        return Tensor.from(
          'float64',
          now.dims,
          Float64Array.from(now.numbers(), x => (x === step.except ? x : x - step.by)),
        );
      default:
        return now;
    }
  }, array);
}

function argmax(array: Tensor): Tensor {
  const width = array.dims.at(-1)!;
  const numbers = array.numbers();
  const best = new Int32Array(array.size / width);
  for (let i = 0; i < best.length; i++)
    for (let j = 1; j < width; j++) if (numbers[i * width + j]! > numbers[i * width + best[i]!]!) best[i] = j;
  return Tensor.from('int32', array.dims.slice(0, -1), best);
}

/** By the array's name, the axis that has its samples, where a transpose names another than the first. */
export function sampleAxes(columns: ColumnsOption = {}, recipe?: Recipe): Map<string, number> {
  const asked = [...readColumns(columns).values()].flat().map(({ column, transforms = [] }) => {
    const axes = transforms.find(({ name }) => name === 'transpose')?.list;
    return [column, Number(axes?.[0] ?? 0)] as const;
  });
  const fitted = (recipe?.inputs ?? []).flatMap(input =>
    input.columns.map(({ column, steps }) => {
      const step = steps.find(({ step }) => step === 'transpose');
      return [column, step?.step === 'transpose' ? step.axes[0]! : 0] as const;
    }),
  );
  return new Map([...fitted, ...asked].filter(([, axis]) => axis > 0));
}

/** The arrays with their samples along the first axis. */
export function withSamplesFirst(
  arrays: ReadonlyMap<string, Tensor>,
  axes: ReadonlyMap<string, number>,
): Map<string, Tensor> {
  return new Map(
    [...arrays].map(([name, array]) => {
      const axis = axes.get(name) ?? 0;
      return [name, axis < array.dims.length ? moveAxis(array, axis, 0) : array];
    }),
  );
}

/** The recipe for arrays of these shapes: a file may have images of another size. */
export function withDimsOf(recipe: Recipe, arrays: ReadonlyMap<string, Tensor>): Recipe {
  const inputs = recipe.inputs.map(input => {
    const [only, ...more] = input.columns;
    const array = arrays.get(only!.column);
    if (more.length || !array || input.windows || only!.steps.at(-1)!.step !== 'tensor') return input;
    const dims = dimsAfter(only!.steps, array.dims.slice(1), `Array '${only!.column}'`);
    const width = dims.reduce((n, d) => n * d, 1);
    return width === only!.width ? input : { ...input, dims: [...dims], columns: [{ ...only!, width }] };
  });
  return { ...recipe, inputs };
}
