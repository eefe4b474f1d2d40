import { appendFileSync, writeFileSync } from 'node:fs';
import type { ArgumentsCamelCase, Argv } from 'yargs';
import { AgdError, parseScale } from '../../src/constants.js';
import type { TrainEvent, TrainJob } from '../../src/index.js';
import {
  agdOptions,
  injectOptionsIfTask,
  lossOptions,
  outputPath,
  type Parsed,
  sessionOptions,
  trainingOptions,
  withFiles,
} from '../options.js';
import { formatCount } from '../ui/format.js';
import { createProgress, type Progress } from '../ui/progress.js';
import { describeReport } from './inject.js';

export const builder = (args: Argv) =>
  sessionOptions(agdOptions(trainingOptions(lossOptions(args))))
    .positional('model', {
      type: 'string',
      demandOption: true,
      describe: 'ONNX file, plain or injected, or a folder of training artifacts',
    })
    .options({
      data: { type: 'string', demandOption: true, describe: 'Training data: .npz, .npy or .safetensors' },
      val: { type: 'string', describe: 'Validation data, evaluated after each epoch' },
      epochs: {
        type: 'number',
        default: 1,
        describe: 'Passes over the data, those of a resumed state included',
      },
      'batch-size': { type: 'number', describe: 'Samples a step [32]' },
      out: { alias: 'o', type: 'string', describe: 'Trained model to write [MODEL.trained.onnx]' },
      state: {
        type: 'string',
        describe: 'Where to keep the training state after each epoch; train goes on from it',
      },
      'resume-pytorch': {
        type: 'string',
        describe: 'Go on from parameters and optimizer state of PyTorch (.safetensors)',
      },
      'export-ema': { type: 'boolean', describe: 'Write the moving average of the weights, not the weights' },
      map: { type: 'string', array: true, describe: 'INPUT=ARRAY, where the names differ' },
      scale: { type: 'string', array: true, describe: 'Factor for integer arrays, 1/255 or INPUT=1/255' },
      log: { type: 'string', describe: 'Write every event to this file, a JSON object a line' },
    } as const)
    .example('$0 train model.agd.onnx --data train.npz --val test.npz --epochs 5 --batch-size 64', '')
    .example('$0 train model.onnx --loss cross-entropy --data train.npz', 'injects in memory');

export type TrainArgs = ArgumentsCamelCase<
  Parsed & {
    model: string;
    data: string;
    val?: string;
    epochs: number;
    batchSize?: number;
    out?: string;
    state?: string;
    resumePytorch?: string;
    exportEma?: boolean;
    map?: string[];
    scale?: string[];
    log?: string;
    device?: TrainJob['device'];
    threads?: number;
    color?: boolean;
  }
>;

export async function handler(args: TrainArgs): Promise<void> {
  const output = outputPath(
    args.out ?? args.model.replace(/(\.agd)?(\.onnx|\/)?$/, '.trained.onnx'),
    args.model,
  );
  const { isFolder } = await import('../../src/index.js');
  const inject = injectOptionsIfTask(args, await isFolder(args.model));
  const job: TrainJob = {
    model: args.model,
    inject: inject && (await withFiles(inject, args.model, args)),
    data: args.data,
    validation: args.val,
    output,
    state: args.state,
    resumePytorch: args.resumePytorch,
    exportEma: args.exportEma,
    epochs: args.epochs,
    batchSize: args.batchSize,
    seed: args.seed,
    lr: args.lr,
    bind: { map: pairs('--map', args.map), scale: scales(args.scale) },
    device: args.device,
    threads: args.threads,
  };
  const stopped = await runWithProgress(job, args);
  if (stopped) process.exitCode = 130;
}

/** Runs the job with its progress on the terminal; Ctrl-C stops it after the step under way. True if it was stopped. */
export async function runWithProgress(
  job: TrainJob,
  { log, color }: { log?: string; color?: boolean },
  watch: (event: TrainEvent) => void = () => {},
): Promise<boolean> {
  const { trainInWorker } = await import('../../src/index.js');
  const abort = new AbortController();
  const stop = () => {
    if (abort.signal.aborted) process.exit(130);
    abort.abort();
  };
  process.on('SIGINT', stop).on('SIGTERM', stop);
  if (log) writeFileSync(log, '');
  let progress: Progress | undefined;
  let stopped = false;
  const say = (line: string) => (progress ? progress.note(line) : console.log(line));
  try {
    await trainInWorker(
      job,
      event => {
        if (log) appendFileSync(log, `${JSON.stringify(event)}\n`);
        watch(event);
        switch (event.type) {
          case 'note':
            return say(event.text);
          case 'injected':
            return describeReport(event.report).forEach(say);
          case 'begin': {
            const { epochs, stepsPerEpoch, batchSize } = event;
            progress = createProgress({
              stream: process.stdout,
              epochs,
              stepsPerEpoch,
              samplesPerStep: batchSize,
              color,
            });
            return undefined;
          }
          case 'step':
            return progress?.step(event);
          case 'epoch': {
            const { epoch, trainLoss, validation, seconds } = event;
            const metrics =
              validation?.accuracy === undefined ? undefined : { 'val accuracy': validation.accuracy };
            return progress?.epoch({ epoch, trainLoss, valLoss: validation?.loss, metrics, seconds });
          }
          case 'saved':
            return say(
              event.what === 'model'
                ? `wrote ${event.path}`
                : `kept the state in ${event.path}: train goes on from it`,
            );
          case 'end':
            stopped = event.stopped;
            if (event.skipped)
              say(`skipped ${formatCount(event.skipped, 'step')} whose gradients were not finite`);
            return say(`${stopped ? 'stopped' : 'done'} after ${formatCount(event.steps, 'step')}`);
        }
      },
      abort.signal,
    );
  } finally {
    progress?.done();
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
  return stopped;
}

function pairs(flag: string, texts: readonly string[] = []): Record<string, string> {
  return Object.fromEntries(
    texts.map(text => {
      const at = text.indexOf('=');
      if (at < 1 || at === text.length - 1)
        throw new AgdError('bad-option', `${flag} takes INPUT=VALUE, not '${text}'.`);
      return [text.slice(0, at), text.slice(at + 1)];
    }),
  );
}

function scales(texts: readonly string[] = []): number | Record<string, number> | undefined {
  if (!texts.length) return undefined;
  if (texts.length === 1 && !texts[0]!.includes('=')) return parseScale(texts[0]!);
  return Object.fromEntries(
    Object.entries(pairs('--scale', texts)).map(([input, text]) => [input, parseScale(text)]),
  );
}
