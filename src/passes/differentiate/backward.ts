import { isFloat, isQuantized } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { hasSubgraphs, type Node, type Shape, type Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { NodeView, type OpDef, type Rule } from '../../ops/core/rule.js';
import { sumOf } from '../../ops/core/sequence.js';
import { isDifferentiable } from '../../ops/core/types.js';
import { opDef } from '../../ops/index.js';
import { expandNodes } from './expand-nodes.js';

export type BackwardOptions = {
  /** Pass the gradient through rounding operators unchanged instead of stopping it. */
  straightThrough?: boolean;
  /** Values that are taken as constants. */
  detached?: ReadonlySet<Value>;
};

/**
 * Appends to `g.graph` the nodes that compute, from the cotangents of some of its values, the cotangents of `wrt`:
 * reverse-mode differentiation, restricted to the nodes between the two. Returns one expression per value of `wrt`,
 * undefined if no gradient arrives.
 *
 * Throws `no-gradient` for an operator in between without a rule.
 */
export function backward(
  g: Builder,
  cotangents: ReadonlyMap<Value, Expr>,
  wrt: readonly Value[],
  options: BackwardOptions = {},
): (Expr | undefined)[] {
  // These values are variables: no rule may treat their current contents as constants.
  g.forget(wrt);
  const before = activeValues(g.graph.nodes, wrt, options);
  const active = expandNodes(g, before, options) ? activeValues(g.graph.nodes, wrt, options) : before;
  const nodes = [...g.graph.nodes];
  const sums = new Map<Value, Expr[]>();
  const push = (value: Value, cotangent: Expr) => {
    const list = sums.get(value);
    if (list) list.push(cotangent);
    else sums.set(value, [cotangent]);
  };
  // The CPU has no bfloat16 kernel of Add.
  const isRounded = ({ value }: Expr) => value.dtype === 'bfloat16' && g.provider === 'cpu';
  const add = (a: Expr, b: Expr) =>
    isRounded(a) ? a.cast('float32').add(b.cast('float32')).cast('bfloat16') : sumOf(a, b);
  const total = (value: Value | null): Expr | undefined => {
    const list = value && sums.get(value);
    if (!list) return undefined;
    if (list.length > 1) list.splice(0, list.length, list.reduce(add));
    return list[0];
  };
  for (const [value, cotangent] of cotangents) push(value, cotangent);

  const isActive = (v: Value | null) => v !== null && active.has(v);
  const cotangentOf = (v: Value | null) => (isActive(v) ? total(v) : undefined);
  for (let k = nodes.length - 1; k >= 0; k--) {
    const node = nodes[k]!;
    const operands = operandsOf(node);
    if (!operands.some(isActive)) continue;
    const dys = node.outputs.map(cotangentOf);
    if (!dys.some(Boolean)) continue;
    const rule = ruleOf(opDef(node), options);
    if (rule === null) continue;
    if (!rule) throw noRule(node, g, active, wrt, cotangents);
    const needs = (i: number) => isActive(operands[i] ?? null);
    const view = new NodeView(node, g, g.opset(node.domain), captures(node), needs, (sub, dy, x) =>
      backward(sub, dy, x, options),
    );
    const pullbacks = rule(dys as never, view as never);
    operands.forEach((operand, i) => {
      const pullback = operand && active.has(operand) ? pullbacks[i] : null;
      if (!pullback) return;
      const sum = typeof pullback === 'function' ? undefined : total(operand);
      const dx = typeof pullback === 'function' ? pullback() : pullback.addTo(sum);
      check(dx, operand!, node, i);
      if (sum) sums.set(operand!, [dx]);
      else push(operand!, dx);
    });
  }
  return wrt.map(value => total(value));
}

/** The inputs of a node, then the outer values that its subgraphs read. */
function operandsOf(node: Node): readonly (Value | null)[] {
  const captured = captures(node);
  return captured.length ? [...node.inputs, ...captured] : node.inputs;
}

const NOTHING: readonly Value[] = [];

function captures(node: Node): readonly Value[] {
  if (!hasSubgraphs(node)) return NOTHING;
  return [...new Set(node.subgraphs().flatMap(sub => sub.captures()))];
}

/** The values that depend on `wrt` through differentiable operators, `wrt` included. */
export function activeValues(
  nodes: readonly Node[],
  wrt: readonly Value[],
  options: BackwardOptions = {},
): Set<Value> {
  const active = new Set<Value>(wrt);
  const isActive = (v: Value | null) => v !== null && active.has(v);
  for (let i = 0; i < nodes.length; i++) {
    const node = nodes[i]!;
    if (!operandsOf(node).some(isActive) || ruleOf(opDef(node), options) === null) continue;
    const { outputs } = node;
    for (let k = 0; k < outputs.length; k++) {
      const output = outputs[k];
      if (output && !options.detached?.has(output) && mayCarryGradient(node, output, options))
        active.add(output);
    }
  }
  return active;
}

/**
 * With straight-through gradients, a quantized tensor has the floating-point cotangent of the numbers it represents.
 * So do int32 sums of its products, but not an int32 that counts or indexes.
 */
function mayCarryGradient({ opType, inputs }: Node, { type }: Value, options: BackwardOptions): boolean {
  if (type?.kind !== 'tensor') return !type || isDifferentiable(type);
  if (isFloat(type.dtype)) return true;
  if (!options.straightThrough) return false;
  const isSum = type.dtype === 'int32' && !(opType === 'Cast' && isFloat(inputs[0]?.dtype));
  return isSum || isQuantized(type.dtype);
}

/** The rule to use; null if gradients stop here, undefined if the operator is unknown. */
function ruleOf(def: OpDef | undefined, options: BackwardOptions): Rule<never, never> | null | undefined {
  switch (def?.kind) {
    case 'rule':
      return def.rule;
    case 'expansion':
      return (options.straightThrough ? def.straightThrough : undefined) ?? def.partial?.rule;
    case 'none':
      return null;
    case 'zero':
      return options.straightThrough ? def.straightThrough : null;
    default:
      return undefined;
  }
}

/** Whether a straight-through gradient passes this node, so that its slope is not that of the computed function. */
export function passesStraight(node: Node): boolean {
  const def = opDef(node);
  return def?.kind === 'zero' || (def?.kind === 'expansion' && def.straightThrough !== undefined);
}

/** A cotangent has the type of its primal. A rule that violates this is a bug, reported with the node and input. */
function check(dx: Expr, x: Value, node: Node, input: number): void {
  const where = `Gradient of ${node.label} for input ${input} ('${x.name}')`;
  if (x.type?.kind !== 'tensor') return;
  if (isFloat(x.dtype) ? dx.value.dtype !== x.dtype : !isFloat(dx.value.dtype))
    throw new Error(`${where} is ${dx.value.dtype}, the input ${x.dtype}.`);
  if (dx.shape === x.shape) return;
  if (!compatible(dx.shape, x.shape))
    throw new Error(`${where} has shape [${dx.shape}], the input [${x.shape}].`);
  if (dx.value.type?.kind === 'tensor' && x.shape && dx.shape !== x.shape)
    dx.value.type = { ...dx.value.type, shape: x.shape };
}

/** Whether two shapes may be equal: unknown and symbolic extents match any. */
export function compatible(a: Shape | undefined, b: Shape | undefined): boolean {
  if (!a || !b) return true;
  return (
    a.length === b.length &&
    a.every((d, i) => typeof d !== 'number' || typeof b[i] !== 'number' || d === b[i])
  );
}

function noRule(
  node: Node,
  g: Builder,
  active: ReadonlySet<Value>,
  wrt: readonly Value[],
  cotangents: ReadonlyMap<Value, Expr>,
): AgdError {
  const parameter = sourceOf(node, g, active, wrt);
  const target = [...cotangents.keys()].map(v => `'${v.name}'`).join(', ');
  const way = parameter.path.length ? ` (by way of ${parameter.path.map(n => n.label).join(', ')})` : '';
  const laidOut = node.domain === 'com.microsoft.nchwc';
  const advice = laidOut
    ? 'ONNX Runtime laid the file out for one processor: save it at optimization level "extended" or below.'
    : `Freeze '${parameter.value.name}' and what else feeds it with --freeze, or define its gradient with --extend.`;
  return new AgdError(
    'no-gradient',
    `No gradient rule for op ${node.label}, on the path from '${parameter.value.name}' to ${target}${way}. ${advice}`,
    laidOut ? {} : { details: howToDefine(node) },
  );
}

/** The lines that define a gradient, with the names of this node. */
function howToDefine({ domain, opType, inputs, outputs }: Node): string {
  const names = (count: number, prefix: string) =>
    Array.from({ length: count }, (_, i) => `${prefix}${i}`).join(', ');
  const pullbacks = inputs.map((_, i) => `() => dy0.mul(x${i})`).join(', ');
  return `To define it, write the formula into a file such as gradients.mjs, and run again with --extend gradients.mjs:

  import { defineGradient } from 'agd-onnx/extend';
  defineGradient('${domain ? `${domain}.` : ''}${opType}', ([${names(outputs.length, 'dy')}], node) => {
    const [${names(inputs.length, 'x')}] = node.inputs;
    return [${pullbacks}]; // the gradient of each input; null where there is none
  });`;
}

/** One value of `wrt` that `node` depends on, and the nodes in between. */
function sourceOf(node: Node, g: Builder, active: ReadonlySet<Value>, wrt: readonly Value[]) {
  const path: Node[] = [];
  let at = node;
  for (;;) {
    const next = operandsOf(at).find(v => v && active.has(v))!;
    const producer = g.writer(next);
    if (wrt.includes(next) || !producer) return { value: next, path };
    path.unshift(producer);
    at = producer;
  }
}
