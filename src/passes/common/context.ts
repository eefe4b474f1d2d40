/** What passes are, what they share, and how a list of them is run. */
import { join } from 'node:path';
import { checkGraph } from '../../graph/check-graph.js';
import { AgdError } from '../../graph/errors.js';
import { writeFileAtomic } from '../../graph/files.js';
import type { Binding, Model, Value } from '../../graph/ir.js';
import { encodeChunks } from '../../graph/proto/codec.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import type { AnyOptions } from '../../ops/optimizers/index.js';
import type { Optimizer, OptimizerOptions } from '../../ops/optimizers/optimizer.js';
import type { Schedule } from '../../ops/schedules.js';
import type { AttachedLoss, AttachedSampleLosses } from '../differentiate/attach-loss.js';
import type { Lookup } from '../differentiate/look-up-rows.js';
import type { TrainingDescription } from '../file/description.js';
import type { TrainingOperators } from '../import/lower-training-operators.js';
import type { ShapeOracle } from '../normalize/infer-shapes.js';
import type { InjectOptions, LeastBatch, LossSpec } from '../options.js';
import type { ParameterChoice } from '../select/parameter-choice.js';
import type { Origins } from '../select/read-origins.js';
import type { AttachedOptimizer } from '../update/attach-optimizer.js';
import type { StateUpdate } from '../update/transition.js';

export type PassOptions = InjectOptions & {
  /** Names of the outputs that get a cotangent each. */
  cotangents?: readonly string[];
  /** Globs over inputs and initializers to differentiate by. */
  wrt?: readonly string[];
  /** Names of the inputs that are fed; all, where not given. */
  fed?: ReadonlySet<string>;
  /** Names of the parameters and running statistics that an evaluation is fed. */
  state?: ReadonlySet<string>;
};

/** What passes find out and leave to later ones. A pass requires and ensures facts by these names. */
export type Facts = {
  /** The model that passes change. */
  work: Model;
  optimizer: { name: string; optimizer: Optimizer<OptimizerOptions>; settings: OptimizerOptions };
  /** Operators are those of the operator set that gradient rules know. */
  upgraded: true;
  /** There are no calls of functions. */
  inlined: true;
  /** What the file says of its constants. */
  origins: Origins;
  /** Whether parameters have places now that the file did not give them. */
  moved: boolean;
  /** The model that trained values go back into. */
  model: Model;
  /** Every value has its element type, and its shape as far as it is known. */
  typed: true;
  /** Adds nodes to the graph. */
  g: Builder;
  /** The loss as asked for. */
  spec: LossSpec;
  loss: AttachedLoss;
  /** The losses of samples; undefined if the model computes its loss itself. */
  samples: AttachedSampleLosses | undefined;
  /** The outputs that the model had besides the loss and gradients. */
  inference: string[];
  /** Where the model to write is a part of the original: the outputs that it computes. */
  exports: string[] | undefined;
  /** What is likely not meant as it was asked for, a line each. */
  warnings: string[];
  parameters: ParameterChoice[];
  /** What is differentiated by. */
  trained: Value[];
  /** The gradients that the graph itself has, by parameter. */
  given: Map<Value, Value>;
  /** Optimizer options in which a trained parameter differs. */
  groups: AnyOptions[];
  /** How many layers lie between that of each trained parameter and the last one; empty where no option asks for it. */
  distances: number[];
  /** The number of updates after which each begins to train; undefined for those that train from the first on. */
  begins: (number | undefined)[];
  /** The next running statistics. */
  statistics: StateUpdate[];
  /** Where batch normalization needs more than one sample. */
  leastBatch: LeastBatch | undefined;
  /** Tables of which a step changes only some rows. */
  lookups: Map<Value, Lookup>;
  /** The values that the backward pass starts from where there is no loss, with their cotangents. */
  seeds: Map<Value, Expr>;
  /** The scalar that random numbers are drawn by, if any are. */
  drawn: { key: Value | undefined };
  /** The number of batches before this one; 0 where no pass says. */
  batchNumber: () => Expr;
  /** That scalar is computed. */
  numbered: true;
  /** What arrives at each of `trained`; undefined where that is nothing. */
  cotangents: (Expr | undefined)[];
  /** The gradient of each of `trained`; of tables, the sums of equal rows. */
  grads: Expr[];
  /** Where among the rows of a table each stands last. */
  lastRows: Map<Value, Value>;
  /** Name of the output that holds a value's gradient, by value; null where it is zero. */
  gradients: Map<string, string | null>;
  schedule: Schedule | undefined;
  attached: AttachedOptimizer;
  /** ONNX's training operators, by what they were. */
  operators: TrainingOperators;
  /** What the model's own training step changes, with the name of its next value. */
  bindings: Binding[];
  /** Learning rate and count of updates of the model's own training step. */
  own: { states: Value[]; rate: Value; step: Value };
  description: TrainingDescription;
};
export type Fact = keyof Facts;

/** What all passes of a run share. */
export type Context = {
  /** The model that was given; it stays as it is. */
  readonly source: Model;
  readonly options: PassOptions;
  readonly oracle: ShapeOracle;
  /** Number of passes that have run, for the names of dumped files. */
  ran: number;
} & Partial<Facts>;

/** The same after passes that ensure these facts. */
export type With<F extends Fact> = Context & Pick<Facts, F>;

export type Pass = {
  /** A verb with its object, as the file that has it. */
  name: string;
  /** What it does, in one sentence. */
  does: string;
  /** Facts that have to be there before, and that are there after it. */
  requires: readonly Fact[];
  ensures: readonly Fact[];
  /** Where it changes anything, this pass and what follows it runs again. */
  repeatFrom?: string;
  /** Returns whether the graph, or a name or attribute in it, changed. */
  run(context: Context): boolean | Promise<boolean>;
};

/** A pass whose `run` sees what it requires, and nothing else for certain. */
export function pass<const R extends Fact>(
  declared: Omit<Pass, 'requires' | 'run'> & {
    requires: readonly R[];
    run(context: With<R>): boolean | Promise<boolean>;
  },
): Pass {
  return declared as Pass;
}

export const contextOf = (source: Model, options: PassOptions, oracle: ShapeOracle): Context => ({
  ...{ source, options, oracle },
  ran: 0,
});

/**
 * Runs passes in order. With `options.dumpPasses`, the model is written there after each that changed it; with
 * AGD_ONNX_CHECK=1, the graph is verified between them. A fact that is missing is a bug: throws a plain Error.
 */
export async function runPasses<F extends Fact = never>(
  passes: readonly Pass[],
  context: Context,
  _facts: readonly F[] = [],
): Promise<With<F>> {
  for (let i = 0; i < passes.length; i++) {
    const current = passes[i]!;
    const changed = await runPass(current, context);
    if (changed && current.repeatFrom !== undefined)
      i = passes.findIndex(p => p.name === current.repeatFrom) - 1;
  }
  return context as With<F>;
}

async function runPass(current: Pass, context: Context): Promise<boolean> {
  checkFacts(current, context, 'requires');
  const changed = await current.run(context);
  context.ran++;
  checkFacts(current, context, 'ensures');
  const { work, options, ran } = context;
  if (work && changed && options.dumpPasses !== undefined)
    await dump(work, options.dumpPasses, `${String(ran).padStart(2, '0')}-${current.name}.onnx`);
  if (work && process.env.AGD_ONNX_CHECK === '1') check(current, context, work);
  return changed;
}

function checkFacts(current: Pass, context: Context, side: 'requires' | 'ensures'): void {
  const missing = current[side].filter(fact => !(fact in context));
  if (missing.length) throw new Error(`Pass ${current.name} ${side} ${missing.join(', ')}: not there.`);
}

async function dump(model: Model, folder: string, file: string): Promise<void> {
  const { mkdir } = await import('node:fs/promises');
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw new AgdError('io', `Cannot make the folder '${folder}': ${(error as Error).message}.`);
  }
  // Tensors go along, wherever they are: what is dumped is read alone.
  await writeFileAtomic(
    join(folder, file),
    encodeChunks(model, () => undefined),
  );
}

/** Throws a plain Error that names the pass, where it left a graph that is not one. */
function check({ name }: Pass, { drawn, numbered }: Context, work: Model): void {
  // Until the batch is numbered, what is drawn reads a scalar that nothing computes.
  if (drawn?.key && !numbered) return;
  try {
    checkGraph(work.graph);
    checkTypes(work);
  } catch (error) {
    throw new Error(`After pass ${name}: ${(error as Error).message}`);
  }
}

/** An initializer is of the type that its value has. */
function checkTypes({ graph }: Model): void {
  for (const [value, { dtype, dims }] of graph.initializers) {
    const { type } = value;
    const fits =
      !type ||
      (type.kind === 'tensor' &&
        type.dtype === dtype &&
        (!type.shape ||
          (type.shape.length === dims.length &&
            type.shape.every((d, i) => typeof d !== 'number' || d === dims[i]))));
    if (!fits) throw new Error(`'${value.name}' is not of the type of its initializer, ${dtype}[${dims}].`);
  }
}
