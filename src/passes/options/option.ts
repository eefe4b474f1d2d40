/** What the registry says of an option. */
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
  | 'adapt'
  | 'differentiate'
  | 'grad'
  | 'landscapes'
  | 'completion'
  | 'demo'
  | 'init';

/** Execution providers by the name a user gives. */
export const DEVICES = ['cpu', 'cuda', 'webgpu'] as const;
export type Device = (typeof DEVICES)[number];

/** Groups of the help text, in its order. */
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
  /** What it may be, with its range. */
  type: S;
  help: string;
  group: (typeof GROUPS)[number];
  /** The commands that have a flag for it; none for what only a program can give. */
  commands: readonly Command[];
  /** Whether it is decided when a model is injected, by each run, or may be given to both. */
  stage: 'inject' | 'run' | 'both';
  /** What holds where it is not given, as help shows it. */
  shown?: string;
  /** Name of the flag, where that is not the option's own in kebab-case. */
  flag?: string;
  alias?: string;
  /** Reads the text of a flag, if not as its type says. */
  parse?: (text: string) => unknown;
  /** The same for a flag that may be repeated: it reads all texts. */
  parseAll?: (texts: readonly string[]) => unknown;
  /** Where the library keeps it, if not under its own name: 'loss.output'. */
  path?: string;
  /** Left out of --help, shown by --help-all. */
  expert?: true;
  /** The injected file's description has it under its own name. */
  recorded?: true;
  /** Also has an effect on a model that brings its own training step. */
  ownStep?: true;
  required?: true;
  /** Names of options that it cannot be combined with. */
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
