/** The virtual tokens of a model as its metadata describes them. */
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { isObject } from '../options/option.js';

/** Key of the metadata in which a model with virtual tokens says what they are, as JSON. */
const PROMPT_KEY = 'agd.prompt';

/** Virtual tokens of a model: embeddings before those of its text, or keys and values before those of its cache. */
export type PromptRecord = {
  kind: 'prompt' | 'prefix';
  /** The initializer [tokens, width] with all of them. */
  name: string;
  tokens: number;
  /** Whether an output has one entry for each token. */
  perToken: boolean;
  /** Of a prefix: the layers with a cache, their heads, and the width of a head. */
  layers?: number;
  heads?: number;
  headWidth?: number;
};

/** The virtual tokens of a model. Throws `invalid-model` if the metadata hold something else. */
export function readPrompt({ metadata }: Pick<Model, 'metadata'>): PromptRecord | undefined {
  const text = metadata.get(PROMPT_KEY);
  if (text === undefined) return undefined;
  const damaged = new AgdError(
    'invalid-model',
    `The metadata entry '${PROMPT_KEY}' is damaged: it does not describe virtual tokens.`,
  );
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch {
    throw damaged;
  }
  const isPrompt =
    isObject(found) &&
    ['prompt', 'prefix'].includes(found.kind as string) &&
    typeof found.name === 'string' &&
    typeof found.tokens === 'number';
  if (!isPrompt) throw damaged;
  return found as PromptRecord;
}

export function writePrompt(model: Model, record: PromptRecord): void {
  model.metadata.set(PROMPT_KEY, JSON.stringify(record));
}
