/** Decoders for long texts, which choose between two caches of rotary positions by the number of tokens. */
import { expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { inject } from '../../../src/passes/inject.js';
import { trainedModel } from '../../../src/runtime/export.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { type DecoderForm, decoder } from '../../decoder.js';
import { ints } from '../../ops/vjp.js';

const options = {
  loss: { kind: 'cross-entropy', output: 'logits' },
  optimizer: { name: 'sgd', lr: 0.5 },
  lora: [{ match: '*proj*', r: 2 }],
  deriveInputs: ['past*', 'attention_mask'],
} as const;

async function trained(form: DecoderForm, length: number, accumulate = 1) {
  const { model } = await inject(decoder(form), { ...options, accumulate }, sessionShapes);
  const trainer = await Trainer.create(model);
  const text = Array.from({ length: 2 * (length + 1) }, (_, i) => (7 * i + (i % 3)) % 16);
  const cut = (from: number) =>
    ints(
      [0, length + 1].flatMap(at => text.slice(at + from, at + from + length)),
      [2, length],
    );
  const losses: number[] = [];
  for (let i = 0; i < 4; i++) losses.push((await trainer.step({ input_ids: cut(0), target: cut(1) })).loss);
  const after = trainer.snapshot();
  await trainer.release();
  return { losses, after };
}

const adapters = ({ graph }: Model) =>
  [...graph.initializers].flatMap(([v, t]) => (/lora_[AB]$/.test(v.name) ? t.numbers() : []));

it.each([
  [5, 'short'],
  [6, 'short'],
  [7, 'long'],
  [12, 'long'],
] as const)('of %i tokens trains as with the %s cache alone', async (length, rotary) => {
  const [chosen, alone] = [await trained({ rotary: 6 }, length), await trained({ rotary }, length)];
  const other = await trained({ rotary: rotary === 'short' ? 'long' : 'short' }, length);
  expect(chosen.losses).toEqual(alone.losses);
  expect(adapters(chosen.after)).toEqual(adapters(alone.after));
  expect(chosen.losses).not.toEqual(other.losses);
  const ops = (model: Model) => model.graph.nodes.map(node => node.opType);
  expect(ops(await trainedModel(chosen.after))).toContain('If');
});
