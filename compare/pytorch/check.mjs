/** Compares one exported model with what PyTorch found, and trains it. */
import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as agd from 'agd-onnx/internal';

/** Largest difference that passes, relative to the tensor's largest gradient. */
const TOLERANCE = 1e-4;
/** What float32 makes of gradients that are zero, relative to the largest of the model. */
const NOISE = 1e-6;
/** Where float32, or a rounding error in the parameters, moves PyTorch's own gradients further, this many times that passes. */
const SLACK = 3;
/** What finite differences can tell apart: a parameter may be off by more where constants were computed from it. */
const COPIED = 2e-2;
const STEPS = 3;
const LR = 1e-4;

/**
 * What became of the model in `folder`: `loss` and `gradient` are the largest relative differences, `compared` and
 * `checked` count the parameters compared with PyTorch and with finite differences, `folded` those of PyTorch's that
 * the exporter turned into other constants. `problems` is empty where all is well, `skipped` says why nothing was done.
 */
export async function checkCase(folder) {
  if (existsSync(join(folder, 'failed.txt')))
    return { skipped: await readFile(join(folder, 'failed.txt'), 'utf8'), problems: [] };
  const info = JSON.parse(await readFile(join(folder, 'case.json'), 'utf8'));
  if (!info.faithful) return { info, skipped: 'the exported file computes something else', problems: [] };
  const result = { info, problems: [] };
  try {
    const path = join(folder, 'model.onnx');
    const feeds = Object.fromEntries(await agd.loadArrays(join(folder, 'batch.safetensors')));
    const batchNorm = info.training ? 'train' : 'eval';
    const options = {
      loss: info.loss,
      batchNorm,
      dropout: 'eval',
      train: info.scalars.length ? info.scalars : undefined,
    };
    await compare(path, folder, feeds, options, result);
    await train(path, folder, feeds, options, result);
  } catch (error) {
    if (!(error instanceof agd.AgdError)) throw error;
    result.problems.push(`${error.code}: ${error.message}`);
  }
  return result;
}

const largest = values =>
  values.reduce((most, x) => Math.max(most, Number.isFinite(x) ? Math.abs(x) : Infinity), 0);
const short = x => x.toExponential(1);

async function compare(path, folder, feeds, options, result) {
  const { info, problems } = result;
  const model = await agd.loadModel(path);
  const { tensors } = await agd.readSafetensors(join(folder, 'expected.safetensors'));
  const found = await agd.gradients(model, options, feeds, { threads: 1 });
  const want = tensors.get('loss').numbers()[0];
  result.loss = Math.abs(found.loss - want) / Math.max(1e-3, Math.abs(want));
  if (!(result.loss <= Math.max(TOLERANCE, SLACK * info.lossError)))
    problems.push(`loss ${found.loss}, PyTorch's is ${want}`);

  const overall = largest(Object.values(info.parameters).map(p => p.largest));
  const sources = name => info.covered[name] ?? [name];
  const references = new Map();
  for (const [name, gradient] of found.gradients) {
    const named = tensors.get(`parameter:${name}`);
    const reference = tensors.get(name) ?? (`${named?.dims}` === `${gradient.dims}` ? named : undefined);
    if (reference) references.set(name, reference);
  }
  const others = new Map([...found.gradients].filter(([name]) => !references.has(name)));
  const isCopied = others.size > 0;
  result.gradient = 0;
  for (const [name, reference] of references) {
    const [got, expected] = [found.gradients.get(name).numbers(), reference.numbers()];
    const scale = largest(expected) + (NOISE / TOLERANCE) * overall;
    const own = largest(sources(name).map(p => info.parameters[p]?.error ?? 0)) / scale;
    const error = largest(got.map((g, i) => g - expected[i])) / scale;
    if (error <= Math.max(TOLERANCE, SLACK * own)) {
      result.gradient = Math.max(result.gradient, error);
    } else if (isCopied && error > COPIED) {
      // A constant that was computed from the parameter too has the rest of its gradient.
      others.set(name, found.gradients.get(name));
    } else
      problems.push(`gradient of '${name}' is off by ${short(error)}, PyTorch's own moves by ${short(own)}`);
  }

  if (others.size) {
    const checks = await agd.checkGradients(model, options, feeds, { gradients: others }, { threads: 1 });
    for (const c of checks)
      if (!c.passed)
        problems.push(`gradient of '${c.name}' is off by ${short(c.error)} from finite differences`);
  }
  result.compared = found.gradients.size - others.size;
  result.checked = others.size;

  const trained = new Set([...found.gradients.keys()].flatMap(sources));
  const inFile = new Set(Object.values(info.covered).flat());
  const missing = Object.keys(info.parameters).filter(
    name => !trained.has(name) && info.parameters[name].largest > NOISE * overall,
  );
  for (const name of missing) if (inFile.has(name)) problems.push(`'${name}' does not train`);
  result.folded = missing.filter(name => !inFile.has(name)).length;
}

async function train(path, folder, feeds, options, { problems }) {
  const original = await readFile(path);
  const { model } = await agd.inject(await agd.loadModel(path), {
    ...options,
    original,
    optimizer: { lr: LR },
  });
  const [injected, trained] = ['injected.onnx', 'trained.onnx'].map(name => join(folder, name));
  await Promise.all([injected, trained].map(file => rm(file, { force: true })));
  await agd.saveModel(model, injected);
  const trainer = await agd.Trainer.create(model, { threads: 1 });
  const batch = Object.fromEntries(trainer.inputs.map(({ name }) => [name, feeds[name]]));
  const losses = [];
  for (let k = 0; k < STEPS; k++) losses.push((await trainer.step(batch)).loss);
  if (!(Math.min(...losses) < losses[0])) problems.push(`the loss does not fall: ${losses.join(', ')}`);
  await agd.exportFile(trainer.snapshot(), trained);
  await trainer.release();
}
