import { describe, expect, it } from 'vitest';
import { dtypeCode } from '../../src/graph/dtype.js';
import { cutTensors, fillTensors, patchModel as patchPlaces } from '../../src/graph/patch.js';
import { placeOf, tensorsOf } from '../../src/graph/places.js';
import { decodeModel } from '../../src/graph/proto/codec.js';
import { locateTensors } from '../../src/graph/proto/locate.js';
import {
  ATTRIBUTE_TYPE,
  type GraphProto,
  serialize,
  type TensorProto,
} from '../../src/graph/proto/schema.js';
import { concat } from '../../src/graph/proto/tensor.js';
import { Tensor } from '../../src/graph/tensor.js';

/** Where the tensors below are. */
const PATHS: Record<string, string[]> = {
  hidden: ['hidden', 'value'],
  numbers: ['numbers', 'value_floats'],
  number: ['number', 'value_float'],
  deep: ['y', 'then_branch', 'deep', 'value'],
  inner: ['y', 'then_branch', 'raw'],
  sparse: ['sparse', 'values'],
};
const at = (name: string) =>
  name === 'own' ? placeOf(['local:F:', 'own', 'value']) : placeOf(['', ...(PATHS[name] ?? [name])]);
const patchModel = (file: Uint8Array, values: ReadonlyMap<string, Tensor>) =>
  concat(patchPlaces(file, new Map([...values].map(([name, t]) => [at(name), t]))));
const cut = (file: Uint8Array, names: string[]) =>
  cutTensors(file, new Map(names.map(name => [at(name), name])));

const floats = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);
const tensor = (...values: number[]) => Tensor.from('float32', [values.length], Float32Array.from(values));
const constant = (output: string, t: TensorProto) => ({
  opType: 'Constant',
  output: [output],
  attribute: [{ name: 'value', type: ATTRIBUTE_TYPE.tensor, t }],
});

/** One tensor of every form, each of two elements, 1 and 2. */
const graph: GraphProto = {
  name: 'g',
  initializer: [
    { name: 'raw', dataType: 1, dims: [2], rawData: floats(1, 2) },
    { name: 'packed', dataType: 1, dims: [2], floatData: [floats(1, 2)] },
    { name: 'chunks', dataType: 1, dims: [2], floatData: [floats(1), floats(2)] },
    { name: 'loose', dataType: 1, dims: [2], $unknowns: [1, 2].map(n => Uint8Array.of(0x25, ...floats(n))) },
    {
      name: 'mixed',
      dataType: 1,
      dims: [2],
      $unknowns: [Uint8Array.of(0x25, ...floats(1)), Uint8Array.of(0x22, 4, ...floats(2))],
    },
    { name: 'double', dataType: 11, dims: [2], doubleData: [new Uint8Array(Float64Array.of(1, 2).buffer)] },
    {
      name: 'half',
      dataType: dtypeCode('float16'),
      dims: [2],
      int32Data: [Uint8Array.of(0x80, 0x78, 0x80, 0x80, 1)],
    },
    {
      name: 'loose half',
      dataType: dtypeCode('float16'),
      dims: [2],
      $unknowns: [Uint8Array.of(0x28, 0x80, 0x78), Uint8Array.of(0x28, 0x80, 0x80, 1)],
    },
    { name: 'brain', dataType: dtypeCode('bfloat16'), dims: [2], int32Data: [Uint8Array.of(1, 2)] },
    { name: 'byte', dataType: dtypeCode('int8'), dims: [2], int32Data: [Uint8Array.of(1, 2)] },
    { name: 'integer', dataType: dtypeCode('int32'), dims: [2], int32Data: [Uint8Array.of(1, 2)] },
    { name: 'long', dataType: dtypeCode('int64'), dims: [2], int64Data: [Uint8Array.of(1, 2)] },
    { name: 'unsigned', dataType: dtypeCode('uint32'), dims: [2], uint64Data: [Uint8Array.of(1, 2)] },
    { name: 'unsigned long', dataType: dtypeCode('uint64'), dims: [2], uint64Data: [Uint8Array.of(1, 2)] },
    {
      name: 'outside',
      dataType: 1,
      dims: [2],
      dataLocation: 1,
      externalData: [
        { key: 'location', value: 'w' },
        { key: 'checksum', value: 'da39' },
      ],
    },
  ],
  sparseInitializer: [
    {
      values: { name: 'sparse', dataType: 1, dims: [2], rawData: floats(1, 2) },
      indices: { dataType: 7, dims: [2], int64Data: [Uint8Array.of(0, 3)] },
      dims: [2, 2],
    },
  ],
  node: [
    constant('hidden', { dataType: 1, dims: [2], rawData: floats(1, 2) }),
    {
      opType: 'Constant',
      output: ['numbers'],
      attribute: [{ name: 'value_floats', type: ATTRIBUTE_TYPE.floats, floats: [1, 2] }],
    },
    {
      opType: 'Constant',
      output: ['number'],
      attribute: [{ name: 'value_float', type: ATTRIBUTE_TYPE.float, f: 1 }],
    },
    {
      opType: 'If',
      input: ['raw'],
      output: ['y'],
      attribute: [
        {
          name: 'then_branch',
          type: ATTRIBUTE_TYPE.graph,
          g: {
            initializer: [{ name: 'raw', dataType: 1, dims: [2], rawData: floats(1, 2) }],
            node: [constant('deep', { dataType: 1, dims: [2], rawData: floats(1, 2) })],
          },
        },
      ],
    },
  ],
};
const bytes = serialize('ModelProto', {
  irVersion: 8,
  opsetImport: [{ version: 17 }],
  graph,
  functions: [
    {
      name: 'F',
      domain: 'local',
      output: ['own'],
      node: [constant('own', { dataType: 1, dims: [2], rawData: floats(1, 2) })],
    },
  ],
  $unknowns: [Uint8Array.of(0xa0, 0x38, 1)],
});

/** The positions at which two files of one length differ. */
const differences = (a: Uint8Array, b: Uint8Array) => [...a.keys()].filter(i => a[i] !== b[i]);

const tensorAt = (file: Uint8Array, name: string) =>
  [...tensorsOf(decodeModel(file))].find(({ place }) => place === at(name))!.tensor;
const numbersAt = (file: Uint8Array, name: string) => tensorAt(file, name).numbers();

describe('patching', () => {
  it.each([
    'raw',
    'packed',
    'chunks',
    'loose',
    'mixed',
    'hidden',
    'numbers',
    'deep',
    'inner',
    'sparse',
    'own',
  ])('changes the bytes of %s and no other', name => {
    const patched = patchModel(bytes, new Map([[name, tensor(-1, 3)]]));
    expect(patched).toHaveLength(bytes.length);
    const ranges = locateTensors(bytes).get(at(name))!.ranges!;
    const own = ranges.flatMap(({ offset, length }) => Array.from({ length }, (_, i) => offset + i));
    expect(own).toHaveLength(8);
    expect(own).toEqual(expect.arrayContaining(differences(bytes, patched)));
    const elements = Uint8Array.from(own, i => patched[i]!);
    expect(elements).toEqual(floats(-1, 3));
    expect(differences(bytes, patchModel(patched, new Map([[name, tensor(1, 2)]])))).toEqual([]);
  });

  it('is what a reader of the file then finds', () => {
    const double = Tensor.from('float64', [2], Float64Array.of(0.5, 7));
    const values = new Map([
      ['raw', tensor(3, 4)],
      ['loose', tensor(5, 6)],
      ['double', double],
    ] as const);
    const { initializers } = decodeModel(patchModel(Buffer.from(bytes), values)).graph;
    const found = new Map([...initializers].map(([value, t]) => [value.name, t]));
    for (const [name, value] of values) expect(found.get(name)!.numbers()).toEqual(value.numbers());
  });

  it('distinguishes a tensor of the same name in a subgraph by its place', () => {
    const patched = patchModel(bytes, new Map([['inner', tensor(5, 6)]]));
    expect(numbersAt(patched, 'inner')).toEqual([5, 6]);
    expect(numbersAt(patched, 'raw')).toEqual([1, 2]);
  });

  it.each([
    ['half', 'float16', Uint16Array.of(0x8001, 3)],
    ['loose half', 'float16', Uint16Array.of(0, 0xffff)],
    ['brain', 'bfloat16', Uint16Array.of(0x3f80, 0xbf80)],
    ['byte', 'int8', Int8Array.of(-1, 127)],
    ['integer', 'int32', Int32Array.of(-5, 2 ** 31 - 1)],
    ['long', 'int64', BigInt64Array.of(-1n, 2n ** 62n)],
    ['unsigned', 'uint32', Uint32Array.of(2 ** 32 - 1, 1)],
    ['unsigned long', 'uint64', BigUint64Array.of(2n ** 64n - 1n, 1n)],
  ] as const)(
    'writes %s in numbers of variable length, as they were, and nothing else',
    (name, dtype, data) => {
      const value = Tensor.from(dtype, [2], data);
      const patched = patchModel(bytes, new Map([[name, value]]));
      expect(tensorAt(patched, name).bytes).toEqual(value.bytes);
      const before = tensorAt(bytes, name);
      expect(before.bytes).not.toEqual(value.bytes);
      expect(differences(bytes, patchModel(patched, new Map([[name, before]])))).toEqual([]);
      expect(tensorAt(patched, 'raw').numbers()).toEqual([1, 2]);
    },
  );

  it('writes a number that is an attribute', () => {
    const half = Tensor.from('float32', [], Float32Array.of(0.5));
    const patched = patchModel(bytes, new Map([['number', half]]));
    expect(differences(bytes, patched).length).toBeLessThanOrEqual(4);
    expect(numbersAt(patched, 'number')).toEqual([0.5]);
  });

  it('says where a tensor lies that was moved to another file, and leaves out what was true of the old one', () => {
    const moved = patchPlaces(
      bytes,
      new Map(),
      new Map([[at('outside'), { location: 'elsewhere', offset: 8 }]]),
    );
    const { external } = tensorAt(concat(moved), 'outside');
    expect(external).toMatchObject({ location: 'elsewhere', offset: 8, length: 8 });
    expect(Buffer.from(concat(moved)).includes('checksum')).toBe(false);
    expect(tensorAt(concat(moved), 'own').numbers()).toEqual([1, 2]);
  });

  const half = Tensor.from('float16', [2], Uint16Array.of(0, 0));
  it.each([
    ['another dtype', 'raw', half, 'bad-dtype', /'raw'.*float32.*float16/],
    ['another shape', 'raw', tensor(1, 2, 3), 'bad-shape', /'raw'.*\[2\].*\[3\]/],
    ['an unknown name', 'nobody', tensor(1), 'no-such-value', /'nobody'/],
    ['a tensor in another file', 'outside', tensor(1, 2), 'external-data', /'outside'.*'w'/],
  ])('refuses %s', (_, name, value, code, message) => {
    const error = { code, message: expect.stringMatching(message) };
    expect(() => patchModel(bytes, new Map([[name, value]]))).toThrow(expect.objectContaining(error));
  });

  it('refuses a tensor with fewer bytes than its shape says', () => {
    const initializer = [{ name: 'raw', dataType: 1, dims: [2], rawData: floats(1) }];
    const short = serialize('ModelProto', { irVersion: 8, graph: { name: 'g', initializer } });
    expect(() => patchModel(short, new Map([['raw', tensor(1, 2)]]))).toThrow(
      "The bytes stored for tensor 'raw' do not fit its shape.",
    );
  });

  it('rejects bytes that are not a model', () => {
    expect(() => patchModel(bytes.subarray(0, 90), new Map())).toThrow(
      expect.objectContaining({ code: 'not-onnx' }),
    );
  });
});

describe('cutting', () => {
  const names = ['raw', 'deep', 'double', 'half', 'outside', 'loose', 'nobody', 'raw'];
  const originals = new Map([
    ['deep', tensor(1, 2)],
    ['raw', tensor(1, 2)],
    ['double', Tensor.from('float64', [2], Float64Array.of(1, 2))],
  ]);

  it('cuts contiguous tensors, and filling is the inverse', () => {
    const { rest, holes } = cut(bytes, names);
    expect(holes.map(({ name, length }) => [name, length])).toEqual([
      ['deep', 8],
      ['raw', 8],
      ['double', 16],
    ]);
    expect(rest).toHaveLength(bytes.length - 32);
    expect(differences(bytes, fillTensors(rest, holes, originals))).toEqual([]);
  });

  it('and filling with other values is patching', () => {
    const { rest, holes } = cut(bytes, ['raw', 'packed']);
    const values = new Map([
      ['raw', tensor(8, 9)],
      ['packed', tensor(10, 11)],
    ]);
    expect(differences(patchModel(bytes, values), fillTensors(rest, holes, values))).toEqual([]);
  });

  it('of nothing leaves the file', () => {
    const { rest, holes } = cut(bytes, []);
    expect(differences(bytes, fillTensors(rest, holes, new Map()))).toEqual([]);
  });

  it('needs every value, in its size, to be undone', () => {
    const { rest, holes } = cut(bytes, ['raw']);
    const fill = (values: Map<string, Tensor>) => () => fillTensors(rest, holes, values);
    expect(fill(new Map())).toThrow(expect.objectContaining({ code: 'no-such-value' }));
    expect(fill(new Map([['raw', tensor(1)]]))).toThrow(expect.objectContaining({ code: 'bad-shape' }));
  });
});
