import { printable } from '../../src/command/startup.js';
import { formatLoss, formatMetric, formatSeconds } from './format.js';
import { fraction, movingLine, plainLines, type StepStatus } from './progress-display.js';
import { type Paint, painter } from './terminal.js';

export type StepReport = Pick<StepStatus, 'epoch' | 'step' | 'loss' | 'lr' | 'lossScale' | 'skipped'>;

/** `batch` of `batches` are done. */
export type ValidationReport = { epoch: number; batch: number; batches: number };

export type EpochReport = {
  epoch: number;
  /** What this one was. */
  name?: string;
  trainLoss: number;
  valLoss?: number;
  metrics?: Record<string, number>;
  seconds: number;
};

export type ProgressOptions = {
  stream: NodeJS.WriteStream;
  /** What is counted: epochs where not given. */
  unit?: string;
  epochs: number;
  stepsPerEpoch: number;
  samplesPerStep: number;
  /** Steps that a run which goes on has behind it. */
  stepsBefore?: number;
  /** Milliseconds on any clock that only goes forward. */
  now?: () => number;
  /** Overrules what the terminal and NO_COLOR say. */
  color?: boolean;
};

export type Progress = {
  step(report: StepReport): void;
  /** Where the validation pass after an epoch's steps stands. */
  validation(report: ValidationReport): void;
  /** Prints an epoch's result. */
  epoch(report: EpochReport): void;
  /** Prints any line, above the one that moves. */
  note(line: string): void;
  /** Ends the display and gives the cursor back; call it in a `finally`, twice does no harm. */
  done(): void;
};

/** Steps that are told within so many milliseconds were done in one run, of which nothing is told before its end. */
const RUN_GAP_MS = 100;
const ESTIMATE_MS = 250;

/** The past's weight in the smoothed loss. */
const SMOOTHING = 0.95;

/** Training progress on `stream`: one self-updating line on a terminal, plain lines elsewhere. */
export function createProgress(options: ProgressOptions): Progress {
  const { stream, unit = 'epoch', epochs, stepsPerEpoch, samplesPerStep, stepsBefore = 0 } = options;
  const { now = () => performance.now() } = options;
  const paint = painter(stream, options.color);
  const moves = stream.isTTY === true && process.env.TERM !== 'dumb';
  const displayOptions = { stream, unit, epochs, stepsPerEpoch, now };
  const display = moves ? movingLine(displayOptions, paint) : plainLines(displayOptions);
  const begin = now();
  let epochBegin = begin;
  let epochStepsBefore = stepsBefore % stepsPerEpoch;
  let sum = 0;
  let weight = 0;
  // What follows the steps of an epoch, validation above all, is not part of their pace: it comes once an epoch.
  let lastStep = begin;
  let passes = { count: 0, ms: 0 };
  let msPerStep = Number.NaN;
  // Where a run of steps is under way, the place in it is estimated.
  let last: StepStatus | undefined;
  let run = 0;
  const estimate = () => {
    const waited = now() - lastStep;
    if (!last || waited < 2 * ESTIMATE_MS) return;
    const steps = Math.min(Math.floor(waited / msPerStep), run, stepsPerEpoch - last.step);
    if (!(steps > 0)) return;
    const left = Math.max(0, last.secondsLeft - waited / 1000);
    display.show({ ...last, step: last.step + steps, secondsLeft: left, isEstimate: true });
  };
  const timer = moves ? setInterval(estimate, ESTIMATE_MS) : undefined;
  timer?.unref();
  const secondsLeft = (steps: number, passesLeft: number, msOfPass: number) =>
    (msPerStep * steps + msOfPass * passesLeft) / 1000;

  return {
    step(report) {
      const { epoch, step, loss } = report;
      if (Number.isFinite(loss)) {
        sum = SMOOTHING * sum + (1 - SMOOTHING) * loss;
        weight = SMOOTHING * weight + (1 - SMOOTHING);
      }
      const stepsDone = (epoch - 1) * stepsPerEpoch + step;
      if (now() - lastStep > RUN_GAP_MS) run = 0;
      run++;
      lastStep = now();
      msPerStep = (lastStep - begin - passes.ms) / (stepsDone - stepsBefore);
      last = {
        ...report,
        smoothedLoss: sum / weight,
        samplesPerSecond: (1000 * (step - epochStepsBefore) * samplesPerStep) / (now() - epochBegin),
        secondsLeft: secondsLeft(
          epochs * stepsPerEpoch - stepsDone,
          epochs - epoch + 1,
          passes.count ? passes.ms / passes.count : 0,
        ),
      };
      display.show(last);
    },
    validation({ epoch, batch, batches }) {
      const spent = now() - lastStep;
      last = undefined;
      const msOfPass = (spent * batches) / batch;
      // The pace is not known where a resumed run begins with it.
      const steps = (epochs - epoch) * stepsPerEpoch;
      const others = steps ? secondsLeft(steps, epochs - epoch, msOfPass) : 0;
      display.show({ epoch, batch, batches, secondsLeft: (msOfPass - spent) / 1000 + others });
    },
    epoch(report) {
      // What has a name of its own was a run: the next one begins anew.
      if (report.name !== undefined) sum = weight = 0;
      else passes = { count: passes.count + 1, ms: passes.ms + now() - lastStep };
      epochBegin = now();
      epochStepsBefore = 0;
      last = undefined;
      display.print(epochLine(report, `${unit} ${fraction(report.epoch, epochs)}`, paint));
    },
    note: line => display.print(printable(line)),
    done() {
      clearInterval(timer);
      display.done();
    },
  };
}

function epochLine(report: EpochReport, place: string, paint: Paint): string {
  const { name, trainLoss, valLoss, metrics = {}, seconds } = report;
  const values = {
    'train loss': formatLoss(trainLoss),
    ...(valLoss === undefined ? {} : { 'val loss': formatLoss(valLoss) }),
    ...Object.fromEntries(Object.entries(metrics).map(([name, value]) => [name, formatMetric(name, value)])),
  };
  return [
    paint('bold', place),
    ...(name === undefined ? [] : [printable(name)]),
    ...Object.entries(values).map(([name, value]) => `${paint('dim', name)} ${value}`),
    paint('dim', formatSeconds(seconds)),
  ].join('  ');
}
