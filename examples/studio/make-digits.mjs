/** Makes public/digits.bin from models/mnist/test.npz: 25 images of each digit (28 x 28 bytes each), then their labels. */
import { readFile, writeFile } from 'node:fs/promises';
import { unzipSync } from 'fflate';

const PER_DIGIT = 25;
const PIXELS = 28 * 28;
const NPY_HEADER = 128;
const root = new URL('../../', import.meta.url);
const entries = unzipSync(await readFile(new URL('models/mnist/test.npz', root)));
const x = entries['x.npy'].subarray(NPY_HEADER);
const y = entries['y.npy'].subarray(NPY_HEADER);
const taken = new Array(10).fill(0);
const rows = [...y.keys()].filter(row => taken[y[row]]++ < PER_DIGIT);
const images = rows.map(row => x.subarray(row * PIXELS, (row + 1) * PIXELS));
await writeFile(
  new URL('public/digits.bin', import.meta.url),
  Buffer.concat([...images, Uint8Array.from(rows, row => y[row])]),
);
