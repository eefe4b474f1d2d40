/** Names come from a file that somebody else wrote: none of them steers a terminal, a log or a page. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { saveModel } from '../../src/graph/files.js';
import type { Tensor } from '../../src/graph/tensor.js';
import { writeNpz } from '../../src/runtime/data/npz.js';
import { mlp, mlpData, Sketch } from '../sample.js';
import { agdOnnx, workplace } from './run.js';

const EVIL = '\x1b[41m\x1b]0;title\x07\x9b2J\r\x7f\u202e</script><script>alert(1)</script>';
/** What a terminal acts on, beside line ends and tabs. */
const STEERS = /[\p{Cc}\u2028-\u202e\u2066-\u2069]/u;
const OUR_COLOURS = new RegExp(`${String.fromCharCode(27)}\\[(?:[0-4]|2\\d|3\\d|9\\d)m`, 'g');

const steering = (text: string) => STEERS.exec(text.replaceAll(/[\n\t]/g, ' '));

/** The sample with this at the end of every name. */
function renamed(ending: string) {
  const model = mlp();
  const { graph } = model;
  const outputs = graph.nodes.flatMap(node => node.outputs);
  for (const value of new Set([...graph.inputs, ...graph.initializers.keys(), ...outputs]))
    if (value) value.name += ending;
  for (const node of graph.nodes) node.name += ending;
  graph.name += ending;
  return model;
}

const data = (ending: string, seed: number) =>
  new Map<string, Tensor>(
    [...mlpData(64, seed)].map(([name, t]) => [name === 'x' ? name + ending : name, t]),
  );

let folder: string;
beforeAll(async () => {
  folder = await workplace(renamed(EVIL));
  await writeNpz(join(folder, 'train.npz'), data(EVIL, 1));
  await writeNpz(join(folder, 'test.npz'), data(EVIL, 2));
  await writeNpz(join(folder, 'x.npz'), data('', 1));
});

const LOSS = ['--loss', 'cross-entropy'];
const DATA = ['--data', 'train.npz', '--val', 'test.npz'];
const COMPARE = ['--optimizers', 'sgd', '--seeds', '1', '--lr', '0.1', '-o', 'c'];

describe('control characters in every name', () => {
  it.each<[string[], number]>([
    [['inspect', 'model.onnx'], 0],
    [['inspect', 'model.onnx', '--color'], 0],
    [['inspect', 'model.onnx', '--json'], 0],
    [['inject', 'model.onnx', ...LOSS, '-o', 'step.onnx'], 0],
    [['inspect', 'step.onnx', '--color'], 0],
    [['inject', 'model.onnx', ...LOSS, '--freeze', `nothing${EVIL}`], 1],
    [['inject', 'model.onnx', ...LOSS, '--output', 'nowhere'], 1],
    [['train', 'model.onnx', ...LOSS, ...DATA, '--report', 'r.html', '--log', 'l.jsonl', '--color'], 0],
    [['train', 'step.onnx', ...DATA, '--state', 'step.onnx', '--epochs', '2'], 0],
    [['train', 'model.onnx', ...LOSS, '--data', 'train.npz', '--map', 'x=nothing'], 1],
    [['export', 'step.onnx', '-o', 'out.onnx'], 0],
    [['grad', 'model.onnx', ...LOSS, '--inputs', 'train.npz', '--color'], 0],
    [['grad', 'model.onnx', ...LOSS, '--inputs', 'train.npz', '--wrt', 'nowhere'], 1],
    [['compare', 'model.onnx', ...LOSS, ...DATA, ...COMPARE], 0],
  ])('%j prints none of them', (args, expected) => {
    const { code, out, err } = agdOnnx(folder, ...args);
    const printed = args.includes('--color') ? out.replaceAll(OUR_COLOURS, '') : out;
    expect(steering(printed + err)).toBeNull();
    if (expected) expect(err).toMatch(/^agd-onnx: [^\n]*\n$/);
    expect(code).toBe(expected);
  });

  it('are in no text that was written', () => {
    const texts = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(name =>
      /\.(html|jsonl?|svg|md|csv|txt)$/.test(name),
    );
    expect(texts).toEqual(expect.arrayContaining(['r.html', 'l.jsonl']));
    for (const name of texts) {
      const text = readFileSync(join(folder, name), 'utf8');
      expect(steering(text), name).toBeNull();
      if (!/jsonl?$/.test(name)) expect(text, name).not.toContain('<script>alert');
    }
  });
});

describe('names of 200,000 characters', () => {
  beforeAll(() => saveModel(renamed('n'.repeat(200_000)), join(folder, 'long.onnx')));
  it.each([
    [['inspect', 'long.onnx']],
    [['inject', 'long.onnx', ...LOSS, '-o', 'long.step.onnx']],
    [['train', 'long.onnx', ...LOSS, '--data', 'x.npz', '-o', 'long.trained.onnx']],
    [['grad', 'long.onnx', ...LOSS, '--inputs', 'x.npz']],
    [['export', 'long.step.onnx', '-o', 'long.out.onnx']],
  ])('pass through %j, or are refused in a line', args => {
    const { code, err } = agdOnnx(folder, ...args);
    expect([0, 1]).toContain(code);
    if (code) expect(err).toMatch(/^agd-onnx: [^\n]{1,2100}\n$/);
  });
});

it('a Concat of 20,000 inputs is injected', async () => {
  const s = new Sketch();
  const column = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, 1])], 'column');
  const wide = s.add('Concat', Array(20_000).fill(column), 'wide', { axis: 1 });
  const logits = s.add('MatMul', [wide, s.weight('v', [20_000, 3])], 'logits');
  await saveModel(s.model([logits]), join(folder, 'wide.onnx'));
  for (const args of [['inspect'], ['inject', ...LOSS, '-o', 'wide.step.onnx']])
    expect(agdOnnx(folder, args[0]!, 'wide.onnx', ...args.slice(1))).toMatchObject({ code: 0, err: '' });
});
