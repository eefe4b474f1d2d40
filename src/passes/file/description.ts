import type { PlannedSchedule } from '../../ops/schedules.js';
import type { LeastBatch, LossSpec, RecordedOptions, StoredCheckpoint } from '../options.js';

/** What a reader of an injected file has to know beyond the graph; kept as JSON in the file's metadata. */
export type TrainingDescription = Omit<RecordedOptions, 'schedule'> & {
  schedule?: PlannedSchedule;
  version: 1;
  /** The loss as asked for, with the names of the graph's loss output, model output and target input, and of those of a second target. */
  loss: LossSpec & { name: string; output: string; target?: string; mix?: { target: string; share: string } };
  /** The outputs that the model had. */
  outputs: string[];
  /** Where the model to write is only a part of the original: the outputs that it computes. */
  exports?: string[];
  /** `extension`: it may be unknown where the file is read; the step is in the graph. */
  optimizer: { name: string; options: Record<string, unknown>; extension?: boolean };
  /** Names of the inputs for learning rate (float32 scalar) and number of updates done (int64 scalar). */
  lr: string;
  step: string;
  /** Where the schedule ends with the run: the initializer that says when. */
  scheduleTotal?: string;
  /** One update takes this many batches; the int64 scalar counts those since the last update. */
  accumulation?: { batches: number; counter: string };
  /** Where steps with non-finite gradients are skipped: the int64 scalar that counts them. */
  skipped?: string;
  /** What every so many updates did: the name of the state, and what the columns of its rows, the parameters', are. */
  telemetry?: { name: string; columns: string[] };
  /** Where the norm of the gradients is clipped: the state that has the norm of the last update's, before clipping. */
  gradNorm?: string;
  /**
   * Parameters with the name of their gradient, their optimizer state (the optimizer's name of a tensor -> its name
   * in the graph), the options in which they differ from the others, and the names of their sum of gradients, of
   * their average, and of what rounding has left them short of. Optimizers of second order have their part of a product of the Hessian too, and its sum.
   */
  parameters: {
    name: string;
    grad: string;
    state: Record<string, string>;
    options?: Record<string, unknown>;
    carry?: string;
    /** Of a table of which a step changes only the rows it looks up: the value that says which; the gradient is theirs. */
    rows?: string;
    hessianProduct?: string;
    gradSum?: string;
    hessianSum?: string;
    ema?: string;
    /** The number of updates after which it begins to train, where that is not the first. */
    begins?: number;
  }[];
  /** Running statistics that a step updates. */
  statistics: string[];
  /** Where batch normalization needs more than one sample. */
  leastBatch?: LeastBatch;
  /** What the checkpoint of ONNX Runtime's training had that the parameters come from. */
  checkpoint?: StoredCheckpoint;
};
