import { AgdError } from '../../graph/errors.js';
import { Graph, Model } from '../../graph/ir.js';
import { initializationGraph } from '../../graph/proto/training.js';
import type { Tensor } from '../../graph/tensor.js';
import { RANDOM } from '../../ops/core/builder.js';
import { Session } from '../session.js';

/**
 * What the initialization graphs of a model's training_info give its state, by the state's name. Draws of random numbers
 * that have no seed get one from `seed`. Throws `bad-option` where there is no such graph, `invalid-model` where a
 * binding names what its graph does not give.
 */
export async function initialValues(model: Model, seed = 0): Promise<Map<string, Tensor>> {
  const values = new Map<string, Tensor>();
  for (const info of model.trainingInfo) {
    const graph = initializationGraph(info) ?? new Graph('initialization');
    const given = new Set(graph.outputs.map(v => v.name));
    const missing = info.initializations.find(({ value }) => !given.has(value));
    if (missing)
      throw new AgdError(
        'invalid-model',
        `training_info initializes '${missing.state}' with '${missing.value}', which its initialization does not compute.`,
      );
    if (!info.initializations.length) continue;
    graph.nodes.forEach((node, i) => {
      if (RANDOM.has(node.opType) && !node.attrs.has('seed'))
        node.setAttr('seed', { type: 'float', value: seed + i });
    });
    const { irVersion, opsetImports } = model;
    const session = await Session.create(Object.assign(new Model(graph), { irVersion, opsetImports }));
    const results = await session.run({});
    await session.release();
    for (const { state, value } of info.initializations) values.set(state, results[value]!);
  }
  if (!values.size)
    throw new AgdError('bad-option', 'There is nothing to run: the model has no initialization graph.');
  return values;
}
