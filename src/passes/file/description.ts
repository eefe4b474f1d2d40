import type { PlannedSchedule } from '../../ops/schedules.js';
import type { LeastBatch, LossSpec, RecordedOptions, StoredCheckpoint } from '../options.js';

/** What a reader of an injected file needs besides the graph, stored as JSON in the file's metadata. */
export type TrainingDescription = Omit<RecordedOptions, 'schedule'> & {
  schedule?: PlannedSchedule;
  version: 1;
  /**
   * The loss as requested, with the names of the graph's loss output, model output and target input, and the inputs of
   * a second target.
   */
  loss: LossSpec & { name: string; output: string; target?: string; mix?: { target: string; share: string } };
  /**
   * The output with what the loss of the batch is divided by, a scalar: with it, means over parts of a batch combine to the
   * mean over all.
   */
  lossDivisor?: string;
  /**
   * With `lossDivisor`, which is then that of the first part, if the losses of a sum count different positions: for each part, the
   * outputs with its loss and what it is divided by, its gradients and products of the Hessian, and if gradients are accumulated,
   * the means of those and what they weigh. Losses and terms of the parts add up to those of the batch.
   */
  lossParts?: LossPart[];
  /** The int64 scalar, an initializer, that chooses which random numbers the step draws: workers differ in it. */
  randomStream?: string;
  /** The outputs of the original model. */
  outputs: string[];
  /** If only a part of the original is exported: the outputs of that part. */
  exports?: string[];
  /** `extension`: the optimizer may be unknown where the file is read; its step is in the graph. */
  optimizer: { name: string; options: Record<string, unknown>; extension?: boolean };
  /** Names of the inputs for learning rate (float32 scalar) and number of updates done (int64 scalar). */
  lr: string;
  step: string;
  /** If the schedule ends with the run: the initializer with its total. */
  scheduleTotal?: string;
  /**
   * The number of batches per update, the int64 scalar that counts batches since the last update and, where these do not all
   * count the same, the scalar of what they weigh. `further`: gradient means and weights of the other losses of a sum which count
   * different positions.
   */
  accumulation?: { batches: number; counter: string; weight?: string; further?: string[] };
  /** If steps with non-finite gradients are skipped: the int64 scalar that counts them. */
  skipped?: string;
  /**
   * With a loss scale: the float32 scalar with it, and the int64 scalar of the updates since it last changed. `stops`: a
   * loss that is not finite ends the run, as lowering the scale does not help.
   */
  scaling?: { scale: string; good: string; stops: boolean };
  /**
   * Telemetry of every Nth update: the name of the state, which has a row per parameter, and the names of its columns.
   */
  telemetry?: { name: string; columns: string[] };
  /** If the gradient norm is clipped: the state with the norm of the last update's gradients before clipping. */
  gradNorm?: string;
  /**
   * Parameters with the name of their gradient, their optimizer state (the optimizer's name of a tensor -> its name in
   * the graph), the options in which they differ from the others, and the names of their gradient sum, their average,
   * and the rounding error carried to the next step. For second-order optimizers, also their part of a Hessian-vector
   * product, and its sum; with weighted sharpness, the gradient at perturbed weights, and its sum.
   */
  parameters: {
    name: string;
    grad: string;
    state: Record<string, string>;
    options?: Record<string, unknown>;
    carry?: string;
    /**
     * For a table of which a step updates only the looked-up rows: the value with the row numbers; the gradient is that
     * of the rows, equal ones not summed.
     */
    rows?: string;
    hessianProduct?: string;
    perturbedGrad?: string;
    gradSum?: string;
    hessianSum?: string;
    perturbedSum?: string;
    ema?: string;
    /** In a state, the momentum of the outer optimizer of local steps: an initializer that no node reads. */
    outerMomentum?: string;
    /** The same of states that are weights, by the optimizer's names. */
    outerMomenta?: Record<string, string>;
    /** The number of updates after which it starts to train, if not from the start. */
    begins?: number;
  }[];
  /** Running statistics that a step updates. */
  statistics: string[];
  /** Set if batch normalization needs more than one sample. */
  leastBatch?: LeastBatch;
  /**
   * If batch normalization is synchronized: the copies of batch statistics, and of sums that are linear in the gradient, that
   * ranks replace by those of the whole batch.
   */
  synchronized?: { statistics: { count: string; mean: string; variance: string }[]; sums: string[] };
  /** The other contents of the ONNX Runtime training checkpoint that the parameters come from. */
  checkpoint?: StoredCheckpoint;
};

export type LossPart = {
  loss: string;
  divisor: string;
  weight?: string;
  /** `rows` as of the parameters. */
  terms: { value: string; sum?: string; rows?: string }[];
};

/** The parts of the loss: one if all its positions count alike. Its divisor may be unknown. */
export function lossPartsOf({
  loss,
  lossDivisor,
  lossParts,
  accumulation,
  parameters,
}: TrainingDescription): (Omit<LossPart, 'divisor'> & { divisor?: string })[] {
  if (lossParts) return lossParts;
  const terms = parameters.flatMap(p => {
    const [sum, secondSum] = sumsOf(p);
    const second = p.hessianProduct ?? p.perturbedGrad;
    return [
      { value: p.grad, sum, rows: p.rows },
      ...(second === undefined ? [] : [{ value: second, sum: secondSum }]),
    ];
  });
  return [{ loss: loss.name, divisor: lossDivisor, weight: accumulation?.weight, terms }];
}

/** The states in which the terms of a parameter are accumulated. */
export const sumsOf = ({
  gradSum,
  hessianSum,
  perturbedSum,
}: TrainingDescription['parameters'][number]): string[] =>
  [gradSum, hessianSum ?? perturbedSum].flatMap(name => name ?? []);

/** The fewest samples that a rank can have of a batch, if it has any; undefined if one is enough. */
export const leastOnRank = ({ leastBatch, synchronized }: TrainingDescription): number | undefined =>
  synchronized ? undefined : leastBatch?.samples;

/** Whether a run goes on after a loss that is not finite. */
export const skipsLosses = ({ skipped, scaling }: TrainingDescription): boolean =>
  skipped !== undefined && !scaling?.stops;
