/** The file of --config: how a step trains, under the library's names. */
import { readFileSync } from 'node:fs';
import { AgdError, parseSchedule } from '../src/constants.js';
import type { AnyOptions, GroupOptions, OptimizerSpec, StepOptions } from '../src/index.js';

export type StepConfig = StepOptions & GroupOptions<AnyOptions> & { optimizer?: OptimizerSpec };

const FIELDS: Record<keyof StepConfig, (value: unknown) => boolean> = {
  optimizer: isObject,
  groups: value => Array.isArray(value) && value.every(isGroup),
  noDecayBiasNorm: value => typeof value === 'boolean',
  schedule: isObject,
  clipGradNorm: isNumber,
  clipGradValue: isNumber,
  accumulate: isNumber,
  ema: isNumber,
  lazyRows: value => Array.isArray(value) && value.every(glob => typeof glob === 'string'),
  onNonfinite: value => typeof value === 'string',
  compensate: value => typeof value === 'boolean',
  telemetry: isNumber,
  tile: value => typeof value === 'boolean',
  scalars: value => typeof value === 'string',
};

/** A schedule may be written as on the command line. Throws `io`, `bad-option`. Ranges are checked when injecting. */
export function readConfig(path: string): StepConfig {
  const fail = (what: string, cause?: unknown) => new AgdError('bad-option', `${path}: ${what}.`, { cause });
  let config: unknown;
  try {
    config = JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    if (cause instanceof SyntaxError) throw fail('it is not JSON', cause);
    throw new AgdError('io', `${path} cannot be read: ${(cause as Error).message}.`, { cause });
  }
  if (!isObject(config)) throw fail('it is not a JSON object');
  if (typeof config.schedule === 'string') config.schedule = parseSchedule(config.schedule);
  for (const [name, value] of Object.entries(config)) {
    const fits = new Map(Object.entries(FIELDS)).get(name);
    if (!fits) throw fail(`there is no option '${name}'; there are ${Object.keys(FIELDS).join(', ')}`);
    if (!fits(value)) throw fail(`'${name}' cannot be ${JSON.stringify(value)}`);
  }
  return config as StepConfig;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isNumber(value: unknown): boolean {
  return typeof value === 'number';
}

/** {"match": GLOB or [GLOB, ...], "options": {...}} */
function isGroup(value: unknown): boolean {
  if (!isObject(value) || !isObject(value.options) || Object.keys(value).length !== 2) return false;
  return [value.match].flat().every(glob => typeof glob === 'string');
}
