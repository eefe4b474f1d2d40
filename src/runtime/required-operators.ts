/** Which operators a reduced build of ONNX Runtime needs to run a model, and the configuration file that says so. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DType } from '../graph/dtype.js';
import { isOrtFormat, loadModel, naming } from '../graph/files.js';
import type { Model } from '../graph/ir.js';
import { isInjected } from '../passes/file/step-metadata.js';
import { evaluationModel } from '../passes/run/evaluation-model.js';
import { readBytes } from './data/bytes.js';
import { trainedModel } from './export.js';
import { type OrtNode, readOrtNodes } from './formats/ort-model.js';
import { type OptimizationLevel, Session, sessionShapes } from './session.js';

/** An operator, with the element types of each of its inputs and outputs, sorted; empty where a value has none. */
export type RequiredOperator = {
  /** `ai.onnx` for ONNX's own. */
  domain: string;
  /** The version of the operator set that the operator is from. */
  opset: number;
  operator: string;
  inputs: DType[][];
  outputs: DType[][];
  /** The types of the first three inputs together, where a kernel is registered for these: OneHot's. */
  triples?: DType[][];
};

/**
 * What each level makes of a graph. Converted models have been optimized, by two levels at the user's choice; a build that
 * reads ONNX files meets the operators as they are written.
 */
const LEVELS: readonly OptimizationLevel[] = ['disabled', 'basic', 'all'];

/**
 * The operators of a model as ONNX Runtime runs it, with those that its optimizations add, and those of subgraphs and of
 * functions: it inlines what it has no kernel for. Of an injected model those of its training step, of the evaluation of its
 * loss and of the exported model. A file in the runtime's own format (.ort) is taken as it is. Throws as `loadModel`,
 * `readOrtNodes` and `Session.create` do.
 */
export async function requiredOperators(path: string): Promise<RequiredOperator[]> {
  const bytes = await readBytes(path);
  if (isOrtFormat(bytes)) return naming(path, () => collect(readOrtNodes(bytes)));
  const model = await loadModel(path);
  const models = isInjected(model)
    ? [model, (await evaluationModel(model, sessionShapes)).model, await trainedModel(model)]
    : [model];
  const nodes: OrtNode[] = [];
  for (const form of models)
    for (const level of LEVELS) nodes.push(...readOrtNodes(await converted(form, level)));
  return collect(nodes);
}

/** The bytes of the file that the runtime writes. */
async function converted(model: Model, level: OptimizationLevel): Promise<Uint8Array> {
  const folder = await mkdtemp(join(tmpdir(), 'agd-onnx-'));
  try {
    const path = join(folder, 'model.ort');
    await (await Session.create(model, { threads: 1, saved: { path, level } })).release();
    return await readFile(path);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function collect(nodes: readonly OrtNode[]): RequiredOperator[] {
  const found = new Map<string, RequiredOperator>();
  for (const { domain, since, operator, inputs, outputs } of nodes) {
    const key = JSON.stringify([domain, since, operator]);
    const seen = found.get(key) ?? { domain, opset: since, operator, inputs: [], outputs: [] };
    found.set(key, seen);
    addTypes(seen.inputs, inputs);
    addTypes(seen.outputs, outputs);
    if (keyOf(seen) === 'ai.onnx.OneHot') seen.triples = withTriple(seen.triples, inputs);
  }
  return [...found.values()].sort(
    (a, b) => compare(a.domain, b.domain) || a.opset - b.opset || compare(a.operator, b.operator),
  );
}

const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
const keyOf = ({ domain, operator }: RequiredOperator) => `${domain}.${operator}`;

function addTypes(seen: DType[][], types: readonly (DType | undefined)[]): void {
  types.forEach((type, i) => {
    const before = seen[i] ?? [];
    seen[i] = type === undefined || before.includes(type) ? before : [...before, type].sort();
  });
}

/** In the order of the kernel's name: indices, values, depth. */
function withTriple(triples: DType[][] = [], [indices, depth, values]: readonly (DType | undefined)[]) {
  if (!indices || !depth || !values) return triples;
  const triple = [indices, values, depth];
  return triples.some(t => t.join() === triple.join()) ? triples : [...triples, triple];
}

/** The inputs and outputs by whose types kernels are reduced, where that is not the first input alone. */
const BY_TYPE: Readonly<Record<string, { inputs?: readonly number[]; outputs?: readonly number[] }>> = {
  Cast: { inputs: [0], outputs: [0] },
  Gather: { inputs: [0, 1] },
  GatherElements: { inputs: [0, 1] },
  Pow: { inputs: [0, 1] },
  Slice: { inputs: [0, 1] },
  Where: { inputs: [1] },
  ...Object.fromEntries(
    [
      ...['ConstantOfShape', 'QuantizeLinear', 'DynamicQuantizeLinear', 'Multinomial'],
      ...['RandomNormal', 'RandomNormalLike', 'RandomUniform', 'RandomUniformLike'],
    ].map(operator => [operator, { outputs: [0] }]),
  ),
};

/** Element types by the names that the configuration has for them. Types without a name in it are left out. */
const CPP: Partial<Record<DType, string>> = {
  ...{ float32: 'float', float64: 'double', float16: 'MLFloat16', bfloat16: 'BFloat16' },
  ...{ bool: 'bool', string: 'std::string' },
  ...{ int8: 'int8_t', int16: 'int16_t', int32: 'int32_t', int64: 'int64_t' },
  ...{ uint8: 'uint8_t', uint16: 'uint16_t', uint32: 'uint32_t', uint64: 'uint64_t' },
  ...{ float8e4m3fn: 'Float8E4M3FN', float8e4m3fnuz: 'Float8E4M3FNUZ' },
  ...{ float8e5m2: 'Float8E5M2', float8e5m2fnuz: 'Float8E5M2FNUZ' },
};

/**
 * The lines of the file that builds of ONNX Runtime take as `--include_ops_by_config`: `domain;opset;operator,...`, with
 * `types` in the form that `--enable_reduced_operator_type_support` reads.
 */
export function operatorConfig(operators: readonly RequiredOperator[], types = false): string[] {
  const lines = new Map<string, string[]>();
  for (const operator of operators) {
    const place = `${operator.domain};${operator.opset}`;
    const entry = types ? operator.operator + reduction(operator, operators) : operator.operator;
    lines.set(place, [...(lines.get(place) ?? []), entry]);
  }
  return [...lines].map(([place, entries]) => `${place};${entries.join(',')}`);
}

/** The types of an operator in all its versions, which the builds do not tell apart; empty where it has none. */
function reduction(of: RequiredOperator, all: readonly RequiredOperator[]): string {
  const same = all.filter(other => keyOf(other) === keyOf(of));
  const names = (types: readonly DType[]) => types.flatMap(type => CPP[type] ?? []);
  const triples = same.flatMap(o => o.triples ?? []).map(names);
  if (triples.length) return spaced({ custom: unique(triples.map(String)).map(text => text.split(',')) });
  const { inputs = [], outputs = [] } = (of.domain === 'ai.onnx' && BY_TYPE[of.operator]) || { inputs: [0] };
  const typesOf = (side: 'inputs' | 'outputs', places: readonly number[]) => {
    const found = places.flatMap(i => {
      const known = unique(same.flatMap(o => names(o[side][i] ?? [])));
      return known.length ? [[i, known] as const] : [];
    });
    return found.length ? { [side]: Object.fromEntries(found) } : {};
  };
  const entry = { ...typesOf('inputs', inputs), ...typesOf('outputs', outputs) };
  return Object.keys(entry).length ? spaced(entry) : '';
}

const unique = (texts: readonly string[]) => [...new Set(texts)].sort();

/** JSON as Python writes it, which the tools' own files have. */
const spaced = (value: unknown) => JSON.stringify(value).replace(/([:,])(?=["[{])/g, '$1 ');
