/** Options that say which data a run reads and how: columns, splits, batches. */
import * as v from 'valibot';
import {
  betweenZeroAndOne,
  choice,
  count,
  countFromTwo,
  parsePaths,
  paths,
  positive,
  text,
  texts,
} from '../../ops/core/option-type.js';
import { columnsType, parseColumns } from '../recipe/columns.js';
import { APPLIES, type Option, option, RUNS } from './option.js';
import { parsePair, parseScales } from './text.js';

const DATA = { group: 'Data', commands: RUNS, stage: 'run' } as const;

/** Commands that feed data to a model. */
const FEEDS = [...RUNS, ...APPLIES, 'grad'] as const;

/** What belongs to one run, or says otherwise what is held out. */
const FOLDS_EXCLUDE: readonly string[] = [
  ...['validation', 'valSplit', 'out', 'state', 'saveEvery', 'keepBest', 'keepLast', 'resumePytorch'],
  ...['recipeOut', 'dryRun', 'findLr', 'report', 'csv', 'ui'],
];

export const DATA_OPTIONS = {
  data: option(paths, {
    ...DATA,
    required: true,
    help: 'Training data: arrays (.npz, .npy, .safetensors), tables (.csv, .tsv, .parquet, .arrow, .jsonl, .json), text, or a folder of images; several, or a glob, are read one after the other',
    parseAll: parsePaths,
  }),
  validation: option(paths, {
    ...DATA,
    flag: 'val',
    help: 'Validation data, evaluated after each epoch',
    parseAll: parsePaths,
  }),
  columns: option(columnsType, {
    ...DATA,
    commands: FEEDS,
    help: 'INPUT=COLUMN,COLUMN:TRANSFORM+TRANSFORM: which columns of a table feed an input, and how',
    parseAll: parseColumns,
  }),
  label: option(text, {
    ...DATA,
    commands: FEEDS,
    help: 'Target column of a table',
  }),
  recipe: option(text, {
    ...DATA,
    commands: FEEDS,
    help: 'File with the recipe of the columns: .json, or a model that contains one',
    shown: "the model's, if any",
    conflicts: ['columns', 'label'],
  }),
  skipMissing: option(texts, {
    ...DATA,
    commands: [...RUNS, 'evaluate', 'grad'],
    help: 'Skip rows in which this column or array is missing or not finite',
  }),
  valSplit: option(betweenZeroAndOne, {
    ...DATA,
    conflicts: ['validation'],
    help: 'Fraction of the training data to hold out for validation, stratified for class targets',
  }),
  folds: option(countFromTwo, {
    ...DATA,
    commands: ['train'],
    conflicts: FOLDS_EXCLUDE,
    help: 'Cross-validation: train once for each of N folds, with the fold as validation data, and print mean and standard deviation; no model is written without --out-dir',
  }),
  sampler: option(choice(['shuffle', 'weighted', 'poisson']), {
    ...DATA,
    expert: true,
    help: 'How an epoch draws samples; weighted: each class is equally likely, or by --sample-weights; poisson: each batch draws each sample with the same probability, for --dp-sgd',
    shown: 'shuffle',
  }),
  sampleWeights: option(text, {
    ...DATA,
    expert: true,
    help: 'Column or array with the weight of each sample: an epoch draws in proportion, with replacement',
  }),
  shuffleBuffer: option(count, {
    ...DATA,
    expert: true,
    help: 'Maximum number of samples to shuffle at a time; larger tables are read in blocks',
    shown: 'all in 256 MB, else as many as fit in 64 MB',
  }),
  batchSize: option(count, {
    ...DATA,
    commands: FEEDS,
    help: 'Batch size',
    shown: '32',
  }),
  map: option(v.record(text, text, 'pairs INPUT=ARRAY'), {
    ...DATA,
    commands: FEEDS,
    path: 'bind.map',
    help: 'INPUT=ARRAY, if the names differ',
    parseAll: (list: readonly string[]) => Object.fromEntries(list.map(parsePair)),
  }),
  scale: option(v.union([positive, v.record(text, positive)], 'a factor, or pairs INPUT=FACTOR'), {
    ...DATA,
    commands: FEEDS,
    path: 'bind.scale',
    help: 'Factor for integer arrays, e.g. 1/255 or INPUT=1/255',
    parseAll: parseScales,
  }),
  whole: option(texts, {
    ...DATA,
    commands: FEEDS,
    path: 'bind.whole',
    help: 'Input that is not split into samples: its whole array is fed at every step',
  }),
} satisfies Record<string, Option>;
