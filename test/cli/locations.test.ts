/** Where a model says that its tensors lie is no reason to read or write outside its folder, nor to wait for a pipe. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { decodeModel, encodeModel } from '../../src/graph/proto/codec.js';
import { AgdError, exportFile, inject } from '../../src/index.js';
import { mlp } from '../sample.js';
import { agdOnnx, workplace } from './run.js';

let place: string;
let folder: string;
beforeAll(async () => {
  place = await workplace();
  folder = join(place, 'model');
  mkdirSync(join(folder, 'sub'), { recursive: true });
  writeFileSync(join(place, 'secret'), Buffer.alloc(4096, 1));
  symlinkSync('../secret', join(folder, 'link'));
  symlinkSync('..', join(folder, 'up'));
  symlinkSync('/dev/zero', join(folder, 'zeros'));
  if (process.platform !== 'win32') execFileSync('mkfifo', [join(folder, 'pipe')]);
});

/** All files of the place with their bytes; pipes and links by name only. */
function everything(): string[] {
  return readdirSync(place, { recursive: true, withFileTypes: true })
    .map(entry => {
      const path = join(entry.parentPath, entry.name);
      return `${path} ${entry.isFile() ? readFileSync(path).toString('base64') : ''}`;
    })
    .sort();
}

/** The sample with a weight that claims to lie in `location`. */
const hostile = (location: string) =>
  encodeModel(mlp(), tensor =>
    tensor.byteLength === 4 * 8 * 4 ? { folder, location, offset: 0, length: tensor.byteLength } : undefined,
  );

const LOSS = ['--loss', 'cross-entropy'];
const DATA = join('..', 'train.npz');

const LOCATIONS: (readonly [what: string, location: () => string])[] = [
  ['an absolute path', () => join(place, 'secret')],
  ['a device', () => '/dev/zero'],
  ['a path out of the folder', () => '../secret'],
  ['a path out of it through another', () => 'sub/../../secret'],
  ['a path out of it that Windows would take', () => '..\\secret'],
  ['a link out of it', () => 'link'],
  ['a link to a folder out of it', () => 'up/secret'],
  ['a link to a device', () => 'zeros'],
  ['a pipe', () => 'pipe'],
  ['a folder', () => 'sub'],
  ['the folder itself', () => '.'],
  ['a name with a zero byte', () => 'sub\0/data'],
  ['a name that is too long', () => 'x'.repeat(100_000)],
  ['no name', () => ''],
];

describe.skipIf(process.platform === 'win32')('a tensor in', () => {
  it.each(LOCATIONS)('%s is refused by every command, with nothing read or written', (_what, location) => {
    writeFileSync(join(folder, 'm.onnx'), hostile(location()));
    const before = everything();
    for (const args of [
      ['inject', 'm.onnx', ...LOSS],
      ['train', 'm.onnx', ...LOSS, '--data', DATA],
      ['grad', 'm.onnx', ...LOSS, '--inputs', DATA],
      ['export', 'm.onnx', '--params', DATA, '-o', 'out.onnx'],
    ]) {
      const { code, err } = agdOnnx(folder, ...args);
      expect(err, args[0]).toMatch(/^agd-onnx: [^\n]*\n$/);
      expect(err.length).toBeLessThan(2100);
      expect(code, args[0]).toBe(1);
    }
    expect(everything()).toEqual(before);
  });

  it.each(LOCATIONS)('%s is not written to, whatever an original says', async (_what, location) => {
    const { model } = await inject(mlp(), {
      loss: { kind: 'cross-entropy' },
      original: hostile(location()),
    }).catch((error: unknown) => {
      if (error instanceof AgdError) return { model: undefined };
      throw error;
    });
    const before = everything();
    const out = join(folder, 'exported.onnx');
    const written =
      model &&
      (await exportFile(model, out).then(
        () => true,
        (error: unknown) => {
          if (error instanceof AgdError) return false;
          throw error;
        },
      ));
    const names = written ? [out, `${out}.data`] : [];
    expect(everything().filter(file => !names.some(name => file.startsWith(`${name} `)))).toEqual(before);
    if (written) {
      const places = [...(await loadModel(out)).graph.initializers.values()].map(t => t.external?.location);
      expect(places.filter(place => place !== undefined && place !== basename(`${out}.data`))).toEqual([]);
      for (const name of readdirSync(folder).filter(name => name.startsWith('exported')))
        execFileSync('rm', [join(folder, name)]);
    }
  });

  it.each(LOCATIONS)('%s is not read or written by the library', async (_what, location) => {
    const before = everything();
    const save = async () => {
      const model = decodeModel(hostile(location()), folder, () => new Uint8Array());
      await saveModel(model, join(folder, 'saved.onnx'));
    };
    await expect(save()).rejects.toThrow(AgdError);
    expect(everything()).toEqual(before);
  });
});
