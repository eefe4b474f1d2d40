import * as v from 'valibot';
import { AgdError } from '../../graph/errors.js';
import type { Tensor } from '../../graph/tensor.js';
import { belowOne, count, flag, given, positive, text, texts } from '../../ops/core/option-type.js';
import { INJECTS, isObject, type Option, option } from './option.js';
import { parseGroup } from './text.js';

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

/** The adapters of a file, which messages call `name`. */
export type LoadedAdapters = { name: string; adapters: readonly PeftAdapter[] };

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

const ADAPTERS = { group: 'What trains', commands: INJECTS, stage: 'inject' } as const;

/** Low-rank adapters beside layers that stay as they are. */
export const ADAPTER_OPTIONS = {
  lora: option(specs, {
    ...ADAPTERS,
    help: "Train low-rank adapters of these layers only, as '*q_proj*,*v_proj*:r=8,alpha=16,dropout=0.05'",
    parseAll: (list: readonly string[]) => list.map(parseLora),
    conflicts: ['adapter', 'gradients'],
  }),
  adapter: option(text, {
    ...ADAPTERS,
    commands: ['inject', 'train'],
    help: 'Go on training the adapters of this folder, as PEFT writes it',
  }),
  adapters: option(
    given<LoadedAdapters>('adapters of a file', x => isObject(x) && Array.isArray(x.adapters)),
    { group: 'Model', commands: [], stage: 'inject', help: 'Adapters that were read from a file' },
  ),
} satisfies Record<string, Option>;

/** `GLOB,GLOB:r=8,alpha=16`, or globs alone. Throws `bad-option`. */
export function parseLora(text: string): LoraSpec {
  const spelled = text.replace(/([:,])\s*(rslora|dora)\s*(?=,|$)/g, '$1$2=true');
  const { match, options } = /:\s*\w+\s*=/.test(spelled)
    ? parseGroup(spelled)
    : { match: text.split(/,(?![^{]*\})/).map(glob => glob.trim()), options: {} };
  const result = v.safeParse(spec, { match, ...options }, { abortEarly: true });
  if (result.success) return result.output;
  const known = Object.keys(spec.entries).filter(name => name !== 'match');
  const unknown = Object.keys(options).find(name => !known.includes(name));
  if (unknown !== undefined)
    throw new AgdError(
      'bad-option',
      `unknown setting '${unknown}' of adapters; expected one of ${known.join(', ')}.`,
    );
  const [{ path, message }] = result.issues;
  throw new AgdError('bad-option', `${path?.map(p => p.key).join('.')} must be ${message}, in '${text}'.`);
}
