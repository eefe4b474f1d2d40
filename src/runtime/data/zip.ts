import { crc32 } from 'node:zlib';
import { AgdError } from '../../graph/errors.js';
import { inflate } from './inflate.js';

/** What the archive's directory says of a member; `at` is where its local header starts. */
type Entry = {
  name: string;
  encrypted: boolean;
  method: number;
  crc: number;
  packed: number;
  size: number;
  at: number;
};

/** Its bytes, without the name. */
const LOCAL_HEADER = 30;
const STORED = 0;
const DEFLATED = 8;
/** Deflate's best case, 258 bytes for 2 bits: what claims more would only make us allocate. */
const MAX_RATIO = 1032;
/** An archive that unpacks to more than this is taken for a bomb where that is over a hundred times its own size. */
const LARGE = 2 ** 28;
const SUSPICIOUS_RATIO = 100;

/**
 * The members of a zip archive by name, unpacked one at a time and checked against size and CRC-32
 * (PKWARE's APPNOTE 6.3: stored and deflated members, zip64). `file` is for messages.
 * Throws `bad-data` where the archive is damaged, truncated, encrypted or lies about sizes, and for one whose
 * members overlap or unpack to far more than it holds.
 */
export function* zipMembers(bytes: Uint8Array, file: string): Generator<[name: string, bytes: Uint8Array]> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let entries: Entry[];
  try {
    entries = directory(view);
  } catch (cause) {
    throw new AgdError(
      'bad-data',
      `${file} is not a complete zip archive: its directory is missing or damaged.`,
      { cause },
    );
  }
  checkSizes(entries, bytes.length, file);
  for (const entry of entries) yield [entry.name, unpack(view, entry, file)];
}

/** No member claims more than it can hold, and each byte of the archive belongs to one member at most, so that its size bounds the work of unpacking it. */
function checkSizes(entries: readonly Entry[], length: number, file: string): void {
  let end = 0;
  for (const { name, at, method, packed, size } of [...entries].sort((a, b) => a.at - b.at)) {
    if (method === STORED ? size !== packed : size > packed * MAX_RATIO)
      throw new AgdError(
        'bad-data',
        `${file}: member '${name}' claims ${size} bytes, which its ${packed} stored bytes cannot hold.`,
      );
    if (at < end)
      throw new AgdError(
        'bad-data',
        `${file}: member '${name}' overlaps another one: the archive is damaged.`,
      );
    end = at + LOCAL_HEADER + packed;
  }
  const total = entries.reduce((n, { size }) => n + size, 0);
  if (total > LARGE && total > SUSPICIOUS_RATIO * length)
    throw new AgdError(
      'bad-data',
      `${file}: the archive has ${length} bytes and would unpack to ${total}; save it without compression, as numpy.savez does.`,
    );
}

function directory(view: DataView): Entry[] {
  let [count, at] = locate(view);
  const entries: Entry[] = [];
  for (; count > 0; count--) {
    expectSignature(view, at, 0x02014b50);
    const nameLength = view.getUint16(at + 28, true);
    const extraLength = view.getUint16(at + 30, true);
    const [size, packed, local] = wide(view, at, at + 46 + nameLength, extraLength);
    entries.push({
      name: new TextDecoder().decode(slice(view, at + 46, nameLength)),
      encrypted: (view.getUint16(at + 8, true) & 1) !== 0,
      method: view.getUint16(at + 10, true),
      crc: view.getUint32(at + 16, true),
      packed,
      size,
      at: local,
    });
    at += 46 + nameLength + extraLength + view.getUint16(at + 32, true);
  }
  return entries;
}

/** Number of members and offset of the directory, from the record at the archive's end. */
function locate(view: DataView): [count: number, at: number] {
  let end = view.byteLength - 22;
  const lowest = Math.max(0, end - 0xffff);
  while (end > lowest && view.getUint32(end, true) !== 0x06054b50) end--;
  expectSignature(view, end, 0x06054b50);
  const hasZip64 = end >= 20 && view.getUint32(end - 20, true) === 0x07064b50;
  if (!hasZip64) return [view.getUint16(end + 10, true), view.getUint32(end + 16, true)];
  const end64 = uint64(view, end - 12);
  expectSignature(view, end64, 0x06064b50);
  return [uint64(view, end64 + 32), uint64(view, end64 + 48)];
}

/** Size, packed size and offset of the entry at `at`: those that 32 bits do not hold are in the zip64 extra field. */
function wide(view: DataView, at: number, extra: number, extraLength: number): [number, number, number] {
  let next = extra;
  const end = extra + extraLength;
  while (next + 4 <= end && view.getUint16(next, true) !== 1) next += 4 + view.getUint16(next + 2, true);
  next += 4;
  const read = (offset: number) => {
    const narrow = view.getUint32(at + offset, true);
    if (narrow !== 0xffffffff) return narrow;
    if (next + 8 > end) throw new RangeError('zip64 field missing');
    next += 8;
    return uint64(view, next - 8);
  };
  return [read(24), read(20), read(42)];
}

function unpack(view: DataView, entry: Entry, file: string): Uint8Array {
  const fail = (what: string, cause?: unknown) =>
    new AgdError('bad-data', `${file}: member '${entry.name}' ${what}.`, { cause });
  if (entry.encrypted) throw fail('is encrypted');
  if (entry.method !== STORED && entry.method !== DEFLATED)
    throw fail(`is compressed by method ${entry.method}; only stored and deflated members can be read`);
  let bytes: Uint8Array;
  try {
    expectSignature(view, entry.at, 0x04034b50);
    const nameLength = view.getUint16(entry.at + 26, true);
    if (new TextDecoder().decode(slice(view, entry.at + LOCAL_HEADER, nameLength)) !== entry.name)
      throw new RangeError('two names');
    const start = entry.at + LOCAL_HEADER + nameLength + view.getUint16(entry.at + 28, true);
    const packed = slice(view, start, entry.packed);
    bytes = entry.method === STORED ? packed : inflate(packed, entry.size);
  } catch (cause) {
    throw fail('is damaged or truncated', cause);
  }
  if (bytes.length !== entry.size || crc32(bytes) !== entry.crc)
    throw fail('is damaged: its checksum does not match');
  return bytes;
}

function slice(view: DataView, at: number, length: number): Uint8Array {
  if (at + length > view.byteLength) throw new RangeError('past the end');
  return new Uint8Array(view.buffer, view.byteOffset + at, length);
}

function uint64(view: DataView, at: number): number {
  return Number(view.getBigUint64(at, true));
}

function expectSignature(view: DataView, at: number, signature: number): void {
  if (view.getUint32(at, true) !== signature) throw new RangeError('signature missing');
}
