/** This project's racer: injects the exported model and trains it with as many steps a run as its own loop would. */
import {
  flushDenormals,
  inject,
  loadModel,
  openForInjection,
  RunLength,
  Tensor,
  Trainer,
} from '../../dist/node/internal.js';
import { updateOnly } from '../models.mjs';
import { artifactBatch, COMPARED, serve } from './serve.mjs';

await serve(async (workload, threads) => {
  // As the thread of `train` does.
  flushDenormals();
  const options = JSON.parse(process.argv[5] ?? '{}');
  const { model, batch } = await prepared(workload, options);
  const trainer = await Trainer.create(model, { threads });
  const length = new RunLength({
    state: sizeOf(trainer.state),
    inPlace: trainer.writesInPlace,
    replaced: trainer.replacesState,
  });
  let compared = 0;
  let steps = 1;
  let batches = repeat(batch, steps);
  return {
    async run(lr) {
      const begin = performance.now();
      const losses = await trainer.steps(batches, workload.artifacts ? {} : { lr });
      length.learn(batches, steps, performance.now() - begin);
      const isCompared = compared < COMPARED;
      compared += steps;
      const shown = workload.inputs || workload.artifacts;
      // Where what is compared is a parameter, it is seen after each step. Faster later on, not slower by chance.
      if (length.steps > steps && (shown || compared >= COMPARED)) {
        steps = length.steps;
        batches = repeat(batch, steps);
      }
      return shown || !isCompared ? losses : losses.fill(await firstOf(trainer, 'p0'));
    },
  };
});

/** The first number of a state, read as by a training run's checkpoints: steps write over what they lent, not over `state`. */
async function firstOf(trainer, name) {
  let first;
  await trainer.lend(async ({ graph }) => {
    for (const [value, tensor] of graph.initializers) if (value.name === name) first = tensor.data[0];
  });
  return first;
}

function sizeOf(state) {
  return [...state.values()].reduce((bytes, tensor) => bytes + tensor.byteLength, 0);
}

function prepared(workload, options) {
  if (workload.artifacts) return lifted(workload.artifacts);
  return workload.inputs ? trained(workload, options) : updated(workload);
}

async function trained({ folder, name, loss, inputs, read }, options) {
  const { model } = await inject(await loadModel(`${folder}/${name}.onnx`), {
    loss: { kind: loss },
    ...options,
  });
  const batch = Object.entries(inputs).map(([input, spec]) => [
    input,
    Tensor.from(spec.dtype, spec.dims, read(spec)),
  ]);
  return { model, batch: Object.fromEntries(batch) };
}

/** AdamW as the artifacts have it, but for where epsilon is added. */
async function lifted(artifacts) {
  const adamw = { name: 'adamw', eps: 1e-6, weightDecay: 0 };
  const opened = await openForInjection(artifacts, { optimizer: adamw });
  const { model } = await inject(opened.model, opened.options);
  const batch = Object.values(artifactBatch()).map(({ dtype, dims, data }, i) => [
    opened.model.graph.inputs[i].name,
    Tensor.from(dtype, dims, data),
  ]);
  return { model, batch: Object.fromEntries(batch) };
}

async function updated({ parameters }) {
  const shapes = Object.fromEntries(Object.entries(parameters).map(([name, { dims }]) => [name, dims]));
  const options = { loss: { kind: 'output', output: 'loss' }, gradients: ['{param}=d_{param}'] };
  const { model } = await inject(updateOnly(shapes), options);
  return { model, batch: { x: Tensor.filled('float32', [], 0) } };
}

/** The batch as that of several steps. */
function repeat(batch, steps) {
  const repeated = Object.entries(batch).map(([name, { dtype, dims, bytes }]) => {
    const all = new Uint8Array(steps * bytes.length);
    for (let i = 0; i < steps; i++) all.set(bytes, i * bytes.length);
    return [name, new Tensor(dtype, [steps, ...dims], all)];
  });
  return Object.fromEntries(repeated);
}
