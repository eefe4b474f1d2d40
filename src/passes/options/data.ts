import * as v from 'valibot';
import { count, positive, text, texts } from '../../ops/core/option-type.js';
import { type Option, option, RUNS } from './option.js';
import { parsePair, parseScales } from './text.js';

const DATA = { group: 'Data', commands: RUNS, stage: 'run' } as const;

export const DATA_OPTIONS = {
  data: option(text, {
    ...DATA,
    required: true,
    help: 'Training data: .npz, .npy or .safetensors',
  }),
  validation: option(text, {
    ...DATA,
    flag: 'val',
    help: 'Validation data, evaluated after each epoch',
  }),
  batchSize: option(count, {
    ...DATA,
    help: 'Batch size',
    shown: '32',
  }),
  map: option(v.record(text, text, 'pairs INPUT=ARRAY'), {
    ...DATA,
    commands: [...RUNS, 'grad'],
    path: 'bind.map',
    help: 'INPUT=ARRAY, where the names differ',
    parseAll: (list: readonly string[]) => Object.fromEntries(list.map(parsePair)),
  }),
  scale: option(v.union([positive, v.record(text, positive)], 'a factor, or pairs INPUT=FACTOR'), {
    ...DATA,
    path: 'bind.scale',
    help: 'Factor for integer arrays, as 1/255 or INPUT=1/255',
    parseAll: parseScales,
  }),
  whole: option(texts, {
    ...DATA,
    path: 'bind.whole',
    help: 'Input that is not split into samples: its whole array is fed at every step',
  }),
} satisfies Record<string, Option>;
