/**
 * What a process of the GPU benchmark does: `parts.mjs PART '{OPTIONS}'`. It prints a line of JSON for each result, so that
 * those before a crash or a time limit count.
 */
import { readFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import {
  fit,
  gradients,
  inject,
  loadArrays,
  loadModel,
  RunLength,
  readSafetensors,
  Tensor,
  Trainer,
} from '../../dist/node/internal.js';
import { peakMegabytes } from '../peak.mjs';
import { build, EPOCHS, WORKLOADS } from './models.mjs';

const ROOT = join(import.meta.dirname, '../..');
const provider = device => device.split(':')[0];
const tell = result => process.stdout.write(`${JSON.stringify(result)}\n`);

/** The largest difference, as a share of the largest value. */
function difference(a, b) {
  let [most, scale] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    most = Math.max(most, Math.abs(a[i] - b[i]));
    scale = Math.max(scale, Math.abs(b[i]));
    if (!Number.isFinite(a[i])) return Number.POSITIVE_INFINITY;
  }
  return most / Math.max(scale, 1e-6);
}

/** A model trained on the device and on the CPU: losses, first gradients, and how far the parameters went apart. */
async function conformance({ device, models }) {
  for (const folder of models) {
    const name = basename(folder);
    tell({ name, begins: true });
    try {
      tell({ name, ...(await compared(folder, device)) });
    } catch (error) {
      tell({ name, error: error.message });
    }
  }
}

async function compared(folder, device) {
  const { loss, agd, batchNorm, steps } = JSON.parse(readFileSync(join(folder, 'case.json'), 'utf8'));
  const { tensors } = await readSafetensors(join(folder, 'case.safetensors'));
  const model = await loadModel(join(folder, 'model.onnx'));
  const inputs = [...tensors].flatMap(([key, tensor]) =>
    key.startsWith('input:') ? [[key.slice(6), tensor]] : key === 'target' ? [[key, tensor]] : [],
  );
  const first = Object.fromEntries(
    inputs.map(([key, { dtype, dims, bytes }]) => [
      key,
      new Tensor(dtype, dims.slice(1), bytes.slice(0, bytes.length / dims[0])),
    ]),
  );
  const camel = key => key.replace(/_(.)/g, (_, c) => c.toUpperCase());
  const optimizer = Object.fromEntries(Object.entries(agd).map(([key, value]) => [camel(key), value]));
  const run = async where => {
    const found = await gradients(model, { loss, batchNorm, dropout: 'train' }, first, { device: where });
    const options = { loss, optimizer, batchNorm, provider: provider(where), tile: where === 'cpu' };
    const { model: injected } = await inject(model, options);
    const trainer = await Trainer.create(injected, { device: where });
    const losses = await trainer.steps(Object.fromEntries(inputs));
    const names = trainer.description.parameters.map(p => p.name);
    const start = new Map([...injected.graph.initializers].map(([v, t]) => [v.name, t.numbers()]));
    const parameters = names.map(key => {
      const from = start.get(key);
      return [
        key,
        trainer.state
          .get(key)
          .numbers()
          .map((value, i) => value - from[i]),
      ];
    });
    await trainer.release();
    return { losses, gradients: found.gradients, parameters: new Map(parameters) };
  };
  const [here, there] = [await run('cpu'), await run(device)];
  const worst = (a, b) =>
    Math.max(
      ...[...b].map(([key, t]) => difference(a.get(key).numbers?.() ?? a.get(key), t.numbers?.() ?? t)),
    );
  const norm = values => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0));
  const apart = [...here.parameters].map(([key, moved]) => {
    const other = there.parameters.get(key);
    return norm(moved.map((v, i) => v - other[i])) / Math.max(norm(moved), 1e-12);
  });
  const result = {
    steps,
    losses: difference(there.losses, here.losses),
    gradients: worst(there.gradients, here.gradients),
    parameters: Math.max(...apart),
  };
  // The bounds of the conformance cases.
  const passed = result.losses <= 1e-3 && result.gradients <= 2e-3 && result.parameters <= 0.02;
  return { ...result, passed };
}

/** One epoch of `fit`, with 10 % held out. */
async function epoch({ device, name, tiny }) {
  const { model, loss, data, batchSize } = await epochData(name, tiny);
  const begin = performance.now();
  const { history } = await fit(model, data, { loss, device, batchSize, valSplit: 0.1, lr: 1e-3 });
  const [{ trainLoss, validation, seconds }] = history.epochs;
  tell({
    name,
    samples: Object.values(data)[0].dims[0],
    seconds,
    wholeSeconds: (performance.now() - begin) / 1000,
    trainLoss,
    loss: validation?.loss,
    accuracy: validation?.accuracy,
  });
}

async function epochData(name, tiny) {
  if (name === 'lenet') {
    const arrays = await loadArrays(join(ROOT, 'models/mnist/train.npz'));
    const data = Object.fromEntries([...arrays].map(([key, t]) => [key, tiny ? firstRows(t, 200) : t]));
    return {
      model: await loadModel(join(ROOT, 'models/lenet.onnx')),
      loss: { kind: 'cross-entropy' },
      data,
      batchSize: 64,
    };
  }
  const made = build({ ...EPOCHS[name], batch: 64 }, tiny);
  const { sizes } = made;
  const data = name === 'gpt' ? await textOf(sizes, tiny ? 64 : 4000) : imagesOf(sizes, tiny ? 64 : 10_000);
  return { ...made, data, batchSize: name === 'gpt' ? 16 : 64 };
}

const firstRows = ({ dtype, dims, bytes }, rows) =>
  new Tensor(dtype, [rows, ...dims.slice(1)], bytes.slice(0, (bytes.length / dims[0]) * rows));

/** Images of a pattern for each class, under noise. */
function imagesOf({ size, classes }, count) {
  let state = 7;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
  const length = 3 * size * size;
  const x = new Float32Array(count * length);
  const target = BigInt64Array.from({ length: count }, (_, i) => BigInt(i % classes));
  for (let i = 0; i < count; i++)
    for (let j = 0; j < length; j++)
      x[i * length + j] = random() + 0.5 * Math.sin((i % classes) + j * (1 + (i % classes)) * 0.1);
  return {
    x: Tensor.from('float32', [count, 3, size, size], x),
    target: Tensor.from('int64', [count], target),
  };
}

/** Bytes of this project's documentation, to be continued by one. */
async function textOf({ length }, most) {
  const folders = ['docs/guide', 'docs/explain', 'docs/lab'].map(folder => join(ROOT, folder));
  const files = (
    await Promise.all(folders.map(async f => (await readdir(f)).sort().map(name => join(f, name))))
  )
    .flat()
    .filter(file => file.endsWith('.md'));
  const bytes = Buffer.concat(files.map(file => readFileSync(file)));
  const count = Math.min(most, Math.floor((bytes.length - 1) / length));
  const rows = shift => BigInt64Array.from({ length: count * length }, (_, i) => BigInt(bytes[i + shift]));
  const of = shift => Tensor.from('int64', [count, length], rows(shift));
  return { x: of(0), target: of(1) };
}

/** The time of a step, with as many steps a run as the training loop would choose. */
async function speed({ device, name, tiny, seconds }) {
  const workload = WORKLOADS.find(w => w.name === name);
  const { model, loss, batches } = build(workload, tiny);
  const begin = performance.now();
  const parameters = [...model.graph.initializers.values()].reduce(
    (n, t) => n + (t.dtype === 'float32' ? t.size : 0),
    0,
  );
  const { model: injected } = await inject(model, {
    loss,
    provider: provider(device),
    tile: provider(device) === 'cpu',
  });
  const trainer = await Trainer.create(injected, { device });
  const prepared = (performance.now() - begin) / 1000;
  const state = [...trainer.state.values()].reduce((bytes, tensor) => bytes + tensor.byteLength, 0);
  const length = new RunLength({ state });
  tell({ name, parameters, preparedSeconds: prepared, device });
  let times = [];
  let [steps, data] = [1, batches(1)];
  const end = performance.now() + 1000 * seconds;
  while (performance.now() < end || !times.length) {
    const start = performance.now();
    const losses = await trainer.steps(data);
    const ms = performance.now() - start;
    if (losses.some(value => !Number.isFinite(value))) throw new Error(`the loss is ${losses.at(-1)}`);
    length.learn(data, steps, ms);
    times.push(ms / steps);
    // Results of the longest runs count; the first of each length may be slower.
    const { costs } = length;
    tell({
      ms: median(times.length > 1 ? times.slice(1) : times),
      stepsPerRun: steps,
      ...(costs ? { transferShare: costs.start / (costs.start + steps * costs.step) } : {}),
      hostMegabytes: peakMegabytes(),
    });
    if (length.steps <= steps) continue;
    steps = length.steps;
    data = batches(steps);
    times = [];
  }
  await trainer.release();
}

const median = values => values.toSorted((a, b) => a - b)[values.length >> 1];

const PARTS = { conformance, epoch, speed };
const [, , part, options] = process.argv;
try {
  await PARTS[part](JSON.parse(options));
} catch (error) {
  tell({ error: error.message });
}
// A driver may keep threads that never end.
process.exit();
