/** Conversations as tokens: a model's own chat template, and which tokens are the assistant's. */
import { AgdError } from '../../../graph/errors.js';
import type { ChatStep } from '../../../passes/recipe/recipe.js';
import type { Encode } from './tokenizer.js';
import { badValue, type Place } from './values.js';

type Message = { role: string; content: string; [key: string]: unknown };

/** Token ids, and for each token whether the assistant wrote it. */
export type Conversation = { ids: number[]; isLearned: boolean[] };

/** Parts of the text, of which the assistant wrote some. */
type Part = { text: string; isLearned: boolean };

/** ShareGPT's names of roles. */
const ROLES: Readonly<Record<string, string>> = { human: 'user', gpt: 'assistant' };

/** Throws `bad-data` with the row, for each conversation that is malformed or that the template does not take. */
export async function encodeConversations(
  { template, special }: ChatStep,
  encode: Encode,
  rows: readonly unknown[],
  place: Place,
): Promise<Conversation[]> {
  // The template's interpreter is loaded only where there is a template.
  const { Template } = await import('@huggingface/jinja');
  let parsed: InstanceType<typeof Template>;
  try {
    parsed = new Template(template);
  } catch (error) {
    throw new AgdError('bad-data', `The chat template cannot be parsed: ${lineOf(error)}.`);
  }
  const render = (messages: readonly Message[], isOpen: boolean) =>
    parsed.render({ ...special, messages, tools: null, documents: null, add_generation_prompt: isOpen });
  return rows.map((value, row) => {
    const bad = (what: string) => badValue(place, row, what);
    const messages = messagesOf(value, bad);
    let parts: Part[];
    try {
      parts = partsOf(messages, render, special.eos_token, bad);
    } catch (error) {
      throw error instanceof AgdError ? error : bad(`the chat template refuses it: ${lineOf(error)}`);
    }
    return tokensOf(parts, encode);
  });
}

/** An error of a template as part of a sentence. */
const lineOf = (error: unknown) =>
  String((error as Error).message)
    .trim()
    .replace(/\s+/g, ' ')
    .replace(/\.$/, '');

function messagesOf(value: unknown, bad: (what: string) => AgdError): Message[] {
  if (!Array.isArray(value)) throw bad('a list of messages is needed');
  const messages = value.map((message: unknown, i): Message => {
    const which = `message ${i + 1}`;
    if (typeof message !== 'object' || message === null || Array.isArray(message))
      throw bad(`${which} is not an object with role and content`);
    const { from, value: said, ...own } = message as Record<string, unknown>;
    const role = own.role ?? (typeof from === 'string' ? (ROLES[from] ?? from) : undefined);
    if (typeof role !== 'string') throw bad(`${which} has no role`);
    const content = textOf(own.content ?? said);
    if (content === undefined) throw bad(`${which} has no content that is text`);
    return { ...own, role, content };
  });
  if (!messages.some(({ role }) => role === 'assistant'))
    throw bad("no message is the assistant's, so there is nothing to learn");
  return messages;
}

/** Text, also of parts `{ type: 'text', text }`. */
function textOf(content: unknown): string | undefined {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) return undefined;
  const texts = content.map(part => (part?.type === 'text' ? part.text : undefined));
  return texts.every(text => typeof text === 'string') ? texts.join('') : undefined;
}

/**
 * An assistant's turn is what the template adds to the messages before it and the prompt for an answer. Whitespace after
 * the end of the turn is not learned: the model has stopped there.
 */
function partsOf(
  messages: readonly Message[],
  render: (messages: readonly Message[], isOpen: boolean) => string,
  eos: string | undefined,
  bad: (what: string) => AgdError,
): Part[] {
  const whole = render(messages, false);
  const parts: Part[] = [];
  let at = 0;
  const add = (end: number, isLearned: boolean) => {
    if (end > at) parts.push({ text: whole.slice(at, end), isLearned });
    at = Math.max(at, end);
  };
  for (const [i, { role, content }] of messages.entries()) {
    if (role !== 'assistant') continue;
    const before = i > 0 ? render(messages.slice(0, i), true) : '';
    let after = render(messages.slice(0, i + 1), false);
    // Some templates end each conversation, but not each turn, with this token.
    if (eos && !whole.startsWith(after) && after.endsWith(eos)) after = after.slice(0, -eos.length);
    if (!whole.startsWith(before) || !whole.startsWith(after) || after.length < before.length)
      throw bad(
        `the chat template writes the conversation up to message ${i + 1} differently when more messages follow, so the assistant's tokens cannot be told`,
      );
    add(before.length, false);
    add(before.length + lengthOfTurn(after.slice(before.length), content), true);
  }
  add(whole.length, false);
  return parts;
}

function lengthOfTurn(turn: string, content: string): number {
  const text = content.trimEnd();
  const end = turn.lastIndexOf(text) + text.length;
  return turn.slice(end).trim() ? turn.trimEnd().length : turn.length;
}

/** Texts of templates have their special tokens, so that the tokenizer adds none. */
function tokensOf(parts: readonly Part[], { plain }: Encode): Conversation {
  const ids = plain(parts.map(({ text }) => text).join(''));
  const apart = parts.map(({ text }) => plain(text));
  if (apart.flat().join() === ids.join())
    return { ids, isLearned: apart.flatMap((own, i) => own.map(() => parts[i]!.isLearned)) };
  // Tokens depend on the text around them. One that spans two parts is learned if either is.
  const whole = parts.map(({ text }) => text).join('');
  const isLearned: boolean[] = [];
  let length = 0;
  for (const part of parts) {
    length += part.text.length;
    const before = plain(whole.slice(0, length));
    const after = plain(whole.slice(length));
    const differs = before.findIndex((id, i) => id !== ids[i]);
    const isSuffix = after.every((id, i) => id === ids[ids.length - after.length + i]);
    const end =
      differs < 0 ? before.length : isSuffix ? ids.length - after.length : differs + (part.isLearned ? 1 : 0);
    while (isLearned.length < Math.min(end, ids.length)) isLearned.push(part.isLearned);
  }
  return { ids, isLearned };
}
