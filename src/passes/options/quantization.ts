/** Options of quantization-aware training. */
import * as v from 'valibot';
import { checkOption, choice, flag, given, text, texts } from '../../ops/core/option-type.js';
import { type Option, option } from './option.js';
import { parseSettings } from './text.js';

const WEIGHTS = ['int8', 'int4'] as const;

const weights = choice(WEIGHTS);
const settings = v.strictObject({
  method: v.optional(choice(['lsq', 'ema', 'fixed'])),
  activations: v.optional(choice(['uint8', 'int8', 'none'])),
  perChannel: v.optional(flag),
  reduceRange: v.optional(flag),
  skip: v.optional(v.union([text, texts], 'a glob or a list of globs')),
});
const spec = v.pipe(
  v.strictObject(
    { weights, ...settings.entries },
    'an object of weights, method, activations, perChannel, reduceRange and skip',
  ),
  v.description('an object of weights (int8, int4), method, activations, perChannel, reduceRange, skip'),
);
export type QatSpec = v.InferOutput<typeof spec>;

/** The least and the largest of each value of a model that calibration data give, by name. */
export type Ranges = ReadonlyMap<string, readonly [least: number, largest: number]>;

const QUANTIZATION = { group: 'Model', stage: 'inject' } as const;

export const QUANTIZATION_OPTIONS = {
  qat: option(spec, {
    ...QUANTIZATION,
    commands: ['inject', 'train', 'compare'],
    help: "Quantization-aware training: int8, int4, or with settings as 'int8:method=ema,skip=head*'",
    parse: parseQat,
    conflicts: ['lora', 'ia3', 'adapter', 'promptTokens', 'prefixTokens', 'gradients', 'replaceOptimizer'],
  }),
  ranges: option(
    given<Ranges>('a Map of pairs', x => x instanceof Map),
    { ...QUANTIZATION, commands: [], help: 'Ranges of values by name, from calibration' },
  ),
} satisfies Record<string, Option>;

/** `int8`, or `int8:method=ema,per-channel=false,skip=head*`. Throws `bad-option`. */
export function parseQat(text: string): QatSpec {
  const [, kind = '', list = ''] = /^\s*([\w-]*)\s*(?::(.*))?$/s.exec(text) ?? [];
  checkOption('weights', weights, kind);
  const given = list.trim() ? parseSettings(list, settings) : {};
  const { skip } = given;
  const globs = typeof skip === 'string' ? skip.split(/,(?![^{]*\})/).map(glob => glob.trim()) : skip;
  return { weights: kind as QatSpec['weights'], ...given, ...(globs ? { skip: globs } : {}) };
}
