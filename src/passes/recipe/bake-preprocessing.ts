/** Adds the steps of a recipe to a graph, so that the model takes raw columns and returns class names. */
import { cloneModel } from '../../graph/clone.js';
import { dtypeCode } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Attr, type Model, type Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { type AttrInit, Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import { upgradeOpset } from '../normalize/upgrade-opset.js';
import { writeDateParts } from './bake-dates.js';
import {
  type ColumnRecipe,
  type InputRecipe,
  isNumberStep,
  type Recipe,
  type Scores,
  type Step,
  targetColumn,
  withoutRecipe,
} from './recipe.js';

/** The oldest operator set in which all operators have the form used here. */
const OPSET = 13;
const ML = 'ai.onnx.ml';

/** Text columns are string inputs, all others float64; each is [samples, 1]. */
const isText = ({ kind }: ColumnRecipe) => kind === 'text';

/**
 * A copy of the model with one input per column of the recipe, with the column's name and shape [samples, 1]: text as
 * strings, with '' for a missing value, everything else as float64 (dates in milliseconds since 1970), with NaN for a
 * missing one. The steps of the recipe become operators of ONNX and ai.onnx.ml, computed in float64. If the target is
 * one of several named classes and `scores` identifies their scores, an additional output, named after the target's column, has the
 * name of the best class per sample. Inputs that are fed a column of their name unchanged stay. Throws `unsupported-op`
 * for steps without ONNX operators, and names the column.
 */
export function bakePreprocessing(model: Model, recipe: Recipe, scores = recipe.scores): Model {
  const baked = cloneModel(model);
  if (baked.opset < OPSET) upgradeOpset(baked);
  const { graph } = baked;
  const taken = new Map(graph.inputs.map(v => [v.name, v]));
  const parts = recipe.inputs.filter(
    part => part.input !== recipe.target && taken.has(part.input) && !isAsItIs(part),
  );
  for (const part of parts) checkBakeable(part);
  const names = Names.of(baked);
  const columns = [...new Set(parts.flatMap(part => part.columns.map(c => c.column)))];
  const target = targetColumn(recipe);
  // A target with several labels per sample has no single best class.
  const last = target?.steps.at(-1);
  const classes = last?.step === 'class' ? last.names : undefined;
  const asked = scores && classes ? target?.column : undefined;
  const wanted = new Set([...columns, ...(asked === undefined ? [] : [asked])]);
  rename(
    baked,
    names,
    parts.map(p => p.input),
    wanted,
  );
  const g = new Builder(graph, { names, opsets: baked.opsetImports });
  const rest = [...graph.nodes];
  const made: Node[] = [];
  const raw = new Map<string, Expr>();
  g.into(made, () => {
    for (const part of parts) {
      const input = taken.get(part.input)!;
      const rows = input.shape?.[0] ?? 'N';
      for (const column of part.columns) {
        if (raw.has(column.column)) continue;
        const dtype = isText(column) ? 'string' : 'float64';
        raw.set(column.column, g.of(new Value(column.column, { kind: 'tensor', dtype, shape: [rows, 1] })));
      }
      const array = bakeInput(g, part, raw);
      input.replaceAllUses(array.value);
    }
  });
  graph.inputs = [
    ...graph.inputs.filter(v => !parts.some(part => taken.get(part.input) === v)),
    ...[...raw.values()].map(({ value }) => value),
  ];
  graph.nodes = [...made, ...rest];
  if (asked !== undefined) nameClasses(g, asked, classes!, scores!);
  if (graph.nodes.some(node => node.domain === ML))
    baked.opsetImports.set(ML, Math.max(2, baked.opsetImports.get(ML) ?? 2));
  eliminateDeadNodes(baked);
  return withoutRecipe(baked);
}

/** The only column has the input's name and no transforms: the input itself is raw. */
function isAsItIs({ input, columns }: InputRecipe): boolean {
  const [only, ...more] = columns;
  return (
    !more.length &&
    only!.column === input &&
    only!.steps.every(({ step }) => step === 'none' || step === 'tensor')
  );
}

/** Renames values that have the name of a column, and inputs that become inner values. */
function rename(
  { graph }: Model,
  names: Names,
  replaced: readonly string[],
  wanted: ReadonlySet<string>,
): void {
  const outer = new Set(graph.outputs);
  const all = [
    ...graph.inputs,
    ...graph.initializers.keys(),
    ...graph.nodes.flatMap(node => node.outputs.flatMap(v => v ?? [])),
  ];
  for (const value of new Set(all)) {
    if (!wanted.has(value.name)) continue;
    if (outer.has(value) || (graph.inputs.includes(value) && !replaced.includes(value.name)))
      throw new AgdError(
        'bad-option',
        `Column '${value.name}' cannot become an input of the model: one of its ${outer.has(value) ? 'outputs' : 'inputs'} has that name. Rename the column.`,
      );
    value.name = names.fresh(`${value.name}_value`);
  }
}

const NOT_BAKED: Partial<Record<Step['step'], string>> = {
  tokens: 'a tokenizer',
  characters: 'splitting text into characters',
  bytes: 'splitting text into bytes',
  hash: 'hashing of text',
  image: 'decoding of images',
  'multi-hot': 'lists',
  list: 'lists',
  transpose: 'arrays per row',
  argmax: 'arrays per row',
  tensor: 'an array per row beside other columns',
};

function checkBakeable({ input, columns, windows }: InputRecipe): void {
  for (const { column, steps, kind } of columns) {
    const refuse = (what: string) => {
      throw new AgdError(
        'unsupported-op',
        `Column '${column}', which feeds input '${input}', cannot be written into the graph: ${what}. Export without --bake-preprocessing: the recipe in the model's metadata does it.`,
      );
    };
    if (windows) refuse('a model has no operators that cut windows');
    for (const step of steps) {
      const what = NOT_BAKED[step.step];
      if (what) refuse(`ONNX has no operators for ${what}`);
      const isStrict =
        (step.step === 'one-hot' && (step.unknown === 'error' || step.missing === 'error')) ||
        (step.step === 'id' && (step.unknown === null || step.missing === null));
      if (isStrict) refuse(`a graph cannot refuse a value, as ${step.step} with =error does`);
      if (kind === 'text' && (isNumberStep(step) || step.step === 'date'))
        refuse(`${step.step} reads numbers from text`);
    }
  }
}

function bakeInput(g: Builder, { dtype, dims, columns }: InputRecipe, raw: ReadonlyMap<string, Expr>): Expr {
  const parts = columns.flatMap(column => bakeColumn(column, raw.get(column.column)!));
  const arrays = parts.map(part => (part.dtype === dtype ? part : part.cast(dtype)));
  const [first, ...others] = arrays;
  const array = others.length ? first!.concat(others, 1) : first!;
  return dims.length === 1 ? array : array.reshape(g.ints([-1, ...dims]));
}

/** Arrays [samples, numbers] of columns, concatenated. */
function bakeColumn({ steps, kind }: ColumnRecipe, raw: Expr): Expr[] {
  let x = raw;
  const indicators: Expr[] = [];
  let fill = '';
  for (const step of steps) {
    switch (step.step) {
      case 'none':
        break;
      case 'log1p':
        x = x.add(1).log();
        break;
      case 'standardize':
        x = x.sub(step.mean).div(step.std);
        break;
      case 'min-max':
        x = x.sub(step.min).div(step.max - step.min || 1);
        break;
      case 'subtract':
        x = x.sub(step.by);
        break;
      case 'fill': {
        const isMissing = x.op('IsNaN').typed({ kind: 'tensor', dtype: 'bool', shape: raw.shape });
        if (step.indicator) indicators.push(isMissing.cast('float32'));
        x = isMissing.where(step.with, x);
        break;
      }
      case 'fill-text':
        fill = step.with;
        break;
      case 'date': {
        const parts = writeDateParts(x, step.parts, step.cyclic);
        if (parts.length > 1) return [...parts, ...indicators];
        x = parts[0]!;
        break;
      }
      default:
        return [...bakeTable(step, x, kind === 'text', fill), ...indicators];
    }
  }
  return [x, ...indicators];
}

/** One-hot vectors or ids by a table; a missing value is '' or NaN. */
function bakeTable(step: Step, x: Expr, isText: boolean, fill: string): Expr[] {
  if (step.step !== 'one-hot' && step.step !== 'id') throw new Error(`${step.step} is not baked`);
  const { table } = step;
  const size = table.length;
  const isHot = step.step === 'one-hot';
  const width = isHot ? size + Number(step.unknown === 'column') + Number(step.missing === 'column') : 0;
  // Rows beyond the last position are zeros.
  const unknown = isHot ? (step.unknown === 'column' ? size : width) : step.unknown!;
  const missing = isHot ? (step.missing === 'column' ? width - 1 : width) : step.missing!;
  const start = isHot ? 0 : step.start;
  const filled = fill && table.includes(fill) ? start + table.indexOf(fill) : fill ? unknown : missing;
  const ids = isText
    ? labelEncoder(
        x,
        { keys_strings: strings([...table, ...(table.includes('') ? [] : [''])]) },
        [...table.map((_, i) => start + i), ...(table.includes('') ? [] : [filled])],
        unknown,
      )
    : numberIds(x, table, start, unknown, missing);
  if (!isHot) return [ids];
  const { g } = x;
  const hot = g.emit('OneHot', [ids, g.ints([width]), g.tensor(pair())], {}, { hint: 'one_hot' })[0]!;
  return [hot.reshape(g.ints([-1, width])).typed(floatsOf(ids, width))];
}

const floatsOf = (rows: Expr, width: number) =>
  ({ kind: 'tensor', dtype: 'float32', shape: [rows.extent(0), width] }) as const;

/** Positions of numbers in a table: integers by LabelEncoder, others by comparison with each. */
function numberIds(x: Expr, table: readonly string[], start: number, unknown: number, missing: number): Expr {
  const { g } = x;
  const numbers = table.map(Number);
  const isMissing = x.op('IsNaN').typed({ kind: 'tensor', dtype: 'bool', shape: x.shape });
  const absent = g.scalar(missing, 'int64');
  if (numbers.every(Number.isSafeInteger)) {
    const isWhole = x.floor().equal(x);
    const whole = isWhole.where(x, 0).cast('int64');
    const known = labelEncoder(
      whole,
      { keys_int64s: { type: 'ints', value: numbers } },
      numbers.map((_, i) => start + i),
      unknown,
    );
    return isMissing.where(absent, isWhole.where(known, g.scalar(unknown, 'int64')));
  }
  // The position after the last one means that no entry is equal.
  const keys = g.tensor(doubles(numbers), 'table');
  const equal = x.equal(keys).cast('int32');
  const isKnown = equal.max([1], { keepdims: true }).cast('bool');
  const position = g
    .emit('ArgMax', [equal], { axis: 1, keepdims: 1 })[0]!
    .typed({ kind: 'tensor', dtype: 'int64', shape: x.shape });
  const known = start ? position.add(start) : position;
  return isMissing.where(absent, isKnown.where(known, g.scalar(unknown, 'int64')));
}

function doubles(values: readonly number[]): Tensor {
  return Tensor.from('float64', [1, values.length], Float64Array.from(values));
}

const pair = () => Tensor.from('float32', [2], Float32Array.of(0, 1));

function strings(value: readonly string[]): Attr {
  return { type: 'strings', value: [...value] };
}

function labelEncoder(x: Expr, keys: AttrInit, ids: readonly number[], otherwise: number): Expr {
  return x.op(
    'LabelEncoder',
    [],
    { ...keys, values_int64s: { type: 'ints', value: [...ids] }, default_int64: otherwise },
    { domain: ML, hint: 'id', types: [{ kind: 'tensor', dtype: 'int64', shape: x.shape }] },
  );
}

/** Adds the output that names the best class of each sample. */
function nameClasses(g: Builder, name: string, classes: readonly string[], scores: Scores): void {
  const { graph } = g;
  const values = [...graph.inputs, ...graph.nodes.flatMap(node => node.outputs.flatMap(v => v ?? []))];
  const value = values.find(v => v.name === scores.output);
  if (!value) throw new AgdError('no-such-value', `The model computes no value '${scores.output}'.`);
  const s = g.of(value);
  const { classAxis = -1, threshold } = scores;
  const isPlain = value.dtype === 'float32' || value.dtype === 'float64';
  // Also if the type is not known.
  const kept = isPlain
    ? s
    : g.emit(
        'Cast',
        [s],
        { to: dtypeCode('float32') },
        { types: [{ kind: 'tensor', dtype: 'float32' }] },
      )[0]!;
  const id =
    threshold === undefined
      ? g.emit('ArgMax', [kept], { axis: classAxis, keepdims: 0 }, { hint: 'best', types: [undefined] })[0]!
      : g
          .emit(
            'Greater',
            [kept, g.scalar(threshold, kept.dtype)],
            {},
            { types: [{ kind: 'tensor', dtype: 'bool' }] },
          )[0]!
          .cast('int64');
  const [label] = g.emit(
    'LabelEncoder',
    [id],
    {
      keys_int64s: { type: 'ints', value: classes.map((_, i) => i) },
      values_strings: strings(classes),
      default_string: '',
    },
    { domain: ML, hint: name, types: [{ kind: 'tensor', dtype: 'string' }] },
  );
  graph.addOutputs(label!.value);
}
