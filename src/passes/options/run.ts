/** Options of a training run. */
import * as v from 'valibot';
import { count, countFromZero, flag, positive, text, texts } from '../../ops/core/option-type.js';
import { deviceType } from './device.js';
import { APPLIES, LEARNS, type Option, option, RUNS } from './option.js';
import { parseBytes } from './text.js';

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
    commands: ['inject', 'train', 'grad', 'adapt'],
    stage: 'both',
    ownStep: true,
    help: 'Random seed: order of the samples, dropout, initial values',
    shown: '0',
  }),
  /** The names are checked where the loss is known: extensions add theirs, and not all apply to every loss. */
  metrics: option(texts, {
    ...RUN,
    commands: [...RUNS, 'evaluate'],
    flag: 'metric',
    help: 'Metric to compute, such as accuracy, f1, auc, r2, iou; may be repeated',
    shown: 'chosen by loss and output',
  }),
  trainMetrics: option(v.union([flag, count], 'true, false or a number of samples'), {
    ...RUN,
    commands: ['train'],
    help: 'Also evaluate a sample of the training data after each epoch',
  }),
  memory: option(positive, {
    ...RUN,
    commands: ['train'],
    help: 'Limit the memory of the training process, e.g. 8GB: splits batches or recomputes activations as needed',
    parse: parseBytes,
    conflicts: ['folds', 'gradients'],
  }),
  device: option(deviceType, {
    ...RUN,
    commands: [...RUNS, ...APPLIES, 'grad'],
    help: 'Execution provider; cuda:N for one of several GPUs, auto for the fastest available',
    shown: 'cpu',
  }),
  threads: option(count, {
    ...RUN,
    commands: [...RUNS, ...APPLIES, 'grad'],
    help: 'Number of threads',
    shown: 'number of cores',
  }),
  extend: option(texts, {
    ...RUN,
    commands: [...LEARNS, ...APPLIES, 'differentiate', 'inspect', 'export', 'operators', 'landscapes'],
    stage: 'both',
    ownStep: true,
    help: 'Module that defines gradients, optimizers, losses or metrics; may be repeated',
  }),
  config: option(text, {
    ...RUN,
    commands: [...LEARNS, ...APPLIES],
    stage: 'both',
    ownStep: true,
    help: 'JSON, YAML, TypeScript or JavaScript file of options; flags take precedence',
  }),
} satisfies Record<string, Option>;
