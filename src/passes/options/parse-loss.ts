/** Reads a loss as users write it. */
import { AgdError } from '../../graph/errors.js';
import { checkOption, unknownName } from '../../ops/core/option-type.js';
import { LOSS_NAMES, lossNamed, lossOptionNames } from '../../ops/losses/index.js';
import type { LossOptions } from '../../ops/losses/loss.js';
import type { LossSpec, LossTerm } from '../options.js';
import { LOSS_OPTIONS } from './loss.js';
import type { Option } from './option.js';
import { parseNumbers } from './text.js';

/** Short names of options, as formulas have them. */
const SHORT: Readonly<Record<string, keyof LossOptions>> = { T: 'temperature' };

/**
 * A sum of losses: `cross-entropy(logits, target) + 0.5*mse(aux, aux_target, mask=attention_mask)`. Each is a kind with the
 * names of an output and a target in parentheses, `triplet` and `ctc` with a third, then options as NAME=VALUE, in
 * camelCase or with hyphens; a name in quotes may hold anything. A kind alone is `{ kind }`. Throws `bad-option` with the
 * place where it cannot be read.
 */
export function parseLoss(text: string): LossSpec {
  const scanner = new Scanner(text);
  const terms: LossTerm[] = [];
  do terms.push(parseTerm(scanner));
  while (scanner.take('+'));
  if (!scanner.isDone) throw scanner.expected("'+' or the end");
  const [first, ...plus] = terms;
  return plus.length ? { ...first!, plus } : first!;
}

function parseTerm(s: Scanner): LossTerm {
  const factor = s.number();
  if (factor !== undefined && !s.take('*')) throw s.expected("'*'");
  const kind = s.word('a loss');
  if (!(LOSS_NAMES as readonly string[]).includes(kind)) throw unknownName('loss', kind, LOSS_NAMES);
  const { third } = lossNamed(kind);
  const names: string[] = [];
  const options: Record<string, unknown> = {};
  if (s.take('(') && !s.take(')')) {
    do {
      const word = s.word('a name');
      if (s.take('=')) readOption(options, kind, word, s);
      else names.push(word);
    } while (s.take(','));
    if (!s.take(')')) throw s.expected("',' or ')'");
  }
  if (names.length > (third ? 3 : 2))
    throw new AgdError(
      'bad-option',
      `--loss: ${kind} takes ${third ? `an output, a target and '${third}'` : 'an output and a target'}, not ${names.length} names: ${names.join(', ')}.`,
    );
  const [output, target, last] = names;
  return {
    kind,
    ...(output === undefined ? {} : { output }),
    ...(target === undefined ? {} : { target }),
    ...(last === undefined ? {} : { [third!]: last }),
    ...(factor === undefined || factor === 1 ? {} : { weight: factor }),
    ...options,
  } as LossTerm;
}

function readOption(options: Record<string, unknown>, kind: string, word: string, s: Scanner): void {
  const name = SHORT[word] ?? word.replace(/[-_](.)/g, (_, letter: string) => letter.toUpperCase());
  const known = lossOptionNames(kind).filter(option => option !== 'mixTargets');
  if (!(known as readonly string[]).includes(name)) throw unknownName(`option of ${kind}`, word, known);
  const text = s.word('a value');
  const { type } = Object.values<Option>(LOSS_OPTIONS).find(o => o.path === `loss.${name}`)!;
  const value =
    name === 'classWeights' || name === 'posWeight'
      ? text === 'balanced'
        ? text
        : parseNumbers(text.replaceAll(';', ','), name)
      : text === 'true' || text === 'false'
        ? text === 'true'
        : type.type === 'number'
          ? Number(text)
          : text;
  checkOption(`--loss: ${word} of ${kind}`, type, value);
  options[name] = value;
}

class Scanner {
  #at = 0;

  constructor(readonly text: string) {}

  get isDone(): boolean {
    this.#skip();
    return this.#at === this.text.length;
  }

  take(sign: string): boolean {
    this.#skip();
    if (this.text[this.#at] !== sign) return false;
    this.#at++;
    return true;
  }

  /** A number at the start of a term. */
  number(): number | undefined {
    const found = this.#match(/[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?/iy);
    return found === undefined ? undefined : Number(found);
  }

  /** A name, up to the next sign of the grammar, or anything in quotes. */
  word(what: string): string {
    const quoted = this.#match(/'[^']*'|"[^"]*"/y);
    const found = quoted?.slice(1, -1) ?? this.#match(/[^\s,()=+*'"]+/y);
    if (!found) throw this.expected(what);
    return found;
  }

  expected(what: string): AgdError {
    const found = this.isDone ? 'the end' : `'${this.text.slice(this.#at, this.#at + 20)}'`;
    return new AgdError(
      'bad-option',
      `--loss '${this.text}': expected ${what} at position ${this.#at + 1}, found ${found}.`,
    );
  }

  #match(pattern: RegExp): string | undefined {
    this.#skip();
    pattern.lastIndex = this.#at;
    const [found] = pattern.exec(this.text) ?? [];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #skip(): void {
    while (/\s/.test(this.text[this.#at] ?? '')) this.#at++;
  }
}
