/** The type of a pass, the context that passes share, and the runner of a list of passes. */
import { join } from 'node:path';
import { checkGraph } from '../../graph/check-graph.js';
import { AgdError } from '../../graph/errors.js';
import { writeFileAtomic } from '../../graph/files.js';
import type { Binding, Model, Node, Value } from '../../graph/ir.js';
import { bytesOf, encodeChunks } from '../../graph/proto/codec.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { loadOperators } from '../../ops/index.js';
import type { AnyOptions } from '../../ops/optimizers/index.js';
import type { Optimizer, OptimizerOptions } from '../../ops/optimizers/optimizer.js';
import type { PlannedSchedule } from '../../ops/schedules.js';
import type { DerivativeNames } from '../differentiate/add-derivatives.js';
import type { AttachedLoss, AttachedSampleLosses } from '../differentiate/attach-loss.js';
import type { PerSample } from '../differentiate/clip-samples.js';
import type { Lookup } from '../differentiate/look-up-rows.js';
import type { Precision } from '../differentiate/precision.js';
import type { LossScale } from '../differentiate/scale-loss.js';
import type { TrainingDescription } from '../file/description.js';
import type { TrainingOperators } from '../import/lower-training-operators.js';
import type { ShapeOracle } from '../normalize/infer-shapes.js';
import type { DerivativeMode } from '../options/derivatives.js';
import type { InjectOptions, LeastBatch, LossSpec } from '../options.js';
import type { ParameterChoice } from '../select/parameter-choice.js';
import type { Origins } from '../select/read-origins.js';
import type { AttachedOptimizer } from '../update/attach-optimizer.js';
import type { StateUpdate } from '../update/transition.js';

export type PassOptions = InjectOptions & {
  /** Names of the outputs that get a cotangent input. */
  cotangents?: readonly string[];
  /** Globs over inputs and initializers to differentiate with respect to. */
  wrt?: readonly string[];
  /** The derivatives to compute if there is no loss: of the outputs or inner values of these names, or of the only output. */
  derivatives?: { mode: DerivativeMode; of?: readonly string[] };
  /** Names of the inputs that are fed; all if not given. */
  fed?: ReadonlySet<string>;
  /** Names of the parameters and running statistics that an evaluation is fed. */
  state?: ReadonlySet<string>;
};

/** Results that passes leave for later ones. `requires` and `ensures` of a pass are keys of this type. */
export type Facts = {
  /** The model that passes change. */
  work: Model;
  optimizer: { name: string; optimizer: Optimizer<OptimizerOptions>; settings: OptimizerOptions };
  /** All operators are at the opset that gradient rules support. */
  upgraded: true;
  /** No function calls are left. */
  inlined: true;
  /** What the file records about its constants. */
  origins: Origins;
  /** Whether parameters were separated or tied, so that the source lacks initializers that `work` has. */
  moved: boolean;
  /** The model that trained values are written back to. */
  model: Model;
  /** Every value has an element type, and a shape as far as it can be inferred. */
  typed: true;
  /** Adds nodes to the graph. */
  g: Builder;
  /** The loss as requested. */
  spec: LossSpec;
  loss: AttachedLoss;
  /** The losses of samples; undefined if the model computes its loss itself. */
  samples: AttachedSampleLosses | undefined;
  /** The outputs that the model had before the loss and gradients were added. */
  inference: string[];
  /** If only a part of the original is exported: the outputs of that part. */
  exports: string[] | undefined;
  /** Likely mistakes in the request, one line each. */
  warnings: string[];
  parameters: ParameterChoice[];
  /** The values to differentiate with respect to. */
  trained: Value[];
  /** The gradients that the graph itself computes, by parameter. */
  given: Map<Value, Value>;
  /** The optimizer options that differ from the defaults, for each of `trained`. */
  groups: AnyOptions[];
  /** The number of layers between that of each of `trained` and the last one; empty if no option needs it. */
  distances: number[];
  /** The number of updates after which each of `trained` starts to train; undefined if it trains from the start. */
  begins: (number | undefined)[];
  /** The next values of running statistics. */
  statistics: StateUpdate[];
  /** Set if batch normalization needs more than one sample. */
  leastBatch: LeastBatch | undefined;
  /** How the gradients of single samples are clipped, with the number of samples, an int64 scalar; undefined if they are not. */
  perSample: PerSample | undefined;
  /** The nodes that compute the loss from the model's output. */
  lossNodes: ReadonlySet<Node>;
  /** The precision that the step computes in; undefined for that of each operator in the file. */
  precision: Precision | undefined;
  /** The scale of the loss that is differentiated; undefined if it has none. */
  scaling: LossScale | undefined;
  /** Tables of which a step updates only some rows. */
  lookups: Map<Value, Lookup>;
  /** The outputs that the backward pass starts from if there is no loss, with their cotangents. */
  seeds: Map<Value, Expr>;
  /** The scalar key of all random numbers; undefined if nothing is random. */
  drawn: { key: Value | undefined };
  /** The number of batches before this one; 0 if no pass sets it. */
  batchNumber: () => Expr;
  /** The key of the random numbers is computed. */
  numbered: true;
  /** The cotangent of each of `trained`; undefined if no gradient arrives. */
  cotangents: (Expr | undefined)[];
  /** The cotangents of `trained` in the other parts of a loss whose terms count different positions, part by part. */
  furtherCotangents: Facts['cotangents'][] | undefined;
  /** The gradient of each of `trained`; for tables with sparse updates, summed over equal rows. */
  grads: Expr[];
  /** The gradients in each part of the loss: `grads` has, for each of `trained`, that of the first part with one. */
  gradParts: (Expr | undefined)[][];
  /** With weighted sharpness: the gradients at perturbed weights, by parts of the loss as `gradParts`. */
  perturbed: (Expr | undefined)[][] | undefined;
  /** The last position of each row among the lookups of a table. */
  lastRows: Map<Value, Value>;
  /** Name of the output that holds the gradient of a value; null if the gradient is zero. */
  gradients: Map<string, string | null>;
  /** Values that the backward pass takes as constants. */
  detached: ReadonlySet<Value>;
  /** Names of the inputs and outputs of derivatives. */
  derivatives: DerivativeNames;
  schedule: PlannedSchedule | undefined;
  /** The output with what the loss of a batch is divided by; undefined if it is not asked for, or unknown. */
  divisor: Value | undefined;
  /** For losses that count different positions: each part and what it is divided by, as outputs. `divisor` is the first. */
  lossParts: { loss: Value; divisor: Value }[] | undefined;
  /** The initializer that chooses the random numbers of a worker, where the step draws any. */
  stream: Value | undefined;
  attached: AttachedOptimizer;
  /** ONNX's training operators before they were expanded. */
  operators: TrainingOperators;
  /** The state that the model's own training step updates, with the name of its next value. */
  bindings: Binding[];
  /** Learning rate and update count of the model's own training step. */
  own: { states: Value[]; rate: Value; step: Value };
  description: TrainingDescription;
};
export type Fact = keyof Facts;

/** The state that all passes of a run share. */
export type Context = {
  /** The model as given, or a copy of it with adapters or rounding; passes do not change it. */
  source: Model;
  readonly options: PassOptions;
  readonly oracle: ShapeOracle;
  /** Number of passes run so far, for the names of dumped files. */
  ran: number;
} & Partial<Facts>;

/** A context after passes that ensure these facts. */
export type With<F extends Fact> = Context & Pick<Facts, F>;

export type Pass = {
  /** A verb with its object, also the name of its file. */
  name: string;
  /** One sentence for the documentation. */
  does: string;
  /** Facts that must exist before the pass, and facts that exist after it. */
  requires: readonly Fact[];
  ensures: readonly Fact[];
  /** If the pass changes anything, the pass of this name and all after it run again. */
  repeatFrom?: string;
  /** Returns whether the graph, or a name or attribute in it, changed. */
  run(context: Context): boolean | Promise<boolean>;
};

/** Declares a pass. The context of `run` has the type of the facts that the pass requires. */
export function pass<const R extends Fact>(
  declared: Omit<Pass, 'requires' | 'run'> & {
    requires: readonly R[];
    run(context: With<R>): boolean | Promise<boolean>;
  },
): Pass {
  return declared as Pass;
}

export const contextOf = (source: Model, options: PassOptions, oracle: ShapeOracle): Context => ({
  source,
  options,
  oracle,
  ran: 0,
});

/**
 * Runs passes in order. With `options.dumpPasses`, writes the model to that folder after each pass that changed it;
 * with AGD_ONNX_CHECK=1, verifies the graph after each pass. A missing fact is a bug: throws a plain Error.
 */
export async function runPasses<F extends Fact = never>(
  passes: readonly Pass[],
  context: Context,
  _facts: readonly F[] = [],
): Promise<With<F>> {
  const load = () => loadOperators((context.work ?? context.source).graph);
  await load();
  for (let i = 0; i < passes.length; i++) {
    const current = passes[i]!;
    const changed = await runPass(current, context);
    if (changed) await load();
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
  // External data is included, so that a dumped file can be read alone.
  await writeFileAtomic(join(folder, file), bytesOf(encodeChunks(model, () => undefined)));
}

/** Throws a plain Error that names the pass if it left an inconsistent graph. */
function check({ name }: Pass, { drawn, numbered }: Context, work: Model): void {
  // Until `number-batches` has run, random operators read a key that no node computes.
  if (drawn?.key && !numbered) return;
  try {
    checkGraph(work.graph);
    checkTypes(work);
  } catch (error) {
    throw new Error(`After pass ${name}: ${(error as Error).message}`);
  }
}

/** Each initializer has the type of its value. */
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
