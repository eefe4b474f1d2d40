import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { AgdError } from '../../../src/graph/errors.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { encodeFlatbuffer, FlatTable } from '../../../src/runtime/data/flatbuffer.js';
import {
  decodeCheckpoint,
  encodeCheckpoint,
  type OrtCheckpoint,
  readOrtCheckpoint,
  writeOrtCheckpoint,
} from '../../../src/runtime/formats/ort-checkpoint.js';

/** Written by Google's flatbuffers package for Python, by ONNX Runtime's schema: parents after children, shared vtables. */
const FOREIGN = Buffer.from(
  'GAAAAE9EVEMAAAAADAAWABAADAAIAAQADAAAABwAAACgAAAAhAEAAAIAAAAAAAoAEAAMAAgABAAKAAAADAAAADQAAABQAAAAAQAAAAQAAACw/v//CAAA' +
    'ABAAAAAFAAAAw7xiZXIAAAAEAAAAbm90ZQAAAAABAAAABAAAANz+//8AAAA/BAAAAAQAAABsb3NzAAAAAAEAAAAMAAAACAAQAAwABAAIAAAAAwAAAAAA' +
    'AAAEAAAABQAAAGVwb2NoAAAAAQAAABAAAAAMABwAGAAMAAgABAAMAAAAJAAAAG8SgzoMAAAAAAAAAAAAAAAEAAAABgAAAGdyb3VwMAAAAQAAAAQAAABk' +
    '////EAAAAAQAAAABAAAAYgAAAAIAAABIAAAABAAAANb+//8QAAAAAQAAABQAAAAgAAAACAAAAAAAgD8AAABAAQAAAAIAAAAAAAAAAAAAAAkAAABtb21l' +
    'bnR1bTEAAAAW////EAAAAAEAAAAUAAAAHAAAAAgAAAAAAIA+AAAAPwEAAAACAAAAAAAAAAkAAABtb21lbnR1bTAAAAAIAAwACAAEAAgAAAAIAAAASAAA' +
    'AAEAAAAEAAAAbv///xAAAAAHAAAAHAAAACQAAAAQAAAABwAAAAAAAAD4/////////wEAAAACAAAAAAAAAAMAAABpZHMAAgAAAGAAAAAEAAAAtv///xAA' +
    'AAABAAAAJAAAADQAAAAYAAAAAACAPwAAAEAAAEBAAACAQAAAoEAAAMBAAgAAAAIAAAAAAAAAAwAAAAAAAAABAAAAdwAOABQAEAAAAAwACAAEAA4AAAAQ' +
    'AAAAAQAAABQAAAAcAAAACAAAAAAAAD8AAIC/AQAAAAIAAAAAAAAAAQAAAGIAAAA=',
  'base64',
);

const floats = (...values: number[]) => Tensor.from('float32', [values.length], Float32Array.from(values));

const CONTENT: OrtCheckpoint = {
  trainable: new Map([
    ['b', floats(0.5, -1)],
    ['w', Tensor.from('float32', [2, 3], Float32Array.of(1, 2, 3, 4, 5, 6))],
  ]),
  frozen: new Map([['ids', Tensor.ints([7, -8])]]),
  optimizers: [
    {
      name: 'group0',
      step: 12,
      lr: Math.fround(1e-3),
      momentums: new Map([
        [
          'b',
          new Map([
            ['momentum0', floats(0.25, 0.5)],
            ['momentum1', floats(1, 2)],
          ]),
        ],
      ]),
    },
  ],
  properties: new Map([
    ['epoch', { int: 3n }],
    ['loss', { float: 0.5 }],
    ['note', { string: 'über' }],
  ]),
};

/** Everything in it, tensors as type, extents and numbers. */
function shown(checkpoint: OrtCheckpoint): unknown {
  const tensors = (map: Map<string, Tensor>) =>
    [...map].map(([name, t]) => [name, t.dtype, [...t.dims], t.numbers()]);
  return {
    trainable: tensors(checkpoint.trainable),
    frozen: tensors(checkpoint.frozen),
    properties: [...checkpoint.properties],
    optimizers: checkpoint.optimizers.map(({ momentums, ...group }) => ({
      ...group,
      momentums: [...momentums].map(([param, map]) => [param, tensors(map)]),
    })),
  };
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'agd-'));
});

it('reads a checkpoint that another program wrote', async () => {
  expect(shown(await decodeCheckpoint(FOREIGN, 'checkpoint'))).toEqual(shown(CONTENT));
});

it('reads what it writes, in one file or with the parameters beside it', async () => {
  const [inside, outside] = [join(folder, 'inside'), join(folder, 'outside')];
  await writeOrtCheckpoint(inside, CONTENT);
  await writeOrtCheckpoint(outside, CONTENT, { external: true });
  for (const path of [inside, outside]) expect(shown(await readOrtCheckpoint(path))).toEqual(shown(CONTENT));
  expect((await readFile(`${outside}.data`)).length).toBe(8 + 24 + 16);
  await expect(readFile(`${inside}.data`)).rejects.toThrow();
});

it('writes parameters only', async () => {
  const bare = { ...CONTENT, optimizers: [], properties: new Map() };
  expect(shown(await decodeCheckpoint(encodeCheckpoint(bare), 'bare'))).toEqual(shown(bare));
});

it('keeps numbers at multiples of their size, as the format wants it', () => {
  const bytes = encodeCheckpoint(CONTENT);
  const params = FlatTable.root(bytes).table(1)!.tables(0);
  for (const param of params) expect(param.bytes(4)!.byteOffset % 8).toBe(0);
});

it.each([
  ['another program', FOREIGN],
  ['ours', Buffer.from(encodeCheckpoint(CONTENT))],
])('takes no part of a file for a whole one: %s', async (_, whole) => {
  for (let length = 0; length <= whole.length - 4; length++)
    await expect(
      decodeCheckpoint(whole.subarray(0, length), 'short'),
      `${length} bytes`,
    ).rejects.toMatchObject({
      code: 'bad-state',
      message: expect.stringMatching(/^short: .*\.$/),
    });
});

it('reads a file whole or refuses it, whatever byte has changed', async () => {
  const outcomes = { refused: 0, read: 0 };
  for (let at = 0; at < FOREIGN.length; at++)
    for (const value of [0, 0xff, FOREIGN[at]! ^ 1, FOREIGN[at]! ^ 0x80]) {
      const changed = Buffer.from(FOREIGN);
      changed[at] = value;
      try {
        const { trainable, frozen } = await decodeCheckpoint(changed, 'changed');
        outcomes.read++;
        for (const [name, t] of [...trainable, ...frozen]) {
          expect(name).toMatch(/^[^\0\ufffd]+$/);
          expect(t.dims.every(d => d >= 0) && t.bytes.length === t.byteLength).toBe(true);
        }
      } catch (error) {
        outcomes.refused++;
        expect(error, `byte ${at} as ${value}`).toBeInstanceOf(AgdError);
        expect((error as Error).message).toMatch(/^.+\.$/);
      }
    }
  expect(outcomes.refused).toBeGreaterThan(FOREIGN.length);
  expect(outcomes.read).toBeGreaterThan(0);
});

it.each<[string, Partial<OrtCheckpoint>]>([
  ['no parameters', { trainable: new Map(), frozen: new Map() }],
  ['a parameter without a name', { frozen: new Map([['', floats(1)]]) }],
  ['extents below zero', { frozen: new Map([['x', new Tensor('float32', [-1, -1], new Uint8Array(4))]]) }],
  ['a count below zero', { optimizers: [{ ...CONTENT.optimizers[0]!, step: -1 }] }],
])('refuses a checkpoint with %s', async (_, part) => {
  await expect(decodeCheckpoint(encodeCheckpoint({ ...CONTENT, ...part }), 'odd')).rejects.toMatchObject({
    code: 'bad-state',
  });
});

it('comes to an end where tables refer to one another over and over', () => {
  const table = (text: string) => ({ table: [{ string: text }] });
  const all = [table('x'.repeat(10_000)), ...Array(999).fill(table('y'))];
  const bytes = encodeFlatbuffer({ table: [{ tables: all }] }, 'TEST');
  const texts = () =>
    FlatTable.root(bytes)
      .tables(0)
      .map(t => t.string(0));
  expect(texts()).toHaveLength(1000);
  const view = new DataView(bytes.buffer);
  const follow = (at: number) => at + view.getUint32(at, true);
  const root = follow(0);
  const vector = follow(root + view.getUint16(root - view.getInt32(root, true) + 4, true)) + 4;
  const first = follow(vector);
  for (let at = vector; at < vector + 4000; at += 4) view.setUint32(at, first - at, true);
  expect(texts).toThrow(/read too often/);
});

it('refuses another version, and files of another kind', async () => {
  const other = Buffer.from(encodeCheckpoint(CONTENT));
  const at = other.indexOf(Uint8Array.of(2, 0, 0, 0), 8);
  other[at] = 3;
  await expect(decodeCheckpoint(other, 'new')).rejects.toMatchObject({
    code: 'unsupported-version',
    message: 'new: a checkpoint of version 3; 2 can be read.',
  });
  await expect(decodeCheckpoint(Buffer.from('no flatbuffer'), 'text')).rejects.toThrow(
    /text: it is not an ONNX Runtime training checkpoint/,
  );
});

it('refuses a nominal checkpoint, and one whose external file is missing or too short', async () => {
  const nominal = encodeFlatbuffer(
    { table: [{ int32: 2 }, { table: [{ tables: [] }, { tables: [] }, { bool: true }] }] },
    'ODTC',
  );
  await expect(decodeCheckpoint(nominal, 'names')).rejects.toThrow(/names: it is a nominal checkpoint/);
  const path = join(folder, 'cut');
  await writeOrtCheckpoint(path, CONTENT, { external: true });
  const data = await readFile(`${path}.data`);
  await writeFile(`${path}.data`, data.subarray(0, 20));
  await expect(readOrtCheckpoint(path)).rejects.toThrow(/cut: the checkpoint is damaged or cut off/);
  await writeFile(join(folder, 'alone'), await readFile(path));
  await expect(readOrtCheckpoint(join(folder, 'alone'))).rejects.toMatchObject({ code: 'io' });
});
