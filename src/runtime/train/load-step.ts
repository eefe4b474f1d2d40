/** Loads the step of an injected model into the runtime, in the form in which it runs fastest there. */
import { AgdError } from '../../graph/errors.js';
import { allGraphs, type Model, type Node, type Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import { Tensor } from '../../graph/tensor.js';
import { providerOf } from '../../ops/core/provider.js';
import { trainingPart } from '../../passes/common/part-of-model.js';
import type { TrainingDescription } from '../../passes/file/description.js';
import { inferShapes } from '../../passes/normalize/infer-shapes.js';
import { readQuantizers } from '../../passes/quantize/quantization-record.js';
import type { RunTable } from '../../passes/run/merge-tables.js';
import { type ScannedSteps, scanSteps } from '../../passes/run/scan-steps.js';
import { stateInputs } from '../../passes/run/state-inputs.js';
import type { StateSum } from '../../passes/run/state-sum.js';
import { withUnreadOutput } from '../../passes/run/unread-output.js';
import { isWasm, layOut, shortenSteps } from '../cpu.js';
import type { InputSpec } from '../data/bind.js';
import { withDevice } from '../devices/choose.js';
import { inputSpecs } from '../input-specs.js';
import { type Feeds, freeMemory, Session, type SessionOptions, sessionShapes } from '../session.js';
import type { DeviceState } from './device-state.js';
import type { DistributedOptions, DistributedStep } from './distributed-step.js';
import { canWriteInto, type InPlaceOptions, replacedStates } from './in-place.js';
import type { LocalOptions } from './local-steps.js';
import type { LookedUpRows } from './looked-up-rows.js';

/** What a trainer runs on. */
export type TrainerOptions = SessionOptions &
  InPlaceOptions &
  Partial<Pick<DistributedOptions, 'collective' | 'compress' | 'shardOptimizer'> & LocalOptions>;

/** A step that is ready to run. */
export type LoadedStep = {
  session: Session | DistributedStep;
  /** The state that the first run begins with, in arrays that may change in place. */
  state: Feeds;
  /** What a caller feeds. */
  fed: readonly InputSpec[];
  updates: readonly { state: string; value: string }[];
  run: Omit<ScannedSteps, 'model'> & { tables: readonly RunTable[]; rows?: LookedUpRows };
  /** The output that is not read, in runs that write into arrays that are there. */
  unread?: string;
  /** States whose next value a run may write over the one before. */
  inPlace: ReadonlySet<string>;
  sum?: StateSum;
  /** Where the state stays on the device between runs. */
  device?: DeviceState;
};

/** The options of a step's sessions. Throws `device` where the execution provider is not there. */
export async function stepOptions(model: Model, where: TrainerOptions): Promise<TrainerOptions> {
  const given = await withDevice(where);
  // A step computes what its gradients are of, which integer kernels would round once more.
  const isRounded = [...allGraphs(model.graph)].some(({ nodes }) =>
    nodes.some(node => node.opType === 'QuantizeLinear'),
  );
  return isRounded || readQuantizers(model).length ? { ...given, integerKernels: false } : given;
}

export async function loadStep(
  model: Model,
  description: TrainingDescription,
  options: TrainerOptions,
): Promise<LoadedStep> {
  checkDistributed(options, description);
  const updates = model.trainingInfo.flatMap(info => info.updates);
  const states = statesOf(model, updates);
  // A Scan needs something to scan: a model without data runs step by step.
  const { collective, syncEvery } = options;
  const distributed = collective && (await import('./distributed-step.js'));
  const part = trainingPart(distributed ? distributed.withStreamOf(collective, model, description) : model);
  const hasTables = description.parameters.some(({ rows }) => rows !== undefined);
  await typeValues(part, hasTables);
  const data = dataInputs(part, description);
  const { mix } = description.loss;
  const own = data.filter(v => v.name !== mix?.target && v.name !== mix?.share);
  const fed = inputSpecs({ graph: part.graph, inputs: own, leastBatch: description.leastBatch });
  if (description.synchronized && collective && syncEvery !== undefined)
    throw new AgdError(
      'bad-option',
      '--sync-batch-norm cannot be combined with --sync-every, with which ranks exchange nothing in most steps.',
    );
  if (distributed && syncEvery === undefined) {
    const session = await distributed.DistributedStep.create(model, { ...options, collective });
    const { foreign, tables } = session;
    const own = updates.filter(u => !foreign.has(u.state));
    const state = await distributed.sameState(collective, states);
    for (const name of foreign) delete state[name];
    freeMemory();
    const run = { tables, hoisted: new Map(), stacked: new Map() };
    return { session, state, fed, updates: own, run, inPlace: new Set() };
  }
  const onDevice = staysOnDevice(options);
  const { device = 'cpu' } = options;
  if (device === 'cpu' && !isWasm) (await import('../tiles.js')).fitTiles(part, options);
  const { model: steps, ...run } =
    !data.length || onDevice
      ? { model: part, tables: [], hoisted: new Map(), stacked: new Map() }
      : hasTables
        ? await (await import('./looked-up-rows.js')).LookedUpRows.of(part, updates, options)
        : { ...scanSteps(part), tables: [] };
  const ready = steps === part ? part : await layOut(steps, options);
  const stay = onDevice ? statesToStay(part, description, updates) : [];
  const isInto =
    steps !== part &&
    !run.tables.length &&
    !collective &&
    device === 'cpu' &&
    (await canWriteInto(model, states));
  const inPlace = isInto ? await replacedStates(ready, states, options) : new Set<string>();
  if (steps !== part) await shortenSteps(ready, options);
  const plain = stateInputs(ready, updates);
  const { model: summed, sum } = isInto
    ? (await import('../../passes/run/state-sum.js')).withStateSum(plain, updates, {
        inSteps: inPlace.size > 0,
      })
    : { model: plain, sum: undefined };
  const { model: whole, unread } = isInto ? withUnreadOutput(summed) : { model: plain, unread: undefined };
  const session = await Session.create(whole, { ...options, stay });
  freeMemory();
  return {
    session,
    state: distributed ? await distributed.sameState(collective, states) : withOwnTables(run.tables, states),
    fed,
    updates,
    run,
    unread,
    inPlace,
    sum,
    device: onDevice ? new (await import('./device-state.js')).DeviceState(options) : undefined,
  };
}

/** With copies of the tables that change in place. */
export function withOwnTables(tables: readonly RunTable[], state: Feeds): Feeds {
  const names = tables.flatMap(table => table.states);
  const own = names.map(name => {
    const { dtype, dims, bytes } = state[name]!;
    return [name, new Tensor(dtype, dims, bytes.slice())] as const;
  });
  return record({ ...state, ...Object.fromEntries(own) });
}

/** The values that a model has of its states. */
export function statesOf({ graph }: Model, updates: readonly { state: string }[]): Feeds {
  const names = new Set(updates.map(u => u.state));
  const states = [...graph.initializers].map(([value, tensor]) => [value.name, tensor] as const);
  return Object.fromEntries(states.filter(([name]) => names.has(name)));
}

/** Throws `bad-option` for ways of distributing that exclude each other. */
function checkDistributed(
  { collective, syncEvery, shardOptimizer, compress, outerLr, outerMomentum }: TrainerOptions,
  { stateBits }: TrainingDescription,
): void {
  const given = Object.entries({ syncEvery, shardOptimizer, compress }).find(([, value]) => value);
  if (given && !collective)
    throw new AgdError('bad-option', `${given[0]} is for distributed training: give a collective.`);
  if (syncEvery !== undefined && !(Number.isSafeInteger(syncEvery) && syncEvery > 0))
    throw new AgdError('bad-option', `syncEvery must be a whole number of at least 1, not ${syncEvery}.`);
  // The codes of a quantized state have no mean.
  const rival = Object.entries({ shardOptimizer, compress, stateBits }).find(([, value]) => value)?.[0];
  if (syncEvery !== undefined && rival)
    throw new AgdError('bad-option', `syncEvery cannot be combined with ${rival}.`);
  if (syncEvery === undefined && (outerLr !== undefined || outerMomentum !== undefined))
    throw new AgdError('bad-option', 'outerLr and outerMomentum need syncEvery.');
}

/** Elsewhere each output of a run comes back. */
const staysOnDevice = ({ device, collective }: TrainerOptions) =>
  !collective && providerOf(device) === 'webgpu';

/** The outputs that stay: those of states of numbers. Counters, and what a step shows, are read after each. */
function statesToStay(
  { graph }: Model,
  { step, skipped, accumulation, scaling, telemetry, gradNorm }: TrainingDescription,
  updates: readonly { state: string; value: string }[],
): string[] {
  const read = [step, skipped, accumulation?.counter, scaling?.scale, telemetry?.name, gradNorm];
  const types = new Map(graph.inputs.map(v => [v.name, v.dtype]));
  const stays = (state: string) =>
    !read.includes(state) && ['float32', 'float16'].includes(types.get(state) ?? '');
  return updates.filter(u => stays(u.state)).map(u => u.value);
}

/**
 * How a step is laid out for a processor follows from types, of which a file has few. Without them a resumed run would be
 * slower, and round otherwise than one that was not stopped. Of tables, a run has fewer rows than the types say: with them, only
 * convolutions are worth it.
 */
async function typeValues(part: Model, hasTables: boolean): Promise<void> {
  const isTyped = ({ inputs, outputs }: Node) => [...inputs, ...outputs].every(value => !value || value.type);
  const nodes = part.graph.nodes.filter(node => node.opType === 'Conv' || !hasTables);
  if (!nodes.every(isTyped)) await inferShapes(part, sessionShapes);
}

/** The inputs that a caller feeds at every step: neither state nor learning rate nor other defaults. */
function dataInputs({ graph }: Model, { lr }: TrainingDescription): Value[] {
  return graph.inputs.filter(v => v.name !== lr && !graph.initializers.has(v));
}

export const isDistributed = (session: Session | DistributedStep): session is DistributedStep =>
  !(session instanceof Session);
