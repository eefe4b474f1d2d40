/** What a model has of adapters, and whether options ask for some: apart from what adds them, which few models need. */
import type { Model } from '../../graph/ir.js';
import type { InjectOptions } from '../options.js';
import { newHead } from '../select/find-head.js';
import { namesIn, readAdapters } from './adapter-record.js';
import { readPrompt } from './prompt-record.js';
import { readScales } from './scale-record.js';

export type AdapterOptions = Pick<
  InjectOptions,
  'lora' | 'ia3' | 'promptTokens' | 'promptInit' | 'prefixTokens' | 'adapters' | 'seed' | 'train'
>;

/** Whether the options ask for adapters. */
export const asksForAdapters = (options: AdapterOptions) => flagOf(options) !== undefined;

/** The flag that asks for adapters, or says how they start. */
export function flagOf({ lora, ia3, promptTokens, promptInit, prefixTokens, adapters }: AdapterOptions) {
  if (lora?.length) return '--lora';
  if (ia3?.length) return '--ia3';
  if (promptTokens) return '--prompt-tokens';
  if (prefixTokens) return '--prefix-tokens';
  return promptInit ? '--prompt-init' : adapters && '--adapter';
}

/** Names of the initializers of a model's adapters. */
export const adapterNames = (model: Pick<Model, 'metadata'>): ReadonlySet<string> =>
  new Set([
    ...readAdapters(model).flatMap(namesIn),
    ...readScales(model).map(r => r.scale),
    ...[readPrompt(model) ?? []].flat().map(r => r.name),
  ]);

/** Names of the weights and biases that merging a model's adapters changes. */
export const adaptedWeights = (model: Pick<Model, 'metadata'>): ReadonlySet<string> =>
  new Set([
    ...readAdapters(model).map(r => r.weight),
    ...readScales(model).flatMap(({ weight, biases, feedforward }) =>
      feedforward ? [weight] : [weight, ...biases],
    ),
  ]);

/** The parameters of a new head, which starts from nothing and so trains as a whole, unless an adapter was given to it. */
export function wholeHead(model: Pick<Model, 'graph' | 'metadata'>): string[] {
  const adapted = adaptedWeights(model);
  const names = newHead(model);
  return names.some(name => adapted.has(name)) ? [] : names;
}
