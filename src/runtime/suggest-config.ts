/** From a model and data to what a first training run needs: which column is the target, which loss, which columns feed what. */
import { isFloat } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import { loadModel } from '../graph/files.js';
import { type Model, type Shape, showShape, type Value } from '../graph/ir.js';
import type { LossKind } from '../ops/losses/index.js';
import type { LossSpec } from '../passes/options.js';
import { quotedColumn, showTransform } from '../passes/recipe/columns.js';
import { isInteger } from './data/convert.js';
import { noSuchColumn, planColumns, type RecipeInput, usual } from './data/recipe/plan.js';
import { isNumberKind } from './data/recipe/values.js';
import type { Field, FieldKind, Source } from './data/source.js';
import { Session } from './session.js';

/** What is known of a column: how many values are missing, and of how many different ones; undefined for very many. */
export type ColumnSummary = {
  column: string;
  kind: FieldKind;
  rows: number;
  missing: number;
  distinct?: number;
  /** Of numbers. */
  range?: readonly [low: number, high: number];
};

export type SuggestedInput = {
  input: string;
  type: string;
  /** As `--columns` takes them, each with what the data have in it. */
  columns: { text: string; summary?: ColumnSummary }[];
  /** How many numbers the columns give, and the input takes, where these differ. */
  gives?: number;
  takes?: number;
};

export type Suggestion = {
  label?: ColumnSummary;
  /** The columns that could be the target, too. */
  otherLabels: string[];
  loss: LossSpec & { kind: LossKind };
  /** Why this loss. */
  reason: string;
  inputs: SuggestedInput[];
  unused: string[];
  /** Columns that nothing usual is made of for the input they could feed, as dates, each with what could be said. */
  unclear: string[];
};

/** A column of more different values than this is not looked at further. */
const MANY = 10_000;
/** So many rows are looked at. */
const ROWS = 200_000;

/**
 * `given` is the column of the target, if the user says it. Throws as loading and reading do, `missing-data` where no column
 * can be the target or the given one is not there, `bad-shape` where columns do not fit.
 */
export async function suggestTraining(path: string, source: Source, given?: string): Promise<Suggestion> {
  const fields = new Map(source.fields.map(field => [field.name, field]));
  if (given !== undefined && !fields.has(given)) throw noSuchColumn('--label', given, fields, source);
  const model = await loadModel(path);
  const { name, shape, op } = await outputOf(model);
  const inputs = inputsOf(model);
  const summaries = await summarize(source);
  const classes =
    shape && typeof shape.at(-1) === 'number' && shape.length > 1 ? (shape.at(-1) as number) : 1;
  const fitting = summaries.filter(summary => canBeTarget(summary, classes));
  const named = fitting.filter(({ column }) => USUAL.test(column));
  const exact = fitting.filter(({ distinct }) => classes > 1 && distinct === classes);
  const ranked = [...new Set([...named, ...exact.toReversed(), ...fitting.toReversed()])];
  const isFed = (label: ColumnSummary) => widthFits(inputs, summaries, label);
  const label =
    given === undefined ? (ranked.find(isFed) ?? ranked[0]) : summaries.find(s => s.column === given);
  if (!label)
    throw new AgdError(
      'missing-data',
      `No column of ${source.name} can be the target of output '${name}' ${showShape(shape)}: it has ${summaries.map(s => `${s.column} (${s.kind}${s.distinct === undefined ? '' : `, ${s.distinct} values`})`).join(', ')}.`,
    );
  const { kind, reason } = lossFor(label, classes, op);
  const isSoftmax = op?.name === 'Softmax' && kind === 'cross-entropy';
  const output = isSoftmax ? op.input : name;
  const loss = { kind, ...(output === undefined || isOnly(model, output) ? {} : { output }) };
  const target: RecipeInput = targetFor(kind, classes);
  const only = onlyOpen(inputs, summaries);
  const others = source.fields.filter(
    field => field.name !== label.column && !inputs.some(i => i.name === field.name),
  );
  const unclear = only ? others.filter(field => !usual(field, only)) : [];
  const clear = others.filter(field => !unclear.includes(field));
  const columns =
    unclear.length && clear.length
      ? { [only!.name]: clear.map(({ name }) => quotedColumn(name)) }
      : undefined;
  const spec = { label: label.column, ...(columns ? { columns } : {}) };
  const plan = planColumns(source, spec, [...inputs, target]);
  const byName = new Map(summaries.map(s => [s.column, s]));
  return {
    label,
    otherLabels:
      given === undefined
        ? ranked.filter(other => other !== label && isFed(other)).map(({ column }) => column)
        : [],
    loss,
    reason,
    inputs: plan.inputs
      .filter(({ spec }) => !spec.isTarget)
      .map(({ spec, columns }) => ({
        input: spec.name,
        type: `${spec.dtype} ${showShape(spec.shape)}`,
        ...misfit(
          spec,
          columns.map(({ field }) => byName.get(field.name)!),
        ),
        columns: columns.map(({ field, transforms }) => ({
          text: `${quotedColumn(field.name)}:${transforms.map(showTransform).join('+')}`,
          summary: byName.get(field.name),
        })),
      })),
    unused: plan.unused.filter(name => !unclear.some(field => field.name === name)),
    unclear: unclear.map(
      ({ name, kind }) => `${quotedColumn(name)}:${kind === 'date' ? 'date(month,weekday,cyclic)' : 'none'}`,
    ),
  };
}

const USUAL = /^(label|labels|target|class|y|mask)$/i;

function inputsOf({ graph }: Model): RecipeInput[] {
  const own = graph.inputs.filter(v => !graph.initializers.has(v));
  return own.flatMap(({ name, dtype, shape }) => (dtype ? [{ name, dtype, shape }] : []));
}

type Output = { name: string; shape?: Shape; op?: { name: string; input?: string } };

/** The output that a loss would read: the first of floats. */
async function outputOf(model: Model): Promise<Output> {
  const session = await Session.create(model);
  try {
    const types = session.outputTypes();
    const value = model.graph.outputs.find(v => isFloat(types.get(v.name)?.dtype));
    if (!value)
      throw new AgdError('no-such-value', 'The model has no output of floats, which a loss could read.');
    const declared = value.shape;
    const node = (value as Value).producer;
    return {
      name: value.name,
      shape: types.get(value.name)?.shape ?? declared,
      ...(node ? { op: { name: node.opType, input: node.inputs[0]?.name } } : {}),
    };
  } finally {
    await session.release();
  }
}

const isOnly = ({ graph: { outputs } }: Model, name: string) =>
  outputs.length === 1 && outputs[0]!.name === name;

/** What the columns of records hold, as far as their first rows tell. Throws as reading does. */
export async function summarize(source: Source): Promise<ColumnSummary[]> {
  const seen = source.fields.map(field => ({
    field,
    values: new Set<unknown>(),
    rows: 0,
    missing: 0,
    low: Number.POSITIVE_INFINITY,
    high: Number.NEGATIVE_INFINITY,
  }));
  let rows = 0;
  for (const [block, size] of source.blocks.entries()) {
    if (rows >= ROWS) break;
    const { values } = await source.read(block);
    rows += size;
    for (const one of seen) {
      const column = values.get(one.field.name);
      one.rows += size;
      if (!column || !(Symbol.iterator in column)) continue;
      for (const value of column as Iterable<unknown>) {
        if (value === null || Number.isNaN(value)) {
          one.missing++;
          continue;
        }
        if (one.values.size <= MANY) one.values.add(value);
        if (typeof value === 'number') {
          one.low = Math.min(one.low, value);
          one.high = Math.max(one.high, value);
        }
      }
    }
  }
  return seen.map(({ field, values, rows, missing, low, high }) => ({
    column: field.name,
    kind: field.kind,
    rows,
    missing,
    ...(isCounted(field) && values.size <= MANY ? { distinct: values.size } : {}),
    ...(isNumberKind(field.kind) && low <= high ? { range: [low, high] as const } : {}),
  }));
}

const isCounted = ({ kind }: Field) => isNumberKind(kind) || kind === 'text';

/** Whether a column without gaps can be what the output is trained on. */
function canBeTarget(
  { kind, missing, distinct = Number.POSITIVE_INFINITY }: ColumnSummary,
  classes: number,
): boolean {
  if (missing || distinct < 2) return false;
  if (classes > 1) return (kind === 'text' || kind === 'bool' || kind === 'integer') && distinct <= classes;
  return kind === 'number' || kind === 'integer' || kind === 'bool' || (kind === 'text' && distinct === 2);
}

/** The input that columns of its name do not feed, if it is the only one. */
function onlyOpen(
  inputs: readonly RecipeInput[],
  summaries: readonly ColumnSummary[],
): RecipeInput | undefined {
  const [only, ...more] = inputs.filter(({ name }) => !summaries.some(s => s.column === name));
  return more.length ? undefined : only;
}

/** Whether the other columns give as many numbers as the input that they feed takes. */
function widthFits(
  inputs: readonly RecipeInput[],
  summaries: readonly ColumnSummary[],
  label: ColumnSummary,
): boolean {
  const names = new Set(inputs.map(({ name }) => name));
  const rest = summaries.filter(s => s !== label && !names.has(s.column));
  const only = onlyOpen(inputs, summaries);
  if (!only) return inputs.every(({ name }) => summaries.some(s => s.column === name));
  const wanted = sizeOf(only);
  return wanted === undefined || rest.reduce((n, one) => n + widthOf(one, only), 0) === wanted;
}

function misfit(input: RecipeInput, columns: readonly ColumnSummary[]): { gives?: number; takes?: number } {
  const isUsual = columns.every(({ kind }) => isNumberKind(kind) || kind === 'text');
  const [takes, gives] = [sizeOf(input), columns.reduce((n, one) => n + widthOf(one, input), 0)];
  return isUsual && takes !== undefined && takes !== gives && !Number.isNaN(gives) ? { gives, takes } : {};
}

/** How many numbers a sample of the input has; undefined where it is open. */
function sizeOf({ shape }: RecipeInput): number | undefined {
  const sample = shape?.slice(1) ?? [null];
  if (sample.some(d => typeof d !== 'number')) return undefined;
  return (sample as number[]).reduce((n, d) => n * d, 1);
}

/** How many numbers a column usually gives; of very many values NaN. */
const widthOf = ({ kind, distinct = Number.NaN, missing }: ColumnSummary, { dtype }: RecipeInput) =>
  kind === 'date' ? 0 : kind === 'text' && !isInteger(dtype) ? distinct + (missing ? 1 : 0) : 1;

function lossFor(
  { kind, distinct }: ColumnSummary,
  classes: number,
  op: Output['op'],
): { kind: LossKind; reason: string } {
  if (classes > 1) {
    if (op?.name === 'LogSoftmax')
      return { kind: 'nll', reason: `${classes} logarithms of probabilities per sample` };
    return { kind: 'cross-entropy', reason: `${classes} scores per sample, one for each class` };
  }
  const isBinary = distinct === 2 && kind !== 'number';
  if (isBinary && op?.name === 'Sigmoid')
    return { kind: 'bce', reason: 'one probability per sample, and two classes' };
  if (isBinary) return { kind: 'bce-with-logits', reason: 'one score per sample, and two classes' };
  return { kind: 'mse', reason: 'one number per sample' };
}

function targetFor(kind: LossKind, classes: number): RecipeInput {
  const isClasses = kind === 'cross-entropy' || kind === 'nll';
  return {
    name: 'target',
    dtype: isClasses ? 'int64' : 'float32',
    shape: isClasses ? [null] : [null, 1],
    isTarget: true,
    ...(isClasses ? { range: { least: 0, most: classes - 1 } } : {}),
  };
}
