/** Commands of --help, README's in order, and programs that pages show. Those of pages are in commands-1.test.ts and so on. */
import { spawnSync } from 'node:child_process';
import { readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { COMMAND_NAMES, loadCommand } from '../../cli/program.js';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { inject } from '../../src/passes/inject.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { agdOnnx } from '../cli/run.js';
import { mlp } from '../sample.js';
import { commandsOf, folderFor, LEFT_OUT, MINUTES, runAll, shown, words } from './commands.js';
import { ROOT } from './pages.js';

describe('the examples of', () => {
  it.each(COMMAND_NAMES)(
    '%s --help run',
    async name => {
      const folder = await folderFor('');
      const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } }, sessionShapes);
      await saveModel(model, join(folder, 'model.agd.onnx'));
      await saveModel(mlp(), join(folder, 'model.trained.onnx'));
      runAll(
        folder,
        (await loadCommand(name)).examples.map(([line]) => line),
      );
    },
    MINUTES,
  );

  it('pages that are left out are still there', () => {
    const all = shown.flatMap(({ lines }) => lines);
    expect(LEFT_OUT.filter(([pattern]) => !all.some(line => pattern.test(line)))).toEqual([]);
  });
});

describe("README's commands in order", () => {
  const weights = async (path: string) =>
    [...(await loadModel(path)).graph.initializers.values()].map(t => t.numbers());

  it(
    'leave a trained model',
    async () => {
      const text = readFileSync(join(ROOT, 'README.md'), 'utf8');
      const folder = await folderFor(text);
      runAll(folder, commandsOf(text));
      const trained = await weights(join(folder, 'model.trained.onnx'));
      expect(trained).not.toEqual(await weights(join(folder, 'model.onnx')));
      // The step that was only injected is not what was trained, and says so.
      const again = agdOnnx(folder, 'export', 'model.agd.onnx', '-o', 'model.trained.onnx');
      expect(again.out).toMatch(/at step 0.*replaces the file/);
    },
    5 * MINUTES,
  );
});

it('a line is split as a shell splits it', () => {
  expect(words(`compare m.onnx --lr '1e-3; sgd=0.1' --group "a, b: lr=1"  # note`)).toEqual([
    ...['compare', 'm.onnx', '--lr', '1e-3; sgd=0.1', '--group', 'a, b: lr=1'],
  ]);
  expect(commandsOf('    agd-onnx a \\\n      --b\n')).toEqual(['a --b']);
});

it(
  'the loop in the guide to text generates text',
  async () => {
    const text = readFileSync(join(ROOT, 'docs/guide/text.md'), 'utf8');
    const folder = await folderFor(text);
    runAll(
      folder,
      commandsOf(text).filter(line => / lm\.onnx /.test(line)),
    );
    const [, program] = /```js\n(.*?)```/s.exec(text)!;
    writeFileSync(join(folder, 'generate.mjs'), program!);
    symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
    const { stdout, stderr } = spawnSync(process.execPath, ['generate.mjs'], {
      cwd: folder,
      encoding: 'utf8',
    });
    expect(stderr).toBe('');
    const [, prompt] = /let text = '(.*)';/.exec(program!)!;
    const begin = prompt!.replaceAll('\\n', '\n');
    expect(stdout.startsWith(begin)).toBe(true);
    expect(stdout.trimEnd().length).toBeGreaterThan(begin.length + 20);
  },
  2 * MINUTES,
);
