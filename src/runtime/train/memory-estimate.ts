/** What a training run takes in memory, estimated from the shapes of its graph, and what would fit where it does not. */
import { cloneModel } from '../../graph/clone.js';
import { reads } from '../../graph/dependents.js';
import { byteLength } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Model, Value } from '../../graph/ir.js';
import { inject } from '../../passes/inject.js';
import type { InjectOptions } from '../../passes/options.js';
import { DEFAULT_BATCH_SIZE } from '../data/dataset.js';
import { sessionShapes } from '../session.js';

export type MemoryOptions = InjectOptions & {
  /** Samples of a step. Default: 32. */
  batchSize?: number;
  /** The extents of the data that the model leaves open, by name, such as the length of a text. */
  extents?: Readonly<Record<string, number>>;
  /** The memory that there is, in bytes. Default: 4 GiB, the most that WebAssembly has. */
  limit?: number;
  /** The largest tensor that the device takes, in bytes, such as `maxBufferSize` of a WebGPU adapter. */
  maxBuffer?: number;
};

/** Options of `fit` that take the place of those asked for. */
export type MemoryChange = Pick<InjectOptions, 'accumulate' | 'checkpointActivations' | 'lora'> & {
  batchSize?: number;
};

/** Sizes in bytes. */
export type MemoryEstimate = {
  /** Frozen weights and constants, with the runtime's copies of them. */
  weights: number;
  /** Trained parameters and optimizer state, before and after an update. */
  state: number;
  /** The most that the results of operators take at a time. */
  activations: number;
  /** All of it. */
  total: number;
  largest: { name: string; bytes: number };
  fits: boolean;
};

export type MemoryPlan = MemoryEstimate & {
  /** The first of the usual changes with which the run fits, where it does not fit as it is and one of them helps. */
  advice?: MemoryEstimate & { change: MemoryChange };
};

/** The runtime's own memory, as measured (`bench/page-memory.mjs`). */
const BASE = 24 * 2 ** 20;
/** The share of the limit that an estimate leaves free. */
const RESERVE = 0.1;

const LIMIT = 4 * 2 ** 30;
const RANK = 8;

/**
 * Estimates the memory of a run of `fit` with these options in the heap of WebAssembly, which holds all but the page's files,
 * and tells what would fit: LoRA, parts of a batch, recomputed activations, in this order and together. Nothing is trained. Throws
 * `bad-option` for an open extent that `extents` does not have, and as `inject` does.
 */
export async function planMemory(model: Model, options: MemoryOptions): Promise<MemoryPlan> {
  const asked = await estimate(model, options);
  if (asked.fits) return asked;
  for (const change of changesOf(options)) {
    const found = await estimate(model, { ...options, ...change }).catch(
      unless('bad-option', 'unsupported-op'),
    );
    if (found?.fits) return { ...asked, advice: { change, ...found } };
  }
  return asked;
}

/** Of an option that cannot be had with the others, or for this model. */
const unless =
  (...codes: string[]) =>
  (error: unknown): undefined => {
    if (!(error instanceof AgdError && codes.includes(error.code))) throw error;
  };

/** From the one that changes least. */
function changesOf(options: MemoryOptions): MemoryChange[] {
  const { batchSize = DEFAULT_BATCH_SIZE, accumulate = 1 } = options;
  const parts = [1, 4, batchSize].filter((n, i, all) => batchSize % n === 0 && all.indexOf(n) === i);
  const split = parts.map(n => (n > 1 ? { batchSize: batchSize / n, accumulate: accumulate * n } : {}));
  const again = options.checkpointActivations ? [{}] : [{}, { checkpointActivations: true as const }];
  const lora =
    options.lora || options.ia3 || options.adapters ? [{}] : [{}, { lora: [{ match: '*', r: RANK }] }];
  return lora
    .flatMap(a => again.flatMap(b => split.map(c => ({ ...a, ...b, ...c }) as MemoryChange)))
    .filter(change => Object.keys(change).length);
}

async function estimate(
  model: Model,
  { batchSize = DEFAULT_BATCH_SIZE, extents = {}, limit = LIMIT, maxBuffer, ...options }: MemoryOptions,
): Promise<MemoryEstimate> {
  const { model: injected } = await inject(withExtents(model, batchSize, extents), options, sessionShapes);
  const { graph } = injected;
  const updates = injected.trainingInfo.flatMap(info => info.updates);
  const states = new Set(updates.flatMap(u => [u.state, u.value]));
  const constants = [...graph.initializers].filter(([value]) => !states.has(value.name));
  const weights = sum(constants.map(([value, tensor]) => tensor.byteLength * copiesOf(value)));
  const before = [...graph.initializers].filter(([value]) => states.has(value.name));
  const state = 2 * sum(before.map(([, tensor]) => tensor.byteLength));
  const { peak: activations, largest } = liveness(graph, states);
  const total = BASE + weights + state + activations;
  const fits = total <= limit * (1 - RESERVE) && (maxBuffer === undefined || largest.bytes <= maxBuffer);
  return { weights, state, activations, total, largest, fits };
}

/** Products pack what is constant in blocks of their own, beside it; a Transpose of it is computed once, and kept. */
function copiesOf(value: Value): number {
  const beside = value.readers.map(({ opType, outputs }) => {
    if (opType === 'MatMul' || opType === 'Gemm') return 1;
    return opType === 'Transpose' && outputs[0] ? copiesOf(outputs[0]) : 0;
  });
  return 1 + sum(beside);
}

/** A copy whose inputs have the extents of the data. */
function withExtents(model: Model, batch: number, extents: Readonly<Record<string, number>>): Model {
  const copy = cloneModel(model);
  const { inputs, initializers } = copy.graph;
  for (const value of inputs) {
    if (initializers.has(value) || value.type?.kind !== 'tensor' || !value.shape) continue;
    const shape = value.shape.map((extent, axis) => {
      if (typeof extent === 'number') return extent;
      const known = (extent === null ? undefined : extents[extent]) ?? (axis === 0 ? batch : undefined);
      if (known !== undefined) return known;
      throw new AgdError(
        'bad-option',
        `Extent ${axis} of input '${value.name}' is dynamic: give its size as extents: { ${extent ?? 'name'}: N }.`,
      );
    });
    value.type = { ...value.type, shape };
  }
  return copy;
}

/** The bytes of a value; none where its extents do not follow from those of the inputs. */
function bytesOf({ type }: Value): number {
  if (type?.kind !== 'tensor' || !type.dtype || type.dtype === 'string' || !type.shape) return 0;
  if (!type.shape.every(d => typeof d === 'number')) return 0;
  return byteLength(
    type.dtype,
    type.shape.reduce<number>((n, d) => n * Number(d), 1),
  );
}

/** The most bytes of results that are alive at a time, in the order of the nodes; `apart` are counted elsewhere. */
function liveness(graph: Graph, apart: ReadonlySet<string>) {
  const last = new Map<Value, number>();
  graph.nodes.forEach((node, i) => {
    for (const value of reads(node)) last.set(value, i);
    for (const value of node.outputs) if (value && !last.has(value)) last.set(value, i);
  });
  for (const value of graph.outputs) last.set(value, graph.nodes.length);
  const ends = new Map<number, Value[]>();
  for (const [value, i] of last) ends.set(i, [...(ends.get(i) ?? []), value]);
  let [live, peak] = [0, 0];
  let largest = { name: '', bytes: 0 };
  for (const [value, { byteLength: bytes }] of graph.initializers)
    if (bytes > largest.bytes) largest = { name: value.name, bytes };
  const isResult = (value: Value | null): value is Value =>
    value?.producer !== undefined && !apart.has(value.name);
  graph.nodes.forEach((node, i) => {
    for (const value of node.outputs.filter(isResult)) {
      const bytes = bytesOf(value);
      live += bytes;
      if (bytes > largest.bytes) largest = { name: value.name, bytes };
    }
    peak = Math.max(peak, live);
    for (const value of (ends.get(i) ?? []).filter(isResult)) live -= bytesOf(value);
  });
  return { peak, largest };
}

const sum = (sizes: readonly number[]) => sizes.reduce((n, size) => n + size, 0);
