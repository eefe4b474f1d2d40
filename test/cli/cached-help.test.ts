import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { cachedHelp } from '../../cli/cached-help.js';
import { COMMAND_NAMES, helpOf } from '../../cli/program.js';
import { agdOnnx } from './run.js';

describe('kept help', () => {
  it.each(['', ...COMMAND_NAMES])("of '%s' is what yargs makes of the options", async command => {
    const { code, out } = agdOnnx('.', ...(command ? [command, '--help'] : ['-h']));
    expect(code).toBe(0);
    expect(out).toBe(await helpOf(command));
    expect(out).toContain('--help');
  });

  it.each(['--version', '-v'])('tells the version for %s, as yargs does', flag => {
    const { version } = JSON.parse(readFileSync('package.json', 'utf8'));
    expect(cachedHelp([flag])).toBe(`${version}\n`);
    expect(agdOnnx('.', flag).out).toBe(`${version}\n`);
    expect(agdOnnx('.', 'train', flag).out).toBe(`${version}\n`);
    expect(cachedHelp(['train', flag])).toBeUndefined();
  });

  it('is left to yargs where it is to be laid out for a narrow terminal, or is not kept', () => {
    expect(cachedHelp(['train', '--help'], 80)).toBeUndefined();
    expect(cachedHelp(['../help', '--help'])).toBeUndefined();
    expect(cachedHelp(['unknown', '--help'])).toBeUndefined();
    expect(cachedHelp(['train', '--help', '--data', 'x'])).toBeUndefined();
    expect(cachedHelp(['train'])).toBeUndefined();
    const { code, out } = agdOnnx('.', 'train', '--help', '--no-color');
    expect(code).toBe(0);
    expect(out).toContain('agd-onnx train [model]');
  });
});
