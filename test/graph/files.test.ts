import {
  appendFile,
  chmod,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { loadModel, saveModel, usersOf, writeFileAtomic } from '../../src/graph/files.js';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { encodeModel } from '../../src/graph/proto/codec.js';
import { Tensor } from '../../src/graph/tensor.js';

let folder: string;
const at = (...parts: string[]) => join(folder, ...parts);

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'agd-files-'));
});

afterEach(() => rm(folder, { recursive: true }));

/** y = relu(x), with initializers of 1000 floats: `a` of ones, `b` of twos, and one of two floats, `small`. */
function sample(): Model {
  const graph = new Graph('g');
  graph.inputs = [new Value('x')];
  graph.outputs = [new Value('y')];
  graph.nodes = [new Node('Relu', [graph.inputs[0]!], [graph.outputs[0]!])];
  graph.initializers.set(new Value('a'), ones(1));
  graph.initializers.set(new Value('b'), ones(2));
  graph.initializers.set(new Value('small'), Tensor.from('float32', [2], Float32Array.of(3, 4)));
  const model = new Model(graph);
  model.opsetImports.set('', 17);
  return model;
}

const ones = (value: number) => Tensor.from('float32', [1000], new Float32Array(1000).fill(value));

function tensor(model: Model, name: string): Tensor {
  return [...model.graph.initializers].find(([value]) => value.name === name)![1];
}

/** First and last element of each of the sample's initializers. */
function ends(model: Model): number[][] {
  return [...model.graph.initializers.values()].map(t => [t.numbers()[0]!, t.numbers().at(-1)!]);
}

const ENDS = [
  [1, 1],
  [2, 2],
  [3, 4],
];

describe('a saved model', () => {
  it('is one file, unless asked otherwise', async () => {
    await saveModel(sample(), at('m.onnx'));
    expect(await readdir(folder)).toEqual(['m.onnx']);
    expect(ends(await loadModel(at('m.onnx')))).toEqual(ENDS);
  });

  it('is not written where its folder is missing', async () => {
    const path = at('none', 'm.onnx');
    const message = `Cannot write '${path}': there is no folder '${dirname(path)}'.`;
    await expect(saveModel(sample(), path)).rejects.toThrow(message);
    await expect(saveModel(sample(), path, { externalData: 'always' })).rejects.toThrow('there is no folder');
  });

  it('has its larger tensors beside it where asked, each on its own page', async () => {
    await saveModel(sample(), at('m.onnx'), { externalData: 'always' });
    const model = await loadModel(at('m.onnx'));
    expect(tensor(model, 'a').external).toMatchObject({ location: 'm.onnx.data', offset: 0, length: 4000 });
    expect(tensor(model, 'b').external).toMatchObject({ offset: 4096 });
    expect(tensor(model, 'small').external).toBeUndefined();
    expect(ends(model)).toEqual(ENDS);
  });

  it('keeps lists of extents in the model file, however long', async () => {
    const model = sample();
    model.graph.initializers.set(new Value('split'), Tensor.ints(Array(200).fill(3072)));
    await saveModel(model, at('m.onnx'), { externalData: 'always' });
    expect(tensor(await loadModel(at('m.onnx')), 'split').external).toBeUndefined();
  });

  it('keeps external data external, and takes it in where asked', async () => {
    await mkdir(at('copy'));
    await saveModel(sample(), at('m.onnx'), { externalData: 'always' });
    await saveModel(await loadModel(at('m.onnx')), at('copy', 'm.onnx'));
    expect((await readdir(at('copy'))).sort()).toEqual(['m.onnx', 'm.onnx.data']);
    expect(ends(await loadModel(at('copy', 'm.onnx')))).toEqual(ENDS);
    await saveModel(await loadModel(at('m.onnx')), at('copy', 'one.onnx'), { externalData: 'never' });
    await rm(at('m.onnx.data'));
    expect(ends(await loadModel(at('copy', 'one.onnx')))).toEqual(ENDS);
  });

  it('has its own data file, even if the source data are in its folder', async () => {
    await saveModel(sample(), at('m.onnx'), { externalData: 'always' });
    const model = await loadModel(at('m.onnx'));
    model.graph.initializers.set(new Value('c'), ones(5));
    await saveModel(model, at('n.onnx'));
    expect(tensor(await loadModel(at('n.onnx')), 'a').external!.location).toBe('n.onnx.data');
    await rm(at('m.onnx.data'));
    expect(ends(await loadModel(at('n.onnx')))).toEqual([...ENDS, [5, 5]]);
  });

  it('does not overwrite a data file of that name that belongs to another model', async () => {
    await saveModel(sample(), at('n.onnx'), { externalData: 'always' });
    await rename(at('n.onnx'), at('other.onnx'));
    const before = await readFile(at('n.onnx.data'));
    for (const _ of [1, 2]) await saveModel(sample(), at('n.onnx'), { externalData: 'always' });
    expect(await readFile(at('n.onnx.data'))).toEqual(before);
    expect(tensor(await loadModel(at('n.onnx')), 'a').external!.location).toBe('n.onnx.2.data');
    expect((await readdir(folder)).sort()).toEqual(['n.onnx', 'n.onnx.2.data', 'n.onnx.data', 'other.onnx']);
  });

  it('does not overwrite it either where the other model names it in another way, and has numbers of its own', async () => {
    await saveModel(sample(), at('n.onnx'), { externalData: 'always' });
    const other = await loadModel(at('n.onnx'));
    await rm(at('n.onnx'));
    const [value, a] = [...other.graph.initializers].find(([, tensor]) => tensor.external)!;
    a.external = { ...a.external!, location: './n.onnx.data' };
    for (const first of [true, false]) {
      const large = [
        new Value('large'),
        Tensor.from('float32', [2 ** 15], new Float32Array(2 ** 15)),
      ] as const;
      other.graph.initializers = new Map(first ? [large, [value, a]] : [[value, a], large]);
      await writeFile(at('other.onnx'), encodeModel(other));
      expect(await usersOf(folder, 'n.onnx.data')).toEqual(['other.onnx']);
      expect(await usersOf(folder, 'onnx.data')).toEqual([]);
    }
  });

  it('does not replace a file that is not a model', async () => {
    await saveModel(sample(), at('m.onnx'), { externalData: 'always' });
    const before = await readFile(at('m.onnx.data'));
    await expect(saveModel(sample(), at('m.onnx.data'))).rejects.toMatchObject({
      code: 'io',
      message: expect.stringMatching(/the data of m\.onnx/),
    });
    expect(await readFile(at('m.onnx.data'))).toEqual(before);
    await writeFile(at('text'), 'a text');
    await expect(saveModel(sample(), at('text'))).rejects.toMatchObject({ code: 'io' });
    await writeFile(at('empty'), '');
    await saveModel(sample(), at('empty'));
    await saveModel(sample(), at('empty'));
    expect(ends(await loadModel(at('empty')))).toEqual(ENDS);
  });

  it('keeps the permissions of the file that it replaces, regardless of the umask', async () => {
    await saveModel(sample(), at('m.onnx'));
    for (const mode of [0o666, 0o640, 0o600]) {
      await chmod(at('m.onnx'), mode);
      await saveModel(sample(), at('m.onnx'));
      expect((await stat(at('m.onnx'))).mode & 0o777).toBe(mode);
    }
  });

  it('may take the place of the one it came from, and still be read', async () => {
    await saveModel(sample(), at('m.onnx'), { externalData: 'always' });
    const model = await loadModel(at('m.onnx'));
    const [a] = model.graph.initializers.keys();
    model.graph.initializers.set(a!, ones(9));
    await saveModel(model, at('m.onnx'));
    const expected = [[9, 9], ...ENDS.slice(1)];
    expect(ends(model)).toEqual(expected);
    expect(ends(await loadModel(at('m.onnx')))).toEqual(expected);
  });

  it('takes no space on disk for zeros', async () => {
    const model = sample();
    const size = 16 * 2 ** 20;
    model.graph.initializers.set(new Value('state'), Tensor.zeros('float32', [size / 4]));
    model.graph.initializers.set(new Value('last'), ones(6));
    await saveModel(model, at('m.onnx'), { externalData: 'always' });
    const { size: length, blocks } = await stat(at('m.onnx.data'));
    expect(length).toBeGreaterThan(size);
    expect(blocks * 512).toBeLessThan(size / 10);
    const back = await loadModel(at('m.onnx'));
    expect(Buffer.alloc(size).equals(tensor(back, 'state').bytes)).toBe(true);
    expect(tensor(back, 'last').numbers()[0]).toBe(6);
  });
});

describe('external data', () => {
  const read = async () => tensor(await loadModel(at('m.onnx')), 'b').bytes;

  beforeEach(() => saveModel(sample(), at('m.onnx'), { externalData: 'always' }));

  it('is read only when asked for, and from where it lies', async () => {
    const model = await loadModel(at('m.onnx'));
    const data = await readFile(at('m.onnx.data'));
    data.fill(0, 0, 4);
    await writeFile(at('m.onnx.data'), data);
    expect(tensor(model, 'a').numbers().slice(0, 2)).toEqual([0, 1]);
  });

  it('that is missing or too short is an error that names tensor and file', async () => {
    await truncate(at('m.onnx.data'), 8000);
    await expect(read()).rejects.toMatchObject({
      code: 'external-data',
      message: expect.stringMatching(/'b'.*8096.*m\.onnx\.data.*8000/),
    });
    await rm(at('m.onnx.data'));
    await expect(read()).rejects.toMatchObject({
      code: 'external-data',
      message: expect.stringMatching(/'b'.*m\.onnx\.data/),
    });
    await mkdir(at('elsewhere'));
    const copy = saveModel(await loadModel(at('m.onnx')), at('elsewhere', 'm.onnx'));
    await expect(copy).rejects.toMatchObject({ code: 'external-data' });
    expect(await readdir(at('elsewhere'))).toEqual([]);
  });

  it('may be a link inside the folder, but not out of it', async () => {
    const data = await readFile(at('m.onnx.data'));
    await mkdir(at('model'));
    await writeFile(at('model', 'm.onnx'), await readFile(at('m.onnx')));
    await symlink(at('m.onnx.data'), at('model', 'm.onnx.data'));
    const outside = tensor(await loadModel(at('model', 'm.onnx')), 'b');
    expect(() => outside.bytes).toThrow(
      expect.objectContaining({ code: 'external-data', message: expect.stringMatching(/'b'.*link/) }),
    );
    await rm(at('model', 'm.onnx.data'));
    await writeFile(at('model', 'blob'), data);
    await symlink(at('model', 'blob'), at('model', 'm.onnx.data'));
    expect(outside.numbers()[0]).toBe(2);
  });
});

describe('files that cannot be read', () => {
  it.each(['missing.onnx', 'missing/m.onnx', '.'])('such as %s are an error in one line', async path => {
    await expect(loadModel(at(path))).rejects.toMatchObject({
      name: 'AgdError',
      code: 'io',
      message: expect.stringMatching(/^Cannot read [^\n]*$/),
    });
  });

  it('say which file is not a model, also when it is too large for one', async () => {
    await writeFile(at('a.txt'), 'hello');
    await expect(loadModel(at('a.txt'))).rejects.toMatchObject({
      code: 'not-onnx',
      message: expect.stringMatching(/a\.txt/),
    });
    await truncate(at('a.txt'), 2 ** 31);
    await expect(loadModel(at('a.txt'))).rejects.toMatchObject({
      code: 'external-data',
      message: expect.stringMatching(/a\.txt.*2 GiB/),
    });
  });
});

describe('an atomic write', () => {
  const text = (value: string) => [new TextEncoder().encode(value)];
  const left = async () => [await readdir(folder), await readFile(at('f'), 'utf8')];

  it('puts small and large chunks together in order', async () => {
    const large = new Uint8Array(5 * 2 ** 20).fill(7);
    await writeFileAtomic(at('f'), [...text('ab'), ...text('c'), large, ...text('d')]);
    expect(Buffer.concat([Buffer.from('abc'), large, Buffer.from('d')]).equals(await readFile(at('f')))).toBe(
      true,
    );
  });

  it('keeps the access rights and the link of the file it replaces', async () => {
    await writeFile(at('f'), 'old');
    await chmod(at('f'), 0o600);
    await symlink(at('f'), at('link'));
    await writeFileAtomic(at('link'), text('new'));
    expect((await stat(at('f'))).mode & 0o777).toBe(0o600);
    expect(await left()).toEqual([['f', 'link'], 'new']);
  });

  it('leaves the old file and nothing else when it fails', async () => {
    await writeFile(at('f'), 'old');
    const broken = async function* () {
      yield* text('new');
      throw new Error('no more');
    };
    await expect(writeFileAtomic(at('f'), broken())).rejects.toThrow('no more');
    expect(await left()).toEqual([['f'], 'old']);
  });

  it('leaves model and data when one of them fails', async () => {
    await saveModel(sample(), at('m.onnx'), { externalData: 'always' });
    await appendFile(at('m.onnx.data'), 'mark');
    const before = await readFile(at('m.onnx.data'));
    const model = sample();
    const lost = new Tensor('float32', [1000], () => {
      throw new Error('lost');
    });
    model.graph.initializers.set(new Value('lost'), lost);
    await expect(saveModel(model, at('m.onnx'), { externalData: 'always' })).rejects.toThrow('lost');
    expect((await readdir(folder)).sort()).toEqual(['m.onnx', 'm.onnx.data']);
    expect(before.equals(await readFile(at('m.onnx.data')))).toBe(true);
  });

  it.each(['missing/f', '.', 'f/g'])('to %s is an error in one line', async path => {
    await writeFile(at('f'), 'old');
    await expect(writeFileAtomic(at(path), text('new'))).rejects.toMatchObject({
      code: 'io',
      message: expect.stringMatching(/^Cannot write [^\n]*$/),
    });
    expect(await left()).toEqual([['f'], 'old']);
  });

  it('never replaces a device', async () => {
    await expect(writeFileAtomic('/dev/null', text('x'))).rejects.toMatchObject({ code: 'io' });
  });
});
