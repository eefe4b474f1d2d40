import { expect, it } from 'vitest';
import { allGraphs, type Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { inject } from '../../../src/passes/inject.js';
import { inferShapes } from '../../../src/passes/normalize/infer-shapes.js';
import { scanSteps } from '../../../src/passes/run/scan-steps.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { mlp, Sketch } from '../../sample.js';

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

/** Tokens in, one score for each token of 40 out. */
function tokens(): Model {
  const s = new Sketch();
  const ids = s.input('input_ids', ['batch', 'length'], 'int64');
  const embedded = s.add('Gather', [s.weight('embed.weight', [40, 4]), ids], 'embedded');
  return s.model([s.add('MatMul', [embedded, s.weight('head.weight', [4, 40])], 'logits')]);
}

const shapesOf = ({ graph }: Model) =>
  Object.fromEntries(
    graph.nodes.flatMap(({ outputs }) => outputs.flatMap(v => (v ? [[v.name, v.shape]] : []))),
  );

it('what an injected file does not declare, a session infers: a resumed run is laid out as one that was not stopped', async () => {
  const { model } = await inject(tokens(), { loss: { kind: 'cross-entropy' } }, sessionShapes);
  const read = decodeModel(encodeModel(model));
  await inferShapes(read, sessionShapes);
  expect(shapesOf(read)).toEqual(shapesOf(model));
});
