import { describe, expect, it } from 'vitest';
import { cloneModel } from '../../../src/graph/clone.js';
import { dtypeCode } from '../../../src/graph/dtype.js';
import { AgdError } from '../../../src/graph/errors.js';
import { allGraphs, Graph, Model, Node, Value } from '../../../src/graph/ir.js';
import {
  bytesOf,
  decodeModel,
  encodeChunks,
  encodeModel,
  inline,
  listTypes,
} from '../../../src/graph/proto/codec.js';
import {
  ATTRIBUTE_TYPE,
  type ModelProto,
  parse,
  serialize,
  type TensorProto,
} from '../../../src/graph/proto/schema.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { Filler, plain, type Tree } from '../filled.js';

/** A model around a graph; `graph` and `model` overwrite what is in it. */
function modelBytes(graph: ModelProto['graph'], model: ModelProto = {}): Uint8Array {
  return serialize('ModelProto', {
    irVersion: 8,
    opsetImport: [{ domain: '', version: 17 }],
    graph,
    ...model,
  });
}

const recode = (bytes: Uint8Array) => encodeModel(decodeModel(bytes));
const messageOf = (bytes: Uint8Array) => plain(parse('ModelProto', bytes));

/** Asserts that `action` throws an AgdError with this code, and that its message is one line with `words`. */
function expectError(action: () => unknown, code: string, ...words: string[]): void {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(AgdError);
    expect((error as AgdError).code).toBe(code);
    expect((error as AgdError).message).not.toContain('\n');
    for (const word of words) expect((error as AgdError).message).toContain(word);
    return;
  }
  throw new Error(`nothing thrown, ${code} expected`);
}

/** Every field of every message, made consistent where the decoder insists: names that resolve, known types. */
function everything(): Tree {
  const tree = new Filler(true).message('ModelProto', 8);
  tree.irVersion = 10;
  tree.opsetImport = [
    { ...(tree.opsetImport as Tree[])[0], domain: 'ai.onnx', version: 20 },
    (tree.opsetImport as Tree[])[1],
  ];
  let attributes = 0;
  const each = (value: unknown, visit: (tree: Tree) => void): void => {
    if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return;
    if (!Array.isArray(value)) visit(value as Tree);
    for (const child of Object.values(value)) each(child, visit);
  };
  each(tree, message => {
    if ('dataType' in message) Object.assign(message, { dataType: 1, dims: [1, 2], dataLocation: 0 });
    if ('elemType' in message && typeof message.elemType === 'number') message.elemType = 1;
    if ('refAttrName' in message) {
      message.type = ++attributes % 15;
      if (attributes % 16) message.refAttrName = '';
    }
    if ('sparseInitializer' in message)
      message.sparseInitializer = (message.sparseInitializer as Tree[]).filter(sparse => sparse.values);
    if ('node' in message) linkNodes(message);
  });
  return tree;
}

/** Lets the nodes of a graph or function read its inputs and the outputs be theirs. */
function linkNodes(graph: Tree): void {
  const nodes = graph.node as { input: string[]; output: string[] }[];
  const inputs = (graph.input as (string | { name: string })[]).map(v =>
    typeof v === 'string' ? v : v.name,
  );
  for (const node of nodes) node.input = [inputs[0]!, '', inputs[1]!];
  const results = nodes.map(node => node.output[1]!);
  graph.output = (graph.output as (string | Tree)[]).map((o, i) =>
    typeof o === 'string' ? results[i] : { ...o, name: results[i] },
  );
  const listed = graph.valueInfo as { name: string }[];
  listed[0]!.name = nodes[0]!.output[0]!;
}

describe('a file with every field', () => {
  const bytes = serialize('ModelProto', everything() as ModelProto);

  it('comes back message for message, unknown fields included', () => {
    expect(messageOf(recode(bytes))).toEqual(messageOf(bytes));
  });

  it('is the same when a copy of the model is written', () => {
    expect(messageOf(encodeModel(cloneModel(decodeModel(bytes))))).toEqual(messageOf(bytes));
  });

  it('comes back from a Buffer as well, byte for byte the second time', () => {
    const once = recode(Buffer.from(bytes));
    expect(Buffer.compare(recode(once), once)).toBe(0);
  });
});

describe('fields that say nothing', () => {
  it('stay where a file has them and stay away where it does not', () => {
    const node = { opType: 'Relu', input: ['x'], output: ['y'] };
    for (const spelled of [{}, { name: '', domain: '', overload: '' }, { domain: 'ai.onnx' }]) {
      const bytes = modelBytes(
        { input: [{ name: 'x' }], node: [{ ...node, ...spelled }], output: [{ name: 'y' }] },
        { producerName: '', opsetImport: [{ version: 17 }, { domain: 'ai.onnx', version: 17 }] },
      );
      expect(decodeModel(bytes).graph.nodes[0]!.domain).toBe('');
      expect(messageOf(recode(bytes))).toEqual(messageOf(bytes));
    }
  });

  it('are kept in attributes: an absent zero is not written', () => {
    const attribute = [
      { name: 'f', type: ATTRIBUTE_TYPE.float },
      { name: 'i', type: ATTRIBUTE_TYPE.int, i: 0 },
    ];
    const bytes = modelBytes({ node: [{ opType: 'X', output: ['y'], attribute }] });
    expect(decodeModel(bytes).graph.nodes[0]!.attrs.get('f')).toMatchObject({ type: 'float', value: 0 });
    expect(messageOf(recode(bytes))).toEqual(messageOf(bytes));
  });
});

it('names and values that are absent are not written', () => {
  const node = [{ opType: 'X', output: ['y'], attribute: [{ type: ATTRIBUTE_TYPE.float, f: 1 }] }];
  const bytes = modelBytes({ node }, { trainingInfo: [{ updateBinding: [{ key: 'w' }, { value: 'v' }] }] });
  expect(messageOf(recode(bytes))).toEqual(messageOf(bytes));
});

describe('attributes', () => {
  const big = { low: 1, high: 2 ** 21, unsigned: false };
  const node = {
    opType: 'X',
    output: ['y'],
    attribute: [
      {
        name: 'big',
        type: ATTRIBUTE_TYPE.ints,
        ints: [big, -3, { low: 0, high: -(2 ** 31), unsigned: false }],
      },
      {
        name: 'text',
        type: ATTRIBUTE_TYPE.strings,
        strings: [Uint8Array.of(0xef, 0xbb, 0xbf, 0x61), Uint8Array.of(0xff)],
      },
    ],
  };

  it('are numbers below 2^53 and bigint beyond; texts are bytes where they are not UTF-8', () => {
    const { attrs } = decodeModel(modelBytes({ node: [node] })).graph.nodes[0]!;
    expect(attrs.get('big')).toMatchObject({ value: [2n ** 53n + 1n, -3, -(2n ** 63n)] });
    expect(attrs.get('text')).toMatchObject({ value: ['\ufeffa', Uint8Array.of(0xff)] });
  });

  it('made anew are read back as they were made', () => {
    const model = decodeModel(modelBytes({ node: [node] }));
    const made = new Node('X', [], [new Value('z')]);
    const inner = new Graph('inner');
    inner.outputs = [made.outputs[0]!];
    const attrs = {
      a: { type: 'float', value: 0.5 },
      b: { type: 'int', value: 2n ** 62n + 1n },
      c: { type: 'string', value: 'ä' },
      d: { type: 'floats', value: [1, 2] },
      e: { type: 'ints', value: [-1, 2 ** 52, -(2n ** 60n)] },
      f: { type: 'strings', value: ['s', Uint8Array.of(0xfe)] },
      g: { type: 'ref', value: 'alpha', of: 'floats' },
    } as const;
    for (const [name, attr] of Object.entries(attrs)) made.setAttr(name, { ...attr } as never);
    made.setAttr('t', { type: 'tensor', value: Tensor.ints([4, 5]) });
    model.graph.append(made);
    const back = decodeModel(encodeModel(model)).graph.nodes[1]!.attrs;
    for (const [name, attr] of Object.entries(attrs)) expect(back.get(name)).toMatchObject(attr);
    const tensor = back.get('t');
    expect(tensor?.type === 'tensor' && tensor.value.numbers()).toEqual([4, 5]);
  });
});

describe('tensor data', () => {
  const tensors = (...protos: TensorProto[]) =>
    decodeModel(modelBytes({ initializer: protos.map((proto, i) => ({ name: `t${i}`, ...proto })) })).graph
      .initializers;
  const first = (proto: TensorProto) => [...tensors(proto).values()][0]!;
  const varints = Uint8Array.of(0, 1, 0xff, 0x01, ...[...Array(9).fill(0xff), 0x01]);
  const unpacked = (tag: number, ...elements: number[][]) => elements.map(e => Uint8Array.of(tag, ...e));

  it.each([
    ['float32', { floatData: [new Uint8Array(Float32Array.of(1, -2).buffer)] }, [1, -2]],
    ['float64', { doubleData: [new Uint8Array(Float64Array.of(0.1, 3).buffer)] }, [0.1, 3]],
    ['int64', { int64Data: [varints] }, [0, 1, 255, -1]],
    ['uint64', { uint64Data: [varints] }, [0, 1, 255, 2 ** 64]],
    ['uint32', { uint64Data: [Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0x0f)] }, [2 ** 32 - 1]],
    ['int32', { int32Data: [varints] }, [0, 1, 255, -1]],
    ['int16', { int32Data: [varints] }, [0, 1, 255, -1]],
    ['uint16', { int32Data: [Uint8Array.of(0xff, 0xff, 3)] }, [65535]],
    [
      'int8',
      { int32Data: [Uint8Array.of(5, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1)] },
      [5, -128],
    ],
    ['uint8', { int32Data: [Uint8Array.of(0x80, 1)] }, [128]],
    ['bool', { int32Data: [Uint8Array.of(1, 0)] }, [1, 0]],
    ['float16', { int32Data: [Uint8Array.of(0x80, 0x78)] }, [1]],
    ['bfloat16', { int32Data: [Uint8Array.of(0x80, 0x7f)] }, [1]],
    ['float32', { $unknowns: unpacked(0x25, [0, 0, 128, 63], [0, 0, 0, 64]) }, [1, 2]],
    ['float64', { $unknowns: unpacked(0x51, [0, 0, 0, 0, 0, 0, 240, 63]) }, [1]],
    ['int64', { $unknowns: unpacked(0x38, [7], [0xff, 1]) }, [7, 255]],
    ['float32', { rawData: new Uint8Array(Float32Array.of(4).buffer) }, [4]],
  ] as const)('of %s in the form %o', (dtype, form, expected) => {
    const proto = { dataType: dtypeCode(dtype), dims: [expected.length], ...form } as unknown as TensorProto;
    expect(first(proto).numbers()).toEqual([...expected]);
    const bytes = modelBytes({ initializer: [{ name: 't0', ...proto }] });
    expect(messageOf(recode(bytes))).toEqual(messageOf(bytes));
  });

  it('of sub-byte types is one packed byte for each stored number', () => {
    const tensor = first({ dataType: dtypeCode('int4'), dims: [3], int32Data: [Uint8Array.of(0x21, 0x03)] });
    expect([...tensor.bytes]).toEqual([0x21, 3]);
  });

  it('of strings are bytes', () => {
    const tensor = first({ dataType: dtypeCode('string'), dims: [1], stringData: [Uint8Array.of(0xff)] });
    expect(tensor.strings).toEqual([Uint8Array.of(0xff)]);
  });

  it('are views of the file, not copies, on the way in and out', () => {
    const rawData = new Uint8Array(8192).fill(7);
    const bytes = modelBytes({ initializer: [{ name: 'w', dataType: 1, dims: [2048], rawData }] });
    const model = decodeModel(bytes);
    expect([...model.graph.initializers.values()][0]!.bytes.buffer).toBe(bytes.buffer);
    const chunks = [...bytesOf(encodeChunks(model))];
    expect(chunks.some(chunk => chunk.length === 8192 && chunk.buffer === bytes.buffer)).toBe(true);
    expect(messageOf(encodeModel(model))).toEqual(messageOf(bytes));
  });

  it('of the wrong length is an error that names the tensor, when it is asked for', () => {
    const tensor = first({ dataType: 1, dims: [3], rawData: new Uint8Array(8) });
    expectError(() => tensor.bytes, 'invalid-model', "'t0'", '12', '8');
    const cut = first({ dataType: dtypeCode('int64'), dims: [1], int64Data: [Uint8Array.of(0x80)] });
    expectError(() => cut.bytes, 'invalid-model', "'t0'");
  });

  it('with impossible extents is refused', () => {
    expectError(() => tensors({ dataType: 1, dims: [2, -1] }), 'invalid-model', "'t0'", '[2,-1]');
    expectError(() => tensors({ dataType: 1, dims: [2 ** 40, 2 ** 40] }), 'invalid-model', "'t0'");
    expectError(() => tensors({ dataType: 99 }), 'unsupported-type', "'t0'", '99');
  });

  it('that lies elsewhere needs a way to read it', () => {
    const external = (location: string, offset = '0') => ({
      dataType: 1,
      dims: [1],
      dataLocation: 1,
      externalData: [
        { key: 'location', value: location },
        { key: 'offset', value: offset },
      ],
    });
    expectError(() => first(external('w.bin')).bytes, 'external-data', "'t0'", 'w.bin');
    for (const location of ['/etc/passwd', '../w', 'a/../../w', 'c:\\w', '\\w', '..\\w', ''])
      expectError(() => first(external(location)), 'external-data', "'t0'");
    for (const offset of ['-1', 'x', '1e300'])
      expectError(() => first(external('w', offset)), 'external-data');
  });
});

describe('names', () => {
  const relu = (input: string, output: string) => ({
    opType: 'Relu',
    name: `n-${output}`,
    input: [input],
    output: [output],
  });
  const graph = (attribute: string, g: ModelProto['graph']) => ({
    name: attribute,
    type: ATTRIBUTE_TYPE.graph,
    g,
  });

  it('become references, also from a subgraph to the values around it', () => {
    const body = { node: [relu('y', 'z')], output: [{ name: 'z' }] };
    const { nodes, inputs } = decodeModel(
      modelBytes({
        input: [{ name: 'x' }],
        node: [
          relu('x', 'y'),
          { opType: 'If', input: ['x'], output: ['w'], attribute: [graph('then_branch', body)] },
        ],
        output: [{ name: 'w' }],
      }),
    ).graph;
    expect(nodes[0]!.inputs[0]).toBe(inputs[0]);
    expect(nodes[1]!.subgraphs()[0]!.nodes[0]!.inputs[0]).toBe(nodes[0]!.outputs[0]);
  });

  it('that nothing defines are an error', () => {
    const missing = () => decodeModel(modelBytes({ node: [relu('ghost', 'y')] }));
    expectError(missing, 'invalid-model', "'ghost'", "'Relu' (node 'n-y')");
    expectError(
      () => decodeModel(modelBytes({ name: 'g', output: [{ name: 'ghost' }] })),
      'invalid-model',
      "'ghost'",
    );
  });

  it('that are defined twice are an error', () => {
    const x = { input: [{ name: 'x' }] };
    expectError(() => decodeModel(modelBytes({ ...x, node: [relu('x', 'x')] })), 'invalid-model', "'x'");
    expectError(
      () => decodeModel(modelBytes({ input: [{ name: 'x' }, { name: 'x' }] })),
      'invalid-model',
      "'x'",
    );
    const tensor = { name: 'w', dataType: 1 };
    expectError(() => decodeModel(modelBytes({ initializer: [tensor, tensor] })), 'invalid-model', "'w'");
    expectError(() => decodeModel(modelBytes({ initializer: [{ dataType: 1 }] })), 'invalid-model');
    const twice = { ...relu('x', 'y'), attribute: [graph('a', {}), graph('a', {})] };
    expectError(() => decodeModel(modelBytes({ ...x, node: [twice] })), 'invalid-model', "'a'");
  });

  it('of sparse initializers are values, and stay', () => {
    const sparse = {
      values: { name: 's', dataType: 1, dims: [1] },
      indices: { dataType: 7, dims: [1] },
      dims: [9],
    };
    const bytes = modelBytes({
      sparseInitializer: [sparse],
      node: [relu('s', 'y')],
      valueInfo: [{ name: 's' }],
    });
    expect(messageOf(recode(bytes))).toEqual(messageOf(bytes));
  });
});

describe('order', () => {
  const relu = (input: string, output: string) => ({ opType: 'Relu', input: [input], output: [output] });
  const outputs = (model: Model) => model.graph.nodes.map(node => node.outputs[0]!.name);

  it('becomes topological, and stays where it is', () => {
    const input = [{ name: 'x' }];
    const decode = (...node: ReturnType<typeof relu>[]) => outputs(decodeModel(modelBytes({ input, node })));
    expect(decode(relu('x', 'b'), relu('x', 'a'), relu('b', 'c'))).toEqual(['b', 'a', 'c']);
    expect(decode(relu('b', 'c'), relu('x', 'a'), relu('x', 'b'))).toEqual(['b', 'c', 'a']);
  });

  it('counts what subgraphs read', () => {
    const g = { node: [relu('late', 'z')], output: [{ name: 'z' }] };
    const attribute = [{ name: 'then_branch', type: ATTRIBUTE_TYPE.graph, g }];
    const node = [{ opType: 'If', input: ['x'], output: ['w'], attribute }, relu('x', 'late')];
    expect(outputs(decodeModel(modelBytes({ input: [{ name: 'x' }], node })))).toEqual(['late', 'w']);
  });

  it('that does not exist is an error', () => {
    expectError(
      () => decodeModel(modelBytes({ node: [relu('a', 'b'), relu('b', 'a')] })),
      'invalid-model',
      'cycle',
    );
  });

  it('stays in long lists, which are written in pieces', () => {
    const count = 700;
    const names = (kind: string) => Array.from({ length: count }, (_, i) => `${kind}${i}`);
    const [input, output] = [names('x'), names('y')].map(list => list.map(name => ({ name })));
    const node = names('x').map((name, i) => relu(name, `y${i}`));
    const { graph } = decodeModel(encodeModel(decodeModel(modelBytes({ input, output, node }))));
    expect(graph.inputs.map(v => v.name)).toEqual(names('x'));
    expect(graph.nodes.map(n => n.outputs[0]!.name)).toEqual(names('y'));
    expect(graph.outputs.map(v => v.name)).toEqual(names('y'));
  });

  it('is found for a long chain written backwards', () => {
    const node = Array.from({ length: 20_000 }, (_, i) => relu(`v${i}`, `v${i + 1}`)).reverse();
    expect(outputs(decodeModel(modelBytes({ input: [{ name: 'v0' }], node })))[0]).toBe('v1');
  });
});

describe('a changed model', () => {
  const valueInfo = (name: string, dim: Tree) => ({
    name,
    docString: Uint8Array.of(100),
    type: { denotation: 'IMAGE', tensorType: { elemType: 1, shape: { dim: [dim] } } },
  });
  const bytes = modelBytes(
    {
      input: [valueInfo('x', { dimParam: 'N', denotation: 'BATCH' })],
      valueInfo: [valueInfo('y', { dimValue: 2 })],
      node: [
        { opType: 'Relu', input: ['x'], output: ['y'] },
        { opType: 'Relu', input: ['x'], output: ['z'] },
      ],
      output: [valueInfo('z', {})],
    },
    { metadataProps: [{ key: 'k', value: 'v', $unknowns: [Uint8Array.of(0xa0, 0x38, 1)] } as never] },
  );

  it('has types with known, symbolic and unknown extents', () => {
    const { inputs, outputs, nodes } = decodeModel(bytes).graph;
    expect([inputs[0]!.shape, nodes[0]!.outputs[0]!.shape, outputs[0]!.shape]).toEqual([['N'], [2], [null]]);
    expect(inputs[0]!.dtype).toBe('float32');
  });

  it('forgets what was said of values that are gone', () => {
    const model = decodeModel(bytes);
    model.graph.nodes = model.graph.nodes.slice(1);
    expect(parse('ModelProto', encodeModel(model)).graph!.valueInfo ?? []).toEqual([]);
  });

  it('keeps documentation and denotations of values whose type changes', () => {
    const model = decodeModel(bytes);
    model.graph.inputs[0]!.type = { kind: 'tensor', dtype: 'float16', shape: [3] };
    const [input] = parse('ModelProto', encodeModel(model)).graph!.input!;
    const dim = [{ dimValue: 3, denotation: 'BATCH' }];
    expect(plain(input)).toEqual({
      name: 'x',
      docString: 'bytes 64',
      type: { denotation: 'IMAGE', tensorType: { elemType: 10, shape: { dim } } },
    });
  });

  it('declares no type for a value that has lost it', () => {
    const model = decodeModel(bytes);
    model.graph.nodes[0]!.outputs[0]!.type = undefined;
    const [inner] = parse('ModelProto', encodeModel(model)).graph!.valueInfo!;
    expect(plain(inner)).toEqual({ name: 'y', docString: 'bytes 64' });
  });

  it('drops what an optimizer left of a value whose name a new one takes', () => {
    const stale = { name: 'pow', type: { tensorType: { elemType: 1 } } };
    const model = decodeModel(modelBytes({ name: 'g', input: [{ name: 'x' }], valueInfo: [stale] }));
    expect(parse('ModelProto', encodeModel(model)).graph!.valueInfo).toHaveLength(1);
    model.graph.append(new Node('Pow', [model.graph.inputs[0]!], [new Value('pow')]));
    expect(parse('ModelProto', encodeModel(model)).graph!.valueInfo ?? []).toEqual([]);
  });

  it('adds a type to an entry that only has a name', () => {
    const model = decodeModel(modelBytes({ name: 'g', input: [{ name: 's' }] }));
    model.graph.inputs[0]!.type = { kind: 'sequence', elem: { kind: 'tensor', dtype: 'int64' } };
    const [input] = parse('ModelProto', encodeModel(model)).graph!.input!;
    expect(plain(input)).toEqual({
      name: 's',
      type: { sequenceType: { elemType: { tensorType: { elemType: 7 } } } },
    });
  });

  it('keeps its metadata', () => {
    const model = decodeModel(bytes);
    model.metadata.set('new', '1');
    const before = messageOf(bytes) as { metadataProps: unknown[] };
    const after = messageOf(encodeModel(model)) as { metadataProps: unknown[] };
    expect(after.metadataProps).toEqual([...before.metadataProps, { key: 'new', value: '1' }]);
  });

  it('can be made of nothing', () => {
    const graph = new Graph('g');
    const [x, y] = [
      new Value('x', { kind: 'tensor', dtype: 'float32', shape: [2, 'N', null] }),
      new Value('y'),
    ];
    graph.inputs = [x];
    graph.outputs = [y];
    graph.nodes = [new Node('Add', [x, null], [y])];
    graph.initializers.set(new Value('zero'), Tensor.zeros('float32', [2]));
    const model = new Model(graph);
    model.opsetImports.set('', 17);
    const back = decodeModel(encodeModel(model));
    expect(back.graph.inputs[0]!.type).toEqual(x.type);
    expect(back.graph.nodes[0]!.inputs.map(v => v?.name)).toEqual(['x', undefined]);
    expect([...back.graph.initializers.values()][0]!.numbers()).toEqual([0, 0]);
  });

  it('takes external bytes in where that is asked', () => {
    const read = () => new Uint8Array(Float32Array.of(5).buffer);
    const proto = {
      name: 'w',
      dataType: 1,
      dims: [1],
      dataLocation: 1,
      externalData: [{ key: 'location', value: 'f' }],
    };
    const model = decodeModel(modelBytes({ initializer: [proto] }), '.', read);
    const [tensor] = decodeModel(encodeModel(model, inline)).graph.initializers.values();
    expect(tensor!.external).toBeUndefined();
    expect(tensor!.numbers()).toEqual([5]);
  });
});

/** A length-delimited field with this tag. */
function delimited(tag: number, content: number[]): number[] {
  return [tag, (content.length & 0x7f) | 0x80, content.length >> 7, ...content];
}

describe('bytes that are not a model', () => {
  const small = modelBytes({
    name: 'g',
    input: [
      {
        name: 'x',
        type: { tensorType: { elemType: 1, shape: { dim: [{ dimValue: 2 }, { dimParam: 'N' }] } } },
      },
    ],
    initializer: [
      { name: 'w', dataType: 1, dims: [2], rawData: new Uint8Array(8) },
      { name: 'i', dataType: 7, dims: [2], int64Data: [Uint8Array.of(1, 0xff, 1)] },
    ],
    node: [
      { opType: 'Mul', input: ['x', 'w'], output: ['y'] },
      {
        opType: 'If',
        input: ['y'],
        output: ['z'],
        attribute: [{ name: 'g', type: 5, g: { name: 's', output: [{ name: 'y' }] } }],
      },
    ],
    output: [{ name: 'z' }],
  });

  /** Decodes and reads everything; only an AgdError may come out. */
  const survive = (bytes: Uint8Array) => {
    try {
      const model = decodeModel(bytes);
      for (const graph of allGraphs(model.graph))
        for (const t of graph.initializers.values()) t.strings ?? t.bytes;
      encodeModel(model);
    } catch (error) {
      if (!(error instanceof AgdError)) throw error;
      return error.code;
    }
  };

  it('is said in one line, wherever the file is cut', () => {
    const codes = new Set(Array.from(small, (_, length) => survive(small.subarray(0, length))));
    expect([...codes].filter(Boolean).sort()).toEqual(['not-onnx', 'unsupported-version']);
  });

  it('never crashes the decoder, whichever byte is changed', () => {
    small.forEach((_, at) => {
      for (const byte of [0, 1, 0x7f, 0x80, 0xff]) {
        const damaged = small.slice();
        damaged[at] = byte;
        survive(damaged);
      }
    });
  });

  it.each([
    ['nothing', new Uint8Array()],
    ['a text', new TextEncoder().encode('import onnx\n')],
    ['a zip file', Uint8Array.of(0x50, 0x4b, 3, 4, 20, 0, 0, 0)],
    ['a message without a graph', serialize('ModelProto', { irVersion: 8 })],
  ])('may be %s', (_, bytes) => expectError(() => decodeModel(bytes), 'not-onnx'));

  it('may be nested beyond reason', () => {
    let g: ModelProto['graph'] = { name: 'innermost' };
    for (let i = 0; i < 30; i++) g = { node: [{ opType: 'If', attribute: [{ name: 'g', type: 5, g }] }] };
    expect(survive(modelBytes(g))).toBeUndefined();
    let deep: number[] = [];
    for (let i = 0; i < 300; i++) for (const tag of [0x32, 0x2a, 0x0a]) deep = delimited(tag, deep);
    deep = delimited(0x3a, deep);
    expect(survive(Uint8Array.from(deep))).toBe('not-onnx');
  });

  it.each([
    [{ irVersion: 2 }, 'IR version 2', '3 to 13'],
    [{ irVersion: 14 }, 'IR version 14', '3 to 13'],
    [{ opsetImport: [{ version: 6 }] }, 'opset 6', '7 to 26'],
    [{ opsetImport: [{ domain: 'ai.onnx', version: 27 }] }, 'opset 27', '7 to 26'],
  ])('may have another version: %o', (version, found, supported) =>
    expectError(() => decodeModel(modelBytes({}, version as never)), 'unsupported-version', found, supported),
  );
});

it('says the types of inner values that are listed', () => {
  const values = ['x', 'inner', 'y'].map(name => {
    return new Value(name, { kind: 'tensor', dtype: 'float32', shape: ['n'] });
  });
  const [x, inner, y] = values as [Value, Value, Value];
  const graph = new Graph('g');
  graph.inputs = [x];
  graph.outputs = [y];
  graph.nodes = [new Node('Neg', [x], [inner]), new Node('Neg', [inner], [y])];
  const model = Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
  const reread = () => decodeModel(encodeModel(model)).graph.nodes[0]!.outputs[0]!;
  expect(reread().type).toBeUndefined();
  listTypes(graph, [inner]);
  expect(reread().shape).toEqual(['n']);
});
