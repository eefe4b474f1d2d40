import { expect, it } from 'vitest';
import type { Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { type DecoderForm, decoder, tokenData } from '../../decoder.js';
import { ints, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const loss = { kind: 'cross-entropy', output: 'logits' } as const;
const data = Object.fromEntries(tokenData(3, 5));
const fed = (size = 16) => ({
  ...data,
  attention_mask: Tensor.filled('int64', [3, 5], 1),
  position_ids: ints(
    Array.from({ length: 15 }, (_, i) => i % 5),
    [3, 5],
  ),
  'past_key_values.0.key': Tensor.zeros('float32', [3, 1, 0, size]),
  'past_key_values.0.value': Tensor.zeros('float32', [3, 1, 0, size]),
});
const only = (feeds: Record<string, Tensor>, names: readonly string[]) =>
  Object.fromEntries(Object.entries(feeds).filter(([name]) => names.includes(name)));

const FORMS: [string, DecoderForm][] = [
  ['with packed queries, keys and values', {}],
  ['with positions', { positions: true }],
  ['whose file leaves the size of heads open', { size: 'kv_cache_dim' }],
  ['with a tied table', { tied: true }],
  [
    'with a window, a cap and a cache of the last keys',
    { attention: { local_window_size: 2, sliding_window_cache: 1 } },
  ],
  ['with sinks and experts', { sink: true, experts: true }],
];

it.each(FORMS)('a decoder %s has the gradients of empty caches that are fed', async (_, form) => {
  const names = decoder(form).graph.inputs.map(v => v.name);
  const rolling = form.attention?.sliding_window_cache;
  // A cache of the last keys may not be fed empty to the kernel, but is expanded in training.
  const whole = await gradients(decoder(form), { loss }, only(fed(), [...names, 'target']));
  const derived = await gradients(
    decoder(form),
    { loss, deriveInputs: ['past*', '*_mask', ...(form.positions ? ['position_ids'] : [])] },
    data,
  );
  expect(derived.loss).toBeCloseTo(whole.loss!, 6);
  expect([...derived.gradients.keys()]).toEqual([...whole.gradients.keys()]);
  for (const [name, gradient] of derived.gradients) {
    const wanted = whole.gradients.get(name)!.numbers();
    expect(Math.max(...gradient.numbers().map((x, i) => Math.abs(x - wanted[i]!))), name).toBeLessThan(1e-6);
  }
  expect(rolling === undefined || rolling === 1).toBe(true);
});

it('positions count what the mask keeps, where that is fed', async () => {
  const mask = ints([1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0], [3, 5]);
  const form = { positions: true };
  const [derived, whole] = [
    await gradients(
      decoder(form),
      { loss, deriveInputs: ['past*', 'position_ids'] },
      { ...data, attention_mask: mask },
    ),
    await gradients(
      decoder(form),
      { loss, deriveInputs: ['past*'] },
      {
        ...{ ...data, attention_mask: mask },
        position_ids: ints([0, 1, 2, 2, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3, 3], [3, 5]),
      },
    ),
  ];
  expect(derived.loss).toBe(whole.loss);
});

it('the step keeps the names of other inputs, and the original all of them', async () => {
  const { model } = await inject(decoder(), { loss, deriveInputs: ['past*'] }, sessionShapes);
  const names = model.graph.inputs.map(v => v.name);
  expect(names).toContain('attention_mask');
  expect(names.filter(name => name.startsWith('past'))).toEqual([]);
});

it('a glob that matches no such input is refused with those there are', async () => {
  await expect(inject(decoder(), { loss, deriveInputs: ['cash*'] }, sessionShapes)).rejects.toThrow(
    "--derive-inputs 'cash*' matches no input that follows from the tokens; these do: 'attention_mask', 'past_key_values.0.key', 'past_key_values.0.value'.",
  );
});

it.each([
  ['by their names', ['b', 'n'], ['b', 'm']],
  ['by the name of their length', ['b', 'enc'], ['b', 'dec']],
] as const)(
  'the masks of an encoder and a decoder follow their own tokens, %s',
  async (how, own, decoded) => {
    const isNamed = how === 'by their names';
    const s = new Sketch();
    // Numbers of the mask with which a decoder reads its encoder are named as the decoder's where only the length tells.
    const names = isNamed
      ? ['attention_mask', 'decoder_attention_mask']
      : ['decoder_attention_mask', 'attention_mask'];
    const ids = s.input('input_ids', ['b', 'enc'], 'int64');
    const decoderIds = s.input('decoder_input_ids', ['b', 'dec'], 'int64');
    const masked = (tokens: Value, mask: string, shape: readonly string[]) => {
      const rows = s.add('Gather', [table, tokens], `${mask}_rows`);
      const kept = s.add('Cast', [s.input(mask, [...shape], 'int64')], `${mask}_float`, { to: 1 });
      const one = s.add('Unsqueeze', [kept, last], `${mask}_column`);
      return s.add('ReduceMean', [s.add('Mul', [rows, one], `${mask}_kept`), middle], `${mask}_mean`, {
        keepdims: 0,
      });
    };
    const table = s.weight('table', spread([7, 4], [-1, 1]));
    const [last, middle] = [s.weight('last', ints([2])), s.weight('middle', ints([1]))];
    const sum = s.add('Add', [masked(ids, names[0]!, own), masked(decoderIds, names[1]!, decoded)], 'logits');
    const tokens = (n: number) =>
      ints(
        Array.from({ length: 2 * n }, (_, i) => (i * i) % 7),
        [2, n],
      );
    const feeds = { input_ids: tokens(8), decoder_input_ids: tokens(5), target: ints([1, 3]) };
    const model = () => s.model([sum]);
    const derived = await gradients(model(), { loss, deriveInputs: ['*attention_mask'] }, feeds);
    const ones = (n: number) => Tensor.filled('int64', [2, n], 1);
    const whole = await gradients(
      model(),
      { loss },
      { ...feeds, [names[0]!]: ones(8), [names[1]!]: ones(5) },
    );
    expect(derived.loss).toBeCloseTo(whole.loss!, 6);
    expect([...derived.gradients.get('table')!.numbers()]).toEqual([
      ...whole.gradients.get('table')!.numbers(),
    ]);
  },
);
