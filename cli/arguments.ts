/** What a command was told: flags over a configuration file, as the library takes it. */
import {
  AgdError,
  type Command,
  decidedByInjection,
  type FileOptions,
  type InjectOptions,
  injectOptionsOf,
  type LossSpec,
  lossOptionNames,
  parseLoss,
  type RunOptions,
} from '../src/command/startup.js';
import { UsageError } from './failure.js';
import { checkTogether, flagOf, type Options, optionsOf, readFlags, type Values } from './flags.js';

/** Own options of a command are beside these. */
export type Arguments = RunOptions & InjectOptions & FileOptions & { model: string; color?: boolean };

/** Throws `UsageError`, `bad-option` and `io`. */
export async function readArguments(
  args: Readonly<Record<string, unknown>>,
  command: Command,
  own: Options,
): Promise<Values> {
  if (Array.isArray(args.color)) throw new UsageError('--color is given more than once.');
  const flags = readFlags(args, command, own);
  const { readConfig, merge } = await import('./config.js');
  const values =
    typeof flags.config === 'string' ? merge(await readConfig(flags.config, command, own), flags) : flags;
  checkTogether(values, optionsOf(command, own));
  const { loss, ...others } = values;
  return {
    ...others,
    loss: command === 'inspect' ? loss : lossSpec(loss as GivenLoss | undefined),
    // A configuration file may name the model, too.
    model: args.model ?? values.model,
    ...(args.other === undefined ? {} : { other: args.other }),
    color: args.color,
  };
}

const OF_CLASSES = ['classAxis', 'labelSmoothing', 'ignoreIndex', 'classWeights', 'mixTargets'];

type GivenLoss = {
  kind?: string;
  lossOutput?: string;
  output?: string;
  target?: string;
  posWeight?: unknown;
};

/** Throws `bad-option` for what says more of a loss that there is not, or that another kind of loss has. */
function lossSpec(loss: GivenLoss | undefined): LossSpec | undefined {
  if (!loss) return undefined;
  const { kind, lossOutput, ...details } = loss;
  const given = Object.keys(details);
  if (lossOutput !== undefined) return { kind: 'output', output: lossOutput, target: details.target };
  if (!kind) throw new AgdError('bad-option', `${flagAt(`loss.${given[0]}`)} needs --loss.`);
  const spec = parseLoss(kind);
  if (spec.kind !== kind) {
    const [other] = given;
    if (other === undefined) return spec;
    throw new AgdError(
      'bad-option',
      `${flagAt(`loss.${other}`)} cannot be combined with --loss '${kind}': set it in the parentheses of a loss.`,
    );
  }
  if (details.posWeight !== undefined && kind !== 'bce-with-logits')
    throw new AgdError('bad-option', `--pos-weight applies to bce-with-logits, not to ${kind}.`);
  const read = ['output', 'target', ...lossOptionNames(kind)];
  const unread = given.find(name => !read.includes(name));
  if (unread)
    throw new AgdError(
      'bad-option',
      OF_CLASSES.includes(unread)
        ? `${flagAt(`loss.${unread}`)} applies to losses over classes, not to ${kind}.`
        : `${flagAt(`loss.${unread}`)} does not apply to ${kind}.`,
    );
  return { kind, ...details } as LossSpec;
}

/** The flag of what lies at this path. */
function flagAt(path: string): string {
  const [name, option] = optionsOf('train', {}).find(([name, o]) => (o.path ?? name) === path) ?? [];
  return option ? `--${flagOf(name!, option)}` : path;
}

/**
 * The options of injection, or undefined where nothing says what the model is to learn: neither a loss nor gradients,
 * nor (`isTask`) the model itself. Throws `bad-option` where other options of injection are given without it.
 */
export function injectOptionsIfTask(args: Arguments, isTask = false): InjectOptions | undefined {
  const { loss, gradients, replaceOptimizer } = args;
  if (isTask || loss || args.lossModel || args.distill || gradients || replaceOptimizer)
    return injectOptionsOf(args);
  const lost = decidedByInjection(args);
  if (lost)
    throw new AgdError(
      'bad-option',
      `${flagAt(lost)} takes effect when a model is injected: add --loss, or --replace-optimizer if the model has a training step of its own, or use agd-onnx inject.`,
    );
  return undefined;
}
