/** The files of a page behave as those of a disk, as far as the library uses them. */
import { mkdtempSync } from 'node:fs';
import * as disk from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { files } from '../../src/web/files.js';
import type { Directory } from '../../src/web/mounts.js';
import * as memory from '../../src/web/node/fs-promises.js';
import { changeOrder } from './sequence-of-calls.js';

const text = (value: string) => new TextEncoder().encode(value);

describe('files in memory', () => {
  it('do what files on a disk do, call by call', async () => {
    await files.write('/twin/keep', '');
    const onDisk = await changeOrder(disk, mkdtempSync(join(tmpdir(), 'agd-onnx-')));
    expect(await changeOrder(memory as never, '/twin')).toEqual(onDisk);
  });

  it('are in folders that can be made', async () => {
    await files.mkdir('/made/inner');
    await files.mkdir('/made/inner');
    expect(await files.list('/made')).toEqual(['inner']);
  });

  it('take what was dropped, in its folders', async () => {
    const dropped = Object.assign(new Blob(['1']), { name: 'a.csv', webkitRelativePath: 'set/a.csv' });
    const chosen = Object.assign(new Blob(['2']), { name: 'b.csv' });
    expect(await files.add([dropped, chosen], '/in')).toEqual(['/in/set/a.csv', '/in/b.csv']);
    expect(await files.text('/in/set/a.csv')).toBe('1');
    expect(await files.list('/in')).toEqual(['set', 'b.csv']);
    await files.remove('/in');
    await files.remove('/in');
    await expect(files.list('/in')).rejects.toThrow('ENOENT');
    expect(() => files.read('/in/b.csv')).toThrow('ENOENT');
  });
});

it('are read without a copy, and leave what was read as it was when they change', async () => {
  await files.write('/in', new Blob(['before']));
  const [first, second] = [await memory.readFile('/in'), await memory.readFile('/in')] as Uint8Array[];
  expect(first!.buffer).toBe(second!.buffer);
  const handle = await memory.open('/in', 'r+');
  await handle.write(text('after!'), 0, 6, 0);
  await handle.truncate(5);
  await handle.close();
  expect(await files.text('/in')).toBe('after');
  await memory.writeFile('/in', 'anew, and longer');
  expect(Buffer.from(first!).toString()).toBe('before');
});

/** A directory of the browser, with its entries in a map. */
class FakeDirectory {
  readonly kind = 'directory';
  readonly #entries = new Map<string, Uint8Array | FakeDirectory>();

  constructor(readonly log: string[] = []) {}

  async *entries(): AsyncGenerator<[string, never]> {
    for (const [name, entry] of this.#entries)
      yield [name, (entry instanceof FakeDirectory ? entry : this.#file(name)) as never];
  }
  async getFileHandle(name: string, { create = false } = {}) {
    if (!this.#entries.has(name)) {
      if (!create) throw new Error('NotFoundError');
      this.#entries.set(name, new Uint8Array());
    }
    return this.#file(name);
  }
  async getDirectoryHandle(name: string, { create = false } = {}) {
    const found = this.#entries.get(name);
    if (found instanceof FakeDirectory) return found;
    if (!create) throw new Error('NotFoundError');
    const made = new FakeDirectory(this.log);
    this.#entries.set(name, made);
    return made;
  }
  async removeEntry(name: string) {
    if (!this.#entries.delete(name)) throw new Error('NotFoundError');
    this.log.push(`removed ${name}`);
  }
  #file(name: string) {
    return {
      kind: 'file' as const,
      getFile: async () => new Blob([this.#entries.get(name) as Uint8Array<ArrayBuffer>]),
      createWritable: async () => {
        let written = new Uint8Array();
        return {
          write: async (bytes: Uint8Array<ArrayBuffer>) => {
            written = bytes;
          },
          close: async () => {
            this.#entries.set(name, written);
            this.log.push(`wrote ${name}`);
          },
        };
      },
    };
  }
}

describe('a mounted folder', () => {
  it('has what the directory has, and the directory what is written to it', async () => {
    const directory = new FakeDirectory();
    const inner = await directory.getDirectoryHandle('old', { create: true });
    const writable = await (await inner.getFileHandle('a', { create: true })).createWritable();
    await writable.write(text('before'));
    await writable.close();
    directory.log.length = 0;

    await files.mount('/kept', directory as unknown as Directory);
    expect(await files.text('/kept/old/a')).toBe('before');
    await files.write('/kept/new/b', 'after');
    await memory.writeFile('/kept/.x.tmp', 'unfinished');
    await memory.rename('/kept/.x.tmp', '/kept/x');
    await memory.unlink('/kept/new/b');
    expect(directory.log).toEqual(['wrote b', 'wrote x', 'removed b']);

    const again = await directory.getFileHandle('x');
    expect(await (await again.getFile()).text()).toBe('unfinished');
    await files.remove('/kept/old');
    await expect(directory.getDirectoryHandle('old')).rejects.toThrow('NotFoundError');
  });

  it('writes several files at a time, and each after the changes before it', async () => {
    const directory = new FakeDirectory();
    await files.mount('/several', directory as unknown as Directory);
    let [open, most] = [0, 0];
    const { getFileHandle } = directory;
    directory.getFileHandle = async function (...args) {
      most = Math.max(most, ++open);
      await new Promise(resolve => setTimeout(resolve));
      open--;
      return getFileHandle.apply(this, args);
    };
    const names = Array.from({ length: 40 }, (_, i) => String(i));
    await Promise.all([
      ...names.map(name => files.write(`/several/${name}`, 'first')),
      ...names.map(name => files.write(`/several/${name}`, 'second')),
      files.write('/several/folder/a', 'a'),
      files.remove('/several/folder'),
    ]);
    expect(most).toBeGreaterThan(4);
    for (const name of names)
      expect(await (await (await directory.getFileHandle(name)).getFile()).text()).toBe('second');
    await expect(directory.getDirectoryHandle('folder')).rejects.toThrow('NotFoundError');
  });

  it('says where the directory could not be written', async () => {
    const directory = new FakeDirectory();
    directory.getFileHandle = async () => {
      throw new Error('QuotaExceededError');
    };
    await files.mount('/full', directory as unknown as Directory);
    await expect(files.write('/full/a', '1')).rejects.toThrow('QuotaExceededError');
  });
});
