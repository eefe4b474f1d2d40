/** Options that only programs can set, as they are not text. */
import type { Graph, Model, Value } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import { flag, given, texts } from '../../ops/core/option-type.js';
import type { LossFunction } from '../normalize/loss-function.js';
import { isObject, type Option, option } from './option.js';

/** The fewest samples, along the batch axis of this name, that batch normalization can be trained on, and which it is. */
export type LeastBatch = { axis: string; samples: number; node: string };

/** The inputs that data feed, in their graph, the name of the one that takes the target, and how small a batch may be. */
export type Fed = { graph: Graph; inputs: readonly Value[]; target?: string; leastBatch?: LeastBatch };

/** What a checkpoint of ONNX Runtime's training holds besides tensors. */
export type StoredCheckpoint = {
  trainable: string[];
  frozen: string[];
  properties: Record<string, StoredProperty>;
};
export type StoredProperty = [kind: 'int' | 'float' | 'string', value: string];

function library(help: string) {
  return { group: 'Model', commands: [], stage: 'inject', help } as const;
}

/** What only a program can give. */
export const LIBRARY_OPTIONS = {
  frozen: option(texts, library('Names of parameters that stay as they are')),
  exports: option(texts, library('Outputs that the model to write computes')),
  /** Data-parallel training needs it: see `SplitStep`. */
  lossDivisor: option(flag, {
    ...library('Add an output with the divisor of the loss of a batch'),
    ownStep: true,
  }),
  teacherModel: option(given<Model>('a Model', isObject), library('Teacher of distill')),
  lossGraph: option(
    given<Model | LossFunction>('a Model or a function', x => isObject(x) || typeof x === 'function'),
    library('Model that computes the loss, or a function that writes it'),
  ),
  values: option(
    given<ReadonlyMap<string, Tensor>>('a Map of tensors', x => x instanceof Map),
    { ...library('Values of inputs and initializers, by name'), ownStep: true },
  ),
  updates: option(
    given<(fed: Fed, epochs?: number) => number | Promise<number>>(
      'a function',
      x => typeof x === 'function',
    ),
    { ...library('Number of updates of the run, or of a number of epochs'), ownStep: true },
  ),
  checkpoint: option(given<StoredCheckpoint>('a checkpoint', isObject), {
    ...library('Kept in the description'),
    ownStep: true,
  }),
  original: option(
    given<Uint8Array>('a Uint8Array', x => x instanceof Uint8Array),
    { ...library('The file into which trained values are written'), ownStep: true },
  ),
} satisfies Record<string, Option>;
