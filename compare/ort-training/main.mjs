/**
 * Training artifacts of ONNX Runtime, here and in the last runtime that ran them, ort-training-wasm of onnxruntime-web
 * 1.19.2 (installed for the bench, `cd bench && npm ci`), from the same files, parameters and batch:
 *
 *   node compare/ort-training/main.mjs ARTIFACTS[=PARAMS] ...
 *
 * PARAMS is a file of parameters for a folder without a checkpoint. Compared are loss and gradients at the first step
 * (of the training model in standard operators, and of a backward pass of our own through the evaluation model), and an
 * update of AdamW that goes on there from a checkpoint that was written here. Exits with 1 where they differ by more
 * than float32 does.
 */
import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  encodeModel,
  exportFrom,
  exportOrtCheckpoint,
  gradients,
  inject,
  loadModel,
  loadParameters,
  openForInjection,
  Session,
  splitStep,
  Tensor,
  Trainer,
  withValues,
} from 'agd-onnx/internal';
import { Graph, Model, Node, Value } from 'agd-onnx/ir';

const dist = new URL('../../bench/node_modules/onnxruntime-web/dist/', import.meta.url);
const ort = await import(new URL('ort.training.wasm.min.mjs', dist));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(new URL('ort-training-wasm-simd-threaded.wasm', dist));

/** In units of the largest element: gradients are sums of many products, and a step is rounded as weights are. */
const LIMIT = 2e-6;
const STEP_LIMIT = 1e-4;
const LR = 1e-3;
const STEPS = 3;
const EPS = 1e-6;
const NAMES = [/training_model\.onnx$/, /eval_model\.onnx$/];

let failed = false;
for (const argument of process.argv.slice(2)) {
  const [folder, params] = argument.split('=');
  console.log(folder);
  for (const [what, error, limit = LIMIT] of await compareAll(folder, params)) {
    failed ||= !(error < limit);
    console.log(`  ${what.padEnd(64)} ${error.toExponential(1)}${error < limit ? '' : '  WRONG'}`);
  }
}
process.exitCode = failed ? 1 : 0;

async function compareAll(folder, params) {
  const files = readdirSync(folder);
  const [training, evaluation] = NAMES.map(name =>
    join(
      folder,
      files.find(f => name.test(f)),
    ),
  );
  const work = mkdtempSync(join(tmpdir(), 'ort-training-'));
  const opened = await openForInjection(folder, { optimizer: { lr: 0 } }, { params });
  const { model } = await inject(opened.model, opened.options);
  const checkpoint = join(folder, files.find(f => /^checkpoint|\.ckpt$/.test(f)) ?? '');
  const written = join(work, 'checkpoint');
  await exportOrtCheckpoint(model, written);
  const values = await loadParameters(params ?? checkpoint);
  const batch = await someBatch(folder, params, opened, work);
  const names = opened.options.checkpoint.trainable;

  const original = params ? written : checkpoint;
  const theirs = await theirGradients({ training, evaluation, checkpoint: original }, batch, names, values);
  const half = await Session.create((await splitStep(model)).gradients);
  const given = { ...Object.fromEntries(values), ...batch };
  const ours = await half.run(Object.fromEntries(half.inputs.map(name => [name, given[name]])));
  const forward = withValues(await loadModel(evaluation), values);
  const loss = forward.graph.outputs[0].name;
  const asItIs = { batchNorm: 'eval', dropout: 'eval' };
  const own = await gradients(
    forward,
    { loss: { kind: 'output', output: loss }, wrt: names, ...asItIs },
    batch,
  );
  const rows = [
    ['loss of the training model', relative(ours[opened.options.loss.output].numbers(), [theirs.loss])],
    ['loss of the evaluation model', relative([own.loss], [theirs.loss])],
  ];
  const worst = find =>
    Math.max(...names.map(name => relative(find(name).numbers(), theirs.gradients.get(name))));
  rows.push([`gradients of the training model (${names.length})`, worst(name => ours[`${name}_grad`])]);
  rows.push(['gradients of our own backward pass', worst(name => own.gradients.get(name))]);
  rows.push(await adamwGoesOn({ training, evaluation }, { folder, params, batch, names, work }));
  return rows;
}

/** A batch for the model: noise, and any classes. */
async function someBatch(folder, params, { model, options }, work) {
  const forward = join(work, 'forward.onnx');
  await exportFrom(folder, forward, { values: params && (await loadParameters(params)) });
  const { target } = options.loss;
  const stored = new Set(options.values.keys());
  let state = 1;
  const random = () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  const fixed = model.graph.inputs[0].shape[0];
  const size = typeof fixed === 'number' ? fixed : 8;
  const of = (v, fill) => {
    const dims = v.shape.map((d, i) => (typeof d === 'number' ? d : i ? 784 : size));
    const count = dims.reduce((a, b) => a * b, 1);
    const array = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array }[v.dtype];
    const cast = v.dtype === 'int64' ? BigInt : Number;
    return Tensor.from(
      v.dtype,
      dims,
      array.from({ length: count }, (_, i) => cast(fill(i))),
    );
  };
  const data = model.graph.inputs.filter(v => !stored.has(v.name));
  const batch = Object.fromEntries(data.filter(v => v.name !== target).map(v => [v.name, of(v, random)]));
  const session = await Session.create(forward);
  const logits = Object.values(await session.run(batch))[0];
  const labels = data.find(v => v.name === target);
  return { ...batch, [target]: of(labels, i => (7 * i + 1) % logits.dims[1]) };
}

/** The artifacts, untouched, in the runtime that they are for, with AdamW in its own terms. */
async function theirSession({ training, evaluation, checkpoint }, settings) {
  const [checkpointState, trainModel, evalModel] = [checkpoint, training, evaluation].map(
    file => new Uint8Array(readFileSync(file)),
  );
  const optimizerModel = encodeModel(adamw(settings));
  return ort.TrainingSession.create({ checkpointState, trainModel, evalModel, optimizerModel });
}

/** The optimizer's model as the artifacts have it: updates take sequences of tensors. */
function adamw({ alpha = 0.9, beta = 0.999, epsilon, correctBias = 1 }) {
  const tensor = (dtype, shape) => ({ kind: 'tensor', dtype, shape });
  const sequence = { kind: 'sequence', elem: tensor('float32', undefined) };
  const graph = new Graph('optimizer');
  graph.inputs = [
    new Value('learning_rate', tensor('float32', [1])),
    new Value('step', tensor('int64', [1])),
    ...['params', 'gradients', 'first_order_moments', 'second_order_moments'].map(
      n => new Value(n, sequence),
    ),
  ];
  graph.outputs = [new Value('updated', tensor('bool', [1]))];
  const floats = { alpha, beta, epsilon, weight_decay: 0 };
  const ints = { adam_mode: 1, correct_bias: correctBias };
  const typed = (attrs, type) => Object.entries(attrs).map(([name, value]) => [name, { type, value }]);
  const node = new Node(
    'AdamWOptimizer',
    graph.inputs,
    graph.outputs,
    new Map([...typed(floats, 'float'), ...typed(ints, 'int')]),
  );
  node.domain = 'com.microsoft';
  graph.nodes = [node];
  return Object.assign(new Model(graph), {
    irVersion: 9,
    opsetImports: new Map([
      ['', 19],
      ['com.microsoft', 1],
    ]),
  });
}

async function trainStep(session, batch) {
  const feeds = Object.entries(batch).map(([name, { dtype, dims, data }]) => [
    name,
    new ort.Tensor(dtype, data, dims),
  ]);
  const results = await session.runTrainStep(Object.fromEntries(feeds));
  return results[session.trainingOutputNames[0]].data[0];
}

async function parametersOf(session, names, values) {
  const { data } = await session.getContiguousParameters(true);
  let at = 0;
  return new Map(
    names.map(name => {
      const begin = at;
      at += values.get(name).size;
      return [name, data.slice(begin, at)];
    }),
  );
}

/**
 * What the optimizer takes off a parameter, without averages and with a divisor so small that the parameter itself is
 * nothing beside it: the gradient times 2^24.
 */
async function theirGradients(files, batch, names, values) {
  const scale = 2 ** 24;
  const settings = { alpha: 0, beta: 1, epsilon: LR / scale, correctBias: 0 };
  const session = await theirSession(files, settings);
  const before = await parametersOf(session, names, values);
  for (const name of names)
    if (relative(before.get(name), values.get(name).numbers()) > 0)
      throw new Error(`'${name}' lies elsewhere.`);
  const loss = await trainStep(session, batch);
  await session.runOptimizerStep();
  const after = await parametersOf(session, names, values);
  const found = names.map(name => [
    name,
    Array.from(before.get(name), (w, i) => (w - after.get(name)[i]) / scale),
  ]);
  return { loss, gradients: new Map(found) };
}

/** Some steps here and one there, against all of them here. AdamW there adds epsilon before it corrects. */
async function adamwGoesOn(files, { folder, params, batch, names, work }) {
  const optimizer = { name: 'adamw', lr: LR, eps: EPS, weightDecay: 0 };
  const opened = await openForInjection(folder, { optimizer }, { params });
  const trainer = await Trainer.create((await inject(opened.model, opened.options)).model);
  for (let i = 0; i < STEPS; i++) await trainer.step(batch);
  const checkpoint = join(work, 'adamw');
  await exportOrtCheckpoint(trainer.snapshot(), checkpoint);
  const values = new Map(trainer.state);
  const epsilon = EPS * Math.sqrt(1 - 0.999 ** (STEPS + 1));
  const session = await theirSession({ ...files, checkpoint }, { epsilon });
  await trainStep(session, batch);
  await session.runOptimizerStep();
  await trainer.step(batch);
  const after = await parametersOf(session, names, values);
  const moved = (name, to) => Array.from(to, (w, i) => w - values.get(name).data[i]);
  const errors = names.map(name =>
    relative(moved(name, trainer.state.get(name).data), moved(name, after.get(name))),
  );
  return [`step ${STEPS + 1} of AdamW, gone on from a checkpoint of ours`, Math.max(...errors), STEP_LIMIT];
}

/** The largest difference, in units of the largest element. */
function relative(found, wanted) {
  const largest = Array.from(wanted).reduce((m, x) => Math.max(m, Math.abs(x)), 0);
  return Array.from(wanted).reduce((m, x, i) => Math.max(m, Math.abs(x - found[i])), 0) / (largest || 1);
}
