/** What model and data are, and how one would train the one on the other. */
import {
  type ColumnSummary,
  describeColumns,
  files,
  inspect,
  loadArrays,
  loadModel,
  type Suggestion,
  suggest,
  type Tensor,
} from 'agd-onnx/web';
import type { DataFacts, ModelFacts } from '../protocol.js';
import { list } from './storage.js';

const nameOf = (path: string) => path.slice(path.lastIndexOf('/') + 1);

export async function describeModel(path: string): Promise<ModelFacts> {
  const { inputs, outputs, parameters, needs, kind, operators } = await inspect(await loadModel(path));
  const folder = path.slice(0, path.lastIndexOf('/'));
  const sizes = (await list(folder)).map(name => files.read(`${folder}/${name}`).length);
  const missing = operators.filter(o => o.onPath && o.gradient === 'missing').map(o => o.operator);
  const bytes = sizes.reduce((a, b) => a + b, 0);
  // Without parameters there is one reason, such as weights that were not dropped.
  const problem = parameters.length ? {} : { problem: needs[0] ?? 'The model has no parameters.' };
  return { name: nameOf(path), bytes, inputs, outputs, parameters, kind, missing, ...problem };
}

const ARRAYS = /\.(npz|npy|safetensors)$/i;
const USUAL = /^(label|labels|target|class|y|mask)$/i;

export const describeData = (
  paths: readonly string[],
  model: string | undefined,
  label: string,
): Promise<DataFacts> =>
  paths.every(path => ARRAYS.test(path)) ? describeArrays(paths) : describeTable(paths, model, label);

async function describeTable(
  paths: readonly string[],
  model: string | undefined,
  asked: string,
): Promise<DataFacts> {
  const columns = await describeColumns(paths);
  const label = columns.some(c => c.column === asked) ? asked : '';
  const [suggestion, problem] = await suggested(paths, model, label);
  // The likely target stays the first one when another is chosen.
  const likely =
    (label ? (await suggested(paths, model, ''))[0] : suggestion)?.label ??
    columns.find(c => USUAL.test(c.column)) ??
    columns.at(-1)!;
  const target = columns.find(c => c.column === label) ?? likely;
  const labels = [likely.column, ...columns.map(c => c.column).filter(name => name !== likely.column)];
  return {
    name: paths.map(nameOf).join(', '),
    kind: 'table',
    samples: columns[0]?.rows ?? 0,
    columns,
    arrays: [],
    labels,
    ...(isClasses(target) ? { classes: target.distinct } : {}),
    ...(suggestion ? { loss: suggestion.loss.kind, reason: suggestion.reason } : {}),
    ...(problem === undefined ? {} : { problem }),
  };
}

const isClasses = ({ kind, distinct }: ColumnSummary) => kind !== 'number' && distinct !== undefined;

async function suggested(
  paths: readonly string[],
  model: string | undefined,
  label: string,
): Promise<[Suggestion?, string?]> {
  if (!model) return [];
  try {
    return [await suggest(model, paths, label || undefined)];
  } catch (error) {
    return [undefined, (error as Error).message];
  }
}

async function describeArrays(paths: readonly string[]): Promise<DataFacts> {
  const arrays = new Map<string, Tensor>();
  for (const path of paths) for (const [name, tensor] of await loadArrays(path)) arrays.set(name, tensor);
  const target = [...arrays].find(([name]) => USUAL.test(name));
  const isInteger = target && /^u?int/.test(target[1].dtype) && target[1].dims.length === 1;
  return {
    name: paths.map(nameOf).join(', '),
    kind: 'arrays',
    samples: target?.[1].dims[0] ?? Math.max(0, ...[...arrays.values()].map(({ dims }) => dims[0] ?? 0)),
    columns: [],
    arrays: [...arrays].map(([name, { dtype, dims }]) => ({ name, type: `${dtype}[${dims}]` })),
    labels: [],
    ...(isInteger ? { classes: 1 + target[1].numbers().reduce((a, b) => Math.max(a, b), 0) } : {}),
  };
}
