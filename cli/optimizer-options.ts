/** Flags for the optimizer and its options; which of them it has is its own word. */
import type { Argv } from 'yargs';
import { AgdError, OPTIMIZERS } from '../src/constants.js';
import type { AnyOptions, OptimizerSpec } from '../src/index.js';

type Option = keyof AnyOptions;

const MEANINGS: Record<Option, string> = {
  lr: 'Learning rate',
  betas: 'Decay rates of the two averages',
  delta: 'Below it a coordinate takes a step of SGD',
  eps: 'Added to the denominator',
  momentum: 'Decay rate of the sum of gradients',
  dampening: 'What the sum takes less of each gradient',
  nesterov: 'Look a step of the sum ahead',
  weightDecay: 'Weight decay',
  weightDecouple: 'Decay the weights; off with --no-weight-decouple: add it to the gradient',
  fixedDecay: 'Decay does not follow the learning rate',
  decoupledWeightDecay: 'Decay the weights, instead of adding it to the gradient',
  amsgrad: 'Divide by the largest average so far',
  amsbound: 'Divide by the largest average so far',
  win: 'The Nesterov-like variant, with a decay of its own',
  finalLr: 'Rate, of SGD, towards which the bounds close',
  gamma: 'How fast the bounds close',
  hessianPower: 'Power of the diagonal of the Hessian, 0 to 1',
  averageConvKernel: 'Kernels share the mean of their diagonal; off with --no-average-conv-kernel',
  rectify: 'Rectify the step as RAdam does; off with --no-rectify',
  degeneratedToSgd: 'Take steps of SGD before the rectified ones; off with --no-degenerated-to-sgd: none',
  clip: 'Bound of m / max(...), elementwise',
};
const OPTIONS = Object.keys(MEANINGS) as Option[];
const GROUP = 'Optimizer:';

export const optimizerOptions = <T>(args: Argv<T>) =>
  args.options({
    optimizer: { choices: Object.keys(OPTIMIZERS), describe: 'How parameters change [agd]', group: GROUP },
    ...Object.fromEntries(
      OPTIONS.map(option => {
        const describe = `${MEANINGS[option]} [${defaultsOf(option)}]`;
        return [kebab(option), { type: typeOf(option), describe, group: GROUP }];
      }),
    ),
  });

/** The parsed options of the function above. */
export type ParsedOptimizer = Omit<AnyOptions, 'betas'> & { optimizer?: string; betas?: string };

/** Those that count when a model is injected; `lr` can be said later too. */
export const OPTIMIZER_FLAGS = ['optimizer', ...OPTIONS.filter(option => option !== 'lr')] as const;

/** What the flags say of the optimizer, as `inject` takes it. Throws `bad-option`. */
export function optimizerSpec(args: ParsedOptimizer): OptimizerSpec {
  const { optimizer: name, betas } = args;
  const given = OPTIONS.map(option => [
    option,
    option === 'betas' ? numbers('--betas', betas) : args[option],
  ]);
  return Object.fromEntries([['name', name], ...given].filter(([, value]) => value !== undefined));
}

/** Throws `bad-option` for what is not numbers. */
export function numbers(flag: string, text: string | undefined): number[] | undefined {
  if (text === undefined) return undefined;
  const values = text.split(',').map(Number);
  if (text.trim() === '' || !values.every(Number.isFinite))
    throw new AgdError('bad-option', `${flag} takes numbers with commas between them, not '${text}'.`);
  return values;
}

export const kebab = (name: string) => name.replace(/[A-Z]/g, c => `-${c.toLowerCase()}`);

const owners = (option: Option) =>
  Object.values(OPTIMIZERS).flatMap(({ name, defaults }) =>
    option in defaults ? [{ name, value: (defaults as AnyOptions)[option] }] : [],
  );

function typeOf(option: Option): 'string' | 'boolean' | 'number' {
  const [first] = owners(option);
  if (Array.isArray(first!.value)) return 'string';
  return typeof first!.value === 'boolean' ? 'boolean' : 'number';
}

/** The optimizers that have an option, by its default; that of most is without names where all have it. */
function defaultsOf(option: Option): string {
  const byDefault = new Map<string, string[]>();
  for (const { name, value } of owners(option)) {
    const shown = value === true ? 'on' : value === false || value === undefined ? '' : String(value);
    byDefault.set(shown, [...(byDefault.get(shown) ?? []), name]);
  }
  const groups = [...byDefault].sort(([, a], [, b]) => b.length - a.length);
  const everywhere = owners(option).length === Object.keys(OPTIMIZERS).length;
  return groups
    .map(([value, names], i) => (everywhere && i === 0 ? value : `${names.join(', ')} ${value}`.trim()))
    .join('; ');
}
