/**
 * The data in one file that the browser keeps, as hundreds of small files take seconds to write and to read. It holds the
 * length of a list, the list of paths and sizes as JSON, and the contents.
 */
import { files } from 'agd-onnx/web';

type Entry = [path: string, size: number];

/** Contents that are read and written at once; larger ones come after them, one by one. */
const SMALL = 2 ** 20;

export async function pathsIn(folder: string): Promise<string[]> {
  const names = await files.list(folder).catch(() => undefined);
  if (!names) return [folder];
  return (await Promise.all(names.map(name => pathsIn(`${folder}/${name}`)))).flat();
}

export async function keepData(folder: string, handle: FileSystemFileHandle): Promise<void> {
  const sizes = (await pathsIn(folder)).map((path): Entry => [path, files.read(path).length]);
  const entries = [...sizes.filter(([, size]) => size < SMALL), ...sizes.filter(([, size]) => size >= SMALL)];
  const list = new TextEncoder().encode(JSON.stringify(entries));
  const small = entries.filter(([, size]) => size < SMALL).map(([path]) => files.read(path));
  const file = await handle.createWritable();
  await file.write(new Blob([Uint32Array.of(list.length), list, ...small]));
  for (const [path] of entries.slice(small.length)) await file.write(files.read(path));
  await file.close();
}

export async function restoreData(handle: FileSystemFileHandle): Promise<void> {
  const file = await handle.getFile();
  // It is empty where the page was closed before it had any data.
  if (!file.size) return;
  const bytes = async (start: number, size: number) =>
    new Uint8Array(await file.slice(start, start + size).arrayBuffer());
  const length = new Uint32Array((await bytes(0, 4)).buffer)[0]!;
  const entries = JSON.parse(new TextDecoder().decode(await bytes(4, length))) as Entry[];
  const isSmall = ([, size]: Entry) => size < SMALL;
  const total = entries.filter(isSmall).reduce((n, [, size]) => n + size, 0);
  let at = 4 + length;
  const small = await bytes(at, total);
  for (const [path, size] of entries) {
    const start = at - 4 - length;
    await files.write(path, size < SMALL ? small.slice(start, start + size) : file.slice(at, at + size));
    at += size;
  }
}
