/** All metrics by name, and which are computed where nobody chose any. */
import { toUtf8 } from '../../graph/bytes.js';
import { AgdError } from '../../graph/errors.js';
import type { Tensor } from '../../graph/tensor.js';
import { checkNewName, unknownName } from '../../ops/core/option-type.js';
import {
  activationOf,
  isKnownLoss,
  lossNamed,
  takesClasses,
  takesProbabilities,
} from '../../ops/losses/index.js';
import { classAxisOf } from '../../ops/losses/loss.js';
import type { LossSpec } from '../../passes/options.js';
import { type Recipe, targetColumn } from '../../passes/recipe/recipe.js';
import { tokenBytes } from '../data/recipe/token-bytes.js';
import { CALIBRATION } from './calibration.js';
import { CONFUSION, COUNTS } from './counts.js';
import { LIKELIHOOD } from './likelihood.js';
import {
  type Accumulator,
  addSums,
  type ConfusionMatrix,
  type Metric,
  type MetricValue,
  type Sums,
  type Task,
  type TaskSpec,
} from './metric.js';
import { RANKING } from './ranking.js';
import { REGRESSION } from './regression.js';
import { ScoredBatch } from './scored-batch.js';
import { topK } from './top-k.js';

const BUILT_IN: Record<string, Omit<Metric, 'name'>> = {
  ...COUNTS,
  'top-5': topK(5),
  ...RANKING,
  ...LIKELIHOOD,
  ...CALIBRATION,
  ...CONFUSION,
  ...REGRESSION,
};

/** By name; extensions add theirs. `top-5` stands for `top-K` of any K. */
export const METRICS: ReadonlyMap<string, Metric> = new Map(
  Object.entries(BUILT_IN).map(([name, about]) => [name, { name, ...about }]),
);

/** A metric of one's own. */
export type MetricDefinition = {
  name: string;
  /** Which of two models is the better one. Default: higher. */
  better?: 'higher' | 'lower';
  help?: string;
  /** Where it applies: outputs that are scores of classes, of labels (yes or no), or values. Default: all. */
  tasks?: readonly Task[];
  /** Called at the start of each evaluation. */
  create(spec: TaskSpec): {
    /** Called with each batch: outputs and targets as tensors, and what is read off them, without padding. */
    add(batch: ScoredBatch): void;
    /** Called at the end: a number, or numbers by name. */
    value(): MetricValue;
  };
};

/** Stands for the metrics that are usual for the task. */
const DEFAULT = 'default';

/** A metric by its name, `default` for those that are usual, or a definition of one's own. */
export type MetricChoice = string | MetricDefinition;

/** Adds a metric for `--metric` and the `metrics` of a run. Throws `bad-option` where the name is taken or cannot be one. */
export function addMetric(definition: MetricDefinition): void {
  checkNewName('Metric', definition.name, ['loss', DEFAULT, ...METRICS.keys()]);
  (METRICS as Map<string, Metric>).set(definition.name, fromDefinition(definition));
}

function fromDefinition({ name, better = 'higher', help = '', tasks, create }: MetricDefinition): Metric {
  return {
    name,
    better,
    help,
    tasks: tasks ?? ['classes', 'labels', 'values'],
    accumulator: create,
    value: ((own: ReturnType<typeof create>) => own.value()) as Metric['value'],
  };
}

/** Throws `bad-option` for a name that is none. */
export function metricNamed(choice: MetricChoice): Metric {
  if (typeof choice !== 'string') return fromDefinition(choice);
  const known = METRICS.get(choice);
  if (known) return known;
  const [, k] = /^top-([1-9]\d*)$/.exec(choice) ?? [];
  if (k !== undefined) return { name: choice, ...topK(Number(k)) };
  throw unknownName('metric', choice, [...METRICS.keys()]);
}

/** How the output and the target of a loss are read; undefined where the model computes the loss itself. */
export function taskOf(loss: LossSpec): TaskSpec | undefined {
  // A step trains without the extension that defined its loss.
  if (loss.kind === 'output' || !isKnownLoss(loss.kind)) return undefined;
  const { target, isSequence } = lossNamed(loss.kind);
  if (['output', 'none'].includes(target) || isSequence) return undefined;
  const { kind, classAxis, ignoreIndex } = loss;
  const classWeights = loss.classWeights === 'balanced' ? undefined : loss.classWeights;
  const task = takesClasses(kind) ? 'classes' : takesProbabilities(kind) ? 'labels' : 'values';
  return { task, activation: activationOf(kind), classAxis, ignoreIndex, classWeights };
}

/** Labels and values of a sample that are few enough to be looked at one by one. */
const FEW = 20;

/** What is computed where nobody chose: what is usual for the task and the shape of the output. */
function defaultMetrics({ spec, output, target, width }: ScoredBatch): string[] {
  const rank = output.dims.length;
  switch (spec.task) {
    case 'classes':
      if (rank >= 4) return ['accuracy', 'iou'];
      if (rank === 3 && classAxisOf(rank, spec) === 2) return ['accuracy', 'perplexity'];
      if (width === 2) return ['accuracy', 'auc', 'f1'];
      return ['accuracy', width > FEW ? 'top-5' : 'f1'];
    case 'labels':
      // Probabilities, such as shades of gray, have no right answer.
      if (target.numbers().some(x => x !== 0 && x !== 1)) return ['mae'];
      if (rank >= 4) return ['accuracy', 'iou', 'dice'];
      return width > FEW ? ['accuracy', 'f1'] : ['accuracy', 'auc', 'f1'];
    case 'values':
      return width > FEW ? ['mae', 'rmse'] : ['mae', 'rmse', 'r2'];
  }
}

/** Whether a confusion matrix is something to look at. */
const hasFewClasses = ({ spec, output, target, width }: ScoredBatch) =>
  spec.task === 'classes'
    ? output.dims.length === 2 && width <= FEW
    : spec.task === 'labels' && width === 1 && !target.numbers().some(x => x !== 0 && x !== 1);

/** What metrics found: numbers by name (`iou-per-class/0` of those with several), and lines for the user. */
export type Measured = {
  metrics: Record<string, number>;
  confusion?: ConfusionMatrix;
  notes: string[];
};

/** Throws `bad-option` for metrics that are unknown, or do not apply to the loss: better before a run than after it. */
export function checkMetrics(loss: LossSpec, chosen?: readonly MetricChoice[], recipe?: Recipe): void {
  new MetricSet(loss, chosen, false, recipe);
}

/** The bytes in UTF-8 of each class, where the targets are characters or tokens. Throws `bad-option` where tokens do not tell. */
function classBytes(recipe: Recipe): ArrayLike<number> | undefined {
  const last = targetColumn(recipe)?.steps.at(-1);
  if (last?.step === 'characters') return last.table.map(c => toUtf8(c).length);
  if (last?.step !== 'tokens') return undefined;
  const contents = recipe.tokenizers?.[last.tokenizer];
  const found = tokenBytes(contents);
  if (found) return found;
  const { type = 'this' } = (contents as { model?: { type?: string } } | undefined)?.model ?? {};
  throw new AgdError(
    'bad-option',
    `Metric 'bits-per-byte' needs tokens that hold all bytes of the text, and those of ${last.tokenizer} (${type} without byte-level or SentencePiece tokens) drop spaces: use perplexity.`,
  );
}

/** The metrics of one evaluation. */
export class MetricSet {
  readonly #spec: TaskSpec | undefined;
  readonly #asked: readonly MetricChoice[];
  #chosen: readonly Metric[] | undefined;
  readonly #accumulators = new Map<Metric['accumulator'], Accumulator>();

  /** The defaults where nothing is chosen. Throws `bad-option` for unknown metrics, and for those of other tasks. */
  constructor(
    loss: LossSpec,
    chosen: readonly MetricChoice[] = [DEFAULT],
    private readonly confusion = false,
    recipe?: Recipe,
  ) {
    const spec = taskOf(loss);
    const countsBytes = recipe && chosen.includes('bits-per-byte');
    this.#spec = spec && countsBytes ? { ...spec, classBytes: classBytes(recipe) } : spec;
    this.#asked = chosen;
    this.#check(this.#metrics([]));
    // What is usual depends on the first batch.
    if (!chosen.includes(DEFAULT)) this.#choose(this.#metrics([]));
  }

  /** Whether there is anything to measure: then `add` wants each batch. */
  get isActive(): boolean {
    return this.#spec !== undefined && this.#chosen?.length !== 0;
  }

  /** Whether all that it keeps is sums: those of parts of the data can then be added. What is usual is chosen by the first batch. */
  get areSums(): boolean {
    return this.#chosen !== undefined && [...this.#accumulators.values()].every(a => a.sums !== undefined);
  }

  /** All that it has kept. */
  get sums(): readonly Sums[] {
    return [...this.#accumulators.values()].map(a => a.sums!);
  }

  /** Goes on from what several of these have kept, in their order. */
  combine(parts: readonly (readonly Sums[])[]): void {
    [...this.#accumulators.values()].forEach((accumulator, i) => {
      accumulator.sums = parts.map(sums => sums[i]!).reduce(addSums);
    });
  }

  /** Chooses what is usual, by the first batch: `add` does so too. */
  choose(output: Tensor, target: Tensor, size: number, padding = 0): void {
    this.#chooseBy(new ScoredBatch(this.#spec!, output, target, size, padding));
  }

  #chooseBy(batch: ScoredBatch): void {
    if (this.#chosen) return;
    const usual = defaultMetrics(batch);
    const more = this.confusion && hasFewClasses(batch) ? ['confusion-matrix'] : [];
    this.#choose(this.#metrics([...usual, ...more]));
  }

  /** `size` samples, followed by `padding` others that do not count. */
  add(output: Tensor, target: Tensor, size: number, padding = 0): void {
    const batch = new ScoredBatch(this.#spec!, output, target, size, padding);
    this.#chooseBy(batch);
    for (const accumulator of this.#accumulators.values()) accumulator.add(batch);
  }

  result(): Measured {
    const found: Measured = { metrics: {}, notes: [] };
    for (const { name, accumulator, value } of this.#chosen ?? []) {
      const result = value(this.#accumulators.get(accumulator) as never);
      if (typeof result === 'number') found.metrics[name] = result;
      else if (isMatrix(result)) found.confusion = result;
      else for (const [part, number] of Object.entries(result)) found.metrics[`${name}/${part}`] = number;
    }
    for (const accumulator of this.#accumulators.values()) {
      const note = accumulator.note?.();
      if (note) found.notes.push(note);
    }
    return found;
  }

  /** What is asked for, each once; `usual` takes the place of 'default'. */
  #metrics(usual: readonly MetricChoice[]): Metric[] {
    const all = this.#asked.flatMap(choice => (choice === DEFAULT ? usual : [choice])).map(metricNamed);
    return all.filter(({ name }, i) => all.findIndex(other => other.name === name) === i);
  }

  #check(chosen: readonly Metric[]): void {
    const spec = this.#spec;
    if (chosen.length && !spec)
      throw new AgdError(
        'bad-option',
        `Metric '${chosen[0]!.name}' needs an output and a target, but the model computes its loss itself.`,
      );
    const other = spec && chosen.find(({ tasks }) => !tasks.includes(spec.task));
    if (other)
      throw new AgdError(
        'bad-option',
        `Metric '${other.name}' does not apply to a loss whose target holds ${WHAT[spec.task]}; expected one of ${namesFor(spec.task).join(', ')}.`,
      );
  }

  #choose(chosen: readonly Metric[]): void {
    this.#check(chosen);
    this.#chosen = chosen;
    for (const { accumulator } of chosen)
      if (!this.#accumulators.has(accumulator)) this.#accumulators.set(accumulator, accumulator(this.#spec!));
  }
}

const WHAT: Record<Task, string> = {
  classes: 'class numbers',
  labels: 'probabilities',
  values: 'numbers',
};

const namesFor = (task: Task) =>
  [...METRICS.values()].filter(({ tasks }) => tasks.includes(task)).map(({ name }) => name);

const isMatrix = (value: MetricValue | ConfusionMatrix): value is ConfusionMatrix =>
  typeof value === 'object' && Array.isArray(value.matrix);
