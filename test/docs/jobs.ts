/** Data and small models for the commands of the pages on jobs: real tables of vega-datasets where they suit. */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { saveModel } from '../../src/graph/files.js';
import type { Model, Value } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { writeNpz } from '../../src/runtime/data/npz.js';
import { decoder } from '../decoder.js';
import { spread } from '../ops/vjp.js';
import { vega } from '../runtime/data/vega.js';
import { Sketch } from '../sample.js';
import { withImages } from './images.js';

/** The files that the lines of a page read, where they need to be made. */
export async function withJobs(folder: string, text: string): Promise<void> {
  const has = (name: string) => text.includes(name);
  const put = (name: string, contents: string) => writeFileSync(join(folder, name), contents);
  const records = (name: string) => JSON.parse(readFileSync(vega(name), 'utf8')) as Record<string, unknown>[];
  for (const name of ['birdstrikes.csv', 'seattle-weather.csv', 'flights-200k.arrow'])
    if (has(name)) copyFileSync(vega(name), join(folder, name));
  if (has('ratings.parquet')) writeFileSync(join(folder, 'ratings.parquet'), ratings());
  if (has('movies.jsonl')) put('movies.jsonl', lines(records('movies.json').map(x => JSON.stringify(x))));
  if (has('weather/')) {
    mkdirSync(join(folder, 'weather'));
    const [head, ...days] = readFileSync(vega('seattle-weather.csv'), 'utf8').trim().split('\n');
    for (const year of ['2012', '2013', '2014', '2015'])
      put(`weather/${year}.csv`, lines([head!, ...days.filter(day => day.startsWith(year))]));
  }
  if (has('reviews.csv')) {
    put('reviews.csv', lines(['text,label', ...REVIEWS.map(([review, label]) => `"${review}",${label}`)]));
    put('tokenizer.json', JSON.stringify(TOKENIZER));
  }
  if (has('chats.jsonl')) {
    put('chats.jsonl', lines(CHATS.map(messages => JSON.stringify({ messages }))));
    put('tokenizer_config.json', JSON.stringify({ chat_template: CHAT_TEMPLATE }));
  }
  if (has('articles.jsonl')) put('articles.jsonl', lines(ARTICLES.map(x => JSON.stringify(x))));
  if (has('clicks.csv')) put('clicks.csv', clicks());
  if (has('tokens.jsonl')) put('tokens.jsonl', lines(TOKENS.map(x => JSON.stringify(x))));
  if (has('tagged.jsonl')) put('tagged.jsonl', lines(TOKENS.map(x => JSON.stringify(x))));
  if (has('masked.jsonl'))
    put('masked.jsonl', lines(TOKENS.map(x => JSON.stringify(padded(x, TOKENS.at(-1)!.labels.length)))));
  if (has('notes.csv'))
    put('notes.csv', lines(['text', ...['to be', 'or not to be', 'that is the question', 'be or not']]));
  if (has('book.txt')) put('book.txt', 'to be or not to be that is the question\n'.repeat(40));
  if (has('lstm2-train.npz')) await writeNpz(join(folder, 'lstm2-train.npz'), windows(64, 6, 40));
  if (has('pets/') || has('scenes')) await withImages(folder);
  for (const [name, make] of Object.entries(MODELS))
    if (has(` ${name}.onnx`)) await saveModel(make(), join(folder, `${name}.onnx`));
}

const lines = (all: readonly string[]) => `${all.join('\n')}\n`;

/** Texts in two classes that a few words tell apart. */
const REVIEWS = Array.from({ length: 64 }, (_, i) => {
  const [good, bad] = [['great', 'lovely', 'superb'][i % 3], ['dull', 'awful', 'boring'][i % 3]];
  const what = ['film', 'story', 'cast', 'score'][(i >> 1) % 4];
  return i % 2 ? [`a ${good} ${what}`, 'positive'] : [`such a ${bad} ${what}`, 'negative'];
});

const WORDS = [...new Set(REVIEWS.flatMap(([review]) => review!.split(' ')))].sort();

/** Conversations in the words of the reviews. */
const CHATS = REVIEWS.slice(0, 8).map(([review]) => [
  { role: 'user', content: review },
  { role: 'assistant', content: 'a great film' },
]);
const CHAT_TEMPLATE =
  '{% for m in messages %}{{ m.role }}: {{ m.content }}.\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}';

/** A tokenizer of Hugging Face that knows the words of the reviews. */
const TOKENIZER = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: ['[PAD]', '[UNK]'].map((content, id) => ({
    ...{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
  })),
  normalizer: { type: 'Lowercase' },
  pre_tokenizer: { type: 'Whitespace' },
  post_processor: null,
  decoder: null,
  model: {
    ...{ type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##' },
    max_input_chars_per_word: 100,
    vocab: Object.fromEntries(['[PAD]', '[UNK]', ...WORDS].map((word, id) => [word, id])),
  },
};

/** Conversations as tokens, of which the last half are learned. */
const TOKENS = Array.from({ length: 12 }, (_, i) => {
  const input_ids = Array.from({ length: 4 + i }, (_, j) => (i + 3 * j) % 16);
  return { input_ids, labels: input_ids.map((id, j) => (j < 2 + i / 2 ? -100 : id)) };
});

/** Tokens as a data collator pads them. */
function padded({ input_ids, labels }: (typeof TOKENS)[number], length: number) {
  const filled = (list: readonly number[], fill: number) => Array.from({ length }, (_, i) => list[i] ?? fill);
  return { input_ids: filled(input_ids, 0), labels: filled(labels, -100) };
}

/** Articles with any number of topics each. */
const ARTICLES = Array.from({ length: 60 }, (_, i) => ({
  length: 100 + ((i * 37) % 400),
  year: 2000 + (i % 20),
  topics: ['art', 'money', 'sport'].filter((_, topic) => (i >> topic) % 2 === 0),
}));

/** How users like items: by what both have in common. */
function ratings(): Uint8Array {
  const rows = Array.from(
    { length: 1200 },
    (_, i) => [(i * 7) % 60, (i * 11 + Math.floor(i / 60)) % 40] as const,
  );
  const columnData = [
    { name: 'user_id', data: rows.map(([user]) => `user-${user}`), type: 'STRING' as const },
    { name: 'item_id', data: rows.map(([, item]) => `item-${item}`), type: 'STRING' as const },
    { name: 'rating', data: rows.map(([user, item]) => 1 + ((user + item) % 5)), type: 'INT32' as const },
  ];
  return new Uint8Array(parquetWriteBuffer({ columnData, rowGroupSize: 500 }));
}

/** Pairs of a user and an item, each with an age or price, and whether the user bought the item. */
function clicks(): string {
  const rows = Array.from({ length: 400 }, (_, i) => {
    const [user, item] = [(i * 7) % 30, (i * 11) % 20];
    return [`u${user}`, 20 + (user % 5) * 10, `i${item}`, 5 + item, (user + item) % 3 ? 'no' : 'yes'];
  });
  return lines(['user,age,item,price,bought', ...rows.map(row => row.join(','))]);
}

/** A linear layer with the usual initial weights. */
function linear(s: Sketch, x: Value, name: string, from: number, to: number): Value {
  const bound = 1 / Math.sqrt(from);
  const weight = s.weight(`${name}.weight`, spread([from, to], [-bound, bound], from + to));
  const bias = s.weight(`${name}.bias`, spread([to], [-bound, bound], to));
  return s.add('Gemm', [x, weight, bias], `${name}.out`);
}

/** Hidden layers with ReLU, and one to `outputs`. */
function stack(s: Sketch, x: Value, inputs: number, hidden: readonly number[], outputs: number): Value {
  let width = inputs;
  hidden.forEach((size, i) => {
    x = s.add('Relu', [linear(s, x, `layer${i + 1}`, width, size)], `hidden${i + 1}`);
    width = size;
  });
  return linear(s, x, 'head', width, outputs);
}

/** x[N, inputs] to [N, outputs]. */
function mlp(inputs: number, hidden: readonly number[], outputs: number): Model {
  const s = new Sketch();
  return s.model([stack(s, s.input('x', ['N', inputs]), inputs, hidden, outputs)]);
}

const embedding = (s: Sketch, name: string, ids: Value, rows: number, width: number) =>
  s.add('Gather', [s.weight(`${name}.weight`, spread([rows, width], [-0.5, 0.5], rows)), ids], name);

/** Tokens to the mean of their vectors, and to classes. */
function bagOfTokens(vocabulary: number, length: number, classes: number): Model {
  const s = new Sketch();
  const ids = s.input('input_ids', ['N', length], 'int64');
  const vectors = s.add('Transpose', [embedding(s, 'embed', ids, vocabulary, 16)], 'turned', {
    perm: [0, 2, 1],
  });
  const mean = s.add('Flatten', [s.add('GlobalAveragePool', [vectors], 'pooled')], 'mean');
  return s.model([linear(s, mean, 'head', 16, classes)]);
}

/** Tokens to scores of the next one. */
function languageModel(vocabulary: number, length: number): Model {
  const s = new Sketch();
  const vectors = embedding(s, 'embed', s.input('x', ['N', length], 'int64'), vocabulary, 16);
  const head = s.weight('head.weight', spread([16, vocabulary], [-0.25, 0.25]));
  return s.model([s.add('MatMul', [vectors, head], 'logits')]);
}

/** Words to scores of the next one, by two layers of LSTM. */
function wordLstm(vocabulary: number): Model {
  const s = new Sketch();
  const width = 8;
  const ids = s.input('x', ['N', 'length'], 'int64');
  let x = s.add('Transpose', [embedding(s, 'embed', ids, vocabulary, width)], 'by_time', { perm: [1, 0, 2] });
  for (const layer of [0, 1]) {
    const weights = ['ih', 'hh'].map((kind, i) =>
      s.weight(`lstm.weight_${kind}_l${layer}`, spread([1, 4 * width, width], [-0.35, 0.35], 2 * layer + i)),
    );
    const states = s.add('LSTM', [x, ...weights], `states${layer}`, { hidden_size: width });
    x = s.add('Squeeze', [states, s.weight(`direction${layer}`, Tensor.ints([1]))], `layer${layer}`);
  }
  const turned = s.add('Transpose', [x], 'by_sample', { perm: [1, 0, 2] });
  const head = s.weight('head.weight', spread([width, vocabulary], [-0.35, 0.35]));
  return s.model([s.add('MatMul', [turned, head], 'logits')]);
}

/** Windows of words, with the words that follow. */
function windows(count: number, length: number, vocabulary: number): Map<string, Tensor> {
  const from = (start: number) =>
    Tensor.from(
      'int64',
      [count, length],
      BigInt64Array.from({ length: count * length }, (_, i) => BigInt(((i + start) * 7) % vocabulary)),
    );
  return new Map([
    ['x', from(0)],
    ['target', from(1)],
  ]);
}

/** Ids of two things to a number: the sum of the product of their vectors. */
function recommender(users: number, items: number): Model {
  const s = new Sketch();
  const vectors = [
    embedding(s, 'user_vector', s.input('user', ['N'], 'int64'), users, 8),
    embedding(s, 'item_vector', s.input('item', ['N'], 'int64'), items, 8),
  ];
  return s.model([linear(s, s.add('Mul', vectors, 'product'), 'head', 8, 1)]);
}

/** A tower for the user and one for the item; how well they match is the product of their outputs. */
function twoTowers(): Model {
  const s = new Sketch();
  const tower = (name: string, ids: number) => {
    const id = embedding(s, `${name}_vector`, s.input(`${name}_id`, ['N'], 'int64'), ids, 8);
    const features = s.input(`${name}_features`, ['N', 1]);
    const all = s.add('Concat', [id, features], `${name}_all`, { axis: 1 });
    return linear(s, all, name, 9, 8);
  };
  const product = s.add('Mul', [tower('user', 32), tower('item', 22)], 'product');
  return s.model([linear(s, product, 'head', 8, 1)]);
}

/** Scores of each token. */
function perToken(count: number): Model {
  const s = new Sketch();
  const ids = s.input('input_ids', ['batch', 'length'], 'int64');
  const embedded = s.add('Gather', [s.weight('embed.weight', spread([count, 4])), ids], 'embedded');
  return s.model([s.add('MatMul', [embedded, s.weight('head.weight', spread([4, count]))], 'logits')]);
}

/** Three numbers of each of 14 days to a number of the next day. */
function forecast(): Model {
  const s = new Sketch();
  const x = s.add('Flatten', [s.input('x', ['N', 14, 3])], 'flat');
  return s.model([stack(s, x, 42, [16], 1)]);
}

const MODELS: Readonly<Record<string, () => Model>> = {
  decoder: () => decoder({ tied: true }),
  bert: () => perToken(16),
  tagger: () => perToken(16),
  strikes: () => mlp(16, [32, 16], 1),
  weather: () => mlp(6, [16], 5),
  temperature: () => mlp(8, [16], 1),
  delay: () => mlp(2, [16], 1),
  movies: () => mlp(2, [16], 1),
  topics: () => mlp(2, [16], 3),
  reviews: () => bagOfTokens(WORDS.length + 2, 8, 2),
  characters: () => bagOfTokens(64, 32, 2),
  bytes: () => bagOfTokens(256, 32, 2),
  lm: () => languageModel(32, 64),
  lstm2: () => wordLstm(40),
  recommender: () => recommender(62, 42),
  forecast,
  towers: twoTowers,
};
