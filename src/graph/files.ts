/** Model files on disk, with external data beside them. Every write is atomic. The only file access of this layer. */
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  openSync,
  readSync,
  realpathSync,
  type Stats,
  statSync,
} from 'node:fs';
import {
  access,
  type FileHandle,
  open,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  stat,
  unlink,
} from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, normalize, relative, resolve } from 'node:path';
import { characters, concatBytes, equalBytes, plain, toUtf8 } from './bytes.js';
import { AgdError } from './errors.js';
import { allGraphs, type Model } from './ir.js';
import { byteCount, bytesOf, checkSize, decodeModel, encodeChunks, inline } from './proto/codec.js';
import { locateTensors } from './proto/locate.js';
import { MESSAGES } from './proto/schema.js';
import { randomHex } from './random.js';
import type { ExternalData, Placement, Tensor } from './tensor.js';
import { fieldAt } from './wire.js';

/** Larger models store tensors in a separate data file: protobuf's limit is 2 GiB, and readers need some margin. */
export const INLINE_LIMIT = 1.5e9;

/**
 * Whether a tensor stays in the model file, where shape inference sees it: the runtime refuses a model that has the extents
 * of its values in a data file, and a list of extents may be long.
 */
export const isSmall = ({ dtype, dims, byteLength }: Tensor): boolean =>
  byteLength < 1024 || (dtype === 'int64' && dims.length < 2 && byteLength < 2 ** 16);

/** External tensors are aligned to pages, so that runtimes can map them into memory. */
export const PAGE = 4096;

/** Bytes copied between files at a time. */
const BLOCK = 4 * 2 ** 20;

/** The model in `path`; external data is read later, on demand. Throws as `decodeModel` does, or `io`. */
export async function loadModel(path: string): Promise<Model> {
  const bytes = await readModelBytes(path);
  return naming(path, () => decodeModel(bytes, dirname(path), readExternal));
}

/** Whether a file has ONNX Runtime's own format (.ort): a FlatBuffer with this identifier. */
export const isOrtFormat = (bytes: Uint8Array): boolean =>
  String.fromCharCode(...bytes.subarray(4, 8)) === 'ORTM';

/**
 * The bytes of the ONNX file `path`, as `read` gives them. Throws `io`, also for a file of more than 2 GiB, and `not-onnx` for
 * an .ort file.
 */
export async function readModelBytes(
  path: string,
  read: (path: string) => Uint8Array | Promise<Uint8Array> = readFile,
): Promise<Uint8Array> {
  try {
    const info = await stat(path);
    // Models are read more than once, which a pipe does not allow; a device may never end.
    if (!info.isFile() && !info.isDirectory())
      throw new AgdError('io', `Cannot read '${path}': it is not a file. Save the model to a file first.`);
    naming(path, () => checkSize(info.size));
    const bytes = await read(path);
    if (!isOrtFormat(bytes)) return plain(bytes);
    throw new AgdError(
      'not-onnx',
      `${path} is in ONNX Runtime's own format (.ort), which can be run but not read back: use the ONNX file that it was converted from.`,
    );
  } catch (error) {
    throw ioError(`Cannot read '${path}'`, error);
  }
}

/** Runs `action` and adds the name of the file to its AgdErrors. */
export function naming<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw error instanceof AgdError ? new AgdError(error.code, `${path}: ${error.message}`) : error;
  }
}

export type SaveOptions = {
  /** `auto`: in a separate file if the model is larger than 1.5 GB or has external tensors already. */
  externalData?: 'auto' | 'always' | 'never';
};

/**
 * Writes the model. On request, larger tensors go into a data file of its own, `<path>.data`, with a number in the name
 * if that file belongs to another model. Zeros are written as holes. Throws `io`, or `external-data` if a tensor's file
 * is missing or too short.
 */
export async function saveModel(
  model: Model,
  path: string,
  { externalData = 'auto' }: SaveOptions = {},
): Promise<void> {
  await checkModelTarget(path);
  const tensors = storedTensors(model);
  const isLarge = [...tensors.keys()].reduce((n, t) => n + t.byteLength, 0) > INLINE_LIMIT;
  const isExternal = [...tensors.keys()].some(t => t.external);
  const apart = externalData === 'always' || (externalData === 'auto' && (isLarge || isExternal));
  if (!apart) return writeFileAtomic(path, modelChunks(model, path, inline));

  const { placed, kept } = await layOut([...tensors.keys()], path);
  const chunks = modelChunks(
    model,
    path,
    tensor => placed.get(tensor) ?? (kept.has(tensor) ? tensor.external : undefined),
  );
  const [place] = placed.values();
  const data = place && {
    path: join(place.folder, place.location),
    write: (file: FileHandle) => writeTensors(file, placed, tensors),
  };
  await replaceFiles([...(data ? [data] : []), { path, write: file => writeAll(file, chunks) }]);
  // Tensors of the replaced file are from now on read from its successor.
  for (const [tensor, place] of placed) if (tensor.external) tensor.external = place;
}

export function modelChunks(model: Model, path: string, place: Placement): Iterable<Uint8Array> {
  const chunks = encodeChunks(model, place);
  naming(path, () => checkSize(byteCount(chunks)));
  return bytesOf(chunks);
}

/** The tensors that can be stored outside the model file, by name: initializers, and those that already are. */
export function storedTensors(model: Model): Map<Tensor, string> {
  const tensors = new Map<Tensor, string>();
  for (const graph of allGraphs(model.graph)) {
    graph.initializers.forEach((tensor, value) => {
      if (!tensor.strings) tensors.set(tensor, value.name);
    });
    for (const node of graph.nodes.filter(({ attrs }) => attrs.size))
      for (const attr of node.attrs.values())
        if (attr.type === 'tensor' && attr.value.external)
          tensors.set(attr.value, node.outputs[0]?.name ?? '');
  }
  return tensors;
}

/** Which tensors stay in the model's data file, and the offsets of the others in it. */
async function layOut(tensors: readonly Tensor[], path: string) {
  await checkFolder(path, path);
  const folder = await writing(path, () => realpath(dirname(path)));
  const location = await dataFileName(path);
  const folders = new Map<string, string>();
  for (const { external } of tensors)
    if (external) folders.set(external.folder, await writing(path, () => realpath(external.folder)));
  const isOwn = ({ external }: Tensor) =>
    external !== undefined &&
    folders.get(external.folder) === folder &&
    normalize(external.location) === location;
  const placed = new Map<Tensor, ExternalData>();
  // A data file that is rewritten must keep its contents.
  if (tensors.every(t => isOwn(t) || (!t.external && isSmall(t))))
    return { placed, kept: new Set(tensors.filter(isOwn)) };
  let offset = 0;
  for (const tensor of tensors) {
    if (!isOwn(tensor) && isSmall(tensor)) continue;
    placed.set(tensor, { location, offset, length: tensor.byteLength, folder: dirname(path) });
    offset += Math.ceil(tensor.byteLength / PAGE) * PAGE;
  }
  return { placed, kept: new Set<Tensor>() };
}

/** Larger models are not searched for the names of their data files, as they rarely have any. */
const MODEL_LIMIT = 64 * 2 ** 20;

/**
 * The name of the data file of the model `path`, in its folder: `<name>.data`, unless such a file exists and another
 * model, or no known model, refers to it.
 */
export async function dataFileName(path: string): Promise<string> {
  const [folder, base] = [dirname(path), basename(path)];
  for (let n = 1; ; n++) {
    const name = n === 1 ? `${base}.data` : `${base}.${n}.data`;
    const users = existsSync(join(folder, name)) ? await usersOf(folder, name, base) : [base];
    if (users.length === 1 && users[0] === base) return name;
  }
}

/** The models of a folder that store data in its file `name`. */
export async function usersOf(folder: string, name: string, own?: string): Promise<string[]> {
  const users: string[] = [];
  for (const model of await readdir(folder)) {
    const path = join(folder, model);
    const isOwn = model === own;
    try {
      if (!isOwn && (!model.endsWith('.onnx') || (await stat(path)).size > MODEL_LIMIT)) continue;
      const bytes = await readModelBytes(path);
      // Most others do not have that name in them, which is found out sooner.
      if (
        (isOwn || characters(bytes).includes(characters(toUtf8(name)))) &&
        [...locateTensors(bytes).values()].some(t => t.external && normalize(t.external.location) === name)
      )
        users.push(model);
    } catch {
      // It is no model.
    }
  }
  return users;
}

/**
 * Throws `io` if the file at `path` is not a model and may still be needed, such as another model's data: a model only
 * ever replaces a model.
 */
export async function checkModelTarget(path: string): Promise<void> {
  const info = await stat(path).catch(() => undefined);
  if (!info?.isFile() || info.size === 0) return;
  const file = await open(path);
  try {
    if (await startsAsModel(file, info.size)) return;
  } finally {
    await file.close();
  }
  const users = await usersOf(dirname(path), basename(path));
  // A damaged model may be replaced.
  if (!users.length && path.endsWith('.onnx')) return;
  const what = users.length ? `the data of ${users.join(', ')}` : 'not an ONNX model';
  throw new AgdError('io', `Cannot write '${path}': the file there is ${what}. Choose another name.`);
}

const MODEL_FIELDS = new Set(Object.values(MESSAGES.ModelProto!).map(([, id]) => id));
const GRAPH_FIELD = MESSAGES.ModelProto!.graph![1];

/** Whether a file's outermost fields are those of a model. Their contents are not read. */
async function startsAsModel(file: FileHandle, size: number): Promise<boolean> {
  const head = new Uint8Array(20);
  const found = new Set<number>();
  for (let at = 0; at < size; ) {
    const { bytesRead } = await file.read(head, 0, head.length, at);
    const field = fieldAt(head.subarray(0, bytesRead));
    if (!field || !MODEL_FIELDS.has(field.id)) return false;
    found.add(field.id);
    at += field.length;
    if (at > size) return false;
  }
  return found.has(GRAPH_FIELD);
}

export async function writeTensors(
  file: FileHandle,
  placed: ReadonlyMap<Tensor, ExternalData>,
  names: ReadonlyMap<Tensor, string>,
): Promise<void> {
  for (const [tensor, { offset }] of placed) await writeTensor(file, tensor, offset, names.get(tensor)!);
}

/** Writes a tensor's bytes at `offset`, where the file holds only zeros. `name` is for messages. */
export async function writeTensor(
  file: FileHandle,
  tensor: Tensor,
  offset: number,
  name: string,
): Promise<void> {
  const end = offset + tensor.byteLength;
  if ((await file.stat()).size < end) await file.truncate(end);
  if (tensor.isZero) return;
  if (tensor.external) await copyExternal(tensor.external, name, file, offset);
  else await writeSparse(file, tensor.bytes, offset);
}

/** Copies a tensor's bytes from their file, block by block. */
async function copyExternal(
  data: ExternalData,
  name: string,
  target: FileHandle,
  offset: number,
): Promise<void> {
  const source = await open(externalPath(data, name));
  try {
    checkFile(await source.stat(), data, name);
    await copyRange(source, data.offset, data.length, target, offset);
  } finally {
    await source.close();
  }
}

/** Copies `length` bytes, block by block, to a place where the target holds only zeros. */
async function copyRange(
  source: FileHandle,
  from: number,
  length: number,
  target: FileHandle,
  to: number,
): Promise<void> {
  const block = new Uint8Array(Math.min(BLOCK, length));
  for (let done = 0; done < length; ) {
    const { bytesRead } = await source.read(block, 0, Math.min(block.length, length - done), from + done);
    if (bytesRead === 0) throw new AgdError('io', 'A file became shorter while it was copied.');
    await writeSparse(target, block.subarray(0, bytesRead), to + done);
    done += bytesRead;
  }
}

const ZEROS = new Uint8Array(BLOCK);

/** Writes at `position` of a file that holds only zeros from there on. Blocks of zeros stay holes. */
async function writeSparse(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; done += BLOCK) {
    const block = bytes.subarray(done, done + BLOCK);
    if (!equalBytes(ZEROS.subarray(0, block.length), block)) await writeBytes(file, block, position + done);
  }
}

async function writeBytes(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; )
    done += (await file.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
}

type Chunks = Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/** Joins small chunks and keeps large ones. */
async function* batches(chunks: Chunks): AsyncGenerator<Uint8Array> {
  let [small, size] = [[] as Uint8Array[], 0];
  for await (const chunk of chunks) {
    if (chunk.length < BLOCK) small.push(chunk);
    if (chunk.length < BLOCK) size += chunk.length;
    if (chunk.length < BLOCK && size < BLOCK) continue;
    yield concatBytes(small);
    [small, size] = [[], 0];
    if (chunk.length >= BLOCK) yield chunk;
  }
  yield concatBytes(small);
}

export async function writeAll(file: FileHandle, chunks: Chunks): Promise<void> {
  for await (const batch of batches(chunks)) await file.writeFile(batch);
}

/** Writes a file atomically: it is replaced when the new one is complete, or not at all. Throws `io`. */
export function writeFileAtomic(path: string, chunks: Chunks): Promise<void> {
  return replaceFiles([{ path, write: file => writeAll(file, chunks) }]);
}

/** A file to write; `write` receives an empty one. */
export type Replacement = { path: string; write: (file: FileHandle) => Promise<void> };

/**
 * Writes several files to temporary names, and renames them when all are complete and `check`, which receives the
 * temporary names, has not thrown. They keep the permissions of the files that they replace. Throws `io`.
 */
export async function replaceFiles(
  replacements: readonly Replacement[],
  check?: (written: ReadonlyMap<string, string>) => Promise<void>,
): Promise<void> {
  const ready: { path: string; from: string; to: string }[] = [];
  try {
    for (const { path, write } of replacements)
      await writing(path, async () => {
        const { to, mode } = await targetOf(path);
        if (mode === undefined) await checkFolder(path, to);
        const from = await temporaryName(to);
        const file = await open(from, 'wx');
        ready.push({ path, from, to });
        try {
          // The mode passed to open() is reduced by the umask.
          if (mode !== undefined) await file.chmod(mode & 0o7777);
          await write(file);
          await file.sync();
        } finally {
          await file.close();
        }
      });
    await check?.(new Map(ready.map(({ path, from }) => [path, from])));
    for (const { path, from, to } of ready) await writing(path, () => rename(from, to));
    for (const folder of new Set(ready.map(({ to }) => dirname(to)))) await syncFolder(folder);
  } catch (error) {
    await Promise.allSettled(ready.map(({ from }) => unlink(from)));
    throw error;
  } finally {
    for (const { from } of ready) unfinished.delete(from);
  }
}

/** Temporary files being written by this thread. */
const unfinished = new Set<string>();

/** A temporary name beside the file `to`. Temporary files left by processes that have ended are removed. */
async function temporaryName(to: string): Promise<string> {
  const folder = dirname(to);
  // The whole name must fit into 255 bytes.
  const prefix = `.${basename(to).slice(0, 60)}.`;
  for (const name of await readdir(folder)) {
    const [, pid] =
      (name.startsWith(prefix) && /^(\d+)-[0-9a-f]{12}\.tmp$/.exec(name.slice(prefix.length))) || [];
    const path = join(folder, name);
    if (pid && (Number(pid) === process.pid ? !unfinished.has(path) : !isRunning(Number(pid))))
      await unlink(path).catch(() => {});
  }
  const path = join(folder, `${prefix}${process.pid}-${randomHex()}.tmp`);
  unfinished.add(path);
  return path;
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

/** A rename survives a power failure once the folder is synced, which some systems do not support. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path).catch(() => undefined);
  await folder?.sync().catch(() => {});
  await folder?.close();
}

/** Throws `io` if a file cannot be written to `path`, before work is done that would be lost. Writes nothing. */
export async function checkWritable(path: string): Promise<void> {
  await writing(path, async () => {
    const { to } = await targetOf(path);
    await access(dirname(to), constants.W_OK);
  });
}

/** Runs `action`, which writes `path`; errors of the system become `io`. */
export async function writing<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw ioError(`Cannot write '${path}'`, error);
  }
}

/**
 * The file that `path` refers to, with links resolved, and its permissions if it exists. Throws `io` for devices and
 * pipes.
 */
export async function targetOf(path: string): Promise<{ to: string; mode?: number }> {
  const info = await stat(path).catch(absent);
  if (info && !info.isFile()) throw notAFile(path);
  if (info) return { to: await realpath(path).catch(() => Promise.reject(notAFile(path))), mode: info.mode };
  const link = await readlink(path).catch(() => undefined);
  return link === undefined ? { to: path } : targetOf(resolve(dirname(path), link));
}

/** Throws `io` where the folder of a new file is missing. */
async function checkFolder(path: string, to: string): Promise<void> {
  const folder = dirname(to);
  if (await stat(folder).catch(absent)) return;
  throw new AgdError('io', `Cannot write '${path}': there is no folder '${folder}'.`);
}

function absent(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
}

const notAFile = (path: string) =>
  new AgdError('io', `Cannot write '${path}': it is not a file. Choose a file to write to.`);

/** Reads the bytes of a tensor from a file in the model's folder. */
export function readExternal(data: ExternalData, name: string): Uint8Array {
  return readRange(externalPath(data, name), data, name);
}

/** The same for a file anywhere. */
export function readRange(path: string, data: ExternalData, name: string): Uint8Array {
  let file: number | undefined;
  try {
    file = openSync(path, 'r');
    checkFile(fstatSync(file), data, name);
    const bytes = new Uint8Array(data.length);
    for (let done = 0, read = 0; done < bytes.length; done += read) {
      read = readSync(file, bytes, done, Math.min(bytes.length - done, 2 ** 30), data.offset + done);
      if (read === 0) checkLength(data.offset + done, data, name);
    }
    return bytes;
  } catch (error) {
    throw ioError(`Cannot read tensor '${name}' from '${path}'`, error);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/**
 * The file's path with links resolved. Throws `external-data` if it is missing, not a regular file, or outside the
 * model's folder.
 */
function externalPath({ location, folder }: Pick<ExternalData, 'location' | 'folder'>, name: string): string {
  let root: string;
  let path: string;
  try {
    root = realpathSync(folder);
    path = realpathSync(join(folder, location));
  } catch {
    throw new AgdError(
      'external-data',
      `Tensor '${name}' lies in '${join(folder, location)}', which cannot be found.`,
    );
  }
  const inside = relative(root, path);
  if (inside.startsWith('..') || isAbsolute(inside))
    throw new AgdError(
      'external-data',
      `Tensor '${name}' lies in '${location}', a link out of the model's folder; put the file itself there.`,
    );
  if (!statSync(path).isFile())
    throw new AgdError('external-data', `Tensor '${name}' lies in '${location}', which is not a file.`);
  return path;
}

type FileState = Pick<Stats, 'dev' | 'ino' | 'size' | 'mtimeMs'>;

/** Differs between files, and changes when one is written. */
export const stampOf = ({ dev, ino, size, mtimeMs }: FileState) => [dev, ino, size, mtimeMs].join();

/** The stamp of the file that a tensor lies in; undefined if there is none, which reading it explains. */
export function stampOfExternal({ folder, location }: ExternalData): string | undefined {
  try {
    return stampOf(statSync(join(folder, location)));
  } catch {
    return undefined;
  }
}

/** Throws `io` for a file that was changed since the model was opened, and as `checkLength`. */
function checkFile(info: FileState, data: ExternalData, name: string): void {
  if (data.stamp !== undefined && data.stamp !== stampOf(info))
    throw changedFile(join(data.folder, data.location));
  checkLength(info.size, data, name);
}

export const changedFile = (path: string) =>
  new AgdError('io', `${path} was overwritten while it was in use: start again.`);

function checkLength(size: number, { location, offset, length }: ExternalData, name: string): void {
  if (size < offset + length)
    throw new AgdError(
      'external-data',
      `Tensor '${name}' ends at byte ${offset + length} of '${location}', which has only ${size}.`,
    );
}

const REASONS: Partial<Record<string, string>> = {
  ENOENT: 'no such file or folder',
  ENOTDIR: 'a part of the path is not a folder',
  EISDIR: 'it is a folder',
  EACCES: 'access is denied',
  EPERM: 'it is not permitted',
  EROFS: 'the file system is read-only',
  ENOSPC: 'the disk is full',
  ENAMETOOLONG: 'the name is too long',
};

/** The system's error message in one line. Other errors are rethrown. */
export function ioError(what: string, error: unknown): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (error instanceof AgdError || !syscall || !code) return error;
  return new AgdError('io', `${what}: ${REASONS[code] ?? code}.`, { cause: error });
}
