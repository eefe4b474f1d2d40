/**
 * What --telemetry costs: medians over turns of the time of 10 steps with it over that of 10 steps without, in one process:
 * telemetry.mjs [TURNS]. Run after `npm run build`.
 */
import { fileURLToPath } from 'node:url';
import { inject, loadModel, Tensor, Trainer } from 'agd-onnx';
import { Graph, Model, Node, Value } from 'agd-onnx/ir';

const TURNS = Number(process.argv[2] ?? 60);
const STEPS = 10;
const EVERY = [1, 10, 100];

function random(dims, scale = 1) {
  const data = Float32Array.from(
    { length: dims.reduce((a, b) => a * b) },
    () => scale * (2 * Math.random() - 1),
  );
  return Tensor.from('float32', dims, data);
}

function mlp(...widths) {
  const graph = new Graph('mlp');
  let x = new Value('input', { kind: 'tensor', dtype: 'float32', shape: ['batch', widths[0]] });
  graph.inputs = [x];
  for (const [i, width] of widths.slice(1).entries()) {
    const [weight, bias, sum] = ['weight', 'bias', 'sum'].map(name => new Value(`fc${i}.${name}`));
    graph.initializers.set(weight, random([widths[i], width], widths[i] ** -0.5));
    graph.initializers.set(bias, random([width], widths[i] ** -0.5));
    graph.append(new Node('Gemm', [x, weight, bias], [sum]));
    x = sum;
    if (i + 2 === widths.length) break;
    x = new Value(`fc${i}.relu`);
    graph.append(new Node('Relu', [sum], [x]));
  }
  graph.outputs = [x];
  const model = new Model(graph);
  model.opsetImports.set('', 18);
  return model;
}

/** Milliseconds of the processor: with one thread those of the step, whatever else the machine does. */
const cpu = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};

const median = values => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];

async function measure(name, model, batch, sample) {
  const make = async telemetry => {
    const { model: injected } = await inject(model, { loss: { kind: 'cross-entropy' }, telemetry });
    return Trainer.create(injected, { threads: 1 });
  };
  const trainers = [];
  for (const every of [undefined, ...EVERY]) trainers.push(await make(every));
  const target = Tensor.from(
    'int64',
    [STEPS, batch],
    BigInt64Array.from({ length: STEPS * batch }, (_, i) => BigInt(i % 10)),
  );
  const feeds = { input: random([STEPS, batch, ...sample]), target };
  const times = [];
  for (let turn = -3; turn < TURNS; turn++) {
    const row = [];
    // Every other turn goes the other way round.
    const order = turn % 2 ? trainers : trainers.toReversed();
    for (const trainer of order) {
      const start = cpu();
      await trainer.steps(feeds);
      row.push(cpu() - start);
    }
    if (turn >= 0) times.push(turn % 2 ? row : row.toReversed());
  }
  const cost = EVERY.map(
    (_, i) => `${(100 * (median(times.map(row => row[i + 1] / row[0])) - 1)).toFixed(1)} %`,
  );
  console.log(
    `| ${name} | ${(median(times.map(row => row[0])) / STEPS).toFixed(2)} ms | ${cost.join(' | ')} |`,
  );
  for (const trainer of trainers) await trainer.release();
}

console.log(`| model | a step | ${EVERY.map(n => `every ${n}`).join(' | ')} |`);
console.log(`| --- | --- | ${EVERY.map(() => '---').join(' | ')} |`);
const lenet = await loadModel(fileURLToPath(new URL('../models/lenet.onnx', import.meta.url)));
for (const batch of [16, 64]) await measure(`LeNet, batch ${batch}`, lenet, batch, [1, 28, 28]);
for (const batch of [32, 128])
  await measure(`MLP 784-512-512-10, batch ${batch}`, mlp(784, 512, 512, 10), batch, [784]);
for (const batch of [32, 128])
  await measure(`MLP 64-64-64-10, batch ${batch}`, mlp(64, 64, 64, 10), batch, [64]);
