import type { DType } from '../../graph/dtype.js';
import type { Tensor } from '../../graph/tensor.js';

/** What is known of an array before it is read: `dims` with the rows first. */
export type ArrayType = Pick<Tensor, 'dtype' | 'dims'>;

/**
 * Which pass over the data a sample is taken for: random augmentation follows from these and the row alone, or from its
 * place in the pass (`places`, one for each row) where a row may be drawn several times.
 */
export type Pass = { seed: number; epoch: number; places?: Uint32Array };

/** Rows of named arrays that are not all in memory: they are read, decoded or computed when they are taken. */
export interface Samples {
  readonly length: number;
  /** Element type, and shape of one row. */
  readonly arrays: ReadonlyMap<string, { dtype: DType; dims: readonly number[] }>;
  /** Rows of the parts that are read together, where rows are not read one by one. */
  readonly blocks?: readonly number[];
  /** Whether blocks can be read in their order alone, each pass from the first. */
  readonly isSequential?: boolean;
  /**
   * The rows with these numbers, as fresh arrays with the rows along the first axis. `pass` is given in training only:
   * without it nothing is augmented.
   */
  take(rows: Uint32Array, pass?: Pass): Promise<ReadonlyMap<string, Tensor>>;
  /** Announces blocks of which rows will be taken soon. */
  prepare?(blocks: readonly number[]): void;
}
