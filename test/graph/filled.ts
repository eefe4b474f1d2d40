import { readInt } from '../../src/graph/proto/message.js';
import { type Int64, MESSAGES } from '../../src/graph/proto/schema.js';

/** A message as a plain tree, the form that is serialized. */
export type Tree = { [field: string]: unknown; $unknowns?: Uint8Array[] };

/** Numbers kept as packed bytes: `float_data` and its like. One element each, valid in its encoding. */
const PACKED: Record<string, number[]> = {
  floatData: [0, 0, 128, 63],
  doubleData: [0, 0, 0, 0, 0, 0, 240, 63],
  int32Data: [7],
  int64Data: [8],
  uint64Data: [9],
};

/**
 * Messages in which every field of the schema has a value, distinct where it may be, and every message also
 * fields that the schema does not know (`unknowns`). Messages nest until `depth` is used up.
 */
export class Filler {
  #count = 0;

  constructor(
    private readonly unknowns: boolean,
    private readonly accepts: (message: string, field: string) => boolean = () => true,
  ) {}

  message(name: string, depth: number): Tree {
    const tree: Tree = {};
    for (const [field, [kind]] of Object.entries(MESSAGES[name]!)) {
      if (!this.accepts(name, field)) continue;
      const element = kind.replace('[]', '');
      if (element in MESSAGES && depth === 0) continue;
      const one = () =>
        element in MESSAGES ? this.message(element, depth - 1) : this.#scalar(field, element);
      const isPacked = field in PACKED;
      tree[field] = kind.endsWith('[]') ? (isPacked ? [one()] : [one(), one()]) : one();
    }
    if (this.unknowns) tree.$unknowns = [this.#varint(), this.#text()];
    return tree;
  }

  #scalar(field: string, kind: string): unknown {
    const n = ++this.#count;
    if (field in PACKED) return Uint8Array.from(PACKED[field]!);
    if (kind === 'string') return `${field}${n}`;
    if (kind === 'bytes') return new TextEncoder().encode(`${field}${n}`);
    return n;
  }

  /** Field 900, a varint. */
  #varint(): Uint8Array {
    return Uint8Array.of(0xa0, 0x38, ++this.#count & 0x7f);
  }

  /** Field 901, three bytes. */
  #text(): Uint8Array {
    return Uint8Array.of(0xaa, 0x38, 3, ++this.#count & 0xff, 0xff, 0);
  }
}

/** A parsed message as a plain tree, unknown fields (which spreading would miss) and empty lists told apart. */
export function plain(message: unknown): unknown {
  if (message instanceof Uint8Array) return `bytes ${Buffer.from(message).toString('hex')}`;
  if (Array.isArray(message)) return message.map(plain);
  if (typeof message !== 'object' || message === null) return message;
  if ('low' in message && 'high' in message) return readInt(message as Int64);
  const fields = Object.entries(message).filter(([, value]) => !Array.isArray(value) || value.length > 0);
  const { $unknowns } = message as Tree;
  return Object.fromEntries(
    [...fields, ...($unknowns ? [['$unknowns', $unknowns]] : [])].map(([k, v]) => [k, plain(v)]),
  );
}
