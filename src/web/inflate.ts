import { inflateSync } from 'fflate';

/** What Deflate packed, of `size` bytes. */
export const inflate = (packed: Uint8Array, size: number): Uint8Array =>
  inflateSync(packed, { out: new Uint8Array(size) });
