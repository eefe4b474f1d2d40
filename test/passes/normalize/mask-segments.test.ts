/** Documents packed into one row train as they do in rows of their own. */
import { describe, expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { float } from '../../../src/ops/core/builder.js';
import type { GradientOptions } from '../../../src/passes/differentiate.js';
import { inject } from '../../../src/passes/inject.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { attention } from '../../attention.js';
import { type DecoderForm, decoder } from '../../decoder.js';
import { ints } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** Tokens and their next ones. */
const DOCUMENTS = [
  [3, 1, 4, 1, 5, 9],
  [2, 6, 5],
  [8, 9, 7, 9],
];
const [LENGTH, IGNORED] = [10, -100];

/** Rows of inputs, targets and the numbers of documents, padded. */
function rowsOf(rows: readonly (readonly number[])[][]) {
  const table = (number: (document: readonly number[], i: number, j: number) => number, fill: number) =>
    ints(
      rows.flatMap(row => {
        const cells = row.flatMap((d, i) => d.slice(1).map((_, j) => number(d, i, j)));
        return [...cells, ...Array<number>(LENGTH - cells.length).fill(fill)];
      }),
      [rows.length, LENGTH],
    );
  return {
    input_ids: table((d, _, j) => d[j]!, 0),
    target: table((d, _, j) => d[j + 1]!, IGNORED),
    segment_ids: table((_, i) => i + 1, 0),
  };
}

const { segment_ids: _, ...apart } = rowsOf(DOCUMENTS.map(d => [d]));
const together = rowsOf([DOCUMENTS]);
const loss = { kind: 'cross-entropy', output: 'logits', ignoreIndex: IGNORED } as const;

async function compare(
  model: () => Model,
  { deriveInputs, freeze }: Pick<GradientOptions, 'deriveInputs' | 'freeze'>,
) {
  const derive = (names: readonly string[]) => names.filter(name => name !== 'position_ids');
  const want = await gradients(model(), { loss, deriveInputs, freeze }, apart);
  const options = { loss, freeze, deriveInputs: deriveInputs && derive(deriveInputs), pack: true };
  const found = await gradients(model(), options, together);
  expect(found.loss).toBeCloseTo(want.loss!, 5);
  expect(found.gradients.size).toBeGreaterThan(0);
  for (const [name, gradient] of want.gradients) {
    const numbers = gradient.numbers();
    const most = numbers.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
    const other = found.gradients.get(name)!.numbers();
    expect(most, name).toBeGreaterThan(0);
    for (const [i, x] of numbers.entries())
      expect(Math.abs(other[i]! - x) / most, `${name} ${i}`).toBeLessThan(1e-5);
  }
}

describe('gradients of documents in one row are those of documents in rows of their own', () => {
  const forms: [string, DecoderForm][] = [
    ['rotary positions computed by attention', {}],
    ['position_ids', { positions: true }],
    ['a window', { attention: { local_window_size: 3 } }],
    ['a soft cap', { attention: { softcap: float(5) } }],
    ['a sink', { sink: true, attention: { smooth_softmax: 1 } }],
  ];
  it.each(forms)('in GroupQueryAttention with %s', async (_name, form) => {
    await compare(() => decoder(form), {
      deriveInputs: ['past*', 'attention_mask', ...(form.positions ? ['position_ids'] : [])],
    });
  });
  it.each([
    ['MultiHeadAttention', 'com.microsoft'],
    ['Softmax of [batch, heads, length, length]', 'heads'],
    ['Softmax of [batch, length, length]', ''],
  ])('in %s', async (_name, form) => {
    await compare(() => attention(form, LENGTH), { freeze: ['causal'] });
  });
});

describe('--pack is refused', () => {
  const refused = (model: Model) => inject(model, { loss, pack: true }, sessionShapes);
  it('for a recurrent layer', async () => {
    const withLstm = attention('', LENGTH, (s, x) => {
      const y = s.add(
        'LSTM',
        [
          s.add('Transpose', [x], 'time', { perm: [1, 0, 2] }),
          s.weight('W', [1, 32, 8]),
          s.weight('R', [1, 32, 8]),
        ],
        'recurrent',
        { hidden_size: 8 },
      );
      return s.add('Transpose', [s.add('Squeeze', [y, s.weight('one', ints([1]))], 'states')], 'back', {
        perm: [1, 0, 2],
      });
    });
    await expect(refused(withLstm)).rejects.toThrow(
      "--pack cannot keep documents apart in node 'recurrent_node' (LSTM), which carries values from token to token; train without --pack.",
    );
  });
  it('for a model without attention, or without tokens', async () => {
    const s = new Sketch();
    const ids = s.input('input_ids', ['batch', 'length'], 'int64');
    const rows = s.add('Gather', [s.weight('table', [10, 10]), ids], 'logits');
    await expect(refused(s.model([rows]))).rejects.toThrow('--pack: the model has no attention that');
    const other = new Sketch();
    const x = other.input('x', ['batch', 4]);
    const logits = other.add('MatMul', [x, other.weight('W', [4, 3])], 'logits');
    await expect(refused(other.model([logits]))).rejects.toThrow(
      '--pack needs a model of one sequence of tokens: no input is [batch, length] of whole numbers.',
    );
  });
});
