/** Samples of the next run are asked for before a run begins: threads read them meanwhile, as a run blocks its own. */
import { expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { Dataset } from '../../../src/runtime/data/dataset.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { trainingLoop } from '../../../src/runtime/train/training-loop.js';
import { mlp, mlpData } from '../../sample.js';

it('the samples of the next run are asked for before a run begins', async () => {
  const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } }, sessionShapes);
  const trainer = await Trainer.create(model);
  const arrays = mlpData(64);
  const log: string[] = [];
  const samples = {
    length: 64,
    arrays: new Map([...arrays].map(([name, { dtype, dims }]) => [name, { dtype, dims: dims.slice(1) }])),
    async take(rows: Uint32Array) {
      log.push(`read ${rows.length}`);
      return new Map(
        [...arrays].map(([name, t]) => {
          const size = t.byteLength / 64;
          const parts = [...rows].map(row => t.bytes.slice(row * size, (row + 1) * size));
          return [name, new Tensor(t.dtype, [rows.length, ...t.dims.slice(1)], Buffer.concat(parts))];
        }),
      );
    },
  };
  const columns = trainer.inputs.map(({ name, dtype }) => {
    const array = arrays.get(name) ?? arrays.get('target')!;
    const dims = array.dims.slice(1);
    return {
      input: name,
      array: { dtype: array.dtype, dims: [64, ...dims] },
      arrayName: name,
      dtype,
      dims,
      scale: 1,
    };
  });
  const data = new Dataset(columns, { samples });
  const steps = trainer.steps.bind(trainer);
  trainer.steps = async (inputs, options) => {
    log.push('run');
    return steps(inputs, options);
  };
  for await (const event of trainingLoop(trainer, data, { epochs: 1, batchSize: 8, limit: () => 1 }))
    if (event.type === 'step') log.push('done');
  await trainer.release();
  expect(log.filter(what => what === 'run')).toHaveLength(8);
  // Before each run but the last, as many runs' samples were asked for as have begun, and one more.
  let [read, begun] = [0, 0];
  for (const what of log) {
    if (what.startsWith('read')) read++;
    if (what === 'run') expect(read).toBeGreaterThanOrEqual(Math.min(++begun + 1, 8));
  }
});
