/** Options of `adapt`. */
import * as v from 'valibot';
import { count, countFromZero, flag, text } from '../../ops/core/option-type.js';
import { type Option, option } from './option.js';
import { parseNumbers } from './text.js';

const ADAPT = { group: 'Model', commands: [], stage: 'run' } as const;
const NUMBERS = ['outputs', 'vocabulary'] as const;

const list = <S extends v.GenericSchema<number>>(type: S, what: string) =>
  v.pipe(v.array(type, what), v.minLength(1, what), v.readonly(), v.description(what));

/** What `adapt` changes in a model; the seed is among the options of a run. */
export const ADAPT_OPTIONS = {
  classes: option(count, {
    ...ADAPT,
    help: 'Give the model a new head for this many classes',
    conflicts: [...NUMBERS, 'regression'],
  }),
  outputs: option(count, {
    ...ADAPT,
    help: 'Give the model a new head with this many outputs, e.g. for regression',
    conflicts: ['vocabulary'],
  }),
  regression: option(flag, {
    ...ADAPT,
    help: 'Remove Softmax, LogSoftmax and Sigmoid after the head',
    conflicts: ['vocabulary'],
  }),
  keep: option(list(countFromZero, 'a list of whole numbers of at least 0'), {
    ...ADAPT,
    help: 'Old classes whose weights the first new classes keep, e.g. 0,2,7',
    parse: parseNumbers,
    conflicts: ['vocabulary', 'headMlp'],
  }),
  headMlp: option(list(count, 'a list of whole numbers of at least 1'), {
    ...ADAPT,
    help: 'Hidden layers with ReLU before the new head, by their sizes, e.g. 256 or 256,64',
    parse: parseNumbers,
    conflicts: ['vocabulary'],
  }),
  head: option(text, {
    ...ADAPT,
    help: 'The layer to replace, by its module, node, weight, or the output that it leads to',
    shown: 'the last linear layer',
  }),
  vocabulary: option(count, {
    ...ADAPT,
    help: 'Extend the token embedding, and the output layer over the vocabulary, to this many tokens',
  }),
} satisfies Record<string, Option>;

type Name = keyof typeof ADAPT_OPTIONS;

/** What `adapt` is told: `classes`, `outputs` or `vocabulary`, and details. */
export type AdaptOptions = { -readonly [K in Name]?: v.InferOutput<(typeof ADAPT_OPTIONS)[K]['type']> } & {
  /** Of the initial values. */
  seed?: number;
};
