/** Flags for what a model learns from. */
import type { Argv } from 'yargs';
import { AgdError, parseScale } from '../src/constants.js';
import type { TrainJob } from '../src/index.js';

export const dataOptions = <T>(args: Argv<T>) =>
  args.options({
    data: { type: 'string', demandOption: true, describe: 'Training data: .npz, .npy or .safetensors' },
    val: { type: 'string', describe: 'Validation data, evaluated after each epoch' },
    'batch-size': { type: 'number', describe: 'Samples a step [32]' },
    map: { type: 'string', array: true, describe: 'INPUT=ARRAY, where the names differ' },
    scale: { type: 'string', array: true, describe: 'Factor for integer arrays, 1/255 or INPUT=1/255' },
    whole: {
      type: 'string',
      array: true,
      describe: 'Input that is not split into samples: its whole array is fed at every step',
    },
  } as const);

export type ParsedData = {
  data: string;
  val?: string;
  batchSize?: number;
  map?: string[];
  scale?: string[];
  whole?: string[];
};

/** The part of a job that the flags say. Throws `bad-option`. */
export function dataOf({ data, val, batchSize, map, scale, whole }: ParsedData) {
  const bind: TrainJob['bind'] = { map: pairs('--map', map), scale: scales(scale), whole };
  return { data, validation: val, batchSize, bind };
}

function pairs(flag: string, texts: readonly string[] = []): Record<string, string> {
  return Object.fromEntries(
    texts.map(text => {
      const at = text.indexOf('=');
      if (at < 1 || at === text.length - 1)
        throw new AgdError('bad-option', `${flag} takes INPUT=VALUE, not '${text}'.`);
      return [text.slice(0, at), text.slice(at + 1)];
    }),
  );
}

function scales(texts: readonly string[] = []): number | Record<string, number> | undefined {
  if (!texts.length) return undefined;
  if (texts.length === 1 && !texts[0]!.includes('=')) return parseScale(texts[0]!);
  return Object.fromEntries(
    Object.entries(pairs('--scale', texts)).map(([input, text]) => [input, parseScale(text)]),
  );
}
