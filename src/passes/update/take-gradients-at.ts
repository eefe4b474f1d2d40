import { isHalf } from '../../graph/dtype.js';
import type { Node, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Optimizer, OptimizerOptions } from '../../ops/optimizers/optimizer.js';
import { exactWeight, type TrainedParameter, type UpdateRule } from './update-parameters.js';

/**
 * Makes the nodes that are in the graph, those of the model and of its gradients, read the point where the optimizer takes its
 * gradients in place of each parameter. Returns these points.
 */
export function takeGradientsAt<O extends OptimizerOptions>(
  g: Builder,
  { point }: Optimizer<O>,
  parameters: readonly TrainedParameter<O>[],
  { slots, carries }: Pick<UpdateRule, 'slots' | 'carries'>,
): readonly Value[] {
  if (!point) return parameters.map(p => p.param);
  const points: Value[] = [];
  const nodes: Node[] = [];
  for (const [i, { param, options }] of parameters.entries()) {
    const place = g.newValue(`${param.name}_point`, param.type);
    points.push(place);
    param.replaceAllUses(place, { outputs: false });
    g.into(nodes, () => {
      const state = Object.entries(slots.get(param)!).map(([name, v]) => [name, g.of(v)]);
      const carry = carries[i] && g.of(carries[i]);
      const exact = isHalf(param.dtype) ? exactWeight(g.of(param), carry) : g.of(param);
      g.identity(point(exact, Object.fromEntries(state), options).cast(param.dtype!).value, place);
    });
  }
  g.graph.nodes = [...nodes, ...g.graph.nodes];
  return points;
}
