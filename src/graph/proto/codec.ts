/** Bytes <-> Model. This folder is the only place that knows protobuf. */
import protobuf from 'protobufjs/minimal.js';
import { AgdError } from '../errors.js';
import type { Graph, Model, Value } from '../ir.js';
import { type ExternalReader, type Placement, Tensor } from '../tensor.js';
import { amend, readInt } from './message.js';
import { type GraphExtra, readModel, readOpsets } from './read.js';
import { type GraphProto, MESSAGES, type ModelProto, parse, serialize, type TensorProto } from './schema.js';
import { inherit, inPlace, noFiles, writeTensor } from './tensor.js';
import { writeFrame, writeModel, writeNode } from './write.js';

export { inherit, inline, inPlace, noFiles } from './tensor.js';

/** The versions that can be read. */
const IR_VERSIONS = [3, 13] as const;
const OPSETS = [7, 26] as const;

/** A protobuf's length is a signed 32-bit integer. */
const MAX_BYTES = 2 ** 31 - 1;

/** Initializers of at least this many bytes are written without a copy. */
const LARGE = 4096;

const NOTHING = new Uint8Array();

/**
 * Messages of a list that are serialized at a time: until a message is complete, protobufjs holds an object for each of its
 * numbers and strings.
 */
const PIECE = 256;

/**
 * Decodes a model. Every field is kept and written back by `encodeModel`. Tensors are views of `bytes`; external ones,
 * in files of `folder`, are read with `read` on demand. Throws `not-onnx`, `unsupported-version`, `unsupported-type`,
 * `invalid-model` or `external-data`.
 */
export function decodeModel(bytes: Uint8Array, folder = '.', read: ExternalReader = noFiles): Model {
  const proto = parseModel(bytes);
  checkVersion('IR version', Number(readInt(proto.irVersion)), IR_VERSIONS);
  checkVersion('ai.onnx opset', readOpsets(proto.opsetImport).get('') ?? 1, OPSETS);
  return readModel(proto, { folder, read });
}

/** The ModelProto of a model file, whose bytes fields are views of `bytes`. Throws `not-onnx`. */
function parseModel(bytes: Uint8Array): ModelProto {
  checkSize(bytes.length);
  const proto = parse('ModelProto', bytes);
  if (!proto.graph) throw new AgdError('not-onnx', 'Not an ONNX model: it has no graph.');
  return proto;
}

/** Throws `external-data` for a model that exceeds protobuf's limit. */
export function checkSize(bytes: number): void {
  if (bytes > MAX_BYTES)
    throw new AgdError(
      'external-data',
      `An ONNX file has at most 2 GiB, not ${bytes} bytes; its weights must be external data.`,
    );
}

function checkVersion(what: string, found: number, [least, most]: readonly [number, number]): void {
  if (found < least || found > most)
    throw new AgdError(
      'unsupported-version',
      `The model has ${what} ${found}; versions ${least} to ${most} are supported.`,
    );
}

/** Declares the types of these inner values in the files that `graph` is written to. */
export function listTypes(graph: Graph, values: readonly Value[]): void {
  const extra = graph.extra as GraphExtra | undefined;
  const listed = new Set([...(extra?.listed ?? []), ...values.map(v => v.name)]);
  graph.extra = { rest: extra?.rest, listed: [...listed] } satisfies GraphExtra;
}

/** Of what the graph of a file has beside its nodes, keeps the declared types alone. */
export function keepTypesAlone(graph: Graph): void {
  const listed = (graph.extra as GraphExtra | undefined)?.listed;
  graph.extra = undefined;
  if (listed) graph.extra = { rest: undefined, listed } satisfies GraphExtra;
}

/** Declares in the files of `to` what was declared of these inner values in those of `from`, where they were. */
export function moveTypes(from: Graph, to: Graph, values: readonly Value[]): void {
  const declared = new Set((from.extra as GraphExtra | undefined)?.listed);
  listTypes(
    to,
    values.filter(v => declared.has(v.name)),
  );
}

/**
 * The model as one file. Tensors that are still in another file can be left out: zeros in their place take no memory. Throws
 * `external-data` if that would exceed 2 GiB.
 */
export function encodeModel(
  model: Model,
  place: Placement = inPlace,
  isLeftOut: (tensor: Tensor) => boolean = () => false,
): Uint8Array {
  const chunks = encodeChunks(model, place);
  checkSize(byteCount(chunks));
  const bytes = new Uint8Array(byteCount(chunks));
  let at = 0;
  for (const chunk of chunks) {
    if (!(chunk instanceof Tensor && isLeftOut(chunk))) bytes.set(contentOf(chunk), at);
    at += chunk.byteLength;
  }
  return bytes;
}

/** A piece of a model file. A tensor stands for its bytes, which are still in another model file. */
export type Chunk = Uint8Array | Tensor;

/** Stands for a tensor whose bytes come later. */
class Unread extends Tensor {
  override get bytes(): Uint8Array {
    return NOTHING;
  }
}

/** The bytes of each piece, read when they are asked for. */
export function* bytesOf(chunks: Iterable<Chunk>): Generator<Uint8Array> {
  for (const chunk of chunks) yield contentOf(chunk);
}

const contentOf = (chunk: Chunk) => (chunk instanceof Tensor ? chunk.bytes : chunk);

/** The bytes of `encodeModel` in pieces, in order. Large initializers are the model's tensors, or views of them. */
export function encodeChunks(model: Model, place: Placement = inPlace): Chunk[] {
  const { graph } = model;
  const content = [
    ...listChunks('node', graph.nodes, node => writeNode(node, place)),
    ...frameChunks(writeFrame(graph)),
    ...initializerChunks(graph, place),
  ];
  const others = serialize('ModelProto', writeModel(model, place));
  return [others, header(MESSAGES.ModelProto!.graph!, content), ...content];
}

/** A list in pieces, of which one at a time is in memory as messages. */
function listChunks<T>(field: string, list: readonly T[], write: (item: T) => unknown): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let i = 0; i < list.length; i += PIECE)
    chunks.push(serialize('GraphProto', { [field]: list.slice(i, i + PIECE).map(write) }));
  return chunks;
}

/** The fields between nodes and initializers, in their order. */
const frameChunks = ({ $unknowns, ...graph }: GraphProto): Uint8Array[] => [
  ...(Object.keys(MESSAGES.GraphProto!) as (keyof typeof graph)[]).flatMap(field => {
    const content: unknown = graph[field];
    return Array.isArray(content)
      ? listChunks(field, content, item => item)
      : serialize('GraphProto', { [field]: content });
  }),
  serialize('GraphProto', { $unknowns }),
];

/** In order; adjacent small pieces are joined. */
function initializerChunks({ initializers }: Graph, place: Placement): Chunk[] {
  const chunks: Chunk[] = [];
  let small: TensorProto[] = [];
  const flush = () => {
    if (small.length) chunks.push(serialize('GraphProto', { initializer: small }));
    small = [];
  };
  for (const [{ name }, tensor] of initializers) {
    const isLater = tensor.stored !== undefined && tensor.byteLength >= LARGE && !place(tensor);
    const proto = writeTensor(isLater ? unread(tensor) : tensor, place, name);
    const data = isLater ? tensor : proto.rawData;
    if (!data || data.byteLength < LARGE) {
      if (small.push(proto) === PIECE) flush();
      continue;
    }
    flush();
    const content = [
      serialize('TensorProto', amend(proto, { rawData: undefined })),
      header(MESSAGES.TensorProto!.rawData!, [data]),
      data,
    ];
    chunks.push(header(MESSAGES.GraphProto!.initializer!, content), ...content);
  }
  flush();
  return chunks;
}

const unread = (tensor: Tensor) => inherit(new Unread(tensor.dtype, tensor.dims, NOTHING), tensor);

/** The header of a message or bytes field: its number and length. */
function header([, id]: [type: string, id: number], content: readonly Chunk[]): Uint8Array {
  return protobuf.Writer.create()
    .uint32((id << 3) | 2)
    .uint32(byteCount(content))
    .finish();
}

export function byteCount(chunks: readonly Chunk[]): number {
  return chunks.reduce((n, chunk) => n + chunk.byteLength, 0);
}
