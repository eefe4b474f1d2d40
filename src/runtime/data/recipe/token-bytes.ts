/** How many bytes of text the tokens of a Hugging Face tokenizer stand for. */
import { toUtf8 } from '../../../graph/bytes.js';

type Part = { type?: string; pattern?: { String?: string }; content?: string; replacement?: string };
type Contents = {
  model?: { vocab?: Record<string, number> | [string, number][]; byte_fallback?: boolean };
  added_tokens?: { id: number; content: string; special?: boolean }[];
  decoder?: unknown;
  pre_tokenizer?: unknown;
};

/** A space, in SentencePiece's vocabularies. */
const SPACE = '\u2581';

/**
 * The bytes by token id, as tokens are decoded in the middle of a text; special tokens have none. Undefined where the text
 * cannot be told from the tokens, as of WordPiece and WordLevel, which drop spaces.
 */
export function tokenBytes(contents: unknown): Int32Array | undefined {
  const { model = {}, added_tokens: added = [], decoder, pre_tokenizer } = contents as Contents;
  const { vocab = {} } = model;
  const parts = [...partsOf(decoder), ...partsOf(pre_tokenizer)];
  const count = counterOf(parts, model.byte_fallback);
  if (!count) return undefined;
  const ids: [string, number][] = Array.isArray(vocab)
    ? vocab.map(([token], id) => [token, id])
    : Object.entries(vocab);
  const all = [...ids.map(([, id]) => id), ...added.map(({ id }) => id)];
  const bytes = new Int32Array(all.reduce((most, id) => Math.max(most, id), -1) + 1);
  for (const [token, id] of ids) bytes[id] = count(token);
  for (const { id, content, special } of added) bytes[id] = special ? 0 : toUtf8(content).length;
  return bytes;
}

function counterOf(parts: readonly Part[], fallsBack = false): ((token: string) => number) | undefined {
  // Each byte is a character of its own in the vocabulary.
  if (parts.some(({ type }) => type === 'ByteLevel')) return token => Array.from(token).length;
  const isSpace = ({ type, pattern, content, replacement = SPACE }: Part) =>
    type === 'Metaspace'
      ? replacement === SPACE
      : type === 'Replace' && pattern?.String === SPACE && content === ' ';
  if (!parts.some(isSpace)) return undefined;
  const hasBytes = fallsBack || parts.some(({ type }) => type === 'ByteFallback');
  return token =>
    hasBytes && /^<0x[\dA-F]{2}>$/.test(token) ? 1 : toUtf8(token.replaceAll(SPACE, ' ')).length;
}

/** The steps of a decoder or pre-tokenizer, those of a sequence one by one. */
function partsOf(part: unknown): Part[] {
  const { type, decoders, pretokenizers } = (part ?? {}) as {
    type?: string;
    decoders?: unknown[];
    pretokenizers?: unknown[];
  };
  return type === 'Sequence'
    ? [decoders, pretokenizers].flatMap(list => (list ?? []).flatMap(partsOf))
    : [part ?? {}];
}
