/** Records as files hold them: fields by name, in blocks that can be read one at a time. Readers are in sources/. */
import type { DType } from '../../graph/dtype.js';
import type { Tensor } from '../../graph/tensor.js';

/**
 * What a field's values are. `image`: the path or the encoded bytes of an image file; `tensor`: a numeric array of the
 * shape `dims` per row; `date`: milliseconds since 1970, UTC; `list`: any number of numbers or texts per row.
 */
export type FieldKind = 'number' | 'integer' | 'bool' | 'date' | 'text' | 'list' | 'image' | 'tensor';

/** `dtype` and `dims` (of a row) are those of a `tensor`. */
export type Field = { name: string; kind: FieldKind; dtype?: DType; dims?: readonly number[] };

/**
 * The values of one field for the rows of a block:
 * - `number`, `integer`, `bool` (0 and 1), `date`: typed arrays, NaN where a value is missing (a Float64Array then); integers
 *   outside the range that a double holds exactly are a BigInt64Array;
 * - `text`, `image`: null where missing;
 * - `list`: null where missing;
 * - `tensor`: rows along the first axis.
 */
export type Values =
  | Float64Array
  | Float32Array
  | Int32Array
  | BigInt64Array
  | readonly (string | Uint8Array | null)[]
  | readonly (readonly (number | string)[] | null)[]
  | Tensor;

/** Consecutive records: of each field that was asked for, the values of all `rows`. */
export type Block = { rows: number; values: ReadonlyMap<string, Values> };

/** Records in blocks. Blocks are read in any order, any number of times, also at the same time. */
export interface Source {
  /** For messages. */
  readonly name: string;
  readonly fields: readonly Field[];
  /** The number of rows of each block. */
  readonly blocks: readonly number[];
  /** A block's values, of these fields alone where given. Throws `bad-data` with row and field, `io`. */
  read(block: number, fields?: readonly string[]): Promise<Block>;
  close(): Promise<void>;
}
