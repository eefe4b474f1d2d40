/** Options that change the model before training. */
import * as v from 'valibot';
import { choice, count, flag, text, texts } from '../../ops/core/option-type.js';
import { PROVIDERS } from '../../ops/core/provider.js';
import { parseNames } from './derivatives.js';
import { LEARNS, type Option, option } from './option.js';

const MODEL = { group: 'Model', commands: LEARNS, stage: 'inject' } as const;

export const MODEL_OPTIONS = {
  batchNorm: option(choice(['train', 'eval']), {
    ...MODEL,
    help: 'Batch normalization in training mode (batch statistics; updates the running ones) or inference mode',
    shown: 'train',
    recorded: true,
  }),
  syncBatchNorm: option(flag, {
    ...MODEL,
    commands: ['train'],
    help: 'With --distributed: batch statistics of all ranks, not of each',
    recorded: true,
    conflicts: ['gradients', 'dpSgd'],
  }),
  dropout: option(choice(['train', 'eval']), {
    ...MODEL,
    help: 'Dropout in training or in inference mode',
    shown: 'train',
    recorded: true,
  }),
  straightThrough: option(flag, {
    ...MODEL,
    commands: [...LEARNS, 'differentiate', 'inspect'],
    help: 'Straight-through gradients of rounding and quantization',
    recorded: true,
  }),
  /** The inputs accept any batch size, although the file fixes the size of the export. */
  freeBatch: option(texts, {
    ...MODEL,
    commands: ['inject'],
    recorded: true,
    expert: true,
    help: 'Inputs whose fixed batch size to make dynamic (automatic in train)',
  }),
  /** Inputs of a decoder that follow from its tokens: an empty cache, a mask of ones, positions in order. */
  deriveInputs: option(texts, {
    ...MODEL,
    commands: ['inject', 'grad'],
    recorded: true,
    expert: true,
    parseAll: parseNames,
    help: 'Inputs (globs) to compute from the tokens: empty cache, mask, positions (automatic in train)',
  }),
  allPositions: option(flag, {
    ...MODEL,
    commands: ['inject', 'train', 'compare', 'evaluate', 'predict'],
    recorded: true,
    expert: true,
    help: 'Make a head that reads only the last token read all tokens',
  }),
  /** The file runs everywhere; passes and rules choose among equivalent nodes those with the best kernels there. */
  provider: option(choice(PROVIDERS), {
    ...MODEL,
    commands: ['inject', 'differentiate'],
    recorded: true,
    ownStep: true,
    flag: 'for',
    help: 'Execution provider to optimize the graph for; it runs on all (for train, use --device)',
    shown: 'cpu',
  }),
  /** The step takes rows of several documents, told apart by the input segment_ids. */
  pack: option(flag, {
    ...MODEL,
    commands: ['inject', 'train', 'compare', 'grad'],
    recorded: true,
    conflicts: ['promptTokens', 'prefixTokens', 'dpSgd'],
    help: 'Pack several documents into each row; attention, positions and targets stay within a document',
  }),
  checkpointActivations: option(v.union([flag, count], 'true, false or a whole number of at least 1'), {
    ...MODEL,
    commands: ['inject', 'train'],
    help: 'Recompute activations in the backward pass: less memory, more time',
  }),
  checkpointSegments: option(count, {
    ...MODEL,
    commands: ['inject', 'train'],
    expert: true,
    help: 'Recompute activations in this many segments',
    shown: 'square root of the number of nodes',
    path: 'checkpointActivations',
  }),
  dumpPasses: option(text, {
    ...MODEL,
    commands: ['inject', 'train', 'grad', 'differentiate'],
    ownStep: true,
    expert: true,
    help: 'Write the model after each pass that changes it, as NN-PASS.onnx, to this folder',
  }),
} satisfies Record<string, Option>;
