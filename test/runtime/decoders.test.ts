/** A decoder of 4-bit weights beside PEFT: `decoders/make.py` recorded what PyTorch makes of the dequantized weights. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { inject } from '../../src/passes/inject.js';
import { dataOf } from '../../src/runtime/data/arrays.js';
import { openForInjection } from '../../src/runtime/formats/open-for-injection.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { inputsToDerive } from '../../src/runtime/train/model-data.js';
import { Trainer } from '../../src/runtime/train/trainer.js';
import { ints } from '../ops/vjp.js';

const FOLDER = join(import.meta.dirname, 'decoders');
const expected = JSON.parse(await readFile(join(FOLDER, 'expected.json'), 'utf8'));
const file = join(FOLDER, 'model.onnx');
const options = {
  loss: { kind: 'cross-entropy', output: 'logits' },
  optimizer: { name: 'adam', lr: 0.02 },
} as const;
const tokens = (values: number[]) => ints(values, [expected.batch, expected.length]);

// Level 4, as such files are shipped, rounds to 8 bits in inference only.
it.each([
  [0, 5e-6],
  [4, 5e-6],
])(
  'learns as PEFT does from the same adapter, with nothing but tokens (accuracy_level %i)',
  async (level, tolerance) => {
    const opened = await openForInjection(file, options, { adapter: join(FOLDER, 'start') });
    for (const node of opened.model.graph.nodes)
      if (node.opType === 'MatMulNBits') node.setAttr('accuracy_level', { type: 'int', value: level });
    const [first] = expected.batches;
    const data = dataOf(
      new Map([
        ['input_ids', tokens(first[0])],
        ['target', tokens(first[1])],
      ]),
      'the data',
    );
    const { options: derived, note } = await inputsToDerive({ ...opened, job: {}, data });
    expect(note).toBe(
      "The data have no array for 'past_key_values.0.key' and 3 more (an empty cache), 'attention_mask' (ones): computed from the tokens.",
    );
    const { model } = await inject(opened.model, { ...opened.options, ...derived }, sessionShapes);
    const trainer = await Trainer.create(model);
    for (const [i, [x, target]] of expected.batches.entries()) {
      const { loss } = await trainer.step({ input_ids: tokens(x), target: tokens(target) });
      expect(Math.abs(loss - expected.losses[i]), `loss of step ${i}`).toBeLessThan(tolerance);
    }
    await trainer.release();
  },
);

it('of the original has the names of its modules in PyTorch', async () => {
  const { adaptedLayers } = await import('../../src/passes/adapters/adapted-layers.js');
  const { graph } = await loadModel(file);
  const modules = adaptedLayers(graph).map(l => l.module);
  expect(modules.slice(0, 4)).toEqual([
    'model.embed_tokens',
    'model.layers.0.self_attn.qkv_proj',
    'model.layers.0.self_attn.o_proj',
    'model.layers.0.mlp.gate_proj',
  ]);
});
