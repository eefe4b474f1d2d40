/**
 * Models in ONNX Runtime's own format (.ort): a FlatBuffer with the identifier ORTM, of onnxruntime's schema `ort.fbs`. Only
 * its nodes and the types of their values are read.
 */
import { type DType, dtypeOf } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { isOrtFormat } from '../../graph/files.js';
import { FlatTable } from '../data/flatbuffer.js';

/** A node of a graph or of a subgraph: its operator, and the element types of its values, where it has these. */
export type OrtNode = {
  /** `ai.onnx` for ONNX's own. */
  domain: string;
  operator: string;
  /** The version of the operator set that the operator is from. */
  since: number;
  inputs: (DType | undefined)[];
  outputs: (DType | undefined)[];
};

/** The fields of each table, by their position in the schema. */
const SESSION = { model: 1 };
const MODEL = { graph: 7 };
const GRAPH = { values: 1, nodes: 2 };
const NODE = { domain: 2, since: 3, operator: 5, inputs: 8, outputs: 9, attributes: 10 };
const VALUE = { name: 0, type: 2 };
const TYPE = { kind: 1, value: 2 };
const ATTRIBUTE = { graph: 7, graphs: 12 };

const [TENSOR, SEQUENCE] = [1, 2];

/** The nodes of a model, those of subgraphs included. Throws `not-onnx` where the bytes are not, or not all of, an .ort file. */
export function readOrtNodes(bytes: Uint8Array): OrtNode[] {
  try {
    const graph = isOrtFormat(bytes)
      ? FlatTable.root(bytes).table(SESSION.model)?.table(MODEL.graph)
      : undefined;
    if (!graph) throw new RangeError('it has no graph');
    return nodesOf(graph, new Map());
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new AgdError('not-onnx', `Not a model in ONNX Runtime's format, or damaged: ${error.message}.`, {
      cause: error,
    });
  }
}

type Types = ReadonlyMap<string, DType | undefined>;

/** `outer` are the types of the graphs around it. */
function nodesOf(graph: FlatTable, outer: Types): OrtNode[] {
  const types = new Map([
    ...outer,
    ...graph.tables(GRAPH.values).map(v => [v.string(VALUE.name), elementType(v.table(VALUE.type))] as const),
  ]);
  const typesOf = (names: readonly string[]) => names.map(name => types.get(name));
  return graph.tables(GRAPH.nodes).flatMap(node => [
    {
      domain: node.string(NODE.domain) || 'ai.onnx',
      operator: node.string(NODE.operator),
      since: node.int32(NODE.since),
      inputs: typesOf(node.strings(NODE.inputs)),
      outputs: typesOf(node.strings(NODE.outputs)),
    },
    ...node
      .tables(NODE.attributes)
      .flatMap(attribute =>
        [attribute.table(ATTRIBUTE.graph) ?? [], attribute.tables(ATTRIBUTE.graphs)].flat(),
      )
      .flatMap(inner => nodesOf(inner, types)),
  ]);
}

/** That of a tensor, or of the tensors in a sequence. */
function elementType(type: FlatTable | undefined): DType | undefined {
  const value = type?.table(TYPE.value);
  switch (type?.byte(TYPE.kind)) {
    case TENSOR: {
      const code = value?.int32(0) ?? 0;
      return code === 0 ? undefined : dtypeOf(code);
    }
    case SEQUENCE:
      return elementType(value?.table(0));
    default:
      return undefined;
  }
}
