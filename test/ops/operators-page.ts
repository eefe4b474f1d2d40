/**
 * The text of docs/reference/operators.md: from the table of rules, from what they make of the examples, from the kernels in
 * operators.json, and from the last run of the conformance cases.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isFloat, isQuantized } from '../../src/graph/dtype.js';
import { allGraphs, type Graph, type Node, type Value } from '../../src/graph/ir.js';
import { Names } from '../../src/graph/names.js';
import { Builder } from '../../src/ops/core/builder.js';
import { isDifferentiable } from '../../src/ops/core/types.js';
import { loadOperators, opDef, opTable } from '../../src/ops/index.js';
import { ORT_OPERATORS } from '../../src/ops/ort-gradients/index.js';
import { backward } from '../../src/passes/differentiate/backward.js';
import { inferShapes } from '../../src/passes/normalize/infer-shapes.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { table } from '../docs/pages.js';
import { EXAMPLES, type Example, INTEGER, STRAIGHT_THROUGH } from './examples.js';

type Provider = 'cpu' | 'cuda' | 'webgpu';
const LABELS: Record<Provider, string> = { cpu: 'CPU', cuda: 'CUDA', webgpu: 'WebGPU' };

/** What operators.json says of an operator. */
type Facts = {
  since: number[];
  inputs: string[];
  differentiable: 'yes' | 'partial' | 'no';
  /** The runtime writes it as other operators where it has no kernel. */
  function?: boolean;
  /** What a kernel does not do, by provider. */
  limits?: Partial<Record<Provider, string>>;
  /** Why the operator is not known here. */
  missing?: string;
} & Partial<Record<Provider, string>>;

const read = (file: string) => JSON.parse(readFileSync(join(import.meta.dirname, file), 'utf8'));
export const OPERATORS = read('operators.json') as Record<string, Record<string, Facts>>;
const CONFORMANCE = read('../conformance/results.json') as {
  runtime: string;
  passed: number;
  failed: string[];
  operators: Record<string, { passed: number; failed: string[] }>;
};

const longName = (domain: string) => domain || 'ai.onnx';
const factsOf = ({ domain, opType }: Pick<Node, 'domain' | 'opType'>) =>
  OPERATORS[longName(domain)]?.[opType];

/** The element types that a provider has a kernel for at this version of the operator set, "*" for any. */
function kernelTypes(facts: Facts | undefined, provider: Provider, opset: number): string | undefined {
  for (const part of facts?.[provider]?.split('; ') ?? []) {
    const [, from, to, types] = /^(?:(\d+)-(\d+): )?(.*)$/.exec(part)!;
    if (!from || (Number(from) <= opset && opset <= Number(to))) return types;
  }
  return undefined;
}

function hasKernel(node: Node, provider: Provider, opset: number, type: string): boolean {
  const facts = factsOf(node);
  const types = kernelTypes(facts, provider, opset);
  return types ? types === '*' || types.split(' ').includes(type) : !!facts?.function;
}

/** What came of an example's backward pass. */
export type Trace = {
  /** Whether a gradient arrives, by the name of the input; not of integers, booleans and strings. */
  gradients: Map<string, boolean>;
  /** Whether the example has this input. */
  has(name: string): boolean;
  /** The nodes that training takes beside those of the model, and the operator's own where it stays. */
  nodes: Node[];
  /** The graph with them. */
  graph: Graph;
  opset: number;
};

/** What the subgraphs of an operator read from outside. */
const OUTER = 'outer values';

/** Runs the backward pass of an example, for all inputs of its operator that can have a gradient, or one of them. */
export async function trace(
  example: Example,
  straightThrough: boolean,
  hidden: boolean,
  only?: string,
): Promise<Trace> {
  const { model, outs } = example.make(hidden);
  await loadOperators(model.graph);
  await inferShapes(model, sessionShapes);
  const { graph } = model;
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const own = graph.nodes.find(n => n.opType === example.op && n.domain === example.domain)!;
  const before = new Set([...allGraphs(graph)].flatMap(({ nodes }) => nodes).filter(n => n !== own));
  const names = factsOf(own)!.inputs;
  const outer = own.subgraphs().flatMap(sub => sub.captures());
  const operands: [string, Value][] = [
    ...own.inputs.flatMap((v, i): [string, Value][] =>
      v ? [[names[Math.min(i, names.length - 1)]!, v]] : [],
    ),
    ...outer.map((v): [string, Value] => [OUTER, v]),
  ];
  const smooth = operands.filter(
    ([name, { type }]) =>
      (only ?? name) === name &&
      (type?.kind === 'tensor'
        ? isFloat(type.dtype) || (straightThrough && isQuantized(type.dtype) && !/zero/.test(name))
        : !type || isDifferentiable(type)),
  );
  const written = new Map(
    graph.nodes.flatMap(n => n.outputs.flatMap(v => (v ? [[v.name, v] as const] : []))),
  );
  const seeds = outs.flatMap((out, i) => {
    const y = written.get(out.name);
    const wanted = example.c.cotangents?.includes(i) ?? (straightThrough || isFloat(y?.dtype));
    if (!y || !wanted) return [];
    return [[y, g.input('cotangent', { kind: 'tensor', dtype: 'float32', shape: y.shape })] as const];
  });
  const found = backward(
    g,
    new Map(seeds),
    smooth.map(([, v]) => v),
    { straightThrough },
  );
  const gradients = new Map<string, boolean>();
  smooth.forEach(([name], i) => {
    gradients.set(name, !!found[i] || !!gradients.get(name));
  });
  const nodes = [...allGraphs(graph)].flatMap(sub => sub.nodes).filter(n => !before.has(n));
  const has = (name: string) => operands.some(([n]) => n === name);
  return { gradients, has, nodes, graph, opset: g.opset() };
}

/** Whether a node computes on the model's numbers. What it does on integers alone is about extents and places. */
export function isOnNumbers(node: Node): boolean {
  const dtypes = [...node.inputs, ...node.outputs].flatMap(v => v?.dtype ?? []);
  return dtypes.some(isFloat) || dtypes.every(d => d === 'bool');
}

type Row = { op: string; cells: Record<(typeof HEAD)[number], string> };

const HEAD = [
  'operator',
  'opsets',
  'gradient of',
  'by',
  'conformance',
  'CPU, float64',
  'CUDA',
  'WebGPU',
  'opset',
] as const;

/** The row of an operator that has a gradient, if only a straight-through one. */
async function gradientRow(examples: readonly Example[], straightThrough = false): Promise<Row> {
  const { op, domain } = examples[0]!;
  const traces: Trace[] = [];
  for (const e of examples)
    for (const hidden of [false, true]) traces.push(await trace(e, straightThrough, hidden));
  const facts = factsOf({ opType: op, domain })!;
  const opset = Math.max(...traces.map(t => t.opset));
  const nodes = traces.flatMap(t => t.nodes).filter(isOnNumbers);
  const types = (which: (node: Node) => unknown) =>
    [...new Set(nodes.filter(which).map(n => n.opType))].sort().join(', ');
  const kernels = (provider: Provider, type: string) => {
    const lacking = types(n => !hasKernel(n, provider, opset, type));
    const limited = types(n => factsOf(n)?.limits?.[provider] && hasKernel(n, provider, opset, type));
    return (lacking ? `without ${lacking}` : 'yes') + (limited ? ` (see ${limited} above)` : '');
  };
  const { kind } = opDef({ opType: op, domain })!;
  const cells = {
    operator: op,
    opsets: facts.since.join(', '),
    'gradient of': inputsOf(
      `${domain}:${op}`,
      facts,
      traces,
      Object.assign({}, ...examples.map(e => e.without)),
    ),
    by: kind === 'expansion' ? 'others' : 'a rule',
    conformance: conformanceOf(domain, op),
    'CPU, float64': kernels('cpu', 'f64'),
    CUDA: kernels('cuda', 'f32'),
    WebGPU: kernels('webgpu', 'f32'),
    opset: String(opset),
  };
  return { op, cells };
}

/** The inputs that have a gradient, and the reasons of those that might have one and have none. */
function inputsOf(
  what: string,
  facts: Facts,
  traces: readonly Trace[],
  reasons: Record<string, string>,
): string {
  const some = (name: string) => traces.some(t => t.gradients.get(name));
  const open = (name: string) => traces.some(t => t.gradients.has(name)) || !traces.some(t => t.has(name));
  const names = [...facts.inputs, ...(traces.some(t => t.has(OUTER)) ? [OUTER] : [])];
  const without = names.filter(name => !some(name) && open(name));
  const [silent, stale] = [without.filter(name => !reasons[name]), names.filter(n => some(n) && reasons[n])];
  if (silent.length) throw new Error(`${what}: the example leaves open why ${silent} have no gradient.`);
  if (stale.length) throw new Error(`${what}: ${stale} have a gradient.`);
  const said = without.filter(name => reasons[name] !== INTEGER);
  return [names.filter(some).join(', '), ...said.map(name => `${name}: ${reasons[name]}`)].join('; ');
}

function conformanceOf(domain: string, op: string): string {
  const result = domain === '' ? CONFORMANCE.operators[op] : undefined;
  if (!result) return '–';
  const total = result.passed + result.failed.length;
  return `${result.passed} of ${total}${result.failed.length ? ` (not ${result.failed.join(', ')})` : ''}`;
}

/** A table whose columns are as wide as their widest cell, as the formatter writes it. */
async function gradientTable(domain: string): Promise<string> {
  const own = EXAMPLES.filter(e => e.domain === domain);
  const rows: string[][] = [];
  for (const op of [...new Set(own.map(e => e.op))].sort()) {
    const { cells } = await gradientRow(own.filter(e => e.op === op));
    rows.push(HEAD.map(column => cells[column]));
  }
  return table(HEAD, rows);
}

async function straightThroughTable(): Promise<string> {
  const columns = HEAD.filter(column => column !== 'by');
  const rows: string[][] = [];
  for (const e of STRAIGHT_THROUGH) {
    const { cells } = await gradientRow([e], true);
    const def = opDef({ opType: e.op, domain: e.domain })!;
    const name = [e.domain, e.op].filter(Boolean).join('.');
    rows.push([name, 'why' in def ? def.why : '', ...columns.slice(1).map(column => cells[column])]);
  }
  return table(['operator', 'because', ...columns.slice(1)], rows.sort());
}

/** Operators that share a reason, a line for each reason. */
function grouped(entries: readonly (readonly [op: string, why: string])[]): string {
  const groups = new Map<string, string[]>();
  for (const [op, why] of entries) groups.set(why, [...(groups.get(why) ?? []), op]);
  return [...groups].map(([why, ops]) => `- ${why}: ${ops.sort().join(', ')}.`).join('\n');
}

export async function operatorsPage(): Promise<string> {
  const operators = [...opTable()];
  const none = operators.flatMap(([domain, op, def]) =>
    def.kind === 'none' && domain === '' ? [[op, def.why] as const] : [],
  );
  const missing = (domain: string) =>
    grouped(
      Object.entries(OPERATORS[domain]!).flatMap(([op, f]) => (f.missing ? [[op, f.missing] as const] : [])),
    );
  const limits = Object.entries(OPERATORS['ai.onnx']!).flatMap(([op, f]) =>
    Object.entries(f.limits ?? {}).map(([p, what]) => `- ${op}, ${LABELS[p as Provider]}: ${what}.`),
  );
  const optimizers = operators.flatMap(([domain, op]) => (domain === 'ai.onnx.preview.training' ? [op] : []));
  const { runtime, passed, failed } = CONFORMANCE;
  return `# Operators

Which operators have a gradient. Made by \`npm run docs\`; \`test/ops/operators.test.ts\` fails where it is out of date.

- **opsets**: the versions of the operator set in which its definition changed, up to 26. Models from opset 7 on are read.
- **gradient of**: the inputs that get one. Integers, booleans and strings have none and are not named; other inputs
  without a gradient are, with the reason.
- **by**: a rule, or other operators, as which it is written and which have rules.
- **conformance**: the cases of the ONNX project's own tests that pass, of those that are of this operator alone. In
  all, ${passed} of ${passed + failed.length} cases pass (${runtime}; [why the others do not](../lab/conformance.md)). Whether it has cases or
  not, each operator is compared with finite differences, with known and with hidden extents.
- **CPU, float64**, **CUDA**, **WebGPU**: whether a training step through it has kernels, in float64 or in float32:
  of the operator where it stays, and of what its backward pass puts into the graph. What is named after "without" runs
  on the CPU instead; in float64 it is an error. In float32 the CPU has all kernels, and what it has none of in
  float16 it computes in float32.
- **opset**: that of the example from which the kernels follow (\`test/ops/examples.ts\`): models are brought to 18, and
  newer ones stay. Counted are the nodes that compute on floating-point numbers or truth values; others, on integers
  alone, are about extents and places, and are small.

The kernels are those of ONNX Runtime 1.30 (\`test/ops/operators.json\`). Some do less than the operator:

${limits.join('\n')}

## ai.onnx

${await gradientTable('')}

- SimplifiedLayerNormalization is ONNX Runtime's own, in ONNX's domain.
- Resize has gradients for scales and, with tf_crop_and_resize, for roi in mode "linear" only, where they are no
  constants, without antialias; for scales not with align_corners either.
- \`inspect\` and \`inject\` say of an attribute that has no gradient what it is.

## Constant almost everywhere

The gradient is zero. With straight-through gradients, which are to be asked for, it passes:

${await straightThroughTable()}

## Without a gradient

Nothing of the loss depends smoothly on what these read:

${grouped(none)}

Not known:

${missing('ai.onnx')}

## com.microsoft

What ONNX Runtime's optimizer and its exporters write:

${await gradientTable('com.microsoft')}

The operators of ONNX Runtime's training builds are written as standard ones where a file has them:
${ORT_OPERATORS.toSorted().join(', ')}.

Not known. \`inject\` names them where a parameter's gradient would have to pass; what comes after them trains:

${missing('com.microsoft')}

## ai.onnx.preview.training

Gradient becomes the backward pass that it stands for, ${optimizers.join(', ')} their formulas.
`;
}
