/** Runs the commands that README, docs and --help show, in the order of their page, on small models and data. */
import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { expect, it } from 'vitest';
import { saveModel } from '../../src/graph/files.js';
import type { Model } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { inject } from '../../src/passes/inject.js';
import { splitStep } from '../../src/passes/run/split-step.js';
import { writeNpz } from '../../src/runtime/data/npz.js';
import { writeSafetensors } from '../../src/runtime/data/safetensors.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { agdOnnx, workplace } from '../cli/run.js';
import { artifactFolder, BATCH } from '../passes/import/ort-artifacts.js';
import { mlp, mlpData, Sketch } from '../sample.js';
import { withJobs } from './jobs.js';
import { pages, ROOT } from './pages.js';

/** Lines that cannot run here, and why. */
export const LEFT_OUT: readonly (readonly [line: RegExp, why: string])[] = [
  [/^inject model_training\.onnx /, 'needs a graph that ORTModule of ONNX Runtime saved'],
];

/** The command lines of a page, less the program's name. */
export function commandsOf(text: string): string[] {
  const joined = text.replace(/ \\\n\s*/g, ' ');
  return [...joined.matchAll(/^ {4,}(?:npx )?agd-onnx (.+)$/gm)].map(([, line]) => line!);
}

/** The words of a line as a shell splits it. */
export function words(line: string): string[] {
  const found: string[] = [];
  for (const [word] of line.matchAll(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g)) {
    if (word === '#') break;
    found.push(word.replace(/'([^']*)'|"([^"]*)"/g, (_, a, b) => a ?? b));
  }
  return found;
}

/** Training artifacts and what a page calls their parts. */
async function withArtifacts(folder: string): Promise<void> {
  const from = await artifactFolder();
  cpSync(from, join(folder, 'artifacts'), { recursive: true });
  for (const name of ['eval_model.onnx', 'checkpoint']) cpSync(join(from, name), join(folder, name));
  await writeNpz(join(folder, 'train.npz'), new Map(Object.entries(BATCH)));
}

/** A graph that computes gradients, and a file of its parameters. */
async function withJointGraph(folder: string): Promise<void> {
  const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } }, sessionShapes);
  await saveModel((await splitStep(model, sessionShapes)).gradients, join(folder, 'joint.onnx'));
  await writeSafetensors(join(folder, 'params.safetensors'), parametersOf(mlp()));
}

const parametersOf = (model: Model) =>
  new Map([...model.graph.initializers].map(([value, tensor]) => [value.name, tensor]));

/** The small network with its activations rounded to eight bits. */
function quantized(): Model {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const [scale, zero] = [
    s.weight('a.scale', Tensor.filled('float32', [], 0.02)),
    s.weight('a.zero', Tensor.filled('uint8', [], 128)),
  ];
  const hidden = s.add('Gemm', [x, s.weight('fc1.weight', [4, 8]), s.weight('fc1.bias', [8])], 'h');
  const rounded = s.add('QuantizeLinear', [hidden, scale, zero], 'q');
  const back = s.add('DequantizeLinear', [rounded, scale, zero], 'd');
  return s.model([
    s.add('Gemm', [back, s.weight('fc2.weight', [8, 3]), s.weight('fc2.bias', [3])], 'logits'),
  ]);
}

/** Tokens in, one number for each token of 40 out. */
function tokens(): Model {
  const s = new Sketch();
  const ids = s.input('input_ids', ['batch', 'length'], 'int64');
  const embedded = s.add('Gather', [s.weight('embed.weight', [40, 4]), ids], 'embedded');
  return s.model([s.add('MatMul', [embedded, s.weight('head.weight', [4, 40])], 'logits')]);
}

/** Tokens and a cache in, one number for each token of 40 and the longer cache out. */
function decoder(): Model {
  const s = new Sketch();
  const ids = s.input('input_ids', ['batch', 'length'], 'int64');
  const [key, value] = ['key', 'value'].map(x => s.input(`past_key_values.0.${x}`, ['batch', 1, 'past', 4]));
  const embedded = s.add('Gather', [s.weight('embed.weight', [40, 4]), ids], 'embedded');
  const own = s.add('Unsqueeze', [embedded, s.weight('axis', Tensor.ints([1]))], 'own');
  const [keys, values] = [key!, value!].map((past, i) =>
    s.add('Concat', [past, own], `present.0.${['key', 'value'][i]}`, { axis: 2 }),
  );
  const turned = s.add('Transpose', [keys!], 'turned', { perm: [0, 1, 3, 2] });
  const weights = s.add('Softmax', [s.add('MatMul', [own, turned], 'scores')], 'weights', { axis: 3 });
  const mixed = s.add(
    'Squeeze',
    [s.add('MatMul', [weights, values!], 'heads'), s.weight('at', Tensor.ints([1]))],
    'mixed',
  );
  const logits = s.add('MatMul', [mixed, s.weight('head.weight', [4, 40])], 'logits');
  logits.type = { kind: 'tensor', dtype: 'float32', shape: ['batch', 'length', 40] };
  for (const v of [keys!, values!])
    v.type = { kind: 'tensor', dtype: 'float32', shape: ['batch', 1, 'total', 4] };
  return s.model([logits, keys!, values!]);
}

/** A table of four numbers and a class. */
function flowers(): string {
  const rows = Array.from({ length: 60 }, (_, i) => [i % 7, (i * i) % 11, 5 - (i % 3), i / 60, 'abc'[i % 3]]);
  return ['a,b,c,d,species', ...rows.map(row => row.join(','))].join('\n');
}

/** A table whose columns give as many numbers as the small network takes. */
const PEOPLE = `age,city,species\n${Array.from({ length: 60 }, (_, i) => `${20 + ((i * 7) % 40)},${['Rome', 'Oslo', 'Bonn'][(i * 5) % 3]},${['cat', 'dog', 'emu'][i % 3]}\n`).join('')}`;

/** A teacher, a graph of a loss, and targets for both and for an inner value. */
async function withLosses(folder: string): Promise<void> {
  await saveModel(mlp(), join(folder, 'teacher.onnx'));
  const s = new Sketch();
  const e = s.add('Sub', [s.input('logits', ['n', 3]), s.input('wanted', ['n', 3])], 'e');
  await saveModel(
    s.model([s.add('ReduceMean', [s.add('Abs', [e], 'a')], 'loss')]),
    join(folder, 'loss.onnx'),
  );
  const data = mlpData(16, 3);
  await writeNpz(
    join(folder, 'two.npz'),
    new Map([...data, ['h_target', Tensor.filled('float32', [16, 8], 0.5)]]),
  );
  const wanted = Tensor.filled('float32', [16, 3], 0.5);
  await writeNpz(
    join(folder, 'wanted.npz'),
    new Map([
      ['x', data.get('x')!],
      ['wanted', wanted],
    ]),
  );
}

/** A folder with everything that the commands of a page read and none of its lines has written. */
export async function folderFor(text: string): Promise<string> {
  const folder = await workplace();
  await writeNpz(join(folder, 'batch.npz'), mlpData(16, 3));
  await writeSafetensors(join(folder, 'batch.safetensors'), mlpData(16, 3));
  await writeNpz(join(folder, 'trained.npz'), parametersOf(mlp()));
  await saveModel(quantized(), join(folder, 'quantized.onnx'));
  await saveModel(tokens(), join(folder, 'tokens.onnx'));
  await saveModel(decoder(), join(folder, 'decoder.onnx'));
  const sentences = Tensor.from(
    'int64',
    [16, 5],
    BigInt64Array.from({ length: 80 }, (_, i) => BigInt((i * 7) % 40)),
  );
  await writeNpz(
    join(folder, 'tokens.npz'),
    new Map([
      ['input_ids', sentences],
      ['target', sentences],
    ]),
  );
  for (const name of ['flowers.csv', 'part-1.csv', 'part-2.csv'])
    writeFileSync(join(folder, name), flowers());
  writeFileSync(join(folder, 'people.csv'), PEOPLE);
  await withJobs(folder, commandsOf(text).join('\n'));
  const [, config] = /```json\n(.*?)```/s.exec(text) ?? [];
  if (config) writeFileSync(join(folder, 'train.json'), config);
  if (/ joint\.onnx/.test(text)) await withJointGraph(folder);
  if (/ teacher\.onnx/.test(text)) await withLosses(folder);
  if (/ artifacts /.test(commandsOf(text).join('\n'))) await withArtifacts(folder);
  return folder;
}

export function runAll(folder: string, lines: readonly string[]): void {
  for (const line of lines) {
    if (LEFT_OUT.some(([pattern]) => pattern.test(line))) continue;
    const { code, err } = agdOnnx(folder, ...words(line));
    expect({ line, code, err: code ? err : '' }).toEqual({ line, code: 0, err: '' });
  }
}

export const MINUTES = 60_000;

/** The pages that show commands. */
export const shown = pages()
  .map(page => ({ page: relative(ROOT, page), text: readFileSync(page, 'utf8') }))
  .map(({ page, text }) => ({ page, text, lines: commandsOf(text) }))
  .filter(({ lines }) => lines.length);

/** The files of tests that share the pages, so that they run side by side. */
const PARTS = readdirSync(import.meta.dirname)
  .filter(name => /^commands-\d+\.test\.ts$/.test(name))
  .sort();

/** The pages of each part: each page but README, which has its own test, is in exactly one, and parts have about as many commands. */
function pagesByPart(): (typeof shown)[] {
  const parts = PARTS.map(() => ({ count: 0, pages: [] as typeof shown }));
  const others = shown.filter(({ page }) => page !== 'README.md');
  for (const page of others.sort((a, b) => b.lines.length - a.lines.length)) {
    const least = parts.reduce((a, b) => (b.count < a.count ? b : a));
    least.pages.push(page);
    least.count += page.lines.length;
  }
  return parts.map(({ pages }) => pages);
}

/** Declares the tests of the pages that this file has. */
export function runPages(file: string): void {
  const pages = pagesByPart()[PARTS.indexOf(basename(file))]!;
  it.each(pages)(
    'the commands of $page run',
    async ({ text, lines }) => runAll(await folderFor(text), lines),
    5 * MINUTES,
  );
}
