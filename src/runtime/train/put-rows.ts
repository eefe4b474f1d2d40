import type { Tensor } from '../../graph/tensor.js';

/** What a run made of the rows of a table that it looked up; see `RunTable`. */
export type RowsOfRun = {
  name: string;
  table: Tensor;
  values: Tensor;
  rows: Int32Array;
};

/** Puts the values into the table. */
export function putRows({ table, values, rows }: RowsOfRun): void {
  const size = values.bytes.length / rows.length;
  // Words are faster than bytes, and unlike floats are the same bits wherever they are put.
  const Words = size % 4 ? Uint8Array : Uint32Array;
  const width = size / Words.BYTES_PER_ELEMENT;
  const view = ({ bytes }: Tensor) =>
    new Words(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.length / Words.BYTES_PER_ELEMENT);
  const [into, from] = [view(table), view(values)];
  for (let i = 0; i < rows.length; i++) {
    let to = rows[i]! * width;
    for (let j = i * width; j < (i + 1) * width; j++) into[to++] = from[j]!;
  }
}
