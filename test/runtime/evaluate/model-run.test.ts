import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { saveModel } from '../../../src/graph/files.js';
import type { Model } from '../../../src/graph/ir.js';
import { inject } from '../../../src/index.js';
import { evaluate } from '../../../src/runtime/evaluate/evaluate-model.js';
import { plainModel } from '../../../src/runtime/evaluate/model-run.js';
import { predict } from '../../../src/runtime/evaluate/predict.js';
import { spread } from '../../ops/vjp.js';
import { mlpData, Sketch } from '../../sample.js';

const folder = mkdtempSync(join(tmpdir(), 'agd-model-run-'));
const LOSS = { kind: 'cross-entropy', output: 'logits' } as const;

/** With a frozen table of 64 KiB. */
function wide(): Model {
  const s = new Sketch();
  const h = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('table', [4, 4096])], 'h');
  return s.model([s.add('MatMul', [h, s.weight('head', spread([4096, 3], [-0.02, 0.02], 5))], 'logits')]);
}

it('large tensors stay in the file of a plain model and of a training state', async () => {
  const [plain, state] = ['model.onnx', 'state.agd.onnx'].map(name => join(folder, name)) as [string, string];
  await saveModel(wide(), plain);
  await saveModel((await inject(wide(), { loss: LOSS, freeze: ['table'] })).model, state);
  for (const path of [plain, state]) {
    const { model } = await plainModel(path);
    const [, table] = [...model.graph.initializers].find(([{ name }]) => name === 'table')!;
    expect(table.stored?.path).toBe(path);
    expect(table.at(1)).toBe([...wide().graph.initializers.values()][0]!.at(1));
  }
});

it('a file gives what the model in memory does, and is left as it was', async () => {
  const path = join(folder, 'model.onnx');
  await saveModel(wide(), path);
  const before = readFileSync(path);
  const data = Object.fromEntries(mlpData(8));
  const run = async (source: Model | string) => ({
    evaluated: await evaluate(source, data, { loss: LOSS }),
    predicted: (await predict(source, data, { loss: LOSS })).outputs.logits!.numbers(),
  });
  expect(await run(path)).toEqual(await run(wide()));
  expect(Buffer.compare(readFileSync(path), before)).toBe(0);
});
