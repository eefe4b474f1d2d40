/** Detects statistics used in plain arithmetic: normalization of a model's inputs, frozen batch normalization. */
import type { Graph, Node, Value } from '../../graph/ir.js';
import { constantsOf, isMove } from '../common/readers.js';

/**
 * The constants that normalize an input of the model: one is subtracted (or its negative added), then another
 * divides. Around these, an input may be moved, cast, and scaled by single numbers. A constant that enlarges the
 * input by broadcasting, such as centers from which distances are computed, does not normalize it.
 */
export function inputNormalization(graph: Graph): Set<Value> {
  const constants = constantsOf(graph);
  const raw = new Set(graph.inputs.filter(v => !graph.initializers.has(v)));
  const found = new Set<Value>();
  const isSingle = (v: Value) => v.shape?.every(d => d === 1);
  for (const node of graph.nodes) {
    const [a, b] = node.inputs;
    if (a && raw.has(a) && isMove({ node, index: 0 }, constants)) {
      for (const out of node.outputs) if (out) raw.add(out);
      continue;
    }
    const constant = b && constants.has(b) ? b : a && constants.has(a) ? a : undefined;
    const data = constant === b ? a : b;
    const out = node.outputs[0];
    if (!constant || !data || !out || !raw.has(data) || !ARITHMETIC.has(node.opType)) continue;
    if (isSingle(constant)) raw.add(out);
    if (`${data.shape}` !== `${out.shape}` || constant !== b) continue;
    const divisor =
      node.opType === 'Sub' || node.opType === 'Add' ? scaleAfter(out, node, constants) : undefined;
    if (!divisor) continue;
    raw.add(out);
    found.add(constant).add(divisor);
  }
  return found;
}

const ARITHMETIC = new Set(['Add', 'Sub', 'Mul', 'Div']);

/**
 * The constant that divides the output of `first`, or multiplies it after a subtraction; undefined if there are other
 * readers.
 */
function scaleAfter(value: Value, first: Node, constants: ReadonlySet<Value>): Value | undefined {
  const [use, ...others] = value.uses;
  if (!use || others.length) return undefined;
  const { node } = use;
  if (isMove(use, constants)) return scaleAfter(node.outputs[0]!, first, constants);
  if (node.opType !== 'Div' && !(node.opType === 'Mul' && first.opType === 'Sub')) return undefined;
  const other = node.inputs[1 - use.index];
  const isScaled = node.opType === 'Mul' || use.index === 0;
  return isScaled && other && constants.has(other) && `${value.shape}` === `${node.outputs[0]?.shape}`
    ? other
    : undefined;
}

/**
 * The constants of frozen batch normalizations, all four of which are then buffers: arithmetic with running
 * statistics that have the usual names, or a factor and an addend with made-up names after a convolution. Parameters
 * that multiply such a result directly keep their names.
 */
export function frozenNormalization(graph: Graph): Set<Value> {
  const found = new Set<Value>();
  const byName = new Map([...graph.initializers.keys()].map(v => [v.name, v]));
  for (const [name, value] of byName) {
    const layer = /^(.*)running_var$/.exec(name)?.[1];
    const own = value.readers;
    if (layer === undefined || !own.length || own.some(node => node.opType === 'BatchNormalization'))
      continue;
    for (const part of ['weight', 'bias', 'running_mean', 'running_var']) {
      const one = byName.get(layer + part);
      if (one) found.add(one);
    }
  }
  for (const conv of graph.nodes) {
    if (conv.opType !== 'Conv' || conv.inputs[2]) continue;
    const scale = foldedAfter(conv, 'Mul', graph);
    const shift = scale && foldedAfter(scale.node, 'Add', graph);
    if (shift) found.add(scale.constant).add(shift.constant);
  }
  return found;
}

/** The only reader of a node's output, if that combines it with a folded constant of one number per channel. */
function foldedAfter(before: Node, opType: string, graph: Graph) {
  const [use, ...others] = before.outputs[0]!.uses;
  if (use?.node.opType !== opType || others.length) return undefined;
  const constant = use.node.inputs[1 - use.index];
  const dims = constant && graph.initializers.get(constant)?.dims;
  if (!dims || !constant.name.startsWith(`onnx::${opType}_`)) return undefined;
  const isPerChannel = dims.length === 4 && dims.every((d, axis) => d === 1 || axis === 1);
  return isPerChannel ? { node: use.node, constant } : undefined;
}
