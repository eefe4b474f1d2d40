/** Where the nodes of models run with the CUDA provider, as the runtime says when it makes a session. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { reads } from '../../src/graph/dependents.js';
import { dtypeOf } from '../../src/graph/dtype.js';
import { allGraphs, type Model, type Node, type Value } from '../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../src/graph/proto/codec.js';
import { beside, type CudaRuntime, environmentOf } from './runtime.js';

export type Placement = {
  /** Nodes with a kernel on the device. */
  device: number;
  /** Nodes on the CPU that compute extents of tensors, and from nothing but these. */
  extents: number;
  /** Operators of the other nodes on the CPU. */
  host: string[];
  /** Copies between the device and the CPU within a run, at which one waits for the other. */
  copies: number;
  /** Nodes on the device that compute in float64. */
  float64: number;
};

/** A process that makes sessions, and is started anew where one ends it. */
export class Placer {
  #child: ChildProcess | undefined;
  #lines: AsyncIterator<string> | undefined;

  constructor(
    private readonly runtime: CudaRuntime,
    private readonly folder: string,
  ) {}

  /** Throws an error with the runtime's words where it makes no session. */
  async place(model: Model): Promise<Placement> {
    const path = join(this.folder, 'model.onnx');
    nameNodes(model);
    await writeFile(path, encodeModel(model));
    const lines = this.#start();
    this.#child!.stdin!.write(`${path}\n`);
    const placed = new Placed();
    for (;;) {
      const { value, done } = await lines.next();
      if (done) {
        this.#child = undefined;
        throw new Error('the process ended');
      }
      const result = /^@@ done (.*)/.exec(value)?.[1];
      if (result === undefined) placed.read(value);
      else if (result === 'ok') break;
      else throw new Error(result);
    }
    const optimized = decodeModel(await readFile(`${path}.placed`));
    await rm(`${path}.placed`);
    return placed.in(optimized);
  }

  async close(): Promise<void> {
    const child = this.#child;
    if (!child) return;
    child.stdin!.end();
    if (child.exitCode === null) await once(child, 'exit');
  }

  #start(): AsyncIterator<string> {
    if (this.#child?.exitCode === null && this.#lines) return this.#lines;
    this.#child = spawn(process.execPath, [beside(import.meta.url, 'place-child.js'), this.runtime.folder], {
      env: environmentOf(this.runtime),
      stdio: ['pipe', 'ignore', 'pipe'],
    });
    const lines: Interface = createInterface({ input: this.#child.stderr! });
    this.#lines = lines[Symbol.asyncIterator]();
    return this.#lines;
  }
}

/** The runtime tells nodes by their names. */
function nameNodes(model: Model): void {
  let count = 0;
  for (const graph of allGraphs(model.graph)) for (const node of graph.nodes) node.name = `n${++count}`;
}

const PLACED = /VerifyEachNodeIsAssignedToAnEp\]\s+(\S+) \((.*)\)/;
const HEAD = /laced on \[(\w+?)ExecutionProvider\]/;

/** What the runtime said of one model. */
class Placed {
  #where = '';
  /** How many nodes: those of an operator's own definition have no names. */
  readonly #onCpu = new Map<string, number>();

  read(line: string): void {
    this.#where = HEAD.exec(line)?.[1] ?? this.#where;
    const [, op, name] = PLACED.exec(line) ?? [];
    if (!op || this.#where !== 'CPU') return;
    const key = keyOf(op, name!);
    this.#onCpu.set(key, (this.#onCpu.get(key) ?? 0) + 1);
  }

  in({ graph }: Model): Placement {
    const placement: Placement = { device: 0, extents: 0, host: [], copies: 0, float64: 0 };
    const graphs = [...allGraphs(graph)];
    const known = new Set<Value>(
      graphs.flatMap(g => [...g.initializers.keys()].filter(v => !g.inputs.includes(v))),
    );
    const doubles = new Set<Value>(
      graphs.flatMap(g => [
        ...g.inputs.filter(v => v.dtype === 'float64'),
        ...[...g.initializers].flatMap(([v, { dtype }]) => (dtype === 'float64' ? [v] : [])),
      ]),
    );
    const all = graphs.flatMap(g => g.nodes);
    const ofExtents = new Set<Node>();
    for (const node of all) {
      if (!isOfExtents(node, known)) continue;
      ofExtents.add(node);
      for (const v of node.outputs) if (v) known.add(v);
    }
    const onCpu = this.#nodesOnCpu([...ofExtents, ...all.filter(node => !ofExtents.has(node))]);
    for (const node of all) {
      const isOnCpu = onCpu.has(node);
      const isDouble = computesInDouble(node, doubles);
      if (isDouble && staysDouble(node)) for (const v of node.outputs) if (v) doubles.add(v);
      if (isDouble && !isOnCpu) placement.float64++;
      if (/^Memcpy/.test(node.opType)) placement.copies++;
      else if (!isOnCpu) placement.device++;
      else if (ofExtents.has(node)) placement.extents++;
      else placement.host.push(node.opType);
    }
    return placement;
  }

  /** Where fewer nodes of one operator and name are on the CPU than there are, the first of those given. */
  #nodesOnCpu(nodes: readonly Node[]): Set<Node> {
    const left = new Map(this.#onCpu);
    return new Set(
      nodes.filter(({ opType, name }) => {
        const count = left.get(keyOf(opType, name)) ?? 0;
        left.set(keyOf(opType, name), count - 1);
        return count > 0;
      }),
    );
  }
}

const keyOf = (op: string, name: string) => `${op} ${name}`;

/** Whether what a node computes follows from constants and the extents of tensors. */
function isOfExtents(node: Node, known: ReadonlySet<Value>): boolean {
  if (node.opType === 'Shape' || node.opType === 'Size' || node.opType === 'Constant') return true;
  return node.inputs.length > 0 && [...reads(node)].every(v => known.has(v));
}

const castsTo = (node: Node) => {
  const to = node.attrs.get('to');
  return node.opType === 'Cast' && to?.type === 'int' ? dtypeOf(Number(to.value)) : undefined;
};
const computesInDouble = (node: Node, doubles: ReadonlySet<Value>) =>
  castsTo(node) === 'float64' || node.inputs.some(v => v && doubles.has(v));
const staysDouble = (node: Node) =>
  (castsTo(node) ?? 'float64') === 'float64' &&
  !/^(Shape|Size|Equal|Greater|Less|IsNaN|IsInf|NonZero)/.test(node.opType);
