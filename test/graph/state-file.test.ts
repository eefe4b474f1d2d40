import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { checkWritable, loadModel, replaceFiles, saveModel, writeFileAtomic } from '../../src/graph/files.js';
import type { Model } from '../../src/graph/ir.js';
import { checkState, saveState } from '../../src/graph/state-file.js';
import { floatsOf } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));
const file = (name: string) => join(folder, name);

const SIZE = 600;
/** Two tensors in which every element is `version`. */
function versioned(version: number): Model {
  const s = new Sketch();
  const x = s.input('x', [SIZE]);
  const of = (name: string) => s.weight(name, floatsOf(Array(SIZE).fill(version), [SIZE]));
  return s.model([s.add('Add', [s.add('Mul', [x, of('a')], 'p'), of('b')], 'y')], 17);
}
const values = ({ graph }: Model) => new Set([...graph.initializers.values()].flatMap(t => t.numbers()));
const dataFiles = () => readdirSync(folder).filter(name => name.endsWith('.data'));

describe('a state with a data file', () => {
  it('has a new one in each version, and only one', async () => {
    await saveState(versioned(1), file('s.onnx'), 0);
    const [first] = dataFiles();
    await saveState(versioned(2), file('s.onnx'), 0);
    const [second, ...more] = dataFiles();
    expect(second).not.toBe(first);
    expect(more).toEqual([]);
    expect(values(await loadModel(file('s.onnx')))).toEqual(new Set([2]));
  });
  it('keeps the data that a copy of an earlier version refers to', async () => {
    await saveState(versioned(1), file('s.onnx'), 0);
    writeFileSync(file('best.onnx'), readFileSync(file('s.onnx')));
    await saveState(versioned(2), file('s.onnx'), 0);
    const best = await loadModel(file('best.onnx'));
    await checkState(best, file('best.onnx'));
    expect(values(best)).toEqual(new Set([1]));
    await saveState(versioned(3), file('s.onnx'), 0);
    expect(dataFiles()).toHaveLength(2);
  });
  it('stays whole where only the data of the next version came to be', async () => {
    await saveState(versioned(1), file('s.onnx'), 0);
    writeFileSync(file('s.onnx.0123456789ab.data'), 'of a run that was killed');
    const kept = await loadModel(file('s.onnx'));
    await checkState(kept, file('s.onnx'));
    expect(values(kept)).toEqual(new Set([1]));
    await saveState(kept, file('s.onnx'), 0);
    expect(dataFiles()).toHaveLength(1);
    expect(values(kept)).toEqual(new Set([1]));
  });
  it('shares nothing with the model that it was made from', async () => {
    await saveModel(versioned(3), file('m.onnx'), { externalData: 'always' });
    const model = await loadModel(file('m.onnx'));
    await saveState(model, file('s.onnx'));
    expect(dataFiles()).toEqual(['m.onnx.data']);
    await saveState(model, file('t.onnx'), 0);
    rmSync(file('m.onnx.data'));
    for (const name of ['s.onnx', 't.onnx'])
      expect(values(await loadModel(file(name)))).toEqual(new Set([3]));
  });
  it('is refused where its data file is another', async () => {
    await saveState(versioned(1), file('s.onnx'), 0);
    const model = await loadModel(file('s.onnx'));
    const data = file(dataFiles()[0]!);
    const bytes = readFileSync(data);
    bytes[5]! ^= 1;
    writeFileSync(data, bytes);
    await expect(checkState(model, file('s.onnx'))).rejects.toThrow(/is damaged/);
    truncateSync(data, 100);
    await expect(checkState(model, file('s.onnx'))).rejects.toThrow(/is damaged/);
    rmSync(data);
    await expect(checkState(model, file('s.onnx'))).rejects.toThrow(/Cannot read/);
  });
  it('is one version or the other, whenever its writer is killed', async () => {
    const module = (name: string) => new URL(`../../dist/${name}`, import.meta.url).href;
    if (!existsSync(fileURLToPath(module('src/graph/state-file.js'))))
      throw new Error('This test runs the built package, which is not there: run npm run build first.');
    const script = `
      const { saveState } = await import('${module('src/graph/state-file.js')}');
      const { loadModel } = await import('${module('src/graph/files.js')}');
      const versions = await Promise.all(['one.onnx', 'two.onnx'].map(loadModel));
      for (let i = 0; ; i++) { await saveState(versions[i % 2], 's.onnx', 0); if (i < 2) console.log('saved'); }`;
    await saveModel(versioned(1), file('one.onnx'));
    await saveModel(versioned(2), file('two.onnx'));
    const seen = new Set<number>();
    for (let kill = 0; kill < 12; kill++) {
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], { cwd: folder });
      const ended = new Promise(resolve => child.on('close', resolve));
      const failed = ended.then(code =>
        Promise.reject(new Error(`The writer ended with exit code ${code}.`)),
      );
      await Promise.race([new Promise(resolve => child.stdout.once('data', resolve)), failed]);
      failed.catch(() => {});
      setTimeout(() => child.kill('SIGKILL'), (kill * 7) % 40);
      await ended;
      const model = await loadModel(file('s.onnx'));
      await checkState(model, file('s.onnx'));
      const found = values(model);
      expect(found.size).toBe(1);
      for (const version of found) seen.add(version);
    }
    expect([...seen].every(version => version === 1 || version === 2)).toBe(true);
    await saveState(versioned(2), file('s.onnx'), 0);
    expect(readdirSync(folder).sort()).toEqual([...dataFiles(), 'one.onnx', 's.onnx', 'two.onnx'].sort());
    expect(dataFiles()).toHaveLength(1);
  });
});

/** What is synced meanwhile, in this order: `.` is the folder. Temporary files have the names that they get. */
async function synced(work: () => Promise<void>): Promise<(string | undefined)[]> {
  const handle = await open(folder);
  const found: number[] = [];
  const sync = vi.spyOn(Object.getPrototypeOf(handle), 'sync').mockImplementation(async function (
    this: typeof handle,
  ) {
    found.push((await this.stat()).ino);
  });
  try {
    await work();
  } finally {
    sync.mockRestore();
    await handle.close();
  }
  const names = ['.', ...readdirSync(folder)];
  const numbers = await Promise.all(names.map(async name => (await stat(file(name))).ino));
  return found.map(ino => names[numbers.indexOf(ino)]);
}

describe.skipIf(process.platform === 'win32')('a power failure', () => {
  it('finds the old or the new file: it is on disk before its name, and that before the work goes on', async () => {
    const old = file('f');
    writeFileSync(old, 'old');
    expect(await synced(() => writeFileAtomic(old, [Buffer.from('new')]))).toEqual(['f', '.']);
  });
  it('finds the data of a state wherever it finds the state', async () => {
    const order = await synced(() => saveState(versioned(1), file('s.onnx'), 0));
    expect(order).toEqual([dataFiles()[0], '.', 's.onnx', '.']);
  });
});

describe('writing files', () => {
  it('leaves what this process is still writing, and removes what it left', async () => {
    const stale = `.m.onnx.${process.pid}-0123456789ab.tmp`;
    writeFileSync(file(stale), '');
    const write = async () => {
      expect(readdirSync(folder)).not.toContain(stale);
      await writeFileAtomic(file('m.onnx'), [Buffer.from('first')]);
    };
    await replaceFiles([{ path: file('m.onnx'), write }]);
    expect(readdirSync(folder)).toEqual(['m.onnx']);
    expect(readFileSync(file('m.onnx'), 'utf8')).toBe('');
  });
  it('removes what a killed process left, and nothing else', async () => {
    const ended = spawn(process.execPath, ['-e', '']);
    await new Promise(resolve => ended.on('close', resolve));
    const left = `.m.onnx.${ended.pid}-0123456789ab.tmp`;
    const others = [
      '.other.onnx.1-0123456789ab.tmp',
      `.m.onnx.${process.ppid}-0123456789ab.tmp`,
      '.m.onnx.mine.tmp',
    ];
    for (const name of [left, ...others]) writeFileSync(file(name), '');
    await writeFileAtomic(file('m.onnx'), [Buffer.from('new')]);
    expect(readdirSync(folder).sort()).toEqual([...others, 'm.onnx'].sort());
  });
  it('never replaces a device, a pipe or a link by a file', async () => {
    symlinkSync('/dev/null', file('null'));
    await expect(checkWritable(file('null'))).rejects.toThrow(/it is not a file/);
    await expect(writeFileAtomic(file('null'), [Buffer.from('x')])).rejects.toThrow(/it is not a file/);
    symlinkSync('target', file('link'));
    await writeFileAtomic(file('link'), [Buffer.from('x')]);
    expect(readFileSync(file('target'), 'utf8')).toBe('x');
    expect(existsSync(file('link'))).toBe(true);
  });
});
