import { choice, count, countFromZero, text, texts } from '../../ops/core/option-type.js';
import { DEVICES, LEARNS, type Option, option, RUNS } from './option.js';

const RUN = { group: 'Run', stage: 'run' } as const;

export const RUN_OPTIONS = {
  epochs: option(count, {
    ...RUN,
    commands: RUNS,
    help: 'Passes over the data; includes resumed epochs',
    shown: '1',
  }),
  seed: option(countFromZero, {
    ...RUN,
    commands: [...LEARNS, 'adapt'],
    stage: 'both',
    ownStep: true,
    help: 'Random seed: order of the samples, dropout, initial values',
    shown: '0',
  }),
  device: option(choice(DEVICES), {
    ...RUN,
    commands: [...RUNS, 'grad'],
    help: 'Execution provider',
    shown: 'cpu',
  }),
  threads: option(count, {
    ...RUN,
    commands: [...RUNS, 'grad'],
    help: 'Threads',
    shown: 'number of cores',
  }),
  extend: option(texts, {
    ...RUN,
    commands: [...LEARNS, 'differentiate', 'inspect', 'export', 'landscapes'],
    stage: 'both',
    ownStep: true,
    help: 'Module that defines gradients, optimizers or losses; may be repeated',
  }),
  config: option(text, {
    ...RUN,
    commands: LEARNS,
    stage: 'both',
    ownStep: true,
    help: 'JSON, YAML, TypeScript or JavaScript file of options; flags take precedence',
  }),
} satisfies Record<string, Option>;
