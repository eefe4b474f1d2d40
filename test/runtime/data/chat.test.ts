import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { checkRecipe } from '../../../src/passes/recipe/check-recipe.js';
import type { DataOptions } from '../../../src/runtime/data/data.js';
import { openData } from '../../../src/runtime/data/open.js';
import { fileOrder } from '../../../src/runtime/data/order.js';
import type { RecipeInput } from '../../../src/runtime/data/recipe/plan.js';

/** Rendered and tokenized by transformers: recorded-chats.json is written by recorded_chats.py. */
const { tokenizer, special, cases } = JSON.parse(
  readFileSync(new URL('recorded-chats.json', import.meta.url), 'utf8'),
) as {
  tokenizer: object;
  special: Record<string, string>;
  cases: { name: string; template: string; messages: object[]; ids: number[]; labels: number[] }[];
};
const CHATML = cases[0]!.template;

const INPUTS: RecipeInput[] = [
  { name: 'input_ids', dtype: 'int64', shape: ['N', 'T'] },
  {
    name: 'target',
    dtype: 'int64',
    shape: ['N', 'T'],
    range: { least: 0, most: 300, ignored: -100 },
  },
];

function folder(template: string | undefined, rows: readonly object[]) {
  const path = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
  writeFileSync(join(path, 'tokenizer.json'), JSON.stringify(tokenizer));
  writeFileSync(
    join(path, 'tokenizer_config.json'),
    JSON.stringify({ ...special, ...(template === undefined ? {} : { chat_template: template }) }),
  );
  writeFileSync(join(path, 'chats.jsonl'), rows.map(row => JSON.stringify(row)).join('\n'));
  return path;
}

async function numbers(path: string, options: DataOptions = {}) {
  const columns = { input_ids: [`messages:chat("${join(path, 'tokenizer.json')}")+documents(256)`] };
  const data = await openData(join(path, 'chats.jsonl'), options.recipe ? options : { columns, ...options });
  try {
    const bound = await data.bind(INPUTS, { labels: ['target'] });
    expect(checkRecipe(JSON.parse(JSON.stringify(data.recipe)))).toBeUndefined();
    const { inputs } = await bound.take(fileOrder(0, bound.length));
    const [ids, target] = [inputs.input_ids!.numbers(), inputs.target!.numbers()];
    return { ids: Array.from(ids), target: Array.from(target), recipe: data.recipe! };
  } finally {
    await data.close();
  }
}

it.each(cases)(
  '$name: tokens and labels are those of transformers',
  async ({ template, messages, ids, labels }) => {
    const found = await numbers(folder(template, [{ messages }]));
    const count = ids.length - 1;
    expect(found.ids.slice(0, count)).toEqual(ids.slice(0, -1));
    expect(found.target.slice(0, count)).toEqual(labels.slice(1));
    expect(new Set(found.target.slice(count))).toEqual(new Set([-100]));
  },
);

const TALK = [
  { role: 'user', content: 'hi' },
  { role: 'assistant', content: 'yes' },
];

it('the recipe holds the template, so that data elsewhere are read by it', async () => {
  const { recipe, ids, target } = await numbers(folder(CHATML, [{ messages: TALK }]));
  expect(await numbers(folder(undefined, [{ messages: TALK }]), { recipe })).toMatchObject({ ids, target });
});

it('chat_template.jinja, parts of text and names of ShareGPT are read', async () => {
  const expected = await numbers(folder(CHATML, [{ messages: TALK }]));
  const path = folder(undefined, [
    {
      messages: [
        { from: 'human', value: 'hi' },
        {
          role: 'assistant',
          content: [
            { type: 'text', text: 'y' },
            { type: 'text', text: 'es' },
          ],
        },
      ],
    },
  ]);
  writeFileSync(join(path, 'chat_template.jinja'), CHATML);
  const { ids, target } = await numbers(path);
  expect({ ids, target }).toEqual({ ids: expected.ids, target: expected.target });
});

it('a token that ends conversations, but not turns, is no part of earlier turns', async () => {
  const turns =
    '{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<turn>assistant\n{% else %}END{% endif %}';
  const end = { ...special, eos_token: '</s>' }.eos_token;
  const of = (eos: string) => numbers(folder(turns.replace('END', eos), [{ messages: [...TALK, ...TALK] }]));
  const [without, found] = [await of(''), await of('{{ eos_token }}')];
  const id = (tokenizer as { added_tokens: { id: number; content: string }[] }).added_tokens.find(
    ({ content }) => content === end,
  )!.id;
  const learned = ({ target }: { target: number[] }) => target.filter(x => x !== -100);
  // Of the last turn, the line break before the end is learned with it.
  expect(learned(found)).toEqual([...learned(without), 198, id]);
});

it.each([
  ['a template', undefined, TALK, 'There is no chat template beside'],
  ['a valid template', '{% if %}', TALK, 'The chat template cannot be parsed: '],
  ['an assistant', CHATML, [TALK[0]!], "row 2: no message is the assistant's, so there is nothing to learn."],
  ['a role', CHATML, [{ content: 'x' }], 'row 2: message 1 has no role.'],
  ['content', CHATML, [{ role: 'user' }], 'row 2: message 1 has no content that is text.'],
  ['messages', CHATML, ['hi'], 'row 2: message 1 is not an object with role and content.'],
  ['a list', CHATML, null, 'row 2: a list of messages is needed.'],
  [
    'what the template takes',
    "{% if messages[0].content == 'bad' %}{{ raise_exception('No bad words.') }}{% endif %}{{ messages[0].content }}",
    [{ role: 'user', content: 'bad' }, TALK[1]!],
    'row 2: the chat template refuses it: No bad words.',
  ],
  [
    'turns that stay',
    '{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}',
    TALK,
    'row 1: the chat template writes the conversation up to message 2 differently when more messages follow',
  ],
])('conversations without %s are refused in one line', async (_, template, messages, message) => {
  await expect(numbers(folder(template, [{ messages: TALK }, { messages }]))).rejects.toThrow(message);
});

it('chat takes documents after it, and a file', async () => {
  const path = folder(CHATML, [{ messages: TALK }]);
  const file = join(path, 'tokenizer.json');
  for (const chain of [`chat("${file}")`, `chat("${file}")+windows(8)`])
    await expect(numbers(path, { columns: { input_ids: [`messages:${chain}`] } })).rejects.toThrow(
      'chat is followed by documents alone, as in messages:chat(tokenizer.json)+documents(512).',
    );
  await expect(numbers(path, { columns: { input_ids: ['messages:chat+documents(8)'] } })).rejects.toThrow(
    'chat needs the file of the tokenizer',
  );
});
