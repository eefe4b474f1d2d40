/** What a user does wrong is one line on stderr, exit code 1, and no file half written. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { Node } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { readDescription } from '../../src/passes/file/step-metadata.js';
import { floatsOf, spread } from '../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../sample.js';
import { agdOnnx, workplace, writeData } from './run.js';

let folder: string;
beforeAll(async () => {
  folder = await workplace();
});
const file = (name: string) => join(folder, name);

/** The one line, once it is checked that nothing else happened. */
function fails(...args: string[]): string {
  const before = readdirSync(folder);
  const { code, err } = agdOnnx(folder, ...args);
  expect(err.trimEnd().split('\n')).toHaveLength(1);
  expect(err).toMatch(/^agd-onnx: .*(?: \[[a-z-]+\]|See agd-onnx --help\.)\n$/);
  expect(err).not.toMatch(/\bat .*\.js:\d+/);
  expect(code).toBe(1);
  expect(readdirSync(folder)).toEqual(before);
  return err;
}

const LOSS = ['--loss', 'cross-entropy'];
const DATA = ['--data', 'train.npz'];

it('not a protobuf', () => {
  writeFileSync(file('text.onnx'), 'this is no model');
  expect(fails('inspect', 'text.onnx')).toContain('text.onnx');
  expect(fails('inject', 'text.onnx', ...LOSS)).toMatch(/Not an ONNX/);
});

it('a truncated file', () => {
  const bytes = readFileSync(file('model.onnx'));
  writeFileSync(file('cut.onnx'), bytes.subarray(0, bytes.length - 100));
  expect(fails('inject', 'cut.onnx', ...LOSS)).toMatch(/Not an ONNX file, or damaged/);
});

it('lazy rows of a model without lookup tables', () => {
  const err = fails('inject', 'model.onnx', ...LOSS, '--lazy-rows', '*');
  expect(err).toContain("--lazy-rows '*' matches no lookup table");
});

it('no such file', () => {
  expect(fails('inspect', 'nowhere.onnx')).toContain('nowhere.onnx');
});

it('several outputs, with the shapes to choose by', async () => {
  const s = new Sketch();
  const hidden = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, 6])], 'hidden');
  const classes = s.add('ArgMax', [hidden], 'classes', { axis: 1 });
  const logits = s.add('MatMul', [hidden, s.weight('head', [6, 3])], 'logits');
  await saveModel(s.model([hidden, classes, logits]), file('several.onnx'));
  expect(fails('inject', 'several.onnx', ...LOSS)).toMatch(
    /--output .* 'hidden' \[batch,6\], 'logits' \[batch,3\]\. \[bad-option\]$/m,
  );
});

it('an opset that is too new', async () => {
  await saveModel(Object.assign(mlp(), { opsetImports: new Map([['', 99]]) }), file('new.onnx'));
  expect(fails('inject', 'new.onnx', ...LOSS)).toMatch(/opset 99.*26/);
});

it('warns of a loss that misreads its output, in every command that takes one', () => {
  // Scores are no logarithms of probabilities.
  const loss = ['--loss', 'nll'];
  for (const args of [
    ['inject', '-o', 'misread.agd.onnx'],
    ['grad', '--inputs', 'train.npz', '-o', 'misread.safetensors'],
    ['train', '--data', 'train.npz', '-o', 'misread.onnx'],
    [
      'compare',
      '--data',
      'train.npz',
      '--seeds',
      '1',
      '--optimizers',
      'sgd',
      '--lr',
      '1e-6',
      '-o',
      'misread',
    ],
  ]) {
    const { code, out } = agdOnnx(folder, args[0]!, 'model.onnx', ...loss, ...args.slice(1));
    expect([code, out]).toEqual([
      0,
      expect.stringContaining("warning: Output 'logits' is computed by Gemm, but nll expects"),
    ]);
  }
});

it('no such output', () => {
  expect(fails('inject', 'model.onnx', ...LOSS, '--output', 'scores')).toMatch(
    /no output or inner value 'scores'; its outputs are 'logits'/,
  );
});

it('no loss, two losses, options of another loss', () => {
  expect(fails('inject', 'model.onnx')).toMatch(/Choose a loss with --loss \(cross-entropy, nll/);
  expect(fails('inject', 'model.onnx', ...LOSS, '--loss-output', 'logits')).toMatch(
    /--loss-output cannot be combined with --loss/,
  );
  expect(fails('inject', 'model.onnx', '--loss', 'mse', '--ignore-index', '1')).toMatch(
    /--ignore-index applies to losses over classes, not to mse/,
  );
  expect(fails('inject', 'model.onnx', '--loss-output', 'logits', '--class-axis', '1')).toMatch(
    /--loss-output cannot be combined with --class-axis/,
  );
  expect(fails('inject', 'model.onnx', '--target', 'y')).toMatch(/--target needs --loss/);
  expect(fails('inject', 'model.onnx', '--loss-output', 'logits', '--target', 'y')).toMatch(
    /no input 'y' that could be the target/,
  );
  expect(fails('inject', 'model.onnx', '--loss-output', 'logits')).toMatch(/shape \[batch,3\] is not a loss/);
  expect(fails('inject', 'model.onnx', ...LOSS, '--target', 'x')).toMatch(
    /already has an input 'x': give the target another name with --target/,
  );
  expect(fails('grad', 'model.onnx', '--inputs', 'train.npz')).toMatch(
    /--loss \(cross-entropy.*--loss-output/,
  );
  expect(fails('train', 'model.onnx', ...DATA, '--initialize')).toMatch(/--initialize takes effect when/);
});

it('no such optimizer, options of another one', () => {
  expect(fails('inject', 'model.onnx', ...LOSS, '--optimizer', 'adma')).toMatch(
    /--optimizer must be one of agd, sgd, adam.*not "adma"\. Did you mean 'adam'/,
  );
  const sgd = ['inject', 'model.onnx', ...LOSS, '--optimizer', 'sgd'];
  expect(fails(...sgd, '--delta', '1')).toMatch(
    /Unknown option of sgd 'delta'; expected one of lr, momentum/,
  );
  expect(fails(...sgd, '--group', '*.bias: eps=1')).toMatch(/Unknown option of sgd 'eps'/);
  expect(fails('train', 'model.onnx', ...DATA, '--optimizer', 'sgd')).toMatch(
    /--optimizer takes effect when/,
  );
});

it('a schedule that ends with a run that is not known', () => {
  expect(fails('inject', 'model.onnx', ...LOSS, '--schedule', 'cosine')).toMatch(
    /Schedule 'cosine' needs total, as in 'cosine:total=1000'/,
  );
  expect(fails('train', 'model.onnx', ...LOSS, ...DATA, '--schedule', 'cosine:warmup=9')).toMatch(
    /the warm-up of 9 updates must end before total \(8\)/,
  );
});

it('data without the target', async () => {
  await writeData(folder, 'untold.npz', { target: undefined });
  const line = fails('train', 'model.onnx', ...LOSS, '--data', 'untold.npz');
  expect(line).toMatch(/'target'/);
  expect(line).toMatch(/'x'/);
});

it('data of the wrong shape or type, both shown', async () => {
  await writeData(folder, 'wide.npz', { x: spread([64, 5]) });
  expect(fails('train', 'model.onnx', ...LOSS, '--data', 'wide.npz')).toMatch(/\[batch, ?4\].*\[64, ?5\]/);
  await writeData(folder, 'half.npz', {
    target: Tensor.from('float32', [64], new Float32Array(64).fill(0.5)),
  });
  expect(fails('train', 'model.onnx', ...LOSS, '--data', 'half.npz')).toMatch(/int64.*float32/);
});

it('targets that the loss does not take', async () => {
  const labels = (...some: number[]) =>
    Tensor.from(
      'int64',
      [64],
      new BigInt64Array(64).fill(1n).map((x, i) => BigInt(some[i] ?? x)),
    );
  const train = (...args: string[]) => fails('train', 'model.onnx', ...LOSS, ...args);
  await writeData(folder, 'beyond.npz', { target: labels(0, 2, 3) });
  expect(train('--data', 'beyond.npz')).toMatch(/'target' holds 3, but the loss takes targets from 0 to 2/);
  expect(train(...DATA, '--val', 'beyond.npz')).toMatch(/'target' holds 3/);
  expect(fails('grad', 'model.onnx', ...LOSS, '--inputs', 'beyond.npz')).toMatch(/'target' holds 3/);
  // A Gather would count it from the end.
  await writeData(folder, 'below.npz', { target: labels(0, -1) });
  expect(train('--data', 'below.npz')).toMatch(
    /holds -1, .*; if -1 marks targets without a class, --ignore-index -1 leaves them out/,
  );
  const ignored = agdOnnx(
    folder,
    'train',
    'model.onnx',
    ...LOSS,
    '--data',
    'below.npz',
    '--ignore-index',
    '-1',
    '-o',
    'below.onnx',
  );
  expect(ignored.code).toBe(0);
  const probability = Tensor.from('float32', [64, 3], new Float32Array(192).fill(0.5).fill(1.5, 9, 10));
  await writeData(folder, 'loud.npz', { target: probability });
  expect(fails('train', 'model.onnx', '--loss', 'bce-with-logits', '--data', 'loud.npz')).toMatch(
    /'target' holds 1.5, but the loss takes targets from 0 to 1; --scale target=FACTOR/,
  );
});

it('a batch that does not fit, whose input the runtime leaves unnamed', async () => {
  const grad = (name: string) => fails('grad', 'model.onnx', ...LOSS, '--inputs', name);
  await writeData(folder, 'bytes.npz', { x: Tensor.zeros('uint8', [64, 4]) });
  expect(grad('bytes.npz')).toMatch(/Input 'x' takes float32 \[batch,4\], but its array is uint8 \[64,4\]/);
  await writeData(folder, 'uneven.npz', { target: Tensor.zeros('int64', [60]) });
  expect(grad('uneven.npz')).toMatch(
    /Input 'target' takes int64 \[batch\], batch = 64, but its array is int64 \[60\]/,
  );
});

it('an index that the model does not have, in the words of the operator that met it', async () => {
  const s = new Sketch();
  const row = s.add('Gather', [s.weight('table', [5, 3]), s.input('ids', ['batch'], 'int64')], 'row');
  await saveModel(s.model([row]), file('table.onnx'));
  await writeData(folder, 'ids.npz', {
    x: undefined,
    ids: Tensor.from('int64', [64], new BigInt64Array(64).fill(7n)),
  });
  expect(fails('train', 'table.onnx', ...LOSS, '--data', 'ids.npz')).toMatch(
    /^agd-onnx: ONNX Runtime stopped: Gather 'row_node': .*idx=7.*$/m,
  );
});

it('data of no known format', () => {
  writeFileSync(file('data.csv'), '1,2,3\n');
  expect(fails('train', 'model.onnx', ...LOSS, '--data', 'data.csv')).toContain('data.csv');
});

it('an operator without a gradient, with its node and path', async () => {
  const s = new Sketch();
  const product = s.add('MatMul', [s.input('x', ['batch', 2]), s.weight('w', [2, 2])], 'product');
  const cut = s.add('Binarizer', [product], 'cut');
  s.graph.nodes.at(-1)!.domain = 'ai.onnx.ml';
  const model = s.model([s.add('ReduceMean', [cut], 'mean', { keepdims: 0 })]);
  model.opsetImports.set('ai.onnx.ml', 1);
  await saveModel(model, file('cut.onnx'));
  const { code, err } = agdOnnx(folder, 'inject', 'cut.onnx', '--loss-output', 'mean');
  const [line, ...details] = err.split('\n');
  expect([code, line]).toEqual([1, expect.stringMatching(/ \[no-gradient\]$/)]);
  expect(details.join('\n')).toContain("defineGradient('ai.onnx.ml.Binarizer'");
  expect(line).toMatch(/No gradient rule for op 'ai\.onnx\.ml\.Binarizer' \(node 'cut_node'\)/);
  expect(line).toMatch(/from 'w' to '.*' \(by way of 'MatMul' \(node 'product_node'\)\)/);
  expect(line).toMatch(/--freeze/);
  expect(agdOnnx(folder, 'inspect', 'cut.onnx').out).toMatch(/ai\.onnx\.ml\.Binarizer\s+1\s+missing\s+yes/);
});

it('nothing to train', () => {
  expect(fails('inject', 'model.onnx', ...LOSS, '--freeze', '*')).toMatch(/Nothing to train/);
  expect(fails('inject', 'model.onnx', ...LOSS, '--freeze', 'conv*')).toMatch(/--freeze 'conv\*' matches no/);
});

it('a loss that is not finite: step and tensor named, the state kept', async () => {
  const x = Float32Array.from(mlpData(64).get('x')!.numbers());
  // Sums of both infinities are NaN.
  x.set([Infinity, -Infinity], 40 * 4);
  await writeData(folder, 'nan.npz', { x: Tensor.from('float32', [64, 4], x) });
  const args = [
    'train',
    'model.onnx',
    ...LOSS,
    '--data',
    'nan.npz',
    '--batch-size',
    '8',
    '-o',
    'nan.onnx',
    '--state',
    'nan.agd.onnx',
  ];
  const { code, err } = agdOnnx(folder, ...args);
  expect(code).toBe(1);
  expect(err).toMatch(/^agd-onnx: Loss is NaN at step \d+: the data for 'x' are not finite\./);
  expect(err.trimEnd().split('\n')).toHaveLength(1);
  expect(existsSync(file('nan.onnx'))).toBe(false);
  const kept = await loadModel(file('nan.agd.onnx'));
  const { step } = readDescription(kept);
  const done = [...kept.graph.initializers].find(([v]) => v.name === step)![1].numbers()[0]!;
  expect(done).toBe(Number(/step (\d+)/.exec(err)![1]) - 1);
});

it('gradients of data that are not finite, or of none', async () => {
  const grad = (name: string) => fails('grad', 'model.onnx', ...LOSS, '--inputs', name);
  await writeData(folder, 'inf.npz', { x: Tensor.filled('float32', [64, 4], Number.NaN) });
  expect(grad('inf.npz')).toBe(
    "agd-onnx: Loss 'loss' is NaN: the data for 'x' are not finite. [non-finite]\n",
  );
  const none = { x: Tensor.zeros('float32', [0, 4]), target: Tensor.zeros('int64', [0]) };
  await writeData(folder, 'none.npz', none);
  expect(grad('none.npz')).toBe('agd-onnx: The data has no samples. [bad-data]\n');
});

it('a configuration file that its parser would warn of', () => {
  writeFileSync(file('odd.yaml'), 'loss: &a: cross-entropy\n');
  const { code, err } = agdOnnx(folder, 'inject', 'model.onnx', '--config', 'odd.yaml', '-o', 'odd.onnx');
  expect([code, err]).toEqual([0, '']);
});

it('unknown flags and commands', () => {
  expect(fails('inject', 'model.onnx', ...LOSS, '--learning-rate', '1')).toMatch(/learning-rate/);
  expect(fails('paint', 'model.onnx')).toMatch(/paint/);
  expect(fails()).toMatch(/Name a command/);
  expect(fails('train', 'model.onnx', ...LOSS)).toMatch(/data/);
});

it('options out of range', () => {
  const inject = (...args: string[]) => fails('inject', 'model.onnx', ...LOSS, ...args);
  expect(inject('--lr', '-1')).toMatch(/lr must be/);
  expect(inject('--betas', '0.9')).toMatch(/--betas\[1\] must be a number in \[0, 1\), not undefined/);
  expect(inject('--betas', '0.9,1')).toMatch(/--betas\[1\] must be a number in \[0, 1\), not 1/);
  expect(inject('--delta', '0')).toMatch(/--delta must be a number above 0, not 0/);
  expect(inject('--weight-decay', '-1')).toMatch(/--weight-decay must be a number of at least 0, not -1/);
  expect(inject('--class-weights', '1,x')).toMatch(/--class-weights: expected comma-separated numbers/);
  expect(inject('--loss', 'hinge')).toMatch(/loss/);
  expect(inject('--ignore-index', '1.5')).toMatch(/--ignore-index must be a whole number, not 1.5/);
  expect(inject('--label-smoothing', '1')).toMatch(/--label-smoothing must be a number in \[0, 1\), not 1/);
  expect(inject('--lr')).toMatch(/--lr needs a value/);
  expect(inject('--lr', 'fast')).toMatch(/--lr must be a number of at least 0, not "fast"/);
  expect(inject('-o', '')).toMatch(/--out needs a value/);
  expect(fails('train', 'model.onnx', ...LOSS, ...DATA, '--threads', '0')).toMatch(
    /--threads must be a whole number of at least 1, not 0/,
  );
  expect(fails('train', 'model.onnx', ...LOSS, ...DATA, '--epochs', '0')).toMatch(
    /--epochs must be a whole number of at least 1, not 0/,
  );
  expect(fails('train', 'model.onnx', ...LOSS, ...DATA, '--batch-size', '0')).toMatch(
    /--batch-size must be a whole number of at least 1, not 0/,
  );
  expect(fails('train', 'model.onnx', ...LOSS, ...DATA, '--map', 'x')).toMatch(/--map: expected INPUT=VALUE/);
});

it('a device that is not there', () => {
  expect(fails('train', 'model.onnx', ...LOSS, ...DATA, '--device', 'cuda')).toMatch(/cuda.*--device cpu/);
});

it('an output that cannot be written', () => {
  mkdirSync(file('taken.onnx'), { recursive: true });
  expect(fails('inject', 'model.onnx', ...LOSS, '-o', 'taken.onnx')).toContain('taken.onnx');
  expect(fails('inject', 'model.onnx', ...LOSS, '-o', 'no/such/folder.onnx')).toContain('no/such');
  expect(fails('inject', 'model.onnx', ...LOSS, '-o', './model.onnx')).toMatch(/would overwrite/);
  const train = (...args: string[]) => fails('train', 'model.onnx', ...LOSS, ...DATA, ...args);
  // Before the work: no step is done.
  writeFileSync(file('early.jsonl'), '');
  expect(train('-o', 'no/such/folder.onnx', '--log', 'early.jsonl')).toContain('no/such');
  expect(readFileSync(file('early.jsonl'), 'utf8')).not.toContain('"step"');
  expect(train('--state', 'no/such/state.onnx')).toContain('no/such');
  expect(train('--report', 'no/such/page.html')).toContain('no/such');
  expect(train('--log', 'no/such/log')).toContain('no/such');
  expect(train('-o', 'same', '--report', 'same')).toMatch(/same would overwrite another output/);
  // The model has no state that this could be the next of.
  expect(train('--state', 'model.onnx')).toMatch(/model.onnx would overwrite what it is made from/);
  symlinkSync('train.npz', file('link.npz'));
  expect(train('-o', 'link.npz')).toMatch(/would overwrite what it is made from/);
  if (process.getuid?.() === 0) return;
  mkdirSync(file('closed'));
  chmodSync(file('closed'), 0o500);
  expect(fails('inject', 'model.onnx', ...LOSS, '-o', 'closed/a.onnx')).toContain('closed');
});

it('a model that contains no training step, where one is needed', () => {
  expect(fails('train', 'model.onnx', ...DATA)).toMatch(/--loss/);
  expect(fails('export', 'model.onnx')).toMatch(/inject/);
});

it('a model that runs on no kernel of the runtime', async () => {
  const s = new Sketch();
  const y = s.add('NoSuchOperator', [s.input('x', ['batch', 2]), s.weight('w', floatsOf([1, 2]))], 'y');
  await saveModel(s.model([y]), file('unknown.onnx'));
  expect(fails('inject', 'unknown.onnx', '--loss', 'mse')).toContain('NoSuchOperator');
  expect(new Node('NoSuchOperator').label).toBe("'NoSuchOperator'");
});
