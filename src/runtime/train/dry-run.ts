/** What a training run is going to take, from a few of its steps. */
import { stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { PlanEvent } from './events.js';
import type { Trainer } from './trainer.js';
import { trainingLoop } from './training-loop.js';
import type { RunData, RunOptions } from './training-run.js';

/** For a mean of the time of a step. */
const TRIAL_MS = 3000;
const MOST_MS = 15_000;
/** The memory of the runtime still grows in the second and third step. */
const LEAST_STEPS = 4;
const VALIDATION_MS = 1000;
/** The number of steps in a run doubles, and its memory grows, until this many runs were no longer than one before. */
const SETTLED = 3;
/** Whole runs grow by 4 to 9 percent beyond the trial. */
const GROWTH = 1.1;
/** Copies of the parameters that a run holds when it writes the trained model. */
const COPIES = 3;

/**
 * Does steps for some seconds, and validates for one, which changes the trainer's state. Memory is that of this process: its
 * largest size so far and what a whole run adds to it, so nothing else should have been done in it. `files` are those that the run would write: the model
 * that is exported, and the state. Throws as `trainingLoop` does.
 */
export async function dryRun(
  trainer: Trainer,
  { train, validation }: RunData,
  options: RunOptions,
  files: { source: string; output?: string; state?: string },
): Promise<Omit<PlanEvent, 'time'>> {
  const { epochs, batchSize, seed, lr, metrics, memoryLimit } = options;
  const learned = new Set(trainer.description.parameters.map(({ name }) => name));
  const bytes = { parameters: 0, state: 0 };
  for (const [name, tensor] of trainer.state)
    bytes[learned.has(name) ? 'parameters' : 'state'] += tensor.byteLength;
  const before = process.memoryUsage().rss;
  const start = performance.now();
  const first = trainer.batchCount;
  let [warm, warmSteps] = [start, first];
  let [longest, noLonger, last] = [0, 0, first];
  // An update takes memory that the batches before it do not.
  const least = Math.max(LEAST_STEPS, trainer.description.accumulation?.batches ?? 1);
  const isOver = () => {
    const elapsed = performance.now() - start;
    const isSettled = noLonger >= SETTLED || elapsed > MOST_MS;
    return elapsed > TRIAL_MS && trainer.batchCount - first >= least && isSettled;
  };
  const signal = {
    get aborted() {
      return isOver();
    },
  };
  const countRun = () => {
    const steps = trainer.batchCount - last;
    noLonger = steps > longest ? 0 : noLonger + 1;
    [longest, last] = [Math.max(longest, steps), last + steps];
  };
  const afterRun = () => {
    countRun();
    // The first run is slower than those that follow.
    if (warmSteps === first) [warm, warmSteps] = [performance.now(), trainer.batchCount];
  };
  const loop = {
    epochs: Math.max(epochs, Math.floor(first / train.batchCount(options)) + 1),
    batchSize,
    seed,
    lr,
    memoryLimit,
  };
  let end = start;
  for await (const event of trainingLoop(trainer, train, { ...loop, signal, afterRun })) {
    if (event.type === 'step') end = performance.now();
    if (event.type !== 'epoch') continue;
    countRun();
    if (isOver()) break;
  }
  const done = trainer.batchCount;
  const perStep =
    done > warmSteps ? (end - warm) / (done - warmSteps) : (end - start) / Math.max(1, done - first);
  const stepsPerEpoch = train.batchCount(options);
  const validationMs = validation ? await validationTime() : 0;
  const { maxRSS } = process.resourceUsage();
  const peak = GROWTH * maxRSS * 1024 + COPIES * bytes.parameters;
  const source = await stat(files.source).catch(() => undefined);
  const disk = await statfs(dirname(files.output ?? '.')).catch(() => undefined);
  return {
    type: 'plan',
    inputs: trainer.inputs.map(({ name, dtype, shape }) => ({ name, dtype, shape: [...(shape ?? [])] })),
    samples: train.length,
    ...(validation ? { validationSamples: validation.length } : {}),
    batchSize: train.batchSize(options),
    stepsPerEpoch,
    epochs,
    memory: { ...bytes, activations: Math.max(0, peak - before), peak },
    disk: {
      model: source?.isFile() ? source.size : bytes.parameters,
      ...(files.state === undefined ? {} : { state: bytes.parameters + bytes.state + (source?.size ?? 0) }),
      ...(disk ? { free: disk.bavail * disk.bsize } : {}),
    },
    secondsPerStep: perStep / 1000,
    secondsPerEpoch: (perStep * stepsPerEpoch + validationMs) / 1000,
  };

  async function validationTime(): Promise<number> {
    const order = { batchSize, pad: true };
    let [seen, begin] = [0, performance.now()];
    async function* some() {
      for await (const batch of validation!.batches(order)) {
        yield batch;
        // The first batch makes the session.
        if (seen++ === 0) begin = performance.now();
        else if (performance.now() - begin > VALIDATION_MS) return;
      }
    }
    await trainer.evaluate(some(), { metrics });
    const per = (performance.now() - begin) / Math.max(1, seen - 1);
    return per * validation!.batchCount(order);
  }
}
