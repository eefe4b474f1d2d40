import { writeFileSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import type { ArgumentsCamelCase, Argv } from 'yargs';
import { AgdError } from '../../src/constants.js';
import type { TrainEvent, TrainJob } from '../../src/index.js';
import { dataOf, dataOptions, type ParsedData } from '../data-options.js';
import {
  checkOutputs,
  checkpointOptions,
  gradientOptions,
  injectOptionsIfTask,
  lossOptions,
  type Parsed,
  sessionOptions,
  trainingOptions,
  withOriginal,
} from '../options.js';
import { RunRecord } from '../run-record.js';
import { stepOptions } from '../step-options.js';
import { formatCount } from '../ui/format.js';
import { createProgress, type Progress } from '../ui/progress.js';
import { print } from '../ui/terminal.js';
import { describeReport } from './inject.js';

export const builder = (args: Argv) =>
  sessionOptions(
    stepOptions(gradientOptions(dataOptions(checkpointOptions(trainingOptions(lossOptions(args)))))),
  )
    .positional('model', {
      type: 'string',
      demandOption: true,
      describe: 'ONNX file, plain or injected, or a folder of training artifacts',
    })
    .options({
      epochs: {
        type: 'number',
        default: 1,
        describe: 'Passes over the data, those of a resumed state included',
      },
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
      report: { type: 'string', describe: 'Write an HTML page with the curves to this file' },
      log: { type: 'string', describe: 'Write every event to this file, a JSON object a line' },
    } as const)
    .example('$0 train model.agd.onnx --data train.npz --val test.npz --epochs 5 --batch-size 64', '')
    .example('$0 train model.onnx --loss cross-entropy --data train.npz', 'injects in memory');

export type TrainArgs = ArgumentsCamelCase<
  Parsed &
    ParsedData & {
      model: string;
      epochs: number;
      out?: string;
      state?: string;
      resumePytorch?: string;
      exportEma?: boolean;
      report?: string;
      log?: string;
      device?: TrainJob['device'];
      threads?: number;
      color?: boolean;
    }
>;

export async function handler(args: TrainArgs): Promise<void> {
  const output = args.out ?? args.model.replace(/((\.trained)?\.agd)?(\.onnx|\/)?$/, '.trained.onnx');
  const { checkWritable, isArtifacts } = await import('../../src/index.js');
  const inject = injectOptionsIfTask(args, await isArtifacts(args.model));
  // A state may be written over the one that training goes on from, but not over a model that has none.
  checkOutputs(
    [output, isInPlace(args) && !inject ? undefined : args.state, args.log, args.report],
    [args.model, args.data, args.val, args.params, args.config, args.resumePytorch],
  );
  for (const path of [args.log, args.report]) if (path !== undefined) await checkWritable(path);
  const job: TrainJob = {
    model: args.model,
    inject: inject && (await withOriginal(inject, args.model)),
    params: args.params,
    initialize: args.initialize,
    ...dataOf(args),
    output,
    state: args.state,
    resumePytorch: args.resumePytorch,
    exportEma: args.exportEma,
    epochs: args.epochs,
    seed: args.seed,
    lr: args.lr,
    device: args.device,
    threads: args.threads,
  };
  const record = new RunRecord();
  await runWithProgress(job, args, event => record.watch(event));
  if (args.report !== undefined && record.losses.length) await writeReport(args.report, args, record);
}

const isInPlace = ({ state, model }: TrainArgs) => state !== undefined && resolve(state) === resolve(model);

async function writeReport(path: string, { model, data }: TrainArgs, record: RunRecord): Promise<void> {
  const { writeFileAtomic } = await import('../../src/index.js');
  const { renderRun } = await import('../run-report.js');
  const page = renderRun(record, {
    title: basename(model),
    subtitle: `Trained on ${formatCount(record.begin!.samples, 'sample')} of ${basename(data)}.`,
    code: commandLine(process.argv.slice(2)),
  });
  await writeFileAtomic(path, [Buffer.from(page)]);
  print(`wrote ${path}`);
}

/**
 * Runs the job with its progress on the terminal. Ctrl-C stops it after the step under way, with exit code 130; a second
 * one ends the program at once.
 */
export async function runWithProgress(
  job: TrainJob,
  { log, color }: { log?: string; color?: boolean },
  watch: (event: TrainEvent) => void,
): Promise<void> {
  const { trainInWorker } = await import('../../src/index.js');
  let progress: Progress | undefined;
  const say = (line: string) => (progress ? progress.note(line) : print(line));
  const abort = new AbortController();
  const stop = (signal: NodeJS.Signals) => {
    if (abort.signal.aborted) {
      // By the signal's own effect: to exit would break off the runtime's thread, which it reports as a crash.
      process.off('SIGINT', stop).off('SIGTERM', stop).kill(process.pid, signal);
      return;
    }
    abort.abort();
    process.exitCode = 130;
    say('stops after the step under way; Ctrl-C again ends at once');
  };
  process.on('SIGINT', stop).on('SIGTERM', stop);
  const writeLog = logTo(log);
  const show = (event: TrainEvent) => {
    switch (event.type) {
      case 'note':
        return say(event.text);
      case 'injected':
        return describeReport(event.report).forEach(say);
      case 'begin': {
        const { batchSize: samplesPerStep, ...run } = event;
        progress = createProgress({ stream: process.stdout, ...run, samplesPerStep, color });
        return undefined;
      }
      case 'step':
        return progress?.step(event);
      case 'epoch': {
        const { epoch, trainLoss, validation, seconds } = event;
        if (validation?.leftOut)
          say(
            `validated on ${formatCount(validation.samples, 'sample')}: ${validation.leftOut} do not fill a batch, and the loss that the model computes does not tell samples apart`,
          );
        const metrics =
          validation?.accuracy === undefined ? undefined : { 'val accuracy': validation.accuracy };
        return progress?.epoch({ epoch, trainLoss, valLoss: validation?.loss, metrics, seconds });
      }
      case 'saved':
        if (event.what === 'model') return say(`wrote ${event.path}`);
        say(`kept the state in ${event.path}`);
        return abort.signal.aborted ? say(`go on with: ${resumeCommand(job, event.path)}`) : undefined;
      case 'end':
        if (event.skipped)
          say(`skipped ${formatCount(event.skipped, 'step')} whose gradients were not finite`);
        return say(`${event.stopped ? 'stopped' : 'done'} after ${formatCount(event.steps, 'step')}`);
    }
  };
  try {
    await trainInWorker(
      job,
      event => {
        writeLog(event);
        watch(event);
        show(event);
      },
      abort.signal,
    );
  } finally {
    progress?.done();
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
}

/** Writes events to a file, a line each. Throws `io`. */
function logTo(path: string | undefined): (event: TrainEvent) => void {
  if (path === undefined) return () => {};
  const write = (text: string, flag: 'a' | 'w') => {
    try {
      writeFileSync(path, text, { flag });
    } catch (error) {
      throw new AgdError('io', `Cannot write '${path}': ${(error as Error).message}.`);
    }
  };
  write('', 'w');
  return event => write(`${JSON.stringify(event)}\n`, 'a');
}

/** The command that goes on from a state as if the job had not been stopped. */
function resumeCommand(job: TrainJob, state: string): string {
  const { bind: { map = {}, scale } = {} } = job;
  const given = {
    data: job.data,
    val: job.validation,
    epochs: job.epochs,
    'batch-size': job.batchSize,
    seed: job.seed || undefined,
    lr: job.lr,
    map: Object.entries(map).map(pair => pair.join('=')),
    scale: typeof scale === 'object' ? Object.entries(scale).map(pair => pair.join('=')) : scale,
    'export-ema': job.exportEma,
    state: job.state,
    out: job.output,
  };
  const flags = Object.entries(given).flatMap(([name, value]) =>
    [value ?? []].flat().flatMap(v => (v === true ? [`--${name}`] : [`--${name}`, String(v)])),
  );
  return commandLine(['train', state, ...flags]);
}

/** As a shell takes it. */
export function commandLine(args: readonly string[]): string {
  const quote = (arg: string) => (/^[\w./:=,+-]+$/.test(arg) ? arg : `'${arg.replaceAll("'", `'\\''`)}'`);
  return ['agd-onnx', ...args].map(quote).join(' ');
}
