/** The same model in the forms in which a file can store its tensors. */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { concatBytes, equalBytes } from '../../src/graph/bytes.js';
import { byteLength, dtypeOf, isFloat } from '../../src/graph/dtype.js';
import { readInt } from '../../src/graph/proto/message.js';
import {
  ATTRIBUTE_TYPE,
  type AttributeProto,
  DATA_LOCATION,
  type ModelProto,
  type NodeProto,
  parse,
  serialize,
  type TensorProto,
} from '../../src/graph/proto/schema.js';
import {
  elementField,
  encodeVarints,
  FIELD,
  isPlain,
  noFiles,
  readTensor,
} from '../../src/graph/proto/tensor.js';
import { FIXED32, FIXED64, VARINT, varint } from '../../src/graph/wire.js';

/** How each is called, and what it is. */
export const FORMS = {
  raw: 'raw_data in the file',
  typed: 'float_data, double_data, int32_data ..., packed',
  loose: 'the same, element by element',
  'one file': 'one file beside the model',
  'a file each': 'a file for each tensor, in a folder, without offset and length',
  'same bytes': 'tensors of equal contents share them in one file',
  constants: 'Constant nodes',
  'constants outside': 'Constant nodes whose tensors are in one file',
  numbers: 'Constant nodes, vectors of float32 as their value_floats',
  function: 'Constant nodes of a function that is the whole graph',
} as const;

export type Form = keyof typeof FORMS;

const isWeight = (t: TensorProto) => isFloat(dtypeOf(t.dataType ?? 0)) && (t.dims ?? []).length > 0;

/** Writes the model to `path` in this form, with its data files; all its tensors have to be in `bytes`. */
export async function writeAs(form: Form, bytes: Uint8Array, path: string): Promise<void> {
  const model = parse('ModelProto', bytes);
  const files = new Map<string, Uint8Array[]>();
  const graph = model.graph!;
  const inputs = new Set(graph.input?.map(v => v.name));
  // A Constant of one element is taken for a number of the arithmetic, not for a weight.
  const isMoved = (t: TensorProto) =>
    isWeight(t) && !inputs.has(t.name) && (t.dims ?? []).some(d => Number(readInt(d)) > 1);
  switch (form) {
    case 'raw':
      break;
    case 'typed':
    case 'loose':
      graph.initializer = graph.initializer?.map(t => (isWeight(t) ? elements(t, form === 'loose') : t));
      break;
    case 'one file':
    case 'a file each':
    case 'same bytes':
      graph.initializer = graph.initializer?.map((t, i) => (isWeight(t) ? outside(t, i, form, files) : t));
      break;
    default: {
      const moved = graph.initializer?.filter(isMoved) ?? [];
      graph.initializer = graph.initializer?.filter(t => !isMoved(t));
      const constants = moved.map((t, i) => constant(t, i, form, files));
      graph.node = [...constants, ...(graph.node ?? [])];
      // Of exporters that keep parameters in initializers alone, a Constant is known to be none.
      model.producerName = 'forms';
      if (form === 'function') intoFunction(model);
    }
  }
  for (const [name, pieces] of files) {
    await mkdir(dirname(join(dirname(path), name)), { recursive: true });
    await writeFile(join(dirname(path), name), concatBytes(pieces));
  }
  await writeFile(path, serialize('ModelProto', model));
}

const bytesOf = (t: TensorProto) => readTensor(t, { folder: '.', read: noFiles }).bytes;

/** With the elements in the field of their type. */
function elements(t: TensorProto, loose: boolean): TensorProto {
  const tensor = readTensor(t, { folder: '.', read: noFiles });
  const { rawData, floatData, doubleData, int32Data, ...rest } = t;
  const field = elementField(tensor.dtype);
  const width = byteLength(tensor.dtype, 1);
  const pieces = isPlain(tensor.dtype)
    ? Array.from({ length: tensor.size }, (_, i) => tensor.bytes.subarray(i * width, (i + 1) * width))
    : encodeVarints(tensor);
  if (!loose) return { ...rest, [field]: [concatBytes(pieces)] };
  const type = isPlain(tensor.dtype) ? (width === 8 ? FIXED64 : FIXED32) : VARINT;
  const tag = varint(FIELD[field] * 8 + type);
  return { ...rest, $unknowns: pieces.map(piece => concatBytes([tag, piece])) };
}

/** With the elements in another file; in one, those that are like others before them lie there only once. */
function outside(t: TensorProto, i: number, form: Form, files: Map<string, Uint8Array[]>): TensorProto {
  const bytes = bytesOf(t);
  const { rawData, floatData, doubleData, int32Data, ...rest } = t;
  if (form === 'a file each') {
    files.set(`weights/${i}.bin`, [bytes]);
    const externalData = [{ key: 'location', value: `weights/${i}.bin` }];
    return { ...rest, dataLocation: DATA_LOCATION.external, externalData };
  }
  const pieces = files.get('weights.bin') ?? [];
  files.set('weights.bin', pieces);
  const before = form === 'same bytes' ? pieces.findIndex(piece => equalBytes(piece, bytes)) : -1;
  const offset = pieces.slice(0, before < 0 ? undefined : before).reduce((n, piece) => n + piece.length, 0);
  if (before < 0) pieces.push(bytes);
  const entries = { location: 'weights.bin', offset: `${offset}`, length: `${bytes.length}` };
  const externalData = Object.entries(entries).map(([key, value]) => ({ key, value }));
  return { ...rest, dataLocation: DATA_LOCATION.external, externalData };
}

function constant(t: TensorProto, i: number, form: Form, files: Map<string, Uint8Array[]>): NodeProto {
  const isNumbers = form === 'numbers' && t.dataType === 1 && t.dims?.length === 1;
  const attribute: AttributeProto = isNumbers
    ? { name: 'value_floats', type: ATTRIBUTE_TYPE.floats, floats: floatsOf(bytesOf(t)) }
    : {
        name: 'value',
        type: ATTRIBUTE_TYPE.tensor,
        t: form === 'constants outside' ? outside(t, i, form, files) : t,
      };
  return { opType: 'Constant', output: [t.name ?? ''], attribute: [attribute] };
}

const floatsOf = (bytes: Uint8Array) => Array.from(new Float32Array(new Uint8Array(bytes).buffer));

/** The graph becomes one call of a function with its nodes; what else it has in initializers, inputs. */
function intoFunction(model: ModelProto): void {
  const graph = model.graph!;
  const outputs = graph.output!.map(v => v.name ?? '');
  const inputs = [...new Set([...(graph.input ?? []), ...(graph.initializer ?? [])].map(v => v.name ?? ''))];
  model.functions = [
    {
      name: 'Whole',
      domain: 'local',
      input: inputs,
      output: outputs,
      node: graph.node,
      opsetImport: model.opsetImport?.map(o => ({ ...o })),
    },
  ];
  model.opsetImport = [...(model.opsetImport ?? []), { domain: 'local', version: 1 }];
  model.irVersion = Math.max(Number(model.irVersion), 8);
  graph.node = [{ opType: 'Whole', domain: 'local', name: 'whole', input: inputs, output: outputs }];
  graph.valueInfo = [];
}

/** The tensor that a form gives this name, wherever it is: the second name of a place. */
export const nameAt = (place: string) => (JSON.parse(place) as string[])[1]!;
