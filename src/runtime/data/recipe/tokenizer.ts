/** Tokens of a Hugging Face tokenizer, cut and padded as its own library does. */
import { AgdError } from '../../../graph/errors.js';

/** Ids of a text, at most `length` of them; what the tokenizer adds at the begin and the end stays. */
export type Encode = {
  (text: string, length: number | null): number[];
  /** Whether shorter texts are filled up before their first token. */
  padsLeft: boolean;
  /** All ids of a text, without those that the tokenizer adds. */
  plain(text: string): number[];
};

/** The models that can be read; the library takes others for one of these. */
const MODELS = ['BPE', 'WordPiece', 'Unigram', 'WordLevel'];

/** Throws `bad-data` where the contents are not a tokenizer, and from `Encode` for a word of which it says nothing. */
export async function makeTokenizer(contents: unknown, name: string): Promise<Encode> {
  const { type, unk_token } =
    (contents as { model?: { type?: unknown; unk_token?: unknown } } | null)?.model ?? {};
  // Files of early versions have none.
  if (type !== undefined && !MODELS.includes(type as string))
    throw new AgdError(
      'bad-data',
      `${name}: a model of type '${type}' is not supported, only ${MODELS.join(', ')}.`,
    );
  const { Tokenizer } = await import('@huggingface/tokenizers');
  let tokenizer: InstanceType<typeof Tokenizer>;
  try {
    // The library has no WordLevel, but what it does without a known type is just that, if it is told the unknown token.
    tokenizer = new Tokenizer(
      withUnicodeWords(contents) as object,
      type === 'WordLevel' ? { unk_token } : {},
    );
  } catch (error) {
    throw new AgdError(
      'bad-data',
      `${name} is not a tokenizer that can be read: ${(error as Error).message}.`,
    );
  }
  const encode = (text: string, special: boolean) => {
    const { ids, tokens } = tokenizer.encode(text, { add_special_tokens: special });
    const at = (ids as (number | undefined)[]).indexOf(undefined);
    if (at < 0) return ids as number[];
    throw new AgdError('bad-data', `${name} has no token for '${tokens[at]}', nor one for unknown words.`);
  };
  const { padding, truncation } = contents as Record<
    'padding' | 'truncation',
    { direction?: unknown } | null
  >;
  const cut = (ids: number[], length: number) =>
    truncation?.direction === 'Left' ? ids.slice(ids.length - length) : ids.slice(0, length);
  const encodeTo = (text: string, length: number | null) => {
    const ids = encode(text, true);
    if (length === null || ids.length <= length) return ids;
    const content = encode(text, false);
    const added = ids.length - content.length;
    if (added <= 0 || added > length) return cut(ids, length);
    let before = 0;
    while (before < added && content.some((id, i) => ids[before + i] !== id)) before++;
    return [...ids.slice(0, before), ...cut(content, length - added), ...ids.slice(before + content.length)];
  };
  return Object.assign(encodeTo, {
    padsLeft: padding?.direction === 'Left',
    plain: (text: string) => encode(text, false),
  });
}

const WORD = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200c\\u200d';
const WORDS = { type: 'Split', pattern: { Regex: `[${WORD}]+|[^${WORD}\\s]+` }, invert: true };

/** The library's own Whitespace takes letters other than those of ASCII for punctuation. */
function withUnicodeWords(contents: unknown): unknown {
  const { pre_tokenizer, ...others } = contents as { pre_tokenizer?: unknown };
  return { ...others, pre_tokenizer: replaced(pre_tokenizer) };
}

function replaced(part: unknown): unknown {
  const { type, pretokenizers } = (part ?? {}) as { type?: string; pretokenizers?: unknown[] };
  if (type === 'Whitespace') return WORDS;
  return pretokenizers ? { ...(part as object), pretokenizers: pretokenizers.map(replaced) } : part;
}

/** The id that fills up, as the contents of a tokenizer.json say, else that of a token with a usual name, else 0. */
export function padOf(contents: unknown): number {
  const { padding, model, added_tokens } = (contents ?? {}) as {
    padding?: { pad_id?: unknown } | null;
    model?: { vocab?: Record<string, unknown> };
    added_tokens?: { id?: unknown; content?: unknown }[];
  };
  const vocab = model?.vocab ?? {};
  const names = ['[PAD]', '<pad>', '<|endoftext|>'];
  const added = Array.isArray(added_tokens) ? added_tokens : [];
  const candidates = [
    padding?.pad_id,
    ...names.flatMap(name => [
      added.find(token => token.content === name)?.id,
      Object.hasOwn(vocab, name) ? vocab[name] : undefined,
    ]),
  ];
  return (candidates.find(id => Number.isSafeInteger(id)) as number | undefined) ?? 0;
}
