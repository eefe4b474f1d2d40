/**
 * What a training run reports: the schema from which the types, docs/reference/events.md and events.schema.json are made.
 * An event is plain data, the same in the library, in `--log` and on standard output with `--json`.
 */
import * as v from 'valibot';
import type { TrainingDescription } from '../../passes/file/description.js';
import { STAGES } from '../data/progress.js';
import type { RunHistory } from './run-state.js';

type Schema = v.GenericSchema;

const said = <S extends Schema>(what: string, type: S) => v.pipe(type, v.description(what));
const optional = <S extends Schema>(what: string, type: S) => v.exactOptional(said(what, type));
const isNumber = (x: unknown) => typeof x === 'number' || x === null;

/** A number, which may be NaN or infinite; as JSON has neither, a line of JSON has null for it. */
const real = v.custom<number>(isNumber, 'a number');
const whole = v.custom<number>(x => Number.isSafeInteger(x) || x === null, 'a whole number');
const reals = v.record(v.string(), real);

const event = <const T extends string, E extends v.ObjectEntries>(type: T, what: string, fields: E) =>
  v.pipe(
    v.strictObject({
      type: v.literal(type),
      time: said('When it happened, in milliseconds since 1970', real),
      ...fields,
    }),
    v.description(what),
  );

/** The result of evaluating a model. */
export const evaluationSchema = v.strictObject({
  loss: said('Mean loss over the samples', real),
  metrics: said('Metrics by name, NAME/PART if one has several numbers; null if one is not defined', reals),
  accuracy: optional('The accuracy again, if it is among them', real),
  samples: said('Samples that count', whole),
  leftOut: optional(
    'Samples left out, because they do not fill a batch and the loss that the model computes has no per-sample values',
    whole,
  ),
  confusion: optional(
    'Confusion matrix of a classification',
    v.strictObject({
      classes: optional('Names of the classes, in the order of rows and columns', v.array(v.string())),
      matrix: said(
        'Counts: a row for each true class, a column for each predicted one',
        v.pipe(v.array(v.pipe(v.array(real), v.readonly())), v.readonly()),
      ),
    }),
  ),
  notes: optional('What the user should know about the numbers', v.array(v.string())),
});

const sampleSchema = v.strictObject({
  row: said('Number of the sample in its data, from 0', whole),
  loss: said('Its loss', real),
  target: optional('What it is', v.string()),
  prediction: optional('Predicted class', v.string()),
  text: optional('The sample, if it is text', v.string()),
  image: optional(
    'The sample, if it is an image',
    v.strictObject({
      width: whole,
      height: whole,
      channels: said('1 (grey) or 3 (red, green, blue)', v.picklist([1, 3])),
      pixels: said('Rows of 8-bit samples in base64', v.string()),
    }),
  ),
});

const telemetryRow = v.strictObject({
  parameter: said('Name of the parameter', v.string()),
  values: said("Values by name: the number of the update, norms, and the optimizer's own", reals),
});

const stepSchema = event('step', 'A training step was completed.', {
  epoch: said('From 1', whole),
  step: said('Within the epoch, from 1', whole),
  loss: said('Of the batch, before the update', real),
  lr: optional("Learning rate that the step's update was made with, schedule included", real),
  gradNorm: optional(
    '2-norm of all gradients together, before clipping; known with --clip-grad-norm, and after clipping with --telemetry',
    real,
  ),
  lossScale: optional('Loss scale after the step, with --precision fp16', real),
  skipped: optional(
    'Batches so far whose gradients were not finite, and which changed nothing; known if such batches are skipped',
    whole,
  ),
});

const telemetrySchema = event('telemetry', 'Statistics of an update, every N updates with --telemetry N.', {
  rows: said('A row for each parameter', v.pipe(v.array(telemetryRow), v.readonly())),
});

const validationSchema = event(
  'validation',
  'Progress of a validation pass, at most a few times per second.',
  {
    epoch: said('The epoch that was just trained', whole),
    batch: said('Batches done', whole),
    batches: said('Batches of the pass', whole),
  },
);

const privacySchema = v.strictObject({
  epsilon: said('Infinite, which is null in JSON, without noise', real),
  delta: real,
});

const epochSchema = event('epoch', 'An epoch was completed.', {
  epoch: said('From 1', whole),
  trainLoss: said("Mean of the steps' losses over the samples", real),
  validation: optional('Result on the validation data', evaluationSchema),
  training: optional('Result on training data, in inference mode, with --train-metrics', evaluationSchema),
  best: optional('Whether the monitored value is the best so far', v.literal(true)),
  privacy: optional('What a private run has spent so far', privacySchema),
  seconds: said('Duration, validation included', real),
  trainSeconds: said('Seconds of these spent on steps', real),
  waitSeconds: optional('Seconds of these spent waiting for the next batches', real),
});

const noteSchema = event('note', 'A message to the user.', {
  text: said('One line', v.string()),
  level: optional('Present if it is likely a mistake, or unexpected', v.literal('warning')),
});

const injectedSchema = event('injected', 'A plain model was made trainable.', {
  parameters: said(
    'The tensors that training may change',
    v.array(
      v.strictObject({
        name: v.string(),
        dtype: optional('Element type', v.string()),
        shape: optional('Extents', v.array(v.nullable(v.union([v.number(), v.string()])))),
        trains: said('Whether it does', v.boolean()),
        why: said('Why', v.string()),
      }),
    ),
  ),
  warnings: said('What is likely a mistake in the options', v.array(v.string())),
  notes: optional('What else a user may want to know', v.array(v.string())),
  nodes: said('Nodes of the graph', v.strictObject({ before: whole, after: whole })),
  bytes: said(
    'Bytes of the parameters, and of optimizer state and running statistics',
    v.strictObject({ parameters: whole, state: whole }),
  ),
  description: said(
    'How a step trains, as `agd.training` in the metadata of an injected file has it',
    v.custom<TrainingDescription>(x => typeof x === 'object', 'an object'),
  ),
});

const dataSchema = event(
  'data',
  'Progress of reading data before the first step, if it takes long, at most a few times per second.',
  {
    stage: said(
      'index: finding rows and column types; fit: fitting the recipe; encode: encoding samples',
      v.picklist(STAGES),
    ),
    share: said('Completed fraction, from 0 to 1', real),
  },
);

const startSchema = event('start', 'Training begins.', {
  epochs: said('Total passes over the data', whole),
  stepsPerEpoch: said('Steps of each', whole),
  stepsBefore: said('Steps already done, if a run is resumed', whole),
  batchSize: said('Samples a step', whole),
  samples: said('Samples of the training data', whole),
  parameters: optional(
    'What trains',
    v.strictObject({ tensors: said('Tensors', whole), elements: said('Numbers in them', whole) }),
  ),
  fold: optional('The fold that is held out, from 1, with --folds: each has its own start', whole),
  folds: optional('Folds in all', whole),
  history: optional(
    'History of the run, if it is resumed; not in lines of JSON',
    v.custom<RunHistory>(x => typeof x === 'object', 'an object'),
  ),
});

const bestSchema = v.strictObject({
  epoch: said('The epoch with the best monitored value', whole),
  metric: said('What is monitored: loss or a metric', v.string()),
  value: said('Its value on the validation data', real),
});

const savedSchema = event('saved', 'A file was written.', {
  path: said('The file', v.string()),
  what: said(
    'Its contents; a checkpoint is a version of the state that is kept',
    v.picklist(['model', 'state', 'checkpoint', 'report', 'recipe']),
  ),
  best: optional('The epoch whose weights the model has, if not the last', bestSchema),
});

const endSchema = event('end', 'Training is over, and its files are written.', {
  stopped: said('Whether it was interrupted', v.boolean()),
  reason: said(
    'Why it ended: all epochs are done, a signal, no improvement for --patience epochs, or a callback',
    v.picklist(['epochs', 'signal', 'patience', 'callback']),
  ),
  best: optional('The best epoch, if there is validation data', bestSchema),
  checkpoints: optional(
    'The versions of the state that are kept',
    v.strictObject({
      folder: v.string(),
      kept: v.array(
        v.strictObject({
          file: v.string(),
          step: said('Steps done', whole),
          epoch: optional('The epoch, if it is kept for its monitored value', whole),
          value: optional('That value', real),
        }),
      ),
    }),
  ),
  steps: said('Updates done', whole),
  privacy: optional('What a private run has spent', privacySchema),
  skipped: said('Batches whose gradients were not finite, and which changed nothing', whole),
  worst: optional('Validation samples with the largest losses, the largest first', v.array(sampleSchema)),
});

const foldSchema = event('fold', 'A fold of a cross-validation was completed.', {
  fold: said('From 1', whole),
  folds: said('Folds in all', whole),
  epoch: said('The epoch that counts', whole),
  epochs: said('Epochs done', whole),
  samples: said('Samples of the fold that count', whole),
  values: said('Loss and metrics on the fold after that epoch', reals),
});

const foldsSchema = event('folds', 'The result of a cross-validation.', {
  folds: said('Completed folds', whole),
  choice: said('Which epoch of each fold counts: the best or the last', v.picklist(['best', 'last'])),
  values: said(
    'Loss and metrics: mean and standard deviation over the folds',
    v.record(v.string(), v.strictObject({ mean: real, spread: real })),
  ),
  best: optional('The epoch, the same in all folds, with the best mean of the monitored value', bestSchema),
});

const bytes = (what: string) => said(`${what}, in bytes`, whole);

const planSchema = event(
  'plan',
  'Estimated cost of a run, with --dry-run, instead of everything after the start.',
  {
    inputs: said(
      'What the data feed',
      v.array(
        v.strictObject({
          name: v.string(),
          dtype: v.string(),
          shape: v.array(v.nullable(v.union([v.number(), v.string()]))),
        }),
      ),
    ),
    samples: said('Samples of the training data', whole),
    validationSamples: optional('Samples of the validation data', whole),
    batchSize: said('Samples a step', whole),
    stepsPerEpoch: said('Steps of each epoch', whole),
    epochs: said('Epochs of the run', whole),
    memory: v.strictObject({
      parameters: bytes('Parameters'),
      state: bytes('Optimizer state and running statistics'),
      activations: bytes('The rest that steps need: activations, gradients and copies'),
      peak: bytes('Peak memory of the training process'),
    }),
    disk: v.strictObject({
      model: bytes('The trained model'),
      state: v.exactOptional(bytes('The saved state')),
      free: v.exactOptional(bytes('Free space at the output path')),
    }),
    secondsPerStep: said('Measured over the first seconds', real),
    secondsPerEpoch: said('Estimated from that, validation included', real),
  },
);

const ratesSchema = event(
  'rates',
  'The loss by learning rate, with --find-lr, instead of everything after the start.',
  {
    rates: said('Learning rates', v.array(real)),
    losses: said('The smoothed loss at each rate', v.array(real)),
    suggested: said('Where the loss falls fastest', real),
  },
);

export const loopSchemas = [stepSchema, telemetrySchema, validationSchema, epochSchema] as const;

/** By the order in which a run has them. */
export const EVENT_SCHEMAS = [
  noteSchema,
  dataSchema,
  injectedSchema,
  startSchema,
  ...loopSchemas,
  savedSchema,
  planSchema,
  ratesSchema,
  foldSchema,
  foldsSchema,
  endSchema,
] as const;

export type Evaluation = v.InferOutput<typeof evaluationSchema>;

/** A sample of the validation data with what the model makes of it. */
export type JudgedSample = v.InferOutput<typeof sampleSchema>;

/** What an update did to a parameter, by the columns of the model's telemetry; `update` counts from 1. */
export type TelemetryRow = v.InferOutput<typeof telemetryRow>;

export type BestEpoch = v.InferOutput<typeof bestSchema>;
export type StepEvent = v.InferOutput<typeof stepSchema>;
export type InjectedEvent = v.InferOutput<typeof injectedSchema>;
export type EpochEvent = v.InferOutput<typeof epochSchema>;
export type StartEvent = v.InferOutput<typeof startSchema>;
export type SavedEvent = v.InferOutput<typeof savedSchema>;
export type RatesEvent = v.InferOutput<typeof ratesSchema>;
export type PlanEvent = v.InferOutput<typeof planSchema>;
export type FoldEvent = v.InferOutput<typeof foldSchema>;
export type EndEvent = v.InferOutput<typeof endSchema>;

/** What a training loop reports. Epochs and steps count from 1. */
export type LoopEvent = v.InferOutput<(typeof loopSchemas)[number]>;

/** What a training job reports; docs/reference/events.md describes each. */
export type TrainEvent = v.InferOutput<(typeof EVENT_SCHEMAS)[number]>;

/** An event whose time is that at which it is reported. */
export type NewEvent = TrainEvent extends infer E ? (E extends unknown ? Omit<E, 'time'> : never) : never;
