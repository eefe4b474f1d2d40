/** The part of a racer that JavaScript peers share: see race.mjs for what is said over the pipes. */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { peakMegabytes } from '../peak.mjs';

const WARM_UP_MS = 10_000;

/** Steps whose losses are compared. */
export const COMPARED = 5;

/** After the steps whose losses are compared: a batch that is learnt by heart has gradients too small for fast arithmetic. */
const SLOW = 1e-7;

/** What `pytorch.py export` wrote of a workload; `read` gives a tensor's numbers. */
export function readWorkload(folder, name) {
  const spec = JSON.parse(readFileSync(`${folder}/${name}.json`, 'utf8'));
  const read = ({ dims, dtype, offset }) => {
    const make = { float32: Float32Array, int64: BigInt64Array }[dtype];
    const data = new make(dims.reduce((n, d) => n * d, 1));
    const file = openSync(`${folder}/${name}.bin`, 'r');
    readSync(file, data, 0, data.byteLength, offset);
    closeSync(file);
    return data;
  };
  return { ...spec, folder, name, read };
}

/** A gradient like any other, for the workloads that are an update alone. */
export const cosines = size => Float32Array.from({ length: size }, (_, i) => Math.cos(i));

/** A batch for artifacts of an image classifier with 784 inputs and ten classes. */
export function artifactBatch(size = 64) {
  const labels = Int32Array.from({ length: size }, (_, i) => i % 10);
  return {
    x: { dtype: 'float32', dims: [size, 784], data: cosines(size * 784) },
    labels: { dtype: 'int32', dims: [size], data: labels },
  };
}

/**
 * Trains as told on standard input. `open` gets the workload and the number of threads, and gives `run`, which does
 * one or several steps at a learning rate (1e-3 where it is not given) and returns their losses.
 */
export async function serve(open) {
  const [folder, name, threads] = process.argv.slice(2);
  const { run } = await open(readWorkload(folder, name), Number(threads));
  const losses = [];
  const end = performance.now() + WARM_UP_MS;
  while (losses.length < COMPARED && performance.now() < end) losses.push(...(await run()));
  say({ losses: losses.slice(0, COMPARED) });
  for await (const line of createInterface({ input: process.stdin })) {
    const end = performance.now() + 1000 * Number(line);
    const times = [];
    do {
      const begin = performance.now();
      const { length } = await run(SLOW);
      const ms = (performance.now() - begin) / length;
      times.push(...Array(length).fill(ms));
    } while (performance.now() < end);
    say({ times, megabytes: peakMegabytes() });
  }
  process.exit();
}

const say = message => process.stdout.write(`${JSON.stringify(message)}\n`);
