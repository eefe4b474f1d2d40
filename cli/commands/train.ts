import { basename, resolve } from 'node:path';
import { types } from '../../src/constants.js';
import type { TrainEvent, TrainJob } from '../../src/internal.js';
import { type Arguments, injectOptionsIfTask } from '../arguments.js';
import { checkOutputs } from '../files.js';
import type { Options } from '../flags.js';
import { runLog } from '../run-log.js';
import { RunRecord } from '../run-record.js';
import { formatCount } from '../ui/format.js';
import { createProgress, type Progress } from '../ui/progress.js';
import { print, warn } from '../ui/terminal.js';
import { describeInjection } from './inject.js';

export const model = 'ONNX file, plain or injected, or a folder of training artifacts';

const OUTPUT = { group: 'Output', commands: [], stage: 'run' } as const;

export const options = {
  out: {
    ...OUTPUT,
    type: types.text,
    alias: 'o',
    help: 'Trained model to write',
    shown: 'MODEL.trained.onnx',
  },
  state: {
    ...OUTPUT,
    type: types.text,
    help: 'Save the training state here after each epoch; where it exists, the run is resumed',
  },
  report: { ...OUTPUT, type: types.text, help: 'Write an HTML report with the loss curves' },
  log: { ...OUTPUT, type: types.text, help: 'Write every event as a line of JSON' },
  exportEma: { ...OUTPUT, type: types.flag, help: 'Write the moving average of the weights', expert: true },
  resumePytorch: {
    ...OUTPUT,
    type: types.text,
    group: 'Run',
    expert: true,
    help: 'Resume from parameters and optimizer state of PyTorch (.safetensors)',
  },
} satisfies Options;

export const examples = [
  [
    'train model.onnx --loss cross-entropy --data train.npz --val test.npz --epochs 5 -o model.trained.onnx',
    '',
  ],
  ['train model.agd.onnx --data train.npz --state model.agd.onnx', 'resume, or train an injected model'],
] as const;

export type TrainArgs = Arguments & { data: string } & {
  [K in 'out' | 'state' | 'report' | 'log' | 'resumePytorch']?: string;
} & { exportEma?: boolean };

export async function handler(args: TrainArgs): Promise<void> {
  const output = args.out ?? args.model.replace(/((\.trained)?\.agd)?(\.onnx|\/)?$/, '.trained.onnx');
  const { checkWritable, isArtifacts } = await import('../../src/internal.js');
  const inject = injectOptionsIfTask(args, await isArtifacts(args.model));
  // A state may overwrite the one that training resumes from, but not a model without state.
  checkOutputs(
    [output, isInPlace(args) && !inject ? undefined : args.state, args.log, args.report],
    [args.model, args.data, args.validation, args.params, args.config, args.resumePytorch],
  );
  for (const path of [args.log, args.report]) if (path !== undefined) await checkWritable(path);
  const job: TrainJob = {
    model: args.model,
    extend: args.extend,
    inject: inject,
    params: args.params,
    initialize: args.initialize,
    data: args.data,
    validation: args.validation,
    batchSize: args.batchSize,
    bind: args.bind,
    output,
    state: args.state,
    resumePytorch: args.resumePytorch,
    exportEma: args.exportEma,
    epochs: args.epochs ?? 1,
    seed: args.seed,
    lr: args.optimizer?.lr,
    device: args.device,
    threads: args.threads,
  };
  const record = new RunRecord();
  await runWithProgress(job, args, event => record.watch(event));
  if (args.report !== undefined && record.losses.length) await writeReport(args.report, args, record);
}

const isInPlace = ({ state, model }: TrainArgs) => state !== undefined && resolve(state) === resolve(model);

async function writeReport(path: string, { model, data }: TrainArgs, record: RunRecord): Promise<void> {
  const { writeFileAtomic } = await import('../../src/internal.js');
  const { renderRun } = await import('../run-report.js');
  const page = renderRun(record, {
    title: basename(model),
    subtitle: `Trained on ${formatCount(record.start!.samples, 'sample')} of ${basename(data)}.`,
    code: commandLine(process.argv.slice(2)),
  });
  await writeFileAtomic(path, [Buffer.from(page)]);
  print(`wrote ${path}`);
}

/** The signals that stop a run, with the exit codes of programs that end by them. */
const EXIT_CODES: Partial<Record<NodeJS.Signals, number>> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };

/**
 * Runs the job with its progress on the terminal. Ctrl-C, SIGTERM, and SIGHUP where there is a terminal to lose, stop it
 * after the step under way, with the signal's exit code; a second one ends the program at once.
 */
export async function runWithProgress(
  job: TrainJob,
  { log, color }: { log?: string; color?: boolean },
  watch: (event: TrainEvent) => void,
): Promise<void> {
  const { trainInWorker } = await import('../../src/internal.js');
  let progress: Progress | undefined;
  const say = (line: string) => (progress ? progress.note(line) : print(line));
  const abort = new AbortController();
  const kill = new AbortController();
  const signals = Object.keys(EXIT_CODES) as NodeJS.Signals[];
  const attached = [process.stdin, process.stdout, process.stderr].some(stream => stream.isTTY);
  const stop = (signal: NodeJS.Signals) => {
    // What runs in the background, by nohup or a scheduler, is to outlive the terminal.
    if (signal === 'SIGHUP' && !attached) return;
    if (abort.signal.aborted) {
      kill.abort();
      for (const other of signals) process.off(other, stop);
      process.kill(process.pid, signal);
      return;
    }
    abort.abort();
    process.exitCode = EXIT_CODES[signal];
    say(progress ? 'stops after the step under way; Ctrl-C again ends at once' : 'stopped before training');
  };
  for (const signal of signals) process.on(signal, stop);
  const writeLog = log === undefined ? () => {} : runLog(log, warn);
  const show = (event: TrainEvent) => {
    switch (event.type) {
      case 'note':
        return say(event.text);
      case 'injected':
        return describeInjection(event).forEach(say);
      case 'start': {
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
        say(`saved state to ${event.path}`);
        return abort.signal.aborted ? say(`resume with: ${resumeCommand(job, event.path, log)}`) : undefined;
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
      kill.signal,
    );
  } finally {
    progress?.done();
    for (const signal of signals) process.off(signal, stop);
  }
}

/** The command that resumes a job from a state as if it had not been stopped. */
function resumeCommand(job: TrainJob, state: string, log?: string): string {
  const { bind: { map = {}, scale, whole } = {} } = job;
  const given = {
    data: job.data,
    val: job.validation,
    epochs: job.epochs,
    'batch-size': job.batchSize,
    seed: job.seed || undefined,
    lr: job.lr,
    map: Object.entries(map).map(pair => pair.join('=')),
    scale: typeof scale === 'object' ? Object.entries(scale).map(pair => pair.join('=')) : scale,
    whole,
    'export-ema': job.exportEma,
    state: job.state ?? state,
    out: job.output,
    log,
    device: job.device === 'cpu' ? undefined : job.device,
    threads: job.threads,
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
