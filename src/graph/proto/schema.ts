/**
 * ONNX's messages (1.23, IR 14). Their types extend those of onnx-proto, which ends at ONNX 1.10; the
 * compiler checks that the schema has all of their fields.
 *
 * Where the wire type is the same, three declarations differ from onnx.proto to keep a file's bytes as they
 * are: packed number arrays are chunks of bytes (views, decoded on demand), doc strings are bytes (files
 * in other encodings than UTF-8 exist), enumerations are int32 (values newer than ours survive).
 * Members of a oneof are plain fields.
 */
import type { onnx } from 'onnx-proto';
import { AgdError } from '../errors.js';
import { Interpreter } from './interpret.js';

type Fields<Known> = { [Name in keyof Known]-?: [type: string, id: number] } & Record<
  string,
  [string, number]
>;

const entry: Fields<onnx.IStringStringEntryProto> = { key: ['string', 1], value: ['string', 2] };

const attribute: Fields<onnx.IAttributeProto> = {
  name: ['string', 1],
  f: ['float', 2],
  i: ['int64', 3],
  s: ['bytes', 4],
  t: ['TensorProto', 5],
  g: ['GraphProto', 6],
  floats: ['float[]', 7],
  ints: ['int64[]', 8],
  strings: ['bytes[]', 9],
  tensors: ['TensorProto[]', 10],
  graphs: ['GraphProto[]', 11],
  docString: ['bytes', 13],
  tp: ['TypeProto', 14],
  typeProtos: ['TypeProto[]', 15],
  type: ['int32', 20],
  refAttrName: ['string', 21],
  sparseTensor: ['SparseTensorProto', 22],
  sparseTensors: ['SparseTensorProto[]', 23],
};

const valueInfo: Fields<onnx.IValueInfoProto> = {
  name: ['string', 1],
  type: ['TypeProto', 2],
  docString: ['bytes', 3],
  metadataProps: ['StringStringEntryProto[]', 4],
};

const node: Fields<onnx.INodeProto> = {
  input: ['string[]', 1],
  output: ['string[]', 2],
  name: ['string', 3],
  opType: ['string', 4],
  attribute: ['AttributeProto[]', 5],
  docString: ['bytes', 6],
  domain: ['string', 7],
  overload: ['string', 8],
  metadataProps: ['StringStringEntryProto[]', 9],
  deviceConfigurations: ['NodeDeviceConfigurationProto[]', 10],
};

const trainingInfo: Fields<onnx.ITrainingInfoProto> = {
  initialization: ['GraphProto', 1],
  algorithm: ['GraphProto', 2],
  initializationBinding: ['StringStringEntryProto[]', 3],
  updateBinding: ['StringStringEntryProto[]', 4],
};

const model: Fields<onnx.IModelProto> = {
  irVersion: ['int64', 1],
  producerName: ['string', 2],
  producerVersion: ['string', 3],
  domain: ['string', 4],
  modelVersion: ['int64', 5],
  docString: ['bytes', 6],
  graph: ['GraphProto', 7],
  opsetImport: ['OperatorSetIdProto[]', 8],
  metadataProps: ['StringStringEntryProto[]', 14],
  trainingInfo: ['TrainingInfoProto[]', 20],
  functions: ['FunctionProto[]', 25],
  configuration: ['DeviceConfigurationProto[]', 26],
};

const annotation: Fields<onnx.ITensorAnnotation> = {
  tensorName: ['string', 1],
  quantParameterTensorNames: ['StringStringEntryProto[]', 2],
};

const graph: Fields<onnx.IGraphProto> = {
  node: ['NodeProto[]', 1],
  name: ['string', 2],
  initializer: ['TensorProto[]', 5],
  docString: ['bytes', 10],
  input: ['ValueInfoProto[]', 11],
  output: ['ValueInfoProto[]', 12],
  valueInfo: ['ValueInfoProto[]', 13],
  quantizationAnnotation: ['TensorAnnotation[]', 14],
  sparseInitializer: ['SparseTensorProto[]', 15],
  metadataProps: ['StringStringEntryProto[]', 16],
};

const tensor: Fields<onnx.ITensorProto> = {
  dims: ['int64[]', 1],
  dataType: ['int32', 2],
  segment: ['Segment', 3],
  floatData: ['bytes[]', 4],
  int32Data: ['bytes[]', 5],
  stringData: ['bytes[]', 6],
  int64Data: ['bytes[]', 7],
  name: ['string', 8],
  rawData: ['bytes', 9],
  doubleData: ['bytes[]', 10],
  uint64Data: ['bytes[]', 11],
  docString: ['bytes', 12],
  externalData: ['StringStringEntryProto[]', 13],
  dataLocation: ['int32', 14],
  metadataProps: ['StringStringEntryProto[]', 16],
};

const segment: Fields<onnx.TensorProto.ISegment> = { begin: ['int64', 1], end: ['int64', 2] };

const sparseTensor: Fields<onnx.ISparseTensorProto> = {
  values: ['TensorProto', 1],
  indices: ['TensorProto', 2],
  dims: ['int64[]', 3],
};

const shape: Fields<onnx.ITensorShapeProto> = { dim: ['Dimension[]', 1] };

const dimension: Fields<onnx.TensorShapeProto.IDimension> = {
  dimValue: ['int64', 1],
  dimParam: ['string', 2],
  denotation: ['string', 3],
};

const type: Fields<onnx.ITypeProto> = {
  tensorType: ['TensorType', 1],
  sequenceType: ['ElementType', 4],
  mapType: ['MapType', 5],
  denotation: ['string', 6],
  opaqueType: ['OpaqueType', 7],
  sparseTensorType: ['TensorType', 8],
  optionalType: ['ElementType', 9],
};

const tensorType: Fields<onnx.TypeProto.ITensor & onnx.TypeProto.ISparseTensor> = {
  elemType: ['int32', 1],
  shape: ['TensorShapeProto', 2],
};

const elementType: Fields<onnx.TypeProto.ISequence & onnx.TypeProto.IOptional> = {
  elemType: ['TypeProto', 1],
};

const mapType: Fields<onnx.TypeProto.IMap> = { keyType: ['int32', 1], valueType: ['TypeProto', 2] };

const operatorSet: Fields<onnx.IOperatorSetIdProto> = { domain: ['string', 1], version: ['int64', 2] };

/** onnx-proto has this message with two fields that ONNX has since retired: `since_version` and `status`. */
const functionDef: Fields<Omit<onnx.IFunctionProto, 'sinceVersion' | 'status'>> = {
  name: ['string', 1],
  input: ['string[]', 4],
  output: ['string[]', 5],
  attribute: ['string[]', 6],
  node: ['NodeProto[]', 7],
  docString: ['bytes', 8],
  opsetImport: ['OperatorSetIdProto[]', 9],
  domain: ['string', 10],
  attributeProto: ['AttributeProto[]', 11],
  valueInfo: ['ValueInfoProto[]', 12],
  overload: ['string', 13],
  metadataProps: ['StringStringEntryProto[]', 14],
};

/** Every message by name; nested ones (TensorProto.Segment, TypeProto.Tensor ...) stand beside their owner. */
export const MESSAGES: Record<string, Record<string, [type: string, id: number]>> = {
  ModelProto: model,
  GraphProto: graph,
  NodeProto: node,
  AttributeProto: attribute,
  TensorProto: tensor,
  Segment: segment,
  SparseTensorProto: sparseTensor,
  ValueInfoProto: valueInfo,
  TypeProto: type,
  TensorType: tensorType,
  ElementType: elementType,
  MapType: mapType,
  OpaqueType: { domain: ['string', 1], name: ['string', 2] },
  TensorShapeProto: shape,
  Dimension: dimension,
  TensorAnnotation: annotation,
  TrainingInfoProto: trainingInfo,
  FunctionProto: functionDef,
  OperatorSetIdProto: operatorSet,
  StringStringEntryProto: entry,
  DeviceConfigurationProto: { name: ['string', 1], numDevices: ['int32', 2], device: ['string[]', 3] },
  NodeDeviceConfigurationProto: {
    configurationId: ['string', 1],
    shardingSpec: ['ShardingSpecProto[]', 2],
    pipelineStage: ['int32', 3],
  },
  ShardingSpecProto: {
    tensorName: ['string', 1],
    device: ['int64[]', 2],
    indexToDeviceGroupMap: ['IntIntListEntryProto[]', 3],
    shardedDim: ['ShardedDimProto[]', 4],
  },
  IntIntListEntryProto: { key: ['int64', 1], value: ['int64[]', 2] },
  ShardedDimProto: { axis: ['int64', 1], simpleSharding: ['SimpleShardedDimProto[]', 2] },
  SimpleShardedDimProto: { dimValue: ['int64', 1], dimParam: ['string', 2], numShards: ['int64', 3] },
};

type Numbers<Enum> = {
  [Name in keyof Enum as Lowercase<
    Name & string
  >]: `${Enum[Name] & number}` extends `${infer N extends number}` ? N : never;
};

/** AttributeProto.AttributeType. */
export const ATTRIBUTE_TYPE = {
  undefined: 0,
  float: 1,
  int: 2,
  string: 3,
  tensor: 4,
  graph: 5,
  floats: 6,
  ints: 7,
  strings: 8,
  tensors: 9,
  graphs: 10,
  sparse_tensor: 11,
  sparse_tensors: 12,
  type_proto: 13,
  type_protos: 14,
} as const satisfies Numbers<typeof onnx.AttributeProto.AttributeType>;

/** TensorProto.DataLocation. */
export const DATA_LOCATION = { default: 0, external: 1 } as const satisfies Numbers<
  typeof onnx.TensorProto.DataLocation
>;

/** A 64-bit integer on its way from or to the wire. */
export type Int64 = number | { low: number; high: number; unsigned: boolean };

/** Fields that the schema does not know, tags included. */
export interface Message {
  $unknowns?: Uint8Array[];
}

/** `Known`, an interface of onnx-proto, with the fields of `New` instead of its own of the same names. */
type Extend<Known, New> = Omit<Known, keyof New | 'docString'> & New & { docString?: Uint8Array } & Message;

export type Entry = onnx.IStringStringEntryProto & Message;
export type TensorProto = Extend<
  onnx.ITensorProto,
  {
    dims?: Int64[];
    dataType?: number;
    floatData?: Uint8Array[];
    int32Data?: Uint8Array[];
    int64Data?: Uint8Array[];
    doubleData?: Uint8Array[];
    uint64Data?: Uint8Array[];
    dataLocation?: number;
    externalData?: Entry[];
    metadataProps?: Entry[];
  }
>;
export type SparseTensorProto = Extend<onnx.ISparseTensorProto, { values?: TensorProto; dims?: Int64[] }>;
export type Dimension = Extend<onnx.TensorShapeProto.IDimension, { dimValue?: Int64 }>;
export type TensorShapeProto = Extend<onnx.ITensorShapeProto, { dim?: Dimension[] }>;
export type TensorTypeProto = Extend<onnx.TypeProto.ITensor, { shape?: TensorShapeProto }>;
export interface ElementTypeProto extends Message {
  elemType?: TypeProto;
}
export interface TypeProto
  extends Omit<onnx.ITypeProto, 'tensorType' | 'sequenceType' | 'optionalType'>,
    Message {
  tensorType?: TensorTypeProto;
  sequenceType?: ElementTypeProto;
  optionalType?: ElementTypeProto;
}
export type ValueInfoProto = Extend<onnx.IValueInfoProto, { type?: TypeProto; metadataProps?: Entry[] }>;
export type AttributeProto = Extend<
  onnx.IAttributeProto,
  {
    type?: number;
    i?: Int64;
    ints?: Int64[];
    t?: TensorProto;
    g?: GraphProto;
    tensors?: TensorProto[];
    graphs?: GraphProto[];
  }
>;
export type NodeProto = Extend<
  onnx.INodeProto,
  { attribute?: AttributeProto[]; overload?: string; metadataProps?: Entry[] }
>;
export interface GraphProto
  extends Omit<
      onnx.IGraphProto,
      'node' | 'initializer' | 'input' | 'output' | 'valueInfo' | 'sparseInitializer' | 'docString'
    >,
    Message {
  node?: NodeProto[];
  initializer?: TensorProto[];
  input?: ValueInfoProto[];
  output?: ValueInfoProto[];
  valueInfo?: ValueInfoProto[];
  sparseInitializer?: SparseTensorProto[];
  metadataProps?: Entry[];
}
export type OperatorSetIdProto = Extend<onnx.IOperatorSetIdProto, { version?: Int64 }>;
export type FunctionProto = Extend<
  Omit<onnx.IFunctionProto, 'sinceVersion' | 'status'>,
  {
    node?: NodeProto[];
    opsetImport?: OperatorSetIdProto[];
    attributeProto?: AttributeProto[];
    valueInfo?: ValueInfoProto[];
    overload?: string;
  }
>;
export type TrainingInfoProto = Extend<
  onnx.ITrainingInfoProto,
  { initialization?: GraphProto; algorithm?: GraphProto }
>;
export type ModelProto = Extend<
  onnx.IModelProto,
  {
    irVersion?: Int64;
    modelVersion?: Int64;
    graph?: GraphProto;
    opsetImport?: OperatorSetIdProto[];
    metadataProps?: Entry[];
    functions?: FunctionProto[];
    trainingInfo?: TrainingInfoProto[];
  }
>;

interface Messages {
  ModelProto: ModelProto;
  GraphProto: GraphProto;
  TensorProto: TensorProto;
  TypeProto: TypeProto;
  StringStringEntryProto: Entry;
}

const interpreter = new Interpreter(MESSAGES);

/**
 * Parses a message; what the schema does not know is kept. Strings and bytes are views where possible. Throws `not-onnx`.
 */
export function parse<Name extends keyof Messages>(name: Name, bytes: Uint8Array): Messages[Name] {
  try {
    return interpreter.read(name, bytes) as Messages[Name];
  } catch (error) {
    throw new AgdError('not-onnx', `Not an ONNX file, or damaged: ${(error as Error).message}.`);
  }
}

/** Serializes a message, unknown fields included. */
export function serialize<Name extends keyof Messages>(name: Name, message: Messages[Name]): Uint8Array {
  const bytes = interpreter.write(name, message);
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
