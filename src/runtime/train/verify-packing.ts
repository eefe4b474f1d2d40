/** Whether documents that share a row leave one another alone, in the model at hand. */
import { type DType, isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Model, Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { inputsOfSegments, SEGMENTS, segmentsInput } from '../../passes/normalize/add-segments.js';
import { derivableInputs } from '../../passes/normalize/derivable-inputs.js';
import type { ShapeOracle } from '../../passes/normalize/infer-shapes.js';
import { fileOrder } from '../data/order.js';
import { type Feeds, sessionShapes, shapesIn } from '../session.js';
import {
  type InferenceOptions,
  inference,
  modelData,
  outputsOf,
  type Source,
  shapesOf,
  TOLERANCE,
} from './model-data.js';

type Packed = { model: Model; options: InferenceOptions & { freeBatch?: readonly string[] } };

/** How many rows are searched for one with several documents. */
const SEARCHED = 64;

/**
 * Runs the first row that holds several documents, and its last document alone at the start of a row. Throws
 * `bad-option` where the results differ: then something depends on other documents, or on the place in the row.
 */
export async function verifyPacking(source: Source): Promise<void> {
  if (!source.options.pack) return;
  const data = await modelData(source);
  if (!data) return;
  const { inputs } = await data.take(fileOrder(0, Math.min(SEARCHED, data.length)));
  await verifyRows(source, inputs, await shapesOf(source));
}

/** The same with a batch at hand. */
export async function verifyPackedBatch(packed: Packed, feeds: Feeds): Promise<void> {
  if (packed.options.pack)
    await verifyRows(
      packed,
      feeds,
      shapesIn(() => feeds),
    );
}

/** Two documents, of the ids that any vocabulary has. */
const MADE_UP = { tokens: [1, 0, 0, 1, 0, 1, 1, 0], segments: [1, 1, 1, 1, 1, 2, 2, 2] };

/** The same with made-up tokens, where there are no data. Returns why that cannot be tried, if so. */
export async function verifyPackedModel({ model, options }: Packed): Promise<string | undefined> {
  if (!options.pack) return undefined;
  const { graph } = model;
  const { shape } = segmentsInput(graph);
  const positions = inputsOfSegments(graph);
  const derived = [...derivableInputs(graph).keys()].filter(v => !positions.includes(v)).map(v => v.name);
  const known = { ...options, deriveInputs: derived };
  const work = await inference({ model, options: known }, sessionShapes, options.freeBatch);
  const { inputs } = work.graph;
  const isMadeUp = (v: Value) => v.shape?.length === 2 && (v.dtype === 'int64' || v.dtype === 'int32');
  const [tokens] = inputs.filter(v => v.name !== SEGMENTS && isMadeUp(v));
  const others = inputs.filter(v => v.name !== SEGMENTS && v !== tokens);
  if (!tokens || others.length)
    return `it needs data for ${others.map(v => `'${v.name}'`).join(', ') || 'its tokens'}`;
  const length = typeof shape![1] === 'number' ? shape![1] : MADE_UP.tokens.length;
  const row = (values: readonly number[], dtype: DType) => {
    const all = Array.from({ length }, (_, i) => values[i] ?? 0);
    const data = dtype === 'int32' ? Int32Array.from(all) : BigInt64Array.from(all, BigInt);
    return Tensor.from(dtype, [1, length], data);
  };
  const feeds = {
    [tokens.name]: row(MADE_UP.tokens, tokens.dtype!),
    [SEGMENTS]: row(MADE_UP.segments, 'int64'),
  };
  try {
    await compareRows(work, feeds, batchOf({ model, options }));
    return undefined;
  } catch (error) {
    if (error instanceof AgdError && error.code === 'runtime') return 'it does not run on made-up tokens';
    throw error;
  }
}

async function verifyRows(packed: Packed, inputs: Feeds, shapes: ShapeOracle): Promise<void> {
  const row = firstPackedRow(inputs);
  if (!row) return;
  await compareRows(await inference(packed, shapes, packed.options.freeBatch), row, batchOf(packed));
}

/** The batch size that the model fixes, else 1. */
function batchOf({ model, options }: Packed): number {
  const [size] = segmentsInput(model.graph).shape!;
  return typeof size === 'number' && !options.freeBatch ? size : 1;
}

/** Compares the last document of a row with the same alone, in batches of `size` times the row. */
async function compareRows(model: Model, row: Feeds, size: number): Promise<void> {
  const segments = row[SEGMENTS]!;
  const length = segments.dims[1]!;
  const numbers = segments.numbers();
  const last = Math.max(...numbers);
  const [start, end] = [numbers.indexOf(last), numbers.lastIndexOf(last) + 1];
  const alone = Object.fromEntries(
    Object.entries(row).map(([name, array]) => [
      name,
      array.dims[1] === length ? shifted(array, start, end, name === SEGMENTS) : array,
    ]),
  );
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
      `--pack: output '${name}' of a document changes if others share its row (by ${worst.toPrecision(2)} of ${most.toPrecision(2)}): the model has no input for positions, or carries values between tokens in another way than attention. Train without --pack.`,
    );
  }
}

/** The first row of several documents as a batch of one. */
function firstPackedRow(inputs: Feeds): Feeds | undefined {
  const segments = inputs[SEGMENTS];
  const [rows, length] = segments?.dims ?? [];
  if (!rows || !length) return undefined;
  const numbers = segments!.numbers();
  for (let r = 0; r < rows; r++) {
    if (Math.max(...numbers.slice(r * length, (r + 1) * length)) < 2) continue;
    return Object.fromEntries(
      Object.entries(inputs).map(([name, array]) => {
        if (array.dims[0] !== rows) return [name, array];
        const bytes = array.bytes.slice((array.byteLength / rows) * r, (array.byteLength / rows) * (r + 1));
        return [name, new Tensor(array.dtype, [1, ...array.dims.slice(1)], bytes)];
      }),
    );
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
