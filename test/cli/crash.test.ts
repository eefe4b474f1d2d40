/** A fault in the runtime's native code is a line and exit code 1, and signals reach a command as if it were one process. */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { saveModel } from '../../src/graph/files.js';
import { Tensor } from '../../src/graph/tensor.js';
import { Sketch } from '../sample.js';
import { agdOnnx, start, workplace } from './run.js';

let folder: string;
beforeAll(async () => {
  folder = await workplace();
  await saveModel(crashesInLoading(), join(folder, 'loading.onnx'));
  await saveModel(crashesInRunning(), join(folder, 'running.onnx'));
});

/** The runtime divides by the size of the pieces. */
function crashesInLoading() {
  const s = new Sketch();
  const y = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, 3])], 'y');
  const size = s.weight('size', Tensor.from('int64', [], BigInt64Array.of(0n)));
  const pieces = s.add('SplitToSequence', [y, size], 'pieces', { axis: 1 });
  const at = s.weight('at', Tensor.from('int64', [], BigInt64Array.of(0n)));
  return s.model([s.add('SequenceAt', [pieces, at], 'logits')]);
}

/** The remainder of the least integer by -1, which processors compute with a quotient that is out of range. */
function crashesInRunning() {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const y = s.add('MatMul', [x, s.weight('w', [4, 3])], 'y');
  const least = s.weight('least', Tensor.from('int32', [1], Int32Array.of(-(2 ** 31))));
  const zero = s.weight('zero', Tensor.from('float32', [], Float32Array.of(0)));
  const nothing = s.add('Cast', [s.add('Mul', [y, zero], 'zeros')], 'integers', { to: 6 });
  const minus = s.add('Sub', [nothing, s.weight('one', Tensor.from('int32', [], Int32Array.of(1)))], 'minus');
  const rest = s.add('Cast', [s.add('Mod', [least, minus], 'mod')], 'rest', { to: 1 });
  return s.model([s.add('Add', [y, rest], 'logits')]);
}

const LOSS = ['--loss', 'cross-entropy'];

describe.skipIf(process.arch !== 'x64' || process.platform === 'win32')('a crash of the runtime', () => {
  it.each([
    ['inspect', 'loading.onnx'],
    ['inject', 'loading.onnx', ...LOSS],
    ['train', 'loading.onnx', ...LOSS, '--data', 'train.npz'],
    ['grad', 'loading.onnx', ...LOSS, '--inputs', 'train.npz'],
    ['train', 'running.onnx', ...LOSS, '--data', 'train.npz'],
    ['grad', 'running.onnx', ...LOSS, '--inputs', 'train.npz'],
  ])('in %s %s is one line', (...args) => {
    const before = readdirSync(folder);
    const { code, err } = agdOnnx(folder, ...args);
    expect(err).toMatch(/^agd-onnx: ONNX Runtime crashed \(SIG[A-Z]+\): [^\n]*\n$/);
    expect(code).toBe(1);
    expect(readdirSync(folder)).toEqual(before);
  });
});

describe.skipIf(process.platform === 'win32')('a command that waits for its input', () => {
  const ended = async (signal: NodeJS.Signals, ...args: string[]) => {
    const child = start(folder, ...args);
    let err = '';
    child.stderr.on('data', text => {
      err += text;
    });
    const exit = new Promise(resolve => child.on('exit', (...how) => resolve(how)));
    // Streams close when all processes that hold them have ended.
    const close = new Promise(resolve => child.on('close', resolve));
    // A pipe opens when somebody reads it.
    const pipe = await open(join(folder, args.find(arg => arg.startsWith('never'))!), 'w');
    child.kill(signal);
    const how = await exit;
    await close;
    await pipe.close();
    return [...(how as unknown[]), err];
  };
  beforeAll(() => {
    execFileSync('mkfifo', [join(folder, 'never.npz')]);
  });
  const grad = ['grad', 'model.onnx', ...LOSS, '--inputs', 'never.npz'];
  const train = ['train', 'model.onnx', ...LOSS, '--data', 'never.npz'];
  it.each<[NodeJS.Signals, string[], unknown[]]>([
    ['SIGTERM', grad, [null, 'SIGTERM', '']],
    ['SIGINT', grad, [null, 'SIGINT', '']],
    ['SIGKILL', grad, [null, 'SIGKILL', '']],
    ['SIGTERM', train, [143, null, '']],
    ['SIGINT', train, [130, null, '']],
    ['SIGKILL', train, [null, 'SIGKILL', '']],
  ])('ends by %s: %j', async (signal, args, how) => {
    expect(await ended(signal, ...args)).toEqual(how);
  });
});
