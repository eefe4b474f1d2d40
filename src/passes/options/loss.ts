import * as v from 'valibot';
import { belowOne, choice, flag, integer, numbers, text } from '../../ops/core/option-type.js';
import { LOSS_NAMES } from '../../ops/losses/index.js';
import { APPLIES, LEARNS, type Option, option } from './option.js';
import { parseNumbers } from './text.js';

const LOSS = { group: 'Loss', commands: [...LEARNS, 'evaluate', 'differentiate'], stage: 'inject' } as const;

const weights = v.pipe(
  v.union([numbers, v.literal('balanced')], "a list of numbers or 'balanced'"),
  v.description("a list of numbers or 'balanced'"),
);
const parseWeights = (text: string) => (text === 'balanced' ? text : parseNumbers(text));
const READS_OUTPUT = [...LEARNS, ...APPLIES, 'differentiate'] as const;

export const LOSS_OPTIONS = {
  loss: option(choice(LOSS_NAMES), {
    ...LOSS,
    commands: READS_OUTPUT,
    help: 'Loss between an output and the target',
    path: 'loss.kind',
  }),
  output: option(text, {
    ...LOSS,
    commands: [...LEARNS, 'evaluate', 'differentiate', 'inspect'],
    help: 'Output or inner value that the loss reads',
    shown: 'the only one',
    path: 'loss.output',
  }),
  target: option(text, { ...LOSS, help: 'Name of the target input', shown: 'target', path: 'loss.target' }),
  lossOutput: option(text, {
    ...LOSS,
    help: 'Output that already is the loss',
    path: 'loss.lossOutput',
    conflicts: [
      'loss',
      'output',
      'labelSmoothing',
      'ignoreIndex',
      'classWeights',
      'posWeight',
      'mixTargets',
      'classAxis',
    ],
  }),
  labelSmoothing: option(belowOne, {
    ...LOSS,
    help: 'Label smoothing of cross-entropy',
    path: 'loss.labelSmoothing',
    expert: true,
  }),
  ignoreIndex: option(integer, {
    ...LOSS,
    help: 'Class label to leave out of the loss',
    path: 'loss.ignoreIndex',
  }),
  classWeights: option(weights, {
    ...LOSS,
    help: 'Weight of each class, as 1,0.5,2, or balanced, by their frequency in the training data',
    parse: parseWeights,
    path: 'loss.classWeights',
    expert: true,
  }),
  posWeight: option(weights, {
    ...LOSS,
    help: 'Weight of positive targets of bce-with-logits: one number, one per label, or balanced',
    parse: parseWeights,
    path: 'loss.posWeight',
    expert: true,
  }),
  mixTargets: option(flag, {
    ...LOSS,
    commands: ['inject', 'train'],
    help: 'Take two classes per target, for mixup and cutmix of --augment (train does so by itself)',
    path: 'loss.mixTargets',
    expert: true,
  }),
  classAxis: option(integer, {
    ...LOSS,
    commands: READS_OUTPUT,
    help: 'Axis of the classes',
    shown: 'last; 1 for images',
    path: 'loss.classAxis',
    expert: true,
  }),
} satisfies Record<string, Option>;
