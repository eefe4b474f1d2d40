import { expect, it } from 'vitest';
import { Node, Value } from '../../../src/graph/ir.js';
import { toAttrs } from '../../../src/ops/core/builder.js';
import { liftSubgraphInitializers } from '../../../src/passes/normalize/lift-subgraph-initializers.js';
import { Body, control, float32, model } from '../../ops/body.js';
import { bools, checkModel, floatsOf, spread } from '../../ops/vjp.js';

it('makes weights of subgraphs weights of the main graph, which get their gradients', async () => {
  const main = new Body('main');
  const [x, w] = [main.input('x', float32([2])), main.constant('w', floatsOf([3, 4]))];
  const [yes, no] = [new Body('yes'), new Body('no')];
  const own = yes.constant('w', floatsOf([1, 2]));
  const hidden = new Value('hidden');
  yes.graph.append(new Node('Constant', [], [hidden], toAttrs({ value: floatsOf([5, 6]) })));
  const mixed = yes.add('Mul', [yes.add('Sin', [own], 'sin'), yes.add('Mul', [x, hidden], 'xh')], 'mixed');
  const [y] = control(main, 'If', [main.constant('cond', bools([1], []))], ['y'], {
    then_branch: yes.outputs(yes.add('Add', [mixed, w], 'yes_y')),
    else_branch: no.outputs(no.add('Identity', [w], 'no_y')),
  });
  const { graph } = main;
  const made = model(main, [y!]);
  expect([...graph.initializers.keys()].map(v => v.name)).toEqual(['w', 'cond', 'w_1', 'hidden']);
  expect(yes.graph.initializers.size).toBe(0);
  expect(liftSubgraphInitializers(made)).toBe(false);
  // As inputs they can be moved, for the differences.
  w.type = float32([2]);
  graph.inputs.push(own, hidden, w);
  const tensors = [spread([2]), ...[own, hidden, w].map(v => graph.initializers.get(v)!)];
  for (const v of [own, hidden, w]) graph.initializers.delete(v);
  await checkModel(made, [x, own, hidden, w], [y!], tensors);
});
