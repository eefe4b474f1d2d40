import { inflateSync } from 'fflate';
import { AgdError } from '../../graph/errors.js';

export type ZipMember = { name: string; bytes: Uint8Array };

/** Sizes and places of a member, from the archive's directory. */
type Entry = { name: string; method: number; flags: number; crc: number; packed: number; size: number; at: number };

const STORED = 0;
const DEFLATED = 8;
/** Deflate's best: 258 bytes of output for 2 bits. A larger claim is a lie, and would allocate what it says. */
const MAX_RATIO = 1032;

/**
 * The members of a zip archive, unpacked one at a time, checked against their stored size and CRC-32
 * (PKWARE APPNOTE 6.3; stored and deflated members, zip64). `file` is for messages.
 * Throws `bad-data` for anything else.
 */
export function* zipMembers(bytes: Uint8Array, file: string): Generator<ZipMember> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (const entry of entries(view, file)) yield { name: entry.name, bytes: unpack(view, entry, file) };
}

function* entries(view: DataView, file: string): Generator<Entry> {
  let [count, at] = directory(view, file);
  try {
    for (; count > 0; count--) {
      if (view.getUint32(at, true) !== 0x02014b50) throw new RangeError();
      const [nameLength, extraLength, commentLength] = [28, 30, 32].map(o => view.getUint16(at + o, true));
      const name = new TextDecoder().decode(part(view, at + 46, nameLength!));
      const [packed, size, offset] = sizes(view, at, at + 46 + nameLength!, extraLength!);
      const [flags, method] = [8, 10].map(o => view.getUint16(at + o, true));
      yield { name, method: method!, flags: flags!, crc: view.getUint32(at + 16, true), packed, size, at: offset };
      at += 46 + nameLength! + extraLength! + commentLength!;
    }
  } catch (e) {
    if (e instanceof RangeError) throw new AgdError('bad-data', `${file}: the zip archive's directory is damaged.`);
    throw e;
  }
}
