/** The candidates of a comparison and their learning rates. */
import {
  AgdError,
  optimizerNamed,
  parseAssignments,
  parseNumbers,
  resolveOptions,
} from '../src/constants.js';
import type { Candidate, OptimizerSpec } from '../src/internal.js';

/**
 * Parses --optimizers and --lr; candidates without rates get `usual`. Throws `bad-option` for unknown optimizers, and for
 * rates of optimizers that are not listed.
 */
export function candidatesOf(
  text: string,
  rates: string | undefined,
  usual: (defaultRate: number) => number[],
): Candidate[] {
  const entries = text.split(/,(?![^(]*\))/).map(entry => entry.trim());
  const tried = new Map<string, number[]>();
  for (const list of rates?.split(';') ?? []) {
    const [, name = '', values] = /^\s*(?:(.*)=)?([^=]*)$/s.exec(list)!;
    const unknown = name !== '' && !entries.some(entry => entry === name || nameOf(entry) === name);
    if (unknown)
      throw new AgdError('bad-option', `--lr ${list}: '${name}' is not among --optimizers ${text}.`);
    tried.set(name, parseNumbers(values!, '--lr'));
  }
  return entries.map(entry => {
    const [, name = '', options] = /^([\w-]+)(?:\((.+)\))?$/s.exec(entry) ?? [];
    const known = optimizerNamed(name || entry);
    const given = options ? parseAssignments(options) : {};
    resolveOptions(known, given);
    const optimizer = { name, ...given } as OptimizerSpec;
    const found =
      tried.get(entry) ?? tried.get(name) ?? tried.get('') ?? usual(known.options.lr.default as number);
    return { name: entry, optimizer, rates: found };
  });
}

const nameOf = (entry: string) => entry.replace(/\(.*$/s, '');
