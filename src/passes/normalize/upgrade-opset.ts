import { dtypeOf, isFloat } from '../../graph/dtype.js';
import { allGraphs, Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import type { Tensor } from '../../graph/tensor.js';
import { type OldModel, UpgradeContext, type UpgradeStep } from '../../ops/core/upgrade.js';
import * as upgrades from '../../ops/upgrades.js';

const STEPS = new Map<string, readonly UpgradeStep[]>(Object.entries(upgrades));

/**
 * Converts a model and its functions to version `target` of the default operator set, operator by operator; newer
 * ones stay as they are. Before IR 4, initializers had to be graph inputs too; these become constants and are removed
 * from the inputs. Returns whether anything changed.
 *
 * Throws `unsupported-op` for an operator, or a form of one, without an equivalent.
 */
export function upgradeOpset(model: Model, target = 18): boolean {
  let changed = false;
  if (model.irVersion < 4) {
    model.graph.inputs = model.graph.inputs.filter(v => !model.graph.initializers.has(v));
    changed = true;
  }
  for (const { opsetImports, body } of model.functions) {
    changed = upgradeGraph(new Model(body), opsetImports, target) || changed;
  }
  changed = upgradeGraph(model, model.opsetImports, target) || changed;
  if (changed) model.irVersion = Math.max(model.irVersion, 8);
  return changed;
}

function upgradeGraph(model: Model, opsets: Map<string, number>, target: number): boolean {
  const opset = opsets.get('');
  if (opset === undefined || opset >= target) return false;
  const context = new UpgradeContext(survey(model, opset));
  for (const graph of [...allGraphs(model.graph)])
    graph.nodes = graph.nodes.flatMap(node => upgradeNode(node, opset, target, context));
  opsets.set('', target);
  return true;
}

/** The nodes that do at version `target` what the node does at `from`, converted version by version. */
function upgradeNode(node: Node, from: number, target: number, c: UpgradeContext): readonly Node[] {
  if (node.domain !== '') return [node];
  const next = STEPS.get(node.opType)?.find(([since]) => since > from && since <= target);
  if (next) {
    const [since, step] = next;
    return step(node, c).flatMap(n => upgradeNode(n, since, target, c));
  }
  return [node];
}

function survey(model: Model, opset: number): OldModel {
  const constants = new Map<Value, Tensor>();
  const types = new Set(model.graph.inputs.map(v => v.dtype));
  for (const { inputs, nodes, initializers } of allGraphs(model.graph)) {
    for (const [v, tensor] of initializers) if (!inputs.includes(v)) constants.set(v, tensor);
    for (const node of nodes) {
      const value = node.opType === 'Constant' ? node.attrs.get('value') : undefined;
      if (value?.type === 'tensor') constants.set(node.outputs[0]!, value.value);
      const to = node.opType === 'Cast' ? node.attrs.get('to') : undefined;
      if (to?.type === 'int') types.add(dtypeOf(Number(to.value)));
    }
  }
  for (const tensor of constants.values()) types.add(tensor.dtype);
  const floats = [...types].filter(isFloat);
  return {
    names: Names.of(model),
    opset,
    constants,
    float: floats.length === 1 ? floats[0] : undefined,
  };
}
