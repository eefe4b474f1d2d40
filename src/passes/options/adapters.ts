/** Options of adapters: LoRA, DoRA, IA3, prompt and prefix tuning. */
import * as v from 'valibot';
import { AgdError } from '../../graph/errors.js';
import type { Tensor } from '../../graph/tensor.js';
import {
  belowOne,
  count,
  countFromZero,
  flag,
  given,
  positive,
  text,
  texts,
} from '../../ops/core/option-type.js';
import { INJECTS, isObject, type Option, option } from './option.js';
import { parseGroup, parseNumbers } from './text.js';

/** An adapter in PEFT's layout, and how it is scaled. */
export type PeftAdapter = {
  module: string;
  kind: 'linear' | 'conv' | 'embedding';
  a: Tensor;
  b: Tensor;
  /** DoRA's magnitude of each output. */
  magnitude?: Tensor;
  r: number;
  alpha: number;
  dropout: number;
  rslora: boolean;
};

/** An IA3 vector, in any shape. */
export type PeftScale = { module: string; feedforward: boolean; value: Tensor };

/** The virtual tokens of a file, [tokens, width], and the parameters that it has besides, such as those of a head. */
export type LoadedPrompt = {
  kind: 'prompt' | 'prefix';
  name: string;
  value: Tensor;
  others: ReadonlyMap<string, Tensor>;
};

/**
 * The adapters of a file, or of a folder with several methods, which messages call `name`; of IA3 `scales`, of .onnx_adapter
 * `values` by the model's names.
 */
export type LoadedAdapters = {
  name: string;
  adapters: readonly PeftAdapter[];
  scales?: readonly PeftScale[];
  values?: ReadonlyMap<string, Tensor>;
  prompt?: LoadedPrompt;
};

const spec = v.strictObject(
  {
    match: v.union([text, texts], 'a glob or a list of globs'),
    r: v.optional(count),
    alpha: v.optional(positive),
    dropout: v.optional(belowOne),
    rslora: v.optional(flag),
    dora: v.optional(flag),
  },
  'an object of match, r, alpha, dropout, rslora and dora',
);
const specs = v.pipe(
  v.array(spec, 'a list of adapters'),
  v.minLength(1, 'a list of adapters'),
  v.readonly(),
  v.description('a list of adapters: globs to match, r, alpha, dropout, rslora, dora'),
);
export type LoraSpec = v.InferOutput<typeof specs>[number];

const ia3Spec = v.strictObject(
  { match: v.union([text, texts], 'a glob or a list of globs'), feedforward: v.optional(flag) },
  'an object of match and feedforward',
);
const ia3Specs = v.pipe(
  v.array(ia3Spec, 'a list of layers'),
  v.minLength(1, 'a list of layers'),
  v.readonly(),
  v.description('a list of layers: globs to match, feedforward'),
);
export type Ia3Spec = v.InferOutput<typeof ia3Specs>[number];

const promptInit = v.pipe(
  v.union(
    [v.literal('vocab'), v.pipe(v.array(countFromZero), v.minLength(1, 'a list of tokens'), v.readonly())],
    "'vocab' or a list of tokens",
  ),
  v.description("'vocab' or a list of tokens"),
);
export type PromptInit = v.InferOutput<typeof promptInit>;

const ADAPTERS = { group: 'What trains', commands: INJECTS, stage: 'inject' } as const;

/** Low-rank adapters beside layers that stay as they are. */
export const ADAPTER_OPTIONS = {
  lora: option(specs, {
    ...ADAPTERS,
    help: "Train low-rank adapters of these layers only, e.g. '*q_proj*,*v_proj*:r=8,alpha=16,dropout=0.05'",
    parseAll: (list: readonly string[]) => list.map(parseLora),
    conflicts: ['adapter', 'gradients'],
  }),
  ia3: option(ia3Specs, {
    ...ADAPTERS,
    help: "Train vectors that scale the outputs of these layers, or their inputs, e.g. '*down_proj*:feedforward'",
    parseAll: (list: readonly string[]) => list.map(parseIa3),
    conflicts: ['adapter', 'gradients'],
  }),
  promptTokens: option(count, {
    ...ADAPTERS,
    help: 'Train the embeddings of this many virtual tokens before the text',
    conflicts: ['prefixTokens', 'adapter', 'gradients'],
  }),
  promptInit: option(promptInit, {
    ...ADAPTERS,
    help: "Initialize virtual tokens from the embeddings of these tokens, e.g. 12,7,3, or 'vocab' for random ones",
    shown: 'normal distribution',
    parse: (text: string) => (text === 'vocab' ? text : parseNumbers(text)),
  }),
  prefixTokens: option(count, {
    ...ADAPTERS,
    help: 'Train the keys and values of this many virtual tokens before the cache of a decoder',
    conflicts: ['promptInit', 'adapter', 'gradients'],
  }),
  adapter: option(text, {
    ...ADAPTERS,
    commands: ['inject', 'train'],
    help: 'Start from the adapters in this PEFT folder or .onnx_adapter file',
  }),
  adapters: option(
    given<LoadedAdapters>('adapters of a file', x => isObject(x) && Array.isArray(x.adapters)),
    { group: 'Model', commands: [], stage: 'inject', help: 'Adapters read from a file' },
  ),
} satisfies Record<string, Option>;

/** `GLOB,GLOB:r=8,alpha=16`, or globs alone. Throws `bad-option`. */
const parseLora = (text: string): LoraSpec => parseSpec(spec, text);

/** `GLOB,GLOB:feedforward`, or globs alone. Throws `bad-option`. */
const parseIa3 = (text: string): Ia3Spec => parseSpec(ia3Spec, text);

/** Globs and settings, of which flags may stand without a value. */
function parseSpec<S extends typeof spec | typeof ia3Spec>(type: S, text: string): v.InferOutput<S> {
  const spelled = text.replace(/([:,])\s*(rslora|dora|feedforward)\s*(?=,|$)/g, '$1$2=true');
  const { match, options } = /:\s*\w+\s*=/.test(spelled)
    ? parseGroup(spelled)
    : { match: text.split(/,(?![^{]*\})/).map(glob => glob.trim()), options: {} };
  const result = v.safeParse(type, { match, ...options }, { abortEarly: true });
  if (result.success) return result.output;
  const known = Object.keys(type.entries).filter(name => name !== 'match');
  const unknown = Object.keys(options).find(name => !known.includes(name));
  if (unknown !== undefined)
    throw new AgdError(
      'bad-option',
      `unknown setting '${unknown}' of adapters; expected one of ${known.join(', ')}.`,
    );
  const [{ path, message }] = result.issues;
  throw new AgdError('bad-option', `${path?.map(p => p.key).join('.')} must be ${message}, in '${text}'.`);
}
