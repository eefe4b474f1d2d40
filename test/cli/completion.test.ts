/** What a shell completes. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { completionScript, SHELLS } from '../../cli/completion.js';
import { flagOf, optionsOf } from '../../cli/flags.js';
import { COMMAND_NAMES, loadCommand } from '../../cli/program.js';
import { agdOnnx } from './run.js';

const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
writeFileSync(join(folder, 'model.onnx'), '');
mkdirSync(join(folder, 'data'));

let script: string;
beforeAll(async () => {
  script = await completionScript('bash');
  writeFileSync(join(folder, 'completion.bash'), script);
});

/** What bash offers for the last of these words, split as bash splits them. */
function completed(...words: string[]): string[] {
  const program = `
    source completion.bash
    compopt() { [[ $1 == +o ]] && default=off; }
    default=on
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _agd_onnx
    printf '%s\\n' "\${COMPREPLY[@]}"
    [[ \${#COMPREPLY[@]} == 0 && $default == on ]] && echo FILES`;
  const { stdout, stderr } = spawnSync('bash', ['-c', program, 'bash', 'agd-onnx', ...words], {
    cwd: folder,
    encoding: 'utf8',
  });
  expect(stderr).toBe('');
  return stdout.split('\n').filter(Boolean);
}

describe('bash', () => {
  it('completes commands', () => {
    expect(completed('land')).toEqual(['landscapes']);
    expect(completed('')).toEqual(expect.arrayContaining([...COMMAND_NAMES]));
  });
  it("completes a command's own flags", () => {
    expect(completed('train', 'model.onnx', '--clip-grad-n')).toEqual(['--clip-grad-norm']);
    expect(completed('inspect', 'model.onnx', '--clip-grad-n')).toEqual([]);
    expect(completed('train', '--no-decay')).toEqual(['--no-decay-bias-norm']);
  });
  it('completes choices, after a space and after =', () => {
    expect(completed('train', 'model.onnx', '--optimizer', 'adam')).toEqual(['adam', 'adamw', 'adaml']);
    expect(completed('train', 'model.onnx', '--optimizer', '=', 'adam')).toEqual(['adam', 'adamw', 'adaml']);
    expect(completed('train', 'model.onnx', '--device', '=')).toEqual(['auto', 'cpu', 'cuda', 'webgpu']);
  });
  it('leaves files to the shell, and offers nothing for numbers', () => {
    expect(completed('train', 'mod')).toEqual(['FILES']);
    expect(completed('train', 'model.onnx', '--data', '')).toEqual(['FILES']);
    expect(completed('train', 'model.onnx', '--epochs', '')).toEqual([]);
  });
  it('completes shells', () => {
    expect(completed('completion', '')).toEqual([...SHELLS]);
  });
});

it.each(SHELLS)('the script for %s has every flag of every command', async shell => {
  const text = await completionScript(shell);
  for (const command of COMMAND_NAMES) {
    const { options } = await loadCommand(command);
    for (const [name, option] of optionsOf(command, options)) {
      const flag = flagOf(name, option);
      expect(text).toMatch(new RegExp(shell === 'fish' ? `from ${command}' -l ${flag} ` : `--${flag}\\b`));
    }
  }
});

it.each(SHELLS)('%s accepts the script, where it is installed', async shell => {
  const file = join(folder, `completion.${shell}`);
  writeFileSync(file, await completionScript(shell));
  const { error, status, stderr } = spawnSync(shell, ['-n', file], { encoding: 'utf8' });
  if (error) return console.log(`${shell} is not installed: its script was not checked`);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
});

it('is printed by a command, which knows its shells', () => {
  expect(agdOnnx(folder, 'completion', 'bash')).toEqual({ code: 0, out: script, err: '' });
  expect(agdOnnx(folder, 'completion').err).toContain('Name a shell: bash, zsh or fish.');
  expect(agdOnnx(folder, 'completion', 'tcsh').err).toContain("There is no completion for 'tcsh'");
});
