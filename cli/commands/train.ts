import { basename, resolve } from 'node:path';
import { AgdError, findLaunch, types } from '../../src/command/startup.js';
import type { TrainEvent, TrainJob } from '../../src/internal.js';
import { type Arguments, injectOptionsIfTask } from '../arguments.js';
import { UsageError } from '../failure.js';
import { checkOutputs, pathsOf } from '../files.js';
import { kebab, type Options } from '../flags.js';
import type { LivePage } from '../live-page.js';
import { commandLine, createDisplay, type Detail, type Display } from '../run-display.js';
import { runLog, type Watcher } from '../run-log.js';
import { RunRecord } from '../run-record.js';
import { formatCount, formatNumber } from '../ui/format.js';
import { warn } from '../ui/terminal.js';

export const model = 'ONNX file, plain or injected, or a folder of training artifacts';

const RUN = { group: 'Run', commands: [], stage: 'run' } as const;
const OUTPUT = { group: 'Output', commands: [], stage: 'run' } as const;

export const options = {
  out: {
    ...OUTPUT,
    type: types.text,
    alias: 'o',
    help: 'Trained model to write',
    shown: 'MODEL.trained.onnx',
  },
  outDir: {
    ...OUTPUT,
    type: types.text,
    help: 'With --folds: folder for the model of each fold, fold-1.onnx and so on',
  },
  state: {
    ...OUTPUT,
    type: types.text,
    help: 'Save the training state to this file after each epoch; resume from it if it exists',
  },
  saveEvery: {
    ...OUTPUT,
    type: types.text,
    help: 'When to save the state: 500steps, 10min or 2epochs',
    shown: '1epoch',
  },
  keepBest: {
    ...OUTPUT,
    type: types.count,
    help: 'Keep the best N epochs by the monitored value in STATE.checkpoints/',
    shown: '1 with --val',
  },
  keepLast: { ...OUTPUT, type: types.count, help: 'Keep the last N saved states in STATE.checkpoints/' },
  export: {
    ...OUTPUT,
    type: types.choice(['best', 'last']),
    help: 'Weights to write: those of the best epoch or the last ones',
    shown: 'best with --val, else last',
  },
  dryRun: {
    ...RUN,
    type: types.flag,
    help: 'Run a few steps and print the memory, disk space and time of the run; write nothing',
  },
  findLr: {
    ...RUN,
    type: types.flag,
    help: 'Try learning rates from 1e-7 to 10, show the losses and suggest one; --report writes the chart',
    conflicts: ['dryRun'],
  },
  distributed: {
    ...RUN,
    type: types.flag,
    help: 'Train together with the other processes that mpirun or srun started',
    conflicts: ['dryRun', 'dpSgd'],
  },
  mpiLibrary: {
    ...RUN,
    type: types.text,
    help: 'With --distributed: path of the MPI library',
    shown: 'that of Open MPI or MPICH',
    expert: true,
  },
  compress: {
    ...RUN,
    type: types.choice(['fp16']),
    help: 'With --distributed: send gradients as float16',
    expert: true,
  },
  syncEvery: {
    ...RUN,
    type: types.count,
    help: 'With --distributed: train N steps on each rank alone between averages of the parameters, for slow networks',
    conflicts: ['compress', 'shardOptimizer', 'syncBatchNorm', 'findLr', 'stateBits'],
    expert: true,
  },
  outerLr: {
    ...RUN,
    type: types.positive,
    help: 'With --sync-every: learning rate of the outer optimizer, which takes the change of the average as its gradient',
    shown: '1',
    expert: true,
  },
  outerMomentum: {
    ...RUN,
    type: types.belowOne,
    help: 'With --sync-every: Nesterov momentum of the outer optimizer',
    shown: '0',
    expert: true,
  },
  shardOptimizer: {
    ...RUN,
    type: types.flag,
    help: 'With --distributed: divide the optimizer state among the ranks (ZeRO stage 1), for less memory on each',
    conflicts: ['telemetry', 'resumePytorch'],
    expert: true,
  },
  timeout: {
    ...RUN,
    type: types.positive,
    help: 'With --distributed: end the run if a rank waits this many seconds for the others',
    shown: '600',
    expert: true,
  },
  monitor: {
    ...RUN,
    type: types.text,
    help: 'Validation value that decides which epoch is best: loss or a metric',
    shown: 'loss',
  },
  patience: {
    ...RUN,
    type: types.count,
    help: 'Stop after N epochs in which the monitored value did not improve',
  },
  minDelta: {
    ...RUN,
    type: types.nonNegative,
    help: 'Smallest change that --patience counts as an improvement',
    shown: '0',
    expert: true,
  },
  bakePreprocessing: {
    ...OUTPUT,
    type: types.flag,
    help: 'Write the preprocessing of the columns into the graph: the trained model takes raw columns',
  },
  recipeOut: { ...OUTPUT, type: types.text, help: 'Also write the recipe of the columns as JSON' },
  report: { ...OUTPUT, type: types.text, help: 'Write an HTML report with the loss curves' },
  log: { ...OUTPUT, type: types.text, help: 'Write every event as a line of JSON' },
  csv: { ...OUTPUT, type: types.text, help: 'Write a table with a row for each step and each epoch' },
  logdir: { ...OUTPUT, type: types.text, help: 'Write event files for TensorBoard into this folder' },
  ui: {
    ...OUTPUT,
    type: types.flag,
    help: 'Show a live report of the run on a local page',
  },
  verbose: { ...OUTPUT, type: types.flag, help: 'Print details of the injection, and all notes' },
  quiet: {
    ...OUTPUT,
    type: types.flag,
    help: 'Print only the files written, warnings and errors',
    conflicts: ['verbose', 'json'],
  },
  json: {
    ...OUTPUT,
    type: types.flag,
    help: 'Print every event as a line of JSON and nothing else',
    conflicts: ['verbose'],
  },
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

export type TrainArgs = Arguments & { data: string | readonly string[] } & {
  [K in
    | ('out' | 'outDir' | 'state' | 'report' | 'log' | 'csv' | 'logdir' | 'resumePytorch')
    | 'recipeOut']?: string;
} & Detail & {
    exportEma?: boolean;
    dryRun?: boolean;
    findLr?: boolean;
    bakePreprocessing?: boolean;
    ui?: boolean;
    distributed?: boolean;
  } & Together &
  Choosing;

/** How ranks train together. */
type Together = Pick<
  TrainJob,
  ('mpiLibrary' | 'compress' | 'syncEvery' | 'outerLr' | 'outerMomentum') | ('shardOptimizer' | 'timeout')
>;
const together = (args: Together) => {
  const { mpiLibrary, compress, syncEvery, outerLr, outerMomentum, shardOptimizer, timeout } = args;
  return { mpiLibrary, compress, syncEvery, outerLr, outerMomentum, shardOptimizer, timeout };
};

/** How a run is stopped, and which of its versions are kept. */
type Choosing = Pick<
  TrainJob,
  'saveEvery' | 'keepBest' | 'keepLast' | 'export' | 'monitor' | 'patience' | 'minDelta'
>;
const choosing = ({ saveEvery, keepBest, keepLast, export: which, monitor, patience, minDelta }: Choosing) =>
  ({ saveEvery, keepBest, keepLast, export: which, monitor, patience, minDelta }) satisfies Choosing;

/** Of the other ranks nothing is shown but errors. */
const SILENT: Display = { watch() {}, stopping() {}, notice() {}, done() {} };

/** Validation samples with the largest loss in a report. */
const WORST_SAMPLES = 24;

export async function handler(args: TrainArgs): Promise<void> {
  if (!args.distributed) {
    for (const [name, value] of Object.entries({ ...together(args), syncBatchNorm: args.syncBatchNorm }))
      if (value !== undefined) throw new UsageError(`--${kebab(name)} needs --distributed.`);
    return train(args);
  }
  if (args.syncEvery === undefined)
    for (const name of ['outerLr', 'outerMomentum'] as const)
      if (args[name] !== undefined) throw new UsageError(`--${kebab(name)} needs --sync-every.`);
  const launch = findLaunch();
  if (!launch?.rank) return train(args);
  const quiet = { quiet: true, verbose: undefined, json: undefined, ui: undefined };
  const files = { log: undefined, csv: undefined, report: undefined, logdir: undefined };
  try {
    await train({ ...args, ...quiet, ...files }, true);
  } catch (error) {
    // Some say themselves on which rank they occurred.
    if (!(error instanceof AgdError) || /^Rank \d+: /.test(error.message)) throw error;
    throw new AgdError(error.code, `rank ${launch.rank}: ${error.message}`, { cause: error });
  }
}

/** `isSilent`: warnings are those of rank 0. */
async function train(args: TrainArgs, isSilent = false): Promise<void> {
  if (args.outDir !== undefined && args.folds === undefined)
    throw new UsageError('--out-dir takes the models of --folds: give -o FILE for one model.');
  if (args.folds !== undefined && args.outDir === undefined)
    for (const [flag, given] of Object.entries({
      'export-ema': args.exportEma,
      'bake-preprocessing': args.bakePreprocessing,
    }))
      if (given) throw new UsageError(`--${flag} changes the models that --folds writes: add --out-dir DIR.`);
  const output = args.folds === undefined ? (args.out ?? trainedName(args.model)) : undefined;
  const { checkWritable, dataOptionsOf, foldOutput, isArtifacts } = await import(
    '../../src/command/training.js'
  );
  const { folds = 0, outDir } = args;
  const models =
    outDir === undefined ? [output] : Array.from({ length: folds }, (_, i) => foldOutput(outDir, i));
  const inject = injectOptionsIfTask(args, await isArtifacts(args.model));
  // A state may overwrite the one that training resumes from, but not a model without state.
  checkOutputs(
    [
      ...models,
      isInPlace(args) && !inject ? undefined : args.state,
      ...[args.log, args.csv, args.report, args.recipeOut],
    ],
    [
      ...[
        args.model,
        ...pathsOf(args.data, args.validation),
        args.params,
        args.adapter,
        args.teacher,
        args.lossModel,
        args.config,
      ],
      ...[args.resumePytorch, args.recipe],
    ],
  );
  for (const path of [args.log, args.csv, args.report]) if (path !== undefined) await checkWritable(path);
  const job: TrainJob = {
    model: args.model,
    extend: args.extend,
    inject: inject,
    params: args.params,
    adapter: args.adapter,
    teacher: args.teacher,
    lossModel: args.lossModel,
    initialize: args.initialize,
    data: args.data,
    validation: args.validation,
    ...dataOptionsOf(args),
    batchSize: args.batchSize,
    bind: args.bind,
    output,
    folds: args.folds,
    outDir: args.outDir,
    state: args.state,
    resumePytorch: args.resumePytorch,
    exportEma: args.exportEma,
    recipe: args.recipe,
    recipeOut: args.recipeOut,
    bakePreprocessing: args.bakePreprocessing,
    ...choosing(args),
    dryRun: args.dryRun,
    findLr: args.findLr,
    epochs: args.epochs ?? 1,
    dpEpsilon: args.dpEpsilon,
    dpDelta: args.dpDelta,
    memory: args.memory,
    seed: args.seed,
    lr: args.optimizer?.lr,
    metrics: args.metrics,
    trainMetrics: args.trainMetrics,
    worstSamples: args.report !== undefined || args.ui ? WORST_SAMPLES : undefined,
    device: args.device,
    threads: args.threads,
    distributed: args.distributed,
    ...together(args),
  };
  const record = new RunRecord();
  const display = isSilent ? SILENT : createDisplay(job, args, args);
  const page = args.ui ? await openPage(record, args, display) : undefined;
  const watchers = [...(await fileWatchers(args)), (event: TrainEvent) => record.watch(event)];
  let failure: string | undefined;
  try {
    await runWithProgress(job, display, event => {
      for (const watch of watchers) watch(event);
      page?.changed();
    });
  } catch (error) {
    failure = error instanceof Error ? error.message : String(error);
    throw error;
  } finally {
    await page?.close(failure);
  }
  if (args.report !== undefined && record.rangeTest) {
    const { writeFileAtomic } = await import('../../src/command/training.js');
    const { renderRates } = await import('../rates-report.js');
    await writeFileAtomic(args.report, [Buffer.from(renderRates(record.rangeTest, basename(args.model)))]);
    display.watch({ type: 'saved', time: Date.now(), path: args.report, what: 'report' });
  }
  if (args.report === undefined || !record.losses.length) return;
  await writeReport(args.report, args, record);
  display.watch({ type: 'saved', time: Date.now(), path: args.report, what: 'report' });
}

const trainedName = (model: string) => model.replace(/((\.trained)?\.agd)?(\.onnx|\/)?$/, '.trained.onnx');

async function openPage(record: RunRecord, { model }: TrainArgs, display: Display): Promise<LivePage> {
  const { serveLivePage } = await import('../live-page.js');
  const page = await serveLivePage(record, basename(model));
  display.notice(`the run is shown at ${page.url}`);
  return page;
}

/** The files that follow the run; what makes them is loaded where it is asked for. */
async function fileWatchers({ log, csv, logdir }: TrainArgs): Promise<Watcher[]> {
  return [
    ...(log === undefined ? [] : [runLog(log, warn)]),
    ...(csv === undefined ? [] : [(await import('../run-csv.js')).runCsv(csv, warn)]),
    ...(logdir === undefined ? [] : [(await import('../run-tensorboard.js')).runTensorBoard(logdir, warn)]),
  ];
}

const isInPlace = ({ state, model }: TrainArgs) => state !== undefined && resolve(state) === resolve(model);

async function writeReport(path: string, { model, data }: TrainArgs, record: RunRecord): Promise<void> {
  const { writeFileAtomic } = await import('../../src/command/training.js');
  const { renderRun } = await import('../run-report.js');
  const page = renderRun(record, {
    title: basename(model),
    subtitle: `Trained on ${formatCount(record.start!.samples, 'sample')} of ${pathsOf(data)
      .map(path => basename(path))
      .join(', ')}.${privacyOf(record)}`,
    code: commandLine(process.argv.slice(2)),
  });
  await writeFileAtomic(path, [Buffer.from(page)]);
}

/** What a private run has spent, as a sentence. */
function privacyOf({ epochs }: RunRecord): string {
  const { privacy } = epochs.at(-1) ?? {};
  if (!privacy) return '';
  const [epsilon, delta] = [privacy.epsilon, privacy.delta].map(formatNumber);
  return ` Differentially private: epsilon ${epsilon} at a delta of ${delta}.`;
}

/** The signals that stop a run, with the exit codes of programs that end by them. */
const EXIT_CODES: Partial<Record<NodeJS.Signals, number>> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };

/**
 * Runs the job and shows what happens. Ctrl-C, SIGTERM, and SIGHUP where there is a terminal to lose, stop it after the
 * steps under way, with the signal's exit code; a second one ends the program at once.
 */
export async function runWithProgress(
  job: TrainJob,
  display: Display,
  watch: (event: TrainEvent) => void,
): Promise<void> {
  const { trainInWorker } = await import('../../src/command/training.js');
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
    display.stopping();
  };
  for (const signal of signals) process.on(signal, stop);
  try {
    await trainInWorker(
      job,
      event => {
        watch(event);
        display.watch(event);
      },
      abort.signal,
      kill.signal,
    );
  } finally {
    display.done();
    for (const signal of signals) process.off(signal, stop);
  }
}
