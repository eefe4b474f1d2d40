import { belowOne, choice, flag, integer, numbers, text } from '../../ops/core/option-type.js';
import { LOSS_NAMES } from '../../ops/losses/index.js';
import { LEARNS, type Option, option } from './option.js';
import { parseNumbers } from './text.js';

const LOSS = { group: 'Loss', commands: LEARNS, stage: 'inject' } as const;

export const LOSS_OPTIONS = {
  loss: option(choice(LOSS_NAMES), {
    ...LOSS,
    help: 'Loss between an output and the target',
    path: 'loss.kind',
  }),
  output: option(text, {
    ...LOSS,
    commands: [...LEARNS, 'inspect'],
    help: 'Output or inner value that the loss reads',
    shown: 'the only one',
    path: 'loss.output',
  }),
  target: option(text, { ...LOSS, help: 'Name of the target input', shown: 'target', path: 'loss.target' }),
  lossOutput: option(text, {
    ...LOSS,
    help: 'Output that already is the loss',
    path: 'loss.lossOutput',
    conflicts: ['loss', 'output', 'labelSmoothing', 'ignoreIndex', 'classWeights', 'mixTargets', 'classAxis'],
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
  classWeights: option(numbers, {
    ...LOSS,
    help: 'Weight of each class, as 1,0.5,2',
    parse: parseNumbers,
    path: 'loss.classWeights',
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
    help: 'Axis of the classes',
    shown: 'last; 1 for images',
    path: 'loss.classAxis',
    expert: true,
  }),
} satisfies Record<string, Option>;
