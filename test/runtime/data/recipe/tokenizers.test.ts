/** Tokenizers of each kind, against Python's tokenizers library; recorded_tokenizers.py makes the numbers. */
import { describe, expect, it } from 'vitest';
import { Tensor } from '../../../../src/graph/tensor.js';
import { applyRecipe } from '../../../../src/runtime/data/recipe/apply-recipe.js';
import { tokenBytes } from '../../../../src/runtime/data/recipe/token-bytes.js';
import { makeTokenizer } from '../../../../src/runtime/data/recipe/tokenizer.js';
import { MetricSet } from '../../../../src/runtime/metrics/index.js';
import recorded from './recorded-tokenizers.json' with { type: 'json' };

const cases = Object.entries(recorded);
const decodable = cases.filter(([name]) => name !== 'WordLevel');
const LOSS = { kind: 'cross-entropy', output: 'y', target: 't' } as const;

/** A recipe whose target is the tokens of a text. */
const recipeOf = (tokenizer: unknown) =>
  ({
    version: 1,
    inputs: [
      {
        ...{ input: 't', dtype: 'int64', dims: [] },
        columns: [
          {
            ...{ column: 'text', kind: 'text', width: 1 },
            steps: [{ step: 'tokens', tokenizer: 'tokenizer.json', length: null, pad: 0, output: 'ids' }],
          },
        ],
      },
    ],
    target: 't',
    tokenizers: { 'tokenizer.json': tokenizer },
  }) as never;

it.each(cases)('%s gives the ids of the original library', async (_, { tokenizer, texts }) => {
  const encode = await makeTokenizer(tokenizer, 'tokenizer.json');
  for (const { text, ids } of texts) expect(encode(text, null)).toEqual(ids);
});

describe('bits per byte of tokens', () => {
  it.each(decodable)('%s: the bytes of all tokens are those of the text', (_, { tokenizer, texts }) => {
    const bytes = tokenBytes(tokenizer)!;
    for (const { text, ids } of texts)
      expect(ids.reduce((n, id) => n + bytes[id]!, 0)).toBe(Buffer.byteLength(text.replace('<|end|>', '')));
  });

  it.each(decodable)('%s: they equal a computation from the text', (_, { tokenizer, texts }) => {
    const width = tokenBytes(tokenizer)!.length;
    for (const { ids, bitsPerByte } of texts) {
      const set = new MetricSet(LOSS, ['bits-per-byte'], false, recipeOf(tokenizer));
      const scores = Float32Array.from({ length: ids.length * width }, (_, i) => 3 * Math.sin(i % width));
      const targets = Tensor.from('int64', [ids.length], BigInt64Array.from(ids, BigInt));
      set.add(Tensor.from('float32', [ids.length, width], scores), targets, ids.length);
      expect(set.result().metrics['bits-per-byte']).toBeCloseTo(bitsPerByte, 5);
    }
  });

  it('are refused where tokens do not hold the text, which other metrics do not mind', () => {
    const recipe = recipeOf(recorded.WordLevel.tokenizer);
    expect(() => new MetricSet(LOSS, ['bits-per-byte'], false, recipe)).toThrow(
      'those of tokenizer.json (WordLevel without byte-level or SentencePiece tokens) drop spaces: use perplexity',
    );
    new MetricSet(LOSS, ['perplexity'], false, recipe);
  });
});

it('a word that the vocabulary lacks is an error where no token stands for unknown words', async () => {
  const { tokenizer } = recorded.WordLevel;
  const contents = { ...tokenizer, model: { ...tokenizer.model, unk_token: '[other]' } };
  const encode = await makeTokenizer(contents, 'tokenizer.json');
  expect(encode('the cat', null)).toEqual([1, 2]);
  expect(() => encode('the bird', null)).toThrow(
    "tokenizer.json has no token for 'bird', nor one for unknown words.",
  );
});

it('texts are cut and filled up on the side that the tokenizer names', async () => {
  const left = {
    ...recorded.WordLevel.tokenizer,
    padding: { direction: 'Left' },
    truncation: { direction: 'Left' },
  };
  const block = { rows: 2, values: new Map([['text', ['the cat', 'the cat the cat the']]]) };
  const ids = async (tokenizer: unknown, output: string) => {
    const step = { step: 'tokens', tokenizer: 'tokenizer.json', length: 4, pad: 9, output };
    const columns = [{ column: 'text', kind: 'text', width: 4, steps: [step] }];
    const inputs = [{ input: 't', dtype: 'int64', dims: [4], columns }];
    const recipe = { ...(recipeOf(tokenizer) as object), inputs } as never;
    return (await applyRecipe(recipe, block)).get('t')!.numbers();
  };
  expect(await ids(left, 'ids')).toEqual([9, 9, 1, 2, 2, 1, 2, 1]);
  expect(await ids(left, 'mask')).toEqual([0, 0, 1, 1, 1, 1, 1, 1]);
  expect(await ids(recorded.WordLevel.tokenizer, 'ids')).toEqual([1, 2, 9, 9, 1, 2, 1, 2]);
});

it('a tokenizer of another kind is refused', async () => {
  const { tokenizer } = recorded.WordLevel;
  const contents = { ...tokenizer, model: { ...tokenizer.model, type: 'Other' } };
  await expect(makeTokenizer(contents, 'tokenizer.json')).rejects.toThrow(
    "tokenizer.json: a model of type 'Other' is not supported, only BPE, WordPiece, Unigram, WordLevel.",
  );
});
