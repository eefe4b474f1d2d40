import { mkdtempSync, readFileSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { openModel } from '../../src/graph/open-model.js';
import { readOutline } from '../../src/graph/outline.js';
import { encodeChunks, encodeModel } from '../../src/graph/proto/codec.js';
import { Tensor } from '../../src/graph/tensor.js';
import { Session } from '../../src/runtime/session.js';

vi.mock('../../src/graph/outline.js', { spy: true });

const SIZE = 2 ** 14;
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'agd-open-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** y = table[i] + 0.5, with a table of 64 KiB. */
function tableModel(first: number): Model {
  const graph = new Graph('g');
  const [table, bias, i] = ['table', 'bias', 'i'].map(name => new Value(name)) as [Value, Value, Value];
  i.type = { kind: 'tensor', dtype: 'int64', shape: ['n'] };
  const y = new Value('y', { kind: 'tensor', dtype: 'float32', shape: ['n'] });
  const row = new Value('row');
  graph.inputs = [i];
  graph.outputs = [y];
  graph.nodes = [new Node('Gather', [table, i], [row]), new Node('Add', [row, bias], [y])];
  const numbers = Float32Array.from({ length: SIZE }, (_, n) => n || first);
  graph.initializers.set(table, Tensor.from('float32', [SIZE], numbers));
  graph.initializers.set(bias, Tensor.from('float32', [], Float32Array.of(0.5)));
  return Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 17]]) });
}

/** The file has the table at a multiple of four bytes, where the runtime can map it. */
function written(name: string, first = 1): string {
  const path = join(folder, name);
  const model = tableModel(first);
  for (let pad = ''; ; pad += '.') {
    model.producerName = pad;
    const bytes = Buffer.from(encodeModel(model));
    writeFileSync(path, bytes);
    if (bytes.indexOf(find(model, 'table').bytes) % 4 === 0) return path;
  }
}

const find = ({ graph }: Model, name: string) =>
  [...graph.initializers].find(([value]) => value.name === name)![1];

describe('openModel', () => {
  it.each([
    ['reads a file of less than 2 MiB whole', 2 ** 19 - 2 ** 10, 0],
    ['looks in a larger one for what it can leave out', 2 ** 19, 1],
  ])('%s', async (_, numbers, times) => {
    const graph = new Graph('g');
    graph.initializers.set(new Value('w'), Tensor.filled('float32', [numbers], 0));
    const path = join(folder, `${numbers}.onnx`);
    const parts = { irVersion: 8, opsetImports: new Map([['', 17]]) };
    writeFileSync(path, encodeModel(Object.assign(new Model(graph), parts)));
    vi.mocked(readOutline).mockClear();
    expect(find(await openModel(path), 'w').stored).toBeDefined();
    expect(readOutline).toHaveBeenCalledTimes(times);
  });

  it('leaves large initializers in the file, and writes the same model', async () => {
    const path = written('a.onnx');
    const opened = await openModel(path);
    expect(find(opened, 'table').stored).toBeDefined();
    expect(find(opened, 'bias').stored).toBeUndefined();
    expect(Buffer.compare(encodeModel(opened), readFileSync(path))).toBe(0);
    expect(find(opened, 'table').at(7)).toBe(7);
  });

  it('reads neither the numbers that stay in the file nor, to write it, more than one tensor at a time', async () => {
    const path = written('outline.onnx');
    const bytes = readFileSync(path);
    const { bytes: outline, skipped } = readOutline(path, SIZE);
    const [part] = skipped;
    expect(skipped).toEqual([
      { offset: bytes.indexOf(find(tableModel(1), 'table').bytes), length: 4 * SIZE },
    ]);
    // What was read with the field's header is there.
    expect(outline.subarray(part!.offset + 4096, part!.offset + part!.length).every(b => b === 0)).toBe(true);
    bytes.fill(0, part!.offset, part!.offset + part!.length);
    Buffer.from(outline.buffer).fill(0, part!.offset, part!.offset + part!.length);
    expect(Buffer.compare(outline, bytes)).toBe(0);
    const opened = await openModel(path);
    expect(encodeChunks(opened)).toContain(find(opened, 'table'));
    const left = encodeModel(opened, undefined, () => true);
    expect(Buffer.compare(left, bytes)).toBe(0);
  });

  it('reads a file whole that is no model', async () => {
    const path = join(folder, 'other.bin');
    writeFileSync(path, Buffer.alloc(2 * SIZE, 0xff));
    expect(readOutline(path, SIZE).bytes).toEqual(readFileSync(path));
    await expect(openModel(path)).rejects.toThrow('Not an ONNX file, or damaged');
  });

  it('goes on reading the file that another one has replaced', async () => {
    const path = written('b.onnx');
    const opened = await openModel(path);
    renameSync(written('c.onnx', 5), path);
    expect(find(opened, 'table').at(0)).toBe(1);
    expect(find(await openModel(path), 'table').at(0)).toBe(5);
    // A session does not map the other file either.
    expect(await looksUp(opened, 0)).toBe(1.5);
  });

  it('refuses a file that was overwritten in place', async () => {
    const path = written('d.onnx');
    const opened = await openModel(path);
    writeFileSync(path, 'other');
    expect(() => find(opened, 'table').bytes).toThrow(
      `${path} was overwritten while it was in use: start again.`,
    );
  });

  it('goes on with a file that only got another time, or the same contents again', async () => {
    const path = written('touched.onnx');
    const opened = await openModel(path);
    utimesSync(path, 1, 2);
    expect(find(opened, 'table').at(7)).toBe(7);
    writeFileSync(path, readFileSync(path));
    expect(await looksUp(opened, 3)).toBe(3.5);
    // As long, with another table.
    const bytes = readFileSync(path);
    bytes[bytes.length / 2] = 1;
    writeFileSync(path, bytes);
    expect(() => find(opened, 'table').bytes).toThrow(`${path} was overwritten`);
  });

  it.each([
    ['overwritten', writeFileSync],
    [
      'replaced',
      (path: string, bytes: Uint8Array) => {
        writeFileSync(`${path}.new`, bytes);
        renameSync(`${path}.new`, path);
      },
    ],
  ] as const)('refuses a data file that was %s', async (how, write) => {
    const path = join(folder, `${how}.onnx`);
    const model = tableModel(1);
    await saveModel(model, path, { externalData: 'always' });
    const opened = await openModel(path);
    expect(await looksUp(opened, 3)).toBe(3.5);
    write(`${path}.data`, readFileSync(`${path}.data`).fill(1, 0, 4));
    utimesSync(`${path}.data`, 1, 2);
    const message = `${path}.data was overwritten`;
    expect(() => find(opened, 'table').bytes).toThrow(message);
    await expect(looksUp(opened, 0)).rejects.toThrow(message);
    await expect(saveModel(opened, join(folder, 'copy.onnx'))).rejects.toThrow(message);
  });

  it('gives sessions what the runtime maps', async () => {
    const path = written('e.onnx');
    const opened = await openModel(path);
    const session = await Session.create(opened);
    const maps = process.platform === 'linux' ? readFileSync('/proc/self/maps', 'utf8') : path;
    expect(maps).toContain(path);
    const { y } = await session.run({ i: Tensor.ints([3]) });
    expect([...y!.numbers()]).toEqual([3.5]);
    await session.release();
    expect(await looksUp(await loadModel(path), 3)).toBe(3.5);
  });
});

async function looksUp(of: Model, index: number): Promise<number> {
  const session = await Session.create(of);
  const { y } = await session.run({ i: Tensor.ints([index]) });
  await session.release();
  return y!.numbers()[0]!;
}
