import { expect, it } from 'vitest';
import { allGraphs } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { inject } from '../../../src/passes/inject.js';
import { scanSteps } from '../../../src/passes/run/scan-steps.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { mlp } from '../../sample.js';

it('says what a runtime does not infer: extents that are computed', async () => {
  const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } }, sessionShapes);
  const written = (of: typeof model) => {
    const [main] = [...allGraphs(decodeModel(encodeModel(of)).graph)].sort(
      (a, b) => b.nodes.length - a.nodes.length,
    );
    return new Map(main!.nodes.flatMap(n => n.outputs.map(v => [v!.name, v!.shape] as const)));
  };
  const expands = model.graph.nodes.filter(n => n.opType === 'Expand').map(n => n.outputs[0]!);
  expect(expands.length).toBeGreaterThan(0);
  for (const form of [written(model), written(scanSteps(model).model)]) {
    for (const { name, shape } of expands) expect(form.get(name), name).toEqual(shape);
    // This one the runtime infers.
    expect(form.get('h')).toBeUndefined();
  }
});
