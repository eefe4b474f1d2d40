import * as v from 'valibot';
import {
  belowOne,
  choice,
  count,
  flag,
  nonNegative,
  positive,
  text,
  texts,
} from '../../ops/core/option-type.js';
import type { AnyOptions } from '../../ops/optimizers/index.js';
import { ROUNDINGS } from '../../ops/optimizers/wrappers/quantized.js';
import { parseSchedule, SCHEDULES, type Schedule } from '../../ops/schedules.js';
import { INJECTS, isObject, type Option, option } from './option.js';
import { type ParameterGroup, parseGroup, parseSettings } from './text.js';

const STEP = { group: 'Update', commands: INJECTS, stage: 'inject' } as const;

const schedule = v.pipe(
  v.custom<Schedule>(
    x =>
      isObject(x) &&
      typeof x.kind === 'string' &&
      Object.values(x).every(value => /string|number/.test(typeof value)),
    'a schedule',
  ),
  v.description('a schedule'),
);
const groups = v.pipe(
  v.array(
    v.strictObject(
      {
        match: v.union([text, texts], 'a glob or a list of globs'),
        options: v.record(v.string(), v.unknown(), 'an object of optimizer options'),
      },
      'an object of match and options',
    ),
    'a list of groups',
  ),
  v.readonly(),
  v.transform(list => list as readonly ParameterGroup<AnyOptions>[]),
  v.description('a list of groups: globs to match, and options'),
);

const averaging = v.pipe(
  v.strictObject(
    {
      momentum: v.optional(belowOne),
      weightDecayAtY: v.optional(nonNegative),
      r: v.optional(nonNegative),
      weightLrPower: v.optional(nonNegative),
    },
    'an object of momentum, weightDecayAtY, r and weightLrPower',
  ),
  v.description('an object of momentum, weightDecayAtY, r and weightLrPower'),
);

/** Options of a step other than those of the optimizer. */
export const UPDATE_OPTIONS = {
  /** Applied in order: if several groups match and set the same option, the last one wins. */
  groups: option(groups, {
    ...STEP,
    help: "Optimizer options by parameter name, e.g. '*.bias,*norm*: weight_decay=0'; the last match applies",
    flag: 'group',
    parseAll: (list: readonly string[]) => list.map(parseGroup),
  }),
  decayBiasNorm: option(flag, {
    ...STEP,
    help: 'Apply weight decay to biases and normalization parameters',
    shown: 'on',
    recorded: true,
  }),
  schedule: option(schedule, {
    ...STEP,
    help: `Learning-rate schedule, e.g. cosine:total=10epochs,warmup=5% (numbers are updates); one of ${SCHEDULES.join(', ')}`,
    parse: parseSchedule,
    recorded: true,
  }),
  clipGradNorm: option(positive, { ...STEP, help: 'Clip global gradient norm', recorded: true }),
  clipGradValue: option(positive, { ...STEP, help: 'Clip gradients elementwise', recorded: true }),
  accumulate: option(count, {
    ...STEP,
    help: 'Batches per update, as if they were one large batch',
    shown: '1',
  }),
  ema: option(belowOne, {
    ...STEP,
    help: 'Keep an exponential moving average of the weights with this decay',
    recorded: true,
  }),
  cautious: option(flag, {
    ...STEP,
    help: 'Cautious updates: skip the elements of a step that oppose the gradient',
    recorded: true,
  }),
  /** Moves other weights than those that are evaluated, which are their average: see `ops/optimizers/wrappers/schedule-free.ts`. */
  scheduleFree: option(averaging, {
    ...STEP,
    help: 'Average the weights instead of using a schedule, e.g. momentum=0.9,weight_decay_at_y=0.1,r=0,weight_lr_power=2',
    parse: (text: string) => parseSettings(text, averaging, 'needs settings, as momentum=0.9'),
    recorded: true,
  }),
  /** Blockwise quantized: parameters of less than 4096 elements keep theirs in float32. */
  stateBits: option(
    v.pipe(
      v.number('8 or 4'),
      v.minValue(4, '8 or 4'),
      v.maxValue(8, '8 or 4'),
      v.multipleOf(4, '8 or 4'),
      v.description('8 or 4'),
    ),
    {
      ...STEP,
      help: 'Keep the optimizer state of large parameters in 8 or 4 bits',
      shown: '32',
      recorded: true,
    },
  ),
  stateRounding: option(choice(ROUNDINGS), {
    ...STEP,
    help: 'Rounding of states in 8 or 4 bits',
    shown: 'nearest',
    recorded: true,
    expert: true,
  }),
  /**
   * Lookup tables (parameters that only Gather along axis 0 reads, with indices that depend on the batch alone) of
   * which a step updates only the looked-up rows. Weights and optimizer state of other rows do not change, not even by
   * weight decay or averaging, as in PyTorch's SparseAdam.
   */
  lazyRows: option(texts, { ...STEP, help: 'Embeddings to update sparsely (glob)', expert: true }),
  /** That of the file's weights if not given: float16 weights train with `fp16`, bfloat16 weights with `bf16`. */
  precision: option(choice(['fp32', 'fp16', 'bf16']), {
    ...STEP,
    help: 'Compute in 16 bits where that is safe; weights and optimizer state are float32',
    shown: "the weights'",
    recorded: true,
    conflicts: ['qat', 'dpSgd', 'gradients'],
  }),
  lossScale: option(positive, {
    ...STEP,
    help: 'Initial loss scale with --precision fp16; halved when gradients overflow',
    shown: '65536',
    recorded: true,
    expert: true,
  }),
  lossScaleWindow: option(count, {
    ...STEP,
    help: 'Updates without overflow after which the loss scale is doubled',
    shown: '2000',
    recorded: true,
    expert: true,
  }),
  /** With `skip`, the graph itself leaves all state unchanged and counts the step. */
  onNonfinite: option(choice(['stop', 'skip']), {
    ...STEP,
    help: 'On NaN/Inf gradients stop, or skip the update',
    shown: 'stop',
  }),
  /**
   * Keeps the rounding error of each step in the states `<param>_carry` and adds it to the next step: 16-bit weights do
   * not change by steps below a thousandth of them.
   */
  compensate: option(flag, {
    ...STEP,
    help: 'Compensate rounding of the weights (Kahan summation)',
    shown: 'on for 16-bit weights',
    expert: true,
  }),
  telemetry: option(count, {
    ...STEP,
    help: 'Record norms, and the share of SGD steps, every N updates',
    expert: true,
  }),
  tile: option(flag, {
    ...STEP,
    help: 'Update large tensors in tiles that fit the processor cache',
    shown: 'on, off on GPUs',
    expert: true,
  }),
  scalars: option(choice(['float64', 'float32']), {
    ...STEP,
    help: 'Type of the scalars of a step (float32 for runtimes without float64)',
    shown: 'float64, float32 for CUDA',
    expert: true,
  }),
} satisfies Record<string, Option>;
