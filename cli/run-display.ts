/** What a training run prints: progress for people, nothing but files, or events for programs. */
import { basename } from 'node:path';
import { quotedColumn, showAugmentations } from '../src/command/startup.js';
import type { Evaluation, TrainEvent, TrainJob } from '../src/internal.js';
import { describeInjection } from './commands/inject.js';
import { dataStatus } from './ui/data-status.js';
import { formatBytes, formatCount, formatMetric, formatNumber, formatSeconds } from './ui/format.js';
import { createProgress, type Progress } from './ui/progress.js';
import { sparkline } from './ui/sparkline.js';
import { renderTable } from './ui/table.js';
import { jsonText, print, printPainted, warn } from './ui/terminal.js';

export type Detail = { verbose?: boolean; quiet?: boolean; json?: boolean; color?: boolean };

/** What follows a run beside its display. */
export type RunOutputs = { log?: string; csv?: string; logdir?: string; report?: string; ui?: boolean };

export type Display = {
  watch(event: TrainEvent): void;
  /** The run was asked to stop. */
  stopping(): void;
  /** Tells a person something. */
  notice(line: string): void;
  /** Ends it, in a `finally`. */
  done(): void;
};

type Event<T extends TrainEvent['type']> = Extract<TrainEvent, { type: T }>;

/**
 * The display of a job. Without options: a line on the job, warnings, progress and results. `verbose` adds the report of
 * the injection and all notes, `quiet` leaves the files written. With `json` the events are lines of standard output.
 * Under the last two, what is wrong or a person has to decide goes to standard error. `outputs` are in the command that
 * resumes.
 */
export function createDisplay(
  job: TrainJob,
  { verbose, quiet, json, color }: Detail,
  outputs: RunOutputs = {},
): Display {
  const talks = !quiet && !json;
  let progress: Progress | undefined;
  const reading = dataStatus(process.stdout);
  let injected: Event<'injected'> | undefined;
  const folds: Event<'fold'>[] = [];
  let stops = false;
  const say = (line: string) => (progress ? progress.note(line) : print(line));
  const tell = (line: string) => (talks ? say(line) : warn(line));
  const inform = (line: string) => {
    if (talks) say(line);
  };
  const detail = (line: string) => {
    if (talks && verbose) say(line);
  };
  const show = (event: TrainEvent) => {
    if (event.type === 'data') return talks ? reading.show(event) : undefined;
    reading.clear();
    switch (event.type) {
      case 'note':
        return event.level === 'warning' ? tell(event.text) : detail(event.text);
      case 'injected':
        injected = event;
        if (talks && verbose) for (const line of describeInjection(event)) say(line);
        else {
          for (const text of event.warnings) tell(`warning: ${text}`);
          for (const text of event.notes ?? []) inform(text);
        }
        return undefined;
      case 'start': {
        inform(describeStart(job, event, injected));
        const { batchSize: samplesPerStep, ...run } = event;
        if (talks) progress = createProgress({ stream: process.stdout, ...run, samplesPerStep, color });
        return undefined;
      }
      case 'step':
        return progress?.step(event);
      case 'validation':
        return progress?.validation(event);
      case 'epoch': {
        const { epoch, trainLoss, training, validation, seconds } = event;
        if (validation?.leftOut)
          tell(
            `validated on ${formatCount(validation.samples, 'sample')}, ${validation.leftOut} left out: they do not fill a batch, and the loss that the model computes has no per-sample values`,
          );
        for (const text of validation?.notes ?? []) detail(text);
        const { trainSeconds, waitSeconds = 0 } = event;
        const share = waitSeconds / trainSeconds;
        // In the first second nearly all is preparation.
        if (share > WAIT_SHARE && trainSeconds > 1)
          tell(`waited for data ${Math.round(100 * share)} % of the time of epoch ${epoch}`);
        return progress?.epoch({
          ...{ epoch, trainLoss, valLoss: validation?.loss, seconds },
          metrics: {
            ...named('train', training),
            ...named('val', validation),
            ...(event.privacy ? { epsilon: event.privacy.epsilon } : {}),
          },
        });
      }
      case 'saved':
        if (event.what === 'state') {
          if (talks || stops) tell(`saved state to ${event.path}`);
          if (stops) {
            const how = job.distributed
              ? 'resume with mpirun or srun and any number of ranks'
              : 'resume with';
            tell(`${how}: ${resumeCommand(job, event.path, outputs)}`);
          }
        } else if (event.what === 'checkpoint') detail(`saved a version of it to ${event.path}`);
        else if (!json) say(`wrote ${event.path}${quiet ? '' : describeBest(event)}`);
        return undefined;
      case 'rates':
        if (!json) for (const line of describeRates(event)) say(line);
        return undefined;
      case 'fold':
        folds.push(event);
        // The next one reads its data anew.
        progress?.done();
        progress = undefined;
        return undefined;
      case 'folds':
        if (!json) for (const line of describeFolds(folds, event)) say(line);
        return undefined;
      case 'plan':
        if (!json) for (const line of describePlan(job, event)) say(line);
        return undefined;
      case 'end':
        if (event.skipped)
          tell(`skipped ${formatCount(event.skipped, 'step')} whose gradients were not finite`);
        if (event.checkpoints) inform(describeKept(event.checkpoints));
        return inform(
          `${ENDINGS[event.reason](job)} after ${formatCount(event.steps, 'step')}${describePrivacy(event)}`,
        );
    }
  };
  return {
    watch(event) {
      if (json) printPainted(eventLine(event));
      show(event);
    },
    stopping() {
      reading.clear();
      stops = true;
      tell(
        progress || !talks
          ? 'stopping after the current steps; Ctrl-C again stops immediately'
          : 'stopped before training',
      );
    },
    notice: tell,
    done() {
      reading.clear();
      progress?.done();
    },
  };
}

/** An event as a line of JSON, without line break. What came before a resumed run is not its own. */
export function eventLine(event: TrainEvent): string {
  const { history, ...shown } = event as Event<'start'>;
  return jsonText(shown);
}

/** What is trained on what, in a line. */
function describeStart(job: TrainJob, start: Event<'start'>, injected?: Event<'injected'>): string {
  const { samples, epochs, stepsPerEpoch, batchSize, stepsBefore, fold, folds } = start;
  if (fold !== undefined && fold > 1) return `fold ${fold} of ${folds}: ${formatCount(samples, 'sample')}`;
  const trained = injected?.parameters.filter(p => p.trains) ?? [];
  const numbers = trained.reduce((n, { shape }) => n + elements(shape), 0);
  return [
    `${basename(job.model)}: `,
    injected ? `trains ${formatCount(numbers, 'parameter')} by ${nameOf(injected)} on ` : '',
    `${formatCount(samples, 'sample')}, ${formatCount(stepsPerEpoch, 'step')} of ${batchSize} per epoch`,
    stepsBefore ? `; ${formatCount(stepsBefore, 'step')} already done` : '',
    stepsBefore && stepsBefore >= epochs * stepsPerEpoch
      ? `, ${formatCount(Math.floor(stepsBefore / stepsPerEpoch), 'epoch')}: raise --epochs to train longer`
      : '',
    fold === undefined ? '' : `; fold 1 of ${folds}`,
  ].join('');
}

const nameOf = ({ description: { optimizer } }: Event<'injected'>) =>
  optimizer.name === 'own' ? 'its own step' : optimizer.name;

/** The first metrics that are one number: what a line or a page has room for. */
export const singleMetrics = (metrics: Readonly<Record<string, number>> = {}, most = 6) =>
  Object.entries(metrics)
    .filter(([name]) => !name.includes('/') && name !== 'loss')
    .slice(0, most);

/** The elements of a tensor of these extents, those of a parameter, which are numbers. */
export const elements = (shape: readonly unknown[] = [0]) => (shape as number[]).reduce((n, d) => n * d, 1);

const ENDINGS: Record<Event<'end'>['reason'], (job: TrainJob) => string> = {
  epochs: () => 'done',
  signal: () => 'stopped',
  callback: () => 'stopped by a callback',
  patience: ({ patience, monitor = 'loss' }) =>
    `stopped early (val ${monitor} did not improve for ${formatCount(patience!, 'epoch')})`,
};

function describeKept({ folder, kept }: NonNullable<Event<'end'>['checkpoints']>): string {
  const files = kept.map(({ file, epoch, value }) =>
    value === undefined ? file : `${file} (epoch ${epoch}: ${formatNumber(value)})`,
  );
  return `kept in ${folder}: ${files.join(', ')}`;
}

/** The losses of --find-lr as a plot, and the rate that they suggest. */
function describeRates({ rates, losses, suggested }: Event<'rates'>): string[] {
  const [first, last] = [rates[0]!, rates.at(-1)!].map(formatNumber) as [string, string];
  const width = Math.min(60, rates.length);
  const at = Math.round((rates.findIndex(rate => rate >= suggested) / rates.length) * width);
  return [
    `loss  ${sparkline(losses, width)}`,
    `      ${' '.repeat(Math.max(0, at))}^`,
    `rate  ${first}${' '.repeat(Math.max(1, width - first.length - last.length))}${last}`,
    `suggested: --lr ${suggested} (the loss falls fastest there); nothing was trained or written`,
  ];
}

/** What each fold of a cross-validation has come to, and all of them. */
function describeFolds(folds: readonly Event<'fold'>[], { choice, values, best }: Event<'folds'>): string[] {
  const names = ['loss', ...singleMetrics(folds[0]!.values).map(([name]) => name)];
  const cells = (of: (name: string) => number) => names.map(name => formatMetric(name, of(name)));
  const means = names.map(name => {
    const { mean, spread } = values[name]!;
    return `${formatMetric(name, mean)} ± ${formatMetric(name, spread)}`;
  });
  const rows = folds.map(({ fold, epoch, samples, values }) => [
    ...[`${fold}`, `${samples}`, `${epoch}`],
    ...cells(name => values[name]!),
  ]);
  const table = renderTable({
    head: ['fold', 'samples', 'epoch', ...names.map(name => `val ${name}`)],
    rows,
    foot: ['mean ± sd', '', '', ...means],
  });
  const epochs = Math.min(...folds.map(fold => fold.epochs));
  return [
    ...table.split('\n'),
    `each fold counts with its ${choice} epoch; --export ${choice === 'best' ? 'last' : 'best'} for its ${choice === 'best' ? 'last' : 'best'} one`,
    ...(best && epochs > 1
      ? [`best mean val ${best.metric}: ${formatNumber(best.value)} after epoch ${best.epoch} of ${epochs}`]
      : []),
  ];
}

/** What a run would take, for --dry-run. */
function describePlan(job: TrainJob, plan: Event<'plan'>): string[] {
  const { memory, disk, inputs, batchSize, epochs } = plan;
  const shapes = inputs.map(({ name, dtype, shape }) => `${name} ${dtype} [${shape}]`);
  const held = plan.validationSamples;
  const state = disk.state === undefined ? '' : `, state ${formatBytes(disk.state)}`;
  const free = disk.free === undefined ? '' : ` (free: ${formatBytes(disk.free)})`;
  return [
    `inputs  ${shapes.join('; ')}`,
    `data    ${formatCount(plan.samples, 'sample')}${held === undefined ? '' : `, ${formatCount(held)} for validation`}; ${formatCount(plan.stepsPerEpoch, 'step')} of ${batchSize} per epoch`,
    `memory  ${formatBytes(memory.peak)} at peak: parameters ${formatBytes(memory.parameters)}, optimizer state ${formatBytes(memory.state)}, activations and copies ${formatBytes(memory.activations)}, the rest for program and data`,
    `disk    model ${formatBytes(disk.model)}${state}${free}`,
    `time    ${formatSeconds(plan.secondsPerEpoch)} per epoch, ${formatSeconds(plan.secondsPerEpoch * epochs)} for ${formatCount(epochs, 'epoch')}`,
    `nothing was written; without --dry-run the model goes to ${job.output}`,
  ];
}

/** What a private run has spent. */
const describePrivacy = ({ privacy }: Pick<Event<'end'>, 'privacy'>): string =>
  privacy ? `; epsilon ${formatNumber(privacy.epsilon)} at a delta of ${formatNumber(privacy.delta)}` : '';

/** Which weights an exported model has. */
function describeBest({ best }: Event<'saved'>): string {
  if (!best) return '';
  const { epoch, metric, value } = best;
  return ` (best epoch: ${epoch}, val ${metric} ${formatNumber(value)}; --export last for the last one)`;
}

/** A run that waits longer than this share of its time for data is told so. */
const WAIT_SHARE = 0.05;

/** The columns of each input as `--columns` takes them. */
function columnFlags(columns: TrainJob['columns'] = {}): string[] {
  return Object.entries(columns).map(([input, given]) => {
    const list = [given].flat() as readonly ColumnText[];
    const texts = list.map(one =>
      typeof one === 'string' ? one : [quotedColumn(one.column), ...transformsOf(one)].join(':'),
    );
    return `${quotedColumn(input)}=${texts.join(',')}`;
  });
}

type ColumnText = string | { column: string; transforms?: string | readonly string[] };

const transformsOf = ({ transforms = [] }: Exclude<ColumnText, string>) =>
  transforms.length ? [[transforms].flat().join('+')] : [];

/** Its metrics, with what they are of before their names. */
const named = (what: string, evaluation: Evaluation | undefined) =>
  Object.fromEntries(singleMetrics(evaluation?.metrics).map(([name, value]) => [`${what} ${name}`, value]));

/** The command that resumes a job from a state as if it had not been stopped. */
function resumeCommand(job: TrainJob, state: string, { log, csv, logdir, report, ui }: RunOutputs): string {
  const { bind: { map = {}, scale, whole } = {} } = job;
  const given = {
    extend: job.extend,
    data: job.data,
    val: job.validation,
    columns: columnFlags(job.columns),
    label: job.label,
    'val-split': job.valSplit,
    sampler: job.sampler,
    'dp-delta': job.dpDelta,
    'sample-weights': job.sampleWeights,
    'shuffle-buffer': job.shuffleBuffer,
    augment: job.augment && showAugmentations(job.augment),
    'skip-missing': job.skipMissing,
    'skip-damaged': job.skipDamaged,
    epochs: job.epochs,
    'batch-size': job.batchSize,
    seed: job.seed || undefined,
    lr: job.lr,
    metric: job.metrics,
    'train-metrics': Boolean(job.trainMetrics) || undefined,
    map: Object.entries(map).map(pair => pair.join('=')),
    scale: typeof scale === 'object' ? Object.entries(scale).map(pair => pair.join('=')) : scale,
    whole,
    recipe: job.recipe,
    'recipe-out': job.recipeOut,
    'bake-preprocessing': job.bakePreprocessing,
    'export-ema': job.exportEma,
    'save-every': job.saveEvery,
    'keep-best': job.keepBest,
    'keep-last': job.keepLast,
    export: job.export,
    monitor: job.monitor,
    patience: job.patience,
    'min-delta': job.minDelta,
    state: job.state ?? state,
    out: job.output,
    log,
    csv,
    logdir,
    report,
    ui: ui || undefined,
    device: job.device === 'cpu' ? undefined : job.device,
    threads: job.threads,
    distributed: job.distributed,
    'mpi-library': job.mpiLibrary,
    compress: job.compress,
    'sync-every': job.syncEvery,
    'outer-lr': job.outerLr,
    'outer-momentum': job.outerMomentum,
    'shard-optimizer': job.shardOptimizer,
    timeout: job.timeout,
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
