import { basename, dirname, resolve } from 'node:path';
import * as ort from 'onnxruntime-node';
import { cloneModel } from '../graph/clone.js';
import { byteLength, type DType } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import { stampOfExternal } from '../graph/files.js';
import { type Graph, Model, showShape, type TensorType } from '../graph/ir.js';
import { encodeModel, inline } from '../graph/proto/codec.js';
import { record } from '../graph/record.js';
import { type ExternalData, type Placement, Tensor, type TypedArray } from '../graph/tensor.js';
import { narrowSplits } from '../passes/common/narrow-splits.js';
import { checkAttributes } from '../passes/normalize/check-attributes.js';
import type { ShapeOracle } from '../passes/normalize/infer-shapes.js';
import { type Device, placeOf } from '../passes/options.js';
import { withoutIdleDropout } from '../passes/run/idle-dropout.js';
import { type Symbols, settle } from './data/fit.js';
import { resolveDevice } from './devices/choose.js';
import type { Concrete } from './devices/faults.js';
import { runtimeError, textOf } from './runtime-errors.js';
import { webgpuProvider } from './webgpu.js';

// Errors are thrown; what the runtime would print beside that is noise.
ort.env.logLevel = 'fatal';

/**
 * The runtime fuses DequantizeLinear and MatMul into a kernel that by default rounds activations to 8 bits, which the model
 * does not: the loss would not be the one that the gradients belong to.
 */
const IN_FLOAT = { qdq_matmulnbits_accuracy_level: '1' };

/** Where some scales are constants, the runtime otherwise fuses part of a layer that its gradient reads, and stops. */
const APART = { disable_quant_qdq: '1' };

/**
 * Of what is left of an operator, a thread takes its share, and another one when it is done: one may be held up by other programs.
 * Smaller shares are slower: a thread then reads more of what others wrote in the node before.
 */
const IN_PARTS = { dynamic_block_base: '1' };

let denormals: Record<string, string> = {};

/**
 * Makes zero of numbers too small to be normal (float32: below 1.2e-38), on which processors are many times slower, in all
 * sessions made after this. Softmax under a mask passes through them, and moving averages of gradients that are
 * zero. Where this process has made no session before, the calling thread computes so too, JavaScript with it.
 */
export function flushDenormals(): void {
  denormals = { set_denormal_as_zero: '1' };
}

/**
 * Frees what is no longer referred to, where the process was started with --expose-gc. The engine does not count what the
 * runtime allocates, so that the files and models of a preparation would stay beside it. A second collection returns to the
 * system the pages that the first one emptied.
 */
export function freeMemory(): void {
  globalThis.gc?.();
  globalThis.gc?.();
}

/** Memory is freed around the creation of sessions of at least this many bytes. */
const LEAST_FREED = 2 ** 24;
const storedBytes = ({ graph }: Model) =>
  [...graph.initializers.values()].reduce((n, tensor) => n + tensor.byteLength, 0);

/** Tensors by the name of the graph input or output they belong to. */
export type Feeds = Record<string, Tensor>;

export type SessionOptions = {
  /**
   * Where to run; what the device has no kernel for runs on the CPU. `cuda:1` is the second GPU, `auto` the fastest that is
   * available. Default: cpu.
   */
  device?: Device;
  /** Threads within an operator; as many as there are cores where not given. */
  threads?: number;
  /** Off keeps every value of the graph as it is written. */
  optimize?: boolean;
  /** Off keeps QuantizeLinear and DequantizeLinear apart from the operators between them, without integer kernels. */
  integerKernels?: boolean;
};

/**
 * `stay`: outputs that are left on the device, where a later run can read them. `saved`: a file that the runtime writes the
 * model to in its own format (.ort), after its optimizations of this level, as
 * `onnxruntime.tools.convert_onnx_models_to_ort` does.
 */
type Outputs = { stay?: readonly string[]; saved?: { path: string; level: OptimizationLevel } };

/** As onnxruntime names them, whose types need the DOM's. */
export type OptimizationLevel = 'disabled' | 'basic' | 'all';

/** Blocked convolutions are those of one processor. */
const PORTABLE = { disable_specified_optimizers: 'NchwcTransformer' };

/** A model, its bytes, or its file. */
type Source = Model | Uint8Array | string;

/** A model ready to run. Sessions hold native memory: release them. */
export class Session {
  private constructor(
    private readonly session: ort.InferenceSession,
    private readonly device: Concrete,
  ) {}

  /**
   * Throws `bad-option` for such a number of threads or device, `device` where the execution provider cannot be used, `no-kernel` for an operator that it cannot run,
   * `runtime` with the runtime's own words where it refuses the model.
   */
  static async create(
    given: Source,
    {
      device: wanted,
      threads,
      optimize = true,
      integerKernels = true,
      stay,
      saved,
    }: SessionOptions & Outputs = {},
  ): Promise<Session> {
    const { device } = await resolveDevice(wanted);
    if (threads !== undefined && !(Number.isSafeInteger(threads) && threads > 0))
      throw new AgdError('bad-option', `threads must be a whole number of at least 1, not ${threads}.`);
    const source = device === 'webgpu' && given instanceof Model ? forWebgpu(given) : given;
    const { place, beside, ...folder } = source instanceof Model ? mapped(source) : NOTHING_MAPPED;
    const options: ort.InferenceSession.SessionOptions = {
      logSeverityLevel: 4,
      executionProviders: device === 'cpu' ? ['cpu'] : [provider(device, source), 'cpu'],
      graphOptimizationLevel: saved?.level ?? (optimize ? 'all' : 'disabled'),
      // A block planned for a whole run comes on top of what the arena holds from the run that it was planned from.
      enableMemPattern: false,
      extra: {
        session: {
          ...IN_FLOAT,
          ...IN_PARTS,
          ...(integerKernels ? {} : APART),
          ...denormals,
          ...folder,
          ...(saved ? { save_model_format: 'ORT' } : {}),
        },
        ...(saved ? { optimization: PORTABLE } : {}),
      },
      ...(saved ? { optimizedModelFilePath: saved.path } : {}),
      ...(beside ? { externalData: beside } : {}),
      ...(threads ? { intraOpNumThreads: threads } : {}),
      ...(stay?.length
        ? { preferredOutputLocation: Object.fromEntries(stay.map(name => [name, 'gpu-buffer'])) }
        : {}),
    };
    if (source instanceof Model) checkAttributes(source.graph);
    const model = source instanceof Model ? encoded(source, place) : source;
    if (source instanceof Model && storedBytes(source) > LEAST_FREED) freeMemory();
    const load = (level = options.graphOptimizationLevel) => {
      const chosen = { ...options, graphOptimizationLevel: level };
      return typeof model === 'string'
        ? ort.InferenceSession.create(model, chosen)
        : ort.InferenceSession.create(model, chosen);
    };
    try {
      // Where a Cast of 16-bit floats has the type that it had, the runtime breaks its types, and mends them as it optimizes.
      const made = load().catch(error => {
        if (optimize || !/InsertedPrecisionFreeCast_/.test(String(error))) throw error;
        return load('basic');
      });
      return new Session(await made, device);
    } catch (error) {
      throw runtimeError(
        'ONNX Runtime does not load the model',
        error,
        device,
        source instanceof Model ? source : undefined,
      );
    }
  }

  get inputs(): readonly string[] {
    return this.session.inputNames;
  }
  get outputs(): readonly string[] {
    return this.session.outputNames;
  }

  /** The outputs that the interface returns: no sequences, nor maps such as scikit-learn's classifiers end in. */
  get #tensors(): readonly string[] {
    this.#returned ??= [...this.outputTypes().keys()];
    return this.#returned;
  }
  #returned?: readonly string[];

  /** Types of the graph outputs; extents the runtime cannot tell are null. */
  outputTypes(): Map<string, TensorType> {
    return tensorTypes(this.session.outputMetadata);
  }

  /**
   * Runs the graph; `fetch` names the outputs wanted, all tensors where not given. Throws `bad-dtype` or `bad-shape` for feeds
   * that do not fit their inputs, else `runtime` with the runtime's own words.
   */
  async run(given: Feeds, fetch: readonly string[] = this.#tensors): Promise<Feeds> {
    const feeds = asFeeds(given);
    checkNames([...this.inputs, ...fetch]);
    // Where an output has the name of a property that objects inherit, the runtime takes it for asked for.
    const asked = this.outputs.some(name => name in {}) ? this.#tensors : fetch;
    if (!asked.length) return record({});
    const inputs = record(mapValues(feeds, toOrt));
    try {
      const results = await this.session.run(inputs, [...asked]);
      return record(Object.fromEntries(fetch.map(name => [name, fromOrt(results[name]!)])));
    } catch (error) {
      throw this.#stopped(error, feeds);
    }
  }

  #stopped(error: unknown, feeds: Feeds): AgdError {
    return (
      misfit(tensorTypes(this.session.inputMetadata), feeds) ??
      runtimeError('ONNX Runtime stopped', error, this.device)
    );
  }

  /** Whether `runInto` can write such a tensor: the binding of Node alone copies what it was given. */
  static takes({ dtype }: Tensor): boolean {
    return ort.env.versions?.web === undefined && WRITABLE.has(dtype);
  }

  /**
   * Runs the graph and writes the outputs into the bytes of these tensors, which are those of its outputs in type and shape.
   *
   * onnxruntime-node 1.30 lets the runtime write into tensors that a caller gives, and then allocates and copies each of
   * them once more, which takes 10 ns per parameter. `unread`, the first output, is a sequence: at that it stops, after
   * the run, before it has copied anything. Bindings that convert sequences return as from any other run. `witness` is an
   * output that never is all ones: it shows that the run has taken place.
   */
  async runInto(feeds: Feeds, outputs: Feeds, unread: string, witness: string): Promise<void> {
    checkNames([...this.inputs, ...this.outputs]);
    const inputs = record(mapValues(feeds, toOrt));
    const { bytes } = outputs[witness]!;
    bytes.fill(0xff);
    try {
      await this.session.run(inputs, record({ ...mapValues(outputs, toOrt), [unread]: null }));
    } catch (error) {
      if (!NOT_A_TENSOR.test(textOf(error))) throw this.#stopped(error, feeds);
    }
    if (bytes.every(byte => byte === 0xff))
      throw new AgdError('runtime', 'ONNX Runtime did not write into the arrays that it was given.');
  }

  async release(): Promise<void> {
    await this.session.release();
  }
}

/** Their arrays share memory with what the runtime gets. */
const WRITABLE: ReadonlySet<DType> = new Set(['float32', 'float64', 'float16', 'int64', 'int32', 'uint8']);

/** What the binding says of an output that it does not convert. */
const NOT_A_TENSOR = /^non.tensor/i;

/** The runtime's interface keeps tensors as properties of objects, where one name has no place. */
function checkNames(names: readonly string[]): void {
  if (names.includes('__proto__'))
    throw new AgdError(
      'invalid-model',
      "ONNX Runtime cannot be fed an input, or asked for an output, of the name '__proto__': rename it.",
    );
}

/** How the runtime reports an extent that it cannot tell: '' or -1, in WebAssembly -1 read without its sign. */
const UNKNOWN: ReadonlySet<string | number> = new Set(['', -1, 2 ** 32 - 1]);

/** Types by name, of those that are tensors; extents the runtime cannot tell are null. */
function tensorTypes(metadata: readonly ort.InferenceSession.ValueMetadata[]): Map<string, TensorType> {
  return new Map(
    metadata.flatMap((m): [string, TensorType][] => {
      if (!m.isTensor) return [];
      const shape = m.shape.map(d => (UNKNOWN.has(d) ? null : d));
      return [[m.name, { kind: 'tensor', dtype: m.type as DType, shape }]];
    }),
  );
}

/** The error for the first of the feeds that is not what its input takes. */
export function misfit(types: ReadonlyMap<string, TensorType>, feeds: Feeds): AgdError | undefined {
  let symbols: Symbols = new Map();
  for (const [name, { dtype, shape = [] }] of types) {
    const tensor = feeds[name];
    // A runtime may describe an unknown rank as that of a scalar.
    const settled = tensor && (shape.length ? settle(tensor.dims, shape, symbols) : symbols);
    if (!tensor || (settled && tensor.dtype === dtype)) {
      symbols = settled ?? symbols;
      continue;
    }
    const bound = shape.filter(d => typeof d === 'string' && symbols.has(d));
    const where = bound.map(d => `, ${d} = ${symbols.get(d as string)}`).join('');
    return new AgdError(
      tensor.dtype === dtype ? 'bad-shape' : 'bad-dtype',
      `Input '${name}' takes ${dtype} ${showShape(shape)}${where}, but its array is ${tensor.dtype} ${showShape(tensor.dims)}.`,
    );
  }
  return undefined;
}

const encoded = (model: Model, place: Placement) =>
  process.platform === BROWSER
    ? withoutIdleDropout(model, () => encodeModel(model, place))
    : encodeModel(model, place);

/** Tensors of fewer bytes are copied into the session, where shape inference sees them. */
const LEAST_MAPPED = 2 ** 16;

/** The folder under the runtime's name for it; `beside` are the contents of tensors that the model does not hold. */
type Mapped = {
  model_external_initializers_file_folder_path?: string;
  place: Placement;
  beside?: { path: string; data: Uint8Array }[];
};
/** What `process.platform` is in a page. */
const BROWSER = 'browser' as NodeJS.Platform;
const UNMAPPED: readonly NodeJS.Platform[] = ['win32', BROWSER];
const NOTHING_MAPPED: Mapped = { place: inline };

/**
 * Which of a model's initializers the runtime maps from the files that hold them, so that they take no memory of this
 * process: large ones that were not read yet. The files are in one folder, as the runtime takes only one. Numbers begin at
 * a multiple of their size, as kernels expect it. Windows does not let a mapped file be replaced, as saving does, and a
 * browser's files are in memory.
 */
function mapped({ graph }: Model): Mapped {
  if (ort.env.versions?.web !== undefined) return besideModel(graph);
  if (UNMAPPED.includes(process.platform)) return NOTHING_MAPPED;
  const initializers = new Set(graph.initializers.values());
  const inFile = (tensor: Tensor) => {
    const { stored, external, dtype, byteLength: length } = tensor;
    if (!initializers.has(tensor) || length < LEAST_MAPPED || dtype === 'int64') return undefined;
    const found = stored?.isCurrent()
      ? { folder: dirname(stored.path), location: basename(stored.path), offset: stored.offset, length }
      : external && isUnchanged(external) && { ...external, folder: resolve(external.folder) };
    return found && found.offset % byteLength(dtype, 1) === 0 ? found : undefined;
  };
  // Reading a changed file is an error, which mapping it would hide.
  const isUnchanged = (data: ExternalData) =>
    data.stamp === undefined || data.stamp === stampOfExternal(data);
  const folder = [...initializers].map(inFile).find(found => found)?.folder;
  return {
    ...(folder === undefined ? {} : { model_external_initializers_file_folder_path: folder }),
    place: tensor => {
      const found = inFile(tensor);
      return found?.folder === folder ? found : undefined;
    },
  };
}

/** A copy: names are given to nodes of it, and Splits replaced. */
function forWebgpu(model: Model): Model {
  const copy = cloneModel(model);
  narrowSplits(copy);
  return copy;
}

/**
 * Large initializers beside the model, where the runtime is WebAssembly: it copies each into its memory once. Those in the
 * model would take its memory, which never shrinks, several times: as bytes, as parsed and as tensors.
 */
function besideModel({ initializers }: Graph): Mapped {
  const beside: { path: string; data: Uint8Array }[] = [];
  const places = new Map<Tensor, ExternalData>();
  for (const tensor of initializers.values()) {
    const { dtype, byteLength: length } = tensor;
    if (length < LEAST_MAPPED || dtype === 'int64' || tensor.strings || places.has(tensor)) continue;
    const location = `${beside.length}`;
    places.set(tensor, { folder: '', location, offset: 0, length });
    beside.push({ path: location, data: tensor.bytes });
  }
  return beside.length ? { place: tensor => places.get(tensor), beside } : NOTHING_MAPPED;
}

function provider(device: Concrete, source: Source): ort.InferenceSession.ExecutionProviderConfig {
  const { provider: name, gpu } = placeOf(device);
  if (name === 'webgpu' && source instanceof Model) return webgpuProvider(source);
  return name === 'cuda' ? { name, deviceId: gpu } : name;
}

/** The buffers of tensors that are on the device. */
const buffers = new WeakMap<Tensor, ort.Tensor>();
let held = 0;

/** How many tensors are on the device: each takes memory there until it is freed. */
export const tensorsOnDevice = () => held;

export const isOnDevice = (tensor: Tensor) => buffers.has(tensor);

/** Frees the memory that tensors take on the device; those elsewhere stay as they are. */
export function freeOnDevice(tensors: Iterable<Tensor>): void {
  for (const tensor of tensors) {
    const buffer = buffers.get(tensor);
    if (!buffer) continue;
    buffer.dispose();
    buffers.delete(tensor);
    held--;
  }
}

/** A tensor whose elements are on the device; `putBytes` lets them be read here too. */
class DeviceTensor extends Tensor {
  #here: Uint8Array | undefined;

  constructor(dtype: DType, dims: readonly number[]) {
    super(dtype, [...dims], () => {
      if (this.#here) return this.#here;
      throw new AgdError(
        'bad-state',
        "Parameters and optimizer state are on the device: await the trainer's fetchState() before reading them.",
      );
    });
  }

  get isHere(): boolean {
    return this.#here !== undefined;
  }

  putBytes(bytes: Uint8Array): void {
    this.#here = bytes;
  }
}

function onDevice(buffer: ort.Tensor): DeviceTensor {
  const tensor = new DeviceTensor(buffer.type as DType, buffer.dims);
  buffers.set(tensor, buffer);
  held++;
  return tensor;
}

/** Of these tensors, those that are on the device alone. */
export function onDeviceAlone(tensors: Feeds): Record<string, DeviceTensor> {
  const found = Object.entries(tensors).filter(
    (entry): entry is [string, DeviceTensor] => entry[1] instanceof DeviceTensor && !entry[1].isHere,
  );
  return record(Object.fromEntries(found));
}

function toOrt(t: Tensor): ort.Tensor {
  const buffer = buffers.get(t);
  if (buffer) return buffer;
  const data = t.dtype === 'bool' ? new Uint8Array(t.bytes) : t.data;
  return new ort.Tensor(t.dtype as ort.Tensor.Type, data as never, t.dims);
}

/**
 * What a caller feeds, as tensors of this project: those of onnxruntime are taken over, without a copy. Throws `bad-data`
 * for anything else.
 */
export function asFeeds(feeds: Readonly<Record<string, unknown>>): Feeds {
  return record(mapValues(feeds, (t, name) => asTensor(name, t)));
}

function mapValues<A, B>(map: Readonly<Record<string, A>>, change: (value: A, name: string) => B) {
  return Object.fromEntries(Object.entries(map).map(([name, value]) => [name, change(value, name)]));
}

function asTensor(name: string, given: unknown): Tensor {
  if (given instanceof Tensor) return given;
  const { type, dims, data } = (given ?? {}) as Partial<ort.Tensor>;
  if (typeof type === 'string' && Array.isArray(dims) && data) return fromOrt(given as ort.Tensor);
  const found =
    given === null || typeof given !== 'object'
      ? String(given)
      : `${/^[AEIOU]/.test(given.constructor?.name) ? 'an' : 'a'} ${given.constructor?.name ?? 'object'}`;
  throw new AgdError(
    'bad-data',
    `Input '${name}' is fed ${found}, but takes a Tensor, such as Tensor.from('float32', [32, 4], values).`,
  );
}

function fromOrt(t: ort.Tensor): Tensor {
  if (t.location === 'gpu-buffer') return onDevice(t);
  if (t.type === 'string') {
    const tensor = new Tensor('string', t.dims, new Uint8Array());
    tensor.strings = (t.data as string[]).map(text => new TextEncoder().encode(text));
    return tensor;
  }
  return Tensor.from(t.type as DType, t.dims, t.data as TypedArray);
}

/** Shapes as ONNX Runtime infers them; optimization is off so that no value disappears. */
export async function sessionShapes(model: Model | Uint8Array): Promise<Map<string, TensorType>> {
  const session = await Session.create(model, { optimize: false, threads: 1 });
  try {
    return session.outputTypes();
  } finally {
    await session.release();
  }
}

/** The same, with data that tell what inference leaves open: those of one batch, asked for where they are needed. */
export const shapesIn = (data: () => Feeds): ShapeOracle => {
  let batch: Feeds | undefined;
  const feeds = () => {
    batch ??= record(data());
    return batch;
  };
  const rank = (input: string) => feeds()[input]?.dims.length;
  const run = async (model: Model, values: ReadonlyMap<string, Tensor>) => {
    const session = await Session.create(model, { optimize: false });
    try {
      const types = session.outputTypes();
      const inputs = session.inputs.map(name => [name, feeds()[name] ?? values.get(name)] as const);
      if (inputs.some(([, tensor]) => !tensor)) return new Map<string, TensorType>();
      const seen = await session.run(Object.fromEntries(inputs) as Feeds);
      for (const [name, type] of types) type.shape = seen[name]!.dims.map(() => null);
      return types;
    } finally {
      await session.release();
    }
  };
  return Object.assign((model: Model) => sessionShapes(model), { observed: { rank, run } });
};
