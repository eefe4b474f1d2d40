/** The candidates of a comparison and their learning rates. */
import {
  AgdError,
  allOptimizerNames,
  optimizerNamed,
  parseAssignments,
  parseNumbers,
  resolveOptions,
} from '../src/command/startup.js';
import type { Candidate, OptimizerSpec } from '../src/internal.js';

/**
 * Parses --optimizers and --lr. Candidates without rates get `usual` of their default; with `tune`, a rate that is given
 * takes the default's place. Throws `bad-option` for unknown optimizers, for rates of optimizers that are not listed, and
 * for several rates with `tune`.
 */
export function candidatesOf(
  text: string,
  rates: string | undefined,
  usual: (center: number) => number[],
  tune = false,
): Candidate[] {
  const listed = text.split(/,(?![^(]*\))/).map(entry => entry.trim());
  const entries = [...new Set(listed.flatMap(entry => (entry === 'all' ? allOptimizerNames : [entry])))];
  const tried = new Map<string, number[]>();
  for (const list of rates?.split(';') ?? []) {
    const [, name = '', values] = /^\s*(?:(.*)=)?([^=]*)$/s.exec(list)!;
    const unknown = name !== '' && !entries.some(entry => entry === name || nameOf(entry) === name);
    if (unknown)
      throw new AgdError('bad-option', `--lr ${list}: '${name}' is not among --optimizers ${text}.`);
    const numbers = parseNumbers(values!, '--lr');
    if (tune && numbers.length > 1)
      throw new AgdError(
        'bad-option',
        `--lr ${list.trim()}: with --tune, give one rate as the center, or list rates without --tune.`,
      );
    tried.set(name, numbers);
  }
  return entries.map(entry => {
    const [, name = '', options] = /^([\w-]+)(?:\((.+)\))?$/s.exec(entry) ?? [];
    const known = optimizerNamed(name || entry);
    const own = options ? parseAssignments(options) : {};
    resolveOptions(known, own);
    const optimizer = { name, ...own } as OptimizerSpec;
    const given = tried.get(entry) ?? tried.get(name) ?? tried.get('');
    const center = tune ? given?.[0] : undefined;
    const found = tune || !given ? usual(center ?? (known.options.lr.default as number)) : given;
    return { name: entry, optimizer, rates: found };
  });
}

const nameOf = (entry: string) => entry.replace(/\(.*$/s, '');

/** So many rates on a log scale, from a tenth of this one to ten times it. */
export const ratesAround = (center: number, count: number) =>
  Array.from({ length: count }, (_, i) =>
    Number((center * 10 ** (count > 1 ? (2 * i) / (count - 1) - 1 : 0)).toPrecision(3)),
  );
