import { describe, expect, it } from 'vitest';
import { dtypeCode } from '../../src/graph/dtype.js';
import { cutTensors, fillTensors, patchModel } from '../../src/graph/patch.js';
import { decodeModel } from '../../src/graph/proto.js';
import { locateTensors } from '../../src/graph/proto-locate.js';
import {
  ATTRIBUTE_TYPE,
  type GraphProto,
  serialize,
  type TensorProto,
} from '../../src/graph/proto-schema.js';
import { Tensor } from '../../src/graph/tensor.js';

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
    { name: 'double', dataType: 11, dims: [2], doubleData: [new Uint8Array(Float64Array.of(1, 2).buffer)] },
    {
      name: 'half',
      dataType: dtypeCode('float16'),
      dims: [2],
      int32Data: [Uint8Array.of(0x80, 0x78, 0x80, 0x80, 1)],
    },
    {
      name: 'outside',
      dataType: 1,
      dims: [2],
      dataLocation: 1,
      externalData: [{ key: 'location', value: 'w' }],
    },
  ],
  node: [
    constant('hidden', { dataType: 1, dims: [2], rawData: floats(1, 2) }),
    {
      opType: 'If',
      input: ['raw'],
      output: ['y'],
      attribute: [
        {
          name: 'then_branch',
          type: ATTRIBUTE_TYPE.graph,
          g: {
            initializer: [{ name: 'raw', dataType: 1, dims: [2], rawData: floats(5, 6) }],
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
  $unknowns: [Uint8Array.of(0xa0, 0x38, 1)],
});

/** The positions at which two files of one length differ. */
const differences = (a: Uint8Array, b: Uint8Array) => [...a.keys()].filter(i => a[i] !== b[i]);

describe('patching', () => {
  it.each(['raw', 'packed', 'chunks', 'loose', 'hidden', 'deep'])(
    'changes the bytes of %s and no other',
    name => {
      const patched = patchModel(bytes, new Map([[name, tensor(-1, 3)]]));
      expect(patched).toHaveLength(bytes.length);
      const ranges = locateTensors(bytes).get(name)!.ranges!;
      const own = ranges.flatMap(({ offset, length }) => Array.from({ length }, (_, i) => offset + i));
      expect(own).toHaveLength(8);
      expect(own).toEqual(expect.arrayContaining(differences(bytes, patched)));
      const elements = Uint8Array.from(own, i => patched[i]!);
      expect(elements).toEqual(floats(-1, 3));
      expect(differences(bytes, patchModel(patched, new Map([[name, tensor(1, 2)]])))).toEqual([]);
    },
  );

  it('is what a reader of the file then finds', () => {
    const double = Tensor.from('float64', [2], Float64Array.of(0.5, 7));
    const values = new Map([
      ['raw', tensor(3, 4)],
      ['loose', tensor(5, 6)],
      ['double', double],
    ] as const);
    const { initializers, nodes } = decodeModel(patchModel(Buffer.from(bytes), values)).graph;
    const found = new Map([...initializers].map(([value, t]) => [value.name, t]));
    for (const [name, value] of values) expect(found.get(name)!.numbers()).toEqual(value.numbers());
    const [, inner] = nodes[1]!.subgraphs()[0]!.initializers.entries().next().value!;
    expect(inner.numbers()).toEqual([5, 6]);
  });

  const half = Tensor.from('float16', [2], Uint16Array.of(0, 0));
  it.each([
    ['another dtype', 'raw', half, 'bad-dtype', /'raw'.*float32.*float16/],
    ['another shape', 'raw', tensor(1, 2, 3), 'bad-shape', /'raw'.*\[2\].*\[3\]/],
    ['an unknown name', 'nobody', tensor(1), 'no-such-value', /'nobody'/],
    ['a tensor in another file', 'outside', tensor(1, 2), 'external-data', /'outside'.*'w'/],
    ['a tensor stored as varints', 'half', half, 'invalid-model', /'half'/],
  ])('refuses %s', (_, name, value, code, message) => {
    const error = { code, message: expect.stringMatching(message) };
    expect(() => patchModel(bytes, new Map([[name, value]]))).toThrow(expect.objectContaining(error));
  });

  it('refuses what is not a model', () => {
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

  it('takes out what is in one piece, and filling is its inverse', () => {
    const { rest, holes } = cutTensors(bytes, names);
    expect(holes.map(({ name, length }) => [name, length])).toEqual([
      ['deep', 8],
      ['raw', 8],
      ['double', 16],
    ]);
    expect(rest).toHaveLength(bytes.length - 32);
    expect(differences(bytes, fillTensors(rest, holes, originals))).toEqual([]);
  });

  it('and filling with other values is patching', () => {
    const { rest, holes } = cutTensors(bytes, ['raw', 'packed']);
    const values = new Map([
      ['raw', tensor(8, 9)],
      ['packed', tensor(10, 11)],
    ]);
    expect(differences(patchModel(bytes, values), fillTensors(rest, holes, values))).toEqual([]);
  });

  it('of nothing leaves the file', () => {
    const { rest, holes } = cutTensors(bytes, []);
    expect(differences(bytes, fillTensors(rest, holes, new Map()))).toEqual([]);
  });

  it('needs every value, in its size, to be undone', () => {
    const { rest, holes } = cutTensors(bytes, ['raw']);
    const fill = (values: Map<string, Tensor>) => () => fillTensors(rest, holes, values);
    expect(fill(new Map())).toThrow(expect.objectContaining({ code: 'no-such-value' }));
    expect(fill(new Map([['raw', tensor(1)]]))).toThrow(expect.objectContaining({ code: 'bad-shape' }));
  });
});
