import { expect, it } from 'vitest';
import { inject } from '../../../src/passes/inject.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { type DecoderForm, decoder, tokenData } from '../../decoder.js';

const { input_ids, target } = Object.fromEntries(tokenData(3, 5)) as Record<string, never>;

async function lossOf(form: DecoderForm, allPositions?: boolean) {
  const { model } = await inject(
    decoder(form),
    {
      ...{ loss: { kind: 'cross-entropy', output: 'logits' }, allPositions },
      deriveInputs: ['past*', 'attention_mask'],
    },
    sessionShapes,
  );
  const trainer = await Trainer.create(model);
  const inputs = { input_ids, target };
  const { loss } = await trainer.step(inputs, { lr: 0 });
  const evaluated = await trainer.evaluate([{ inputs, size: 3 }]);
  await trainer.release();
  return { loss, evaluated: evaluated.loss };
}

it('a head of the last token learns from all of them where that is asked for, and is validated on all', async () => {
  const whole = await lossOf({});
  const pruned = await lossOf({ pruned: true }, true);
  expect(pruned.loss).toBeCloseTo(whole.loss, 6);
  expect(pruned.evaluated).toBeCloseTo(whole.loss, 5);
});

it('a model without such a head is refused', async () => {
  await expect(lossOf({}, true)).rejects.toThrow(
    '--all-positions: nothing in the model takes the last position of a sequence',
  );
});
