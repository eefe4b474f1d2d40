/** Whether documents that share a row leave one another alone, in the model at hand. */
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import { SEGMENTS } from '../../passes/normalize/add-segments.js';
import { fileOrder } from '../data/order.js';
import type { Feeds } from '../session.js';
import { inference, modelData, outputsOf, type Source, TOLERANCE } from './model-data.js';

/**
 * Runs the first row that holds several documents, and its last document alone at the start of a row. Throws
 * `bad-option` where the results differ: then something depends on other documents, or on the place in the row.
 */
export async function verifyPacking(source: Source): Promise<void> {
  if (!source.options.pack) return;
  const data = await modelData(source);
  const found = data && (await firstPackedRow(data));
  if (!found) return;
  const { row, start, end } = found;
  const length = row[SEGMENTS]!.dims[1]!;
  const alone = Object.fromEntries(
    Object.entries(row).map(([name, array]) => [
      name,
      array.dims[1] === length ? shifted(array, start, end, name === SEGMENTS) : array,
    ]),
  );
  const model = await inference(source, source.options.freeBatch);
  const size = data.fixedBatch && !source.options.freeBatch ? data.fixedBatch : 1;
  const [together, apart] = await outputsOf(
    model,
    [row, alone].map(feeds => repeated(feeds, size)),
  );
  for (const [name, array] of Object.entries(together!)) {
    const { dtype, dims } = array;
    if (!isFloat(dtype) || dims[0] !== size || dims[1] !== length) continue;
    const width = array.size / size / length;
    const [here, there] = [array.numbers(), apart![name]!.numbers()];
    const most = here.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
    let worst = 0;
    for (let i = 0; i < (end - start) * width; i++)
      worst = Math.max(worst, Math.abs(here[start * width + i]! - there[i]!));
    if (worst <= TOLERANCE * most) continue;
    throw new AgdError(
      'bad-option',
      `--pack: output '${name}' of a document is another one in a row with others (by ${worst.toPrecision(2)} of ${most.toPrecision(2)}): the model has no input for positions, or carries values between tokens in another way than attention. Train without --pack.`,
    );
  }
}

/** How many rows are searched for one with several documents. */
const SEARCHED = 64;

type Dataset = NonNullable<Awaited<ReturnType<typeof modelData>>>;

/** The row as a batch of one, and where its last document stands. */
async function firstPackedRow(
  data: Dataset,
): Promise<{ row: Feeds; start: number; end: number } | undefined> {
  const { inputs } = await data.take(fileOrder(0, Math.min(SEARCHED, data.length)));
  const segments = inputs[SEGMENTS];
  if (!segments) return undefined;
  const [rows, length] = segments.dims as [number, number];
  const numbers = segments.numbers();
  for (let r = 0; r < rows; r++) {
    const own = Array.from(numbers.slice(r * length, (r + 1) * length));
    const last = Math.max(...own);
    if (last < 2) continue;
    const sampled = Object.entries(inputs).map(([name, array]) => {
      const bytes = array.bytes.slice((array.byteLength / rows) * r, (array.byteLength / rows) * (r + 1));
      return [name, new Tensor(array.dtype, [1, ...array.dims.slice(1)], bytes)];
    });
    return { row: Object.fromEntries(sampled), start: own.indexOf(last), end: own.lastIndexOf(last) + 1 };
  }
  return undefined;
}

/** Places `start` to `end` of a row at its start; the others stay, as padding. */
function shifted(array: Tensor, start: number, end: number, isSegments: boolean): Tensor {
  const place = array.byteLength / array.dims[1]!;
  const bytes = isSegments ? new Uint8Array(array.byteLength) : array.bytes.slice();
  bytes.set(array.bytes.subarray(start * place, end * place), 0);
  return new Tensor(array.dtype, array.dims, bytes);
}

function repeated(feeds: Feeds, times: number): Feeds {
  if (times === 1) return feeds;
  return Object.fromEntries(
    Object.entries(feeds).map(([name, array]) => {
      const bytes = new Uint8Array(array.byteLength * times);
      for (let i = 0; i < times; i++) bytes.set(array.bytes, array.byteLength * i);
      return [name, new Tensor(array.dtype, [times, ...array.dims.slice(1)], bytes)];
    }),
  );
}
