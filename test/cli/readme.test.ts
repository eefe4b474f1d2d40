/** The commands that README.md shows, in its order, on a small model. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { agdOnnx, workplace } from './run.js';

const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8');
const section = readme.split('## On the command line')[1]!.split('\n## ')[0]!;
const commands = [...section.matchAll(/^ {4}npx agd-onnx (.+)$/gm)].map(([, line]) => line!);

/** Commands that take long, or whose data this small model has not. */
const OTHERS = /^(grad|compare|landscapes)/;

const weights = async (path: string) =>
  [...(await loadModel(path)).graph.initializers.values()].map(t => t.numbers());

it('trains a model, and leaves it trained', async () => {
  const folder = await workplace();
  const own = commands.filter(line => !OTHERS.test(line));
  expect(own.map(line => line.split(' ')[0])).toEqual(['inspect', 'inject', 'train', 'export']);
  let trained: number[][] | undefined;
  for (const line of own) {
    expect(agdOnnx(folder, ...line.split(' '))).toMatchObject({ code: 0, err: '' });
    if (line.startsWith('train')) trained = await weights(join(folder, 'model.trained.onnx'));
  }
  expect(trained).not.toEqual(await weights(join(folder, 'model.onnx')));
  expect(await weights(join(folder, 'model.trained.onnx'))).toEqual(trained);
  // The step that was only injected is not what was trained, and says so.
  const again = agdOnnx(folder, 'export', 'model.agd.onnx', '-o', 'model.trained.onnx');
  expect(again.out).toMatch(/at step 0.*in place of the file/);
});
