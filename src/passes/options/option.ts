/** The entry of an option in the registry. */
import type { OptionType } from '../../ops/core/option-type.js';

export type Command =
  | 'inspect'
  | 'inject'
  | 'train'
  | 'evaluate'
  | 'predict'
  | 'compare'
  | 'export'
  | 'diff'
  | 'operators'
  | 'adapt'
  | 'differentiate'
  | 'grad'
  | 'landscapes'
  | 'completion'
  | 'demo'
  | 'init';

/** Groups of the help text, in order. */
export const GROUPS = [
  'Data',
  'Output',
  'Run',
  'Loss',
  'What trains',
  'Optimizer',
  'Update',
  'Model',
] as const;

export type Option<S extends OptionType = OptionType> = {
  /** Its type, with its range. */
  type: S;
  help: string;
  group: (typeof GROUPS)[number];
  /** The commands that have a flag for it; empty if only a program can pass it. */
  commands: readonly Command[];
  /** Whether it is fixed at injection, given for each run, or possible for both. */
  stage: 'inject' | 'run' | 'both';
  /** Its default, as shown in help. */
  shown?: string;
  /** Name of the flag, if not the option's own in kebab-case. */
  flag?: string;
  alias?: string;
  /** Parses the text of a flag, if not in the way of its type. */
  parse?: (text: string) => unknown;
  /** The same for a flag that may be repeated; it parses all texts. */
  parseAll?: (texts: readonly string[]) => unknown;
  /** Its path in the library's options, if not its own name: 'loss.output'. */
  path?: string;
  /** Hidden in --help, shown by --help-all. */
  expert?: true;
  /** Recorded in the injected file's description, under its own name. */
  recorded?: true;
  /** Also applies to a model with its own training step. */
  ownStep?: true;
  required?: true;
  /** Names of options with which it cannot be combined. */
  conflicts?: readonly string[];
};

export const option = <S extends OptionType, const O extends Omit<Option, 'type'>>(type: S, rest: O) => ({
  type,
  ...rest,
});

/** Commands that have the same options. */
export const RUNS = ['train', 'compare'] as const;
export const INJECTS = ['inject', 'train', 'compare'] as const;
/** Commands that run a model on data as it is. */
export const APPLIES = ['evaluate', 'predict'] as const;
export const LEARNS = ['inject', 'train', 'compare', 'grad'] as const;

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
