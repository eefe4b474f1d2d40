import { Tensor } from '../../graph/tensor.js';
import type { Column, Dataset } from './dataset.js';
import type { InputSpec } from './match.js';

/**
 * A note if the target repeats an input of tokens wherever it counts, as the labels of Hugging Face's data sets do: their
 * models shift them.
 */
export function notesOnCopies(
  data: Dataset,
  inputs: readonly InputSpec[],
  labels: readonly string[] = [],
): string[] {
  const ignored = inputs.find(({ name }) => name === labels[0])?.range?.ignored;
  const target = data.columns.find(({ input }) => input === labels[0]);
  const classes = target && tokensOf(target);
  const isCopied = (column: Column) => {
    const tokens = column === target ? undefined : tokensOf(column);
    if (!classes || tokens?.length !== classes.length) return false;
    for (let i = 0; i < classes.length; i++) {
      const label = Number(classes[i]);
      if (label !== ignored && label !== Number(tokens[i])) return false;
    }
    return true;
  };
  const input = data.columns.find(isCopied)?.input;
  if (input === undefined) return [];
  return [
    `Array '${target!.arrayName}' has the values of input '${input}' at the same places, so the model only has to copy them. To predict the next token, shift the targets by one place, or let documents(N) do so for lists of token ids.`,
  ];
}

const tokensOf = ({ array, dims }: Column) =>
  array instanceof Tensor && /^int(32|64)$/.test(array.dtype) && dims.length === 1 && dims[0]! > 1
    ? (array.data as ArrayLike<number | bigint>)
    : undefined;
