/** A fault in the runtime's native code is a line and exit code 1, and signals reach a command as if it were one process. */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
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
    expect(err).toMatch(
      /^agd-onnx: ONNX Runtime crashed \(SIG[A-Z]+\): a kernel was given a value that it does not check[^\n]*\n$/,
    );
    expect(code).toBe(1);
    expect(readdirSync(folder)).toEqual(before);
  });
});

/** The process in which a command runs this module. */
async function processOf(parent: number, module: string): Promise<number> {
  for (;;) {
    const found = execFileSync('ps', ['-e', '-o', 'pid=,ppid=,args='], { encoding: 'utf8' })
      .split('\n')
      .map(line => line.trim().split(/\s+/))
      .find(([, ppid, ...args]) => ppid === `${parent}` && args.some(arg => arg.endsWith(module)));
    if (found) return Number(found[0]);
    await setTimeout(5);
  }
}

describe.skipIf(process.platform === 'win32')('the process of a command', () => {
  const large = 'large.onnx';
  beforeAll(async () => {
    const s = new Sketch();
    const y = s.add('MatMul', [s.input('x', ['batch', 1500]), s.weight('w', [1500, 1500])], 'y');
    await saveModel(s.model([y]), join(folder, large));
    await writeFile(join(folder, 'large.json'), JSON.stringify({ model: large, loss: 'mse' }));
  });

  it.each<[module: string, signal: NodeJS.Signals, said: string, args: string[]]>([
    ['types-process.js', 'SIGKILL', 'The process was killed (SIGKILL)', ['inspect', 'model.onnx']],
    ['types-process.js', 'SIGKILL', 'The process was killed (SIGKILL)', ['inject', 'model.onnx', ...LOSS]],
    ['work.js', 'SIGABRT', 'JavaScript heap out of memory', ['inspect', large]],
    ['work.js', 'SIGABRT', 'ONNX Runtime crashed (SIGABRT)', ['inject', large, '--loss', 'mse']],
    ['work.js', 'SIGABRT', 'ONNX Runtime crashed (SIGABRT)', ['inject', '--config', 'large.json']],
    ['work.js', 'SIGABRT', 'ONNX Runtime crashed (SIGABRT)', ['inject', 'model.onnx', ...LOSS, '--split']],
  ])('where %s ends by %s, that is a line: %s %j', async (module, signal, said, args) => {
    const before = readdirSync(folder);
    const child = start(folder, ...args);
    let err = '';
    child.stderr.on('data', text => {
      err += text;
    });
    const close = new Promise(resolve => child.on('close', resolve));
    process.kill(await processOf(child.pid!, module), signal);
    expect(await close).toBe(1);
    expect(err).toMatch(/^agd-onnx: [^\n]* \[runtime\]\n$/);
    expect(err).toContain(said);
    expect(readdirSync(folder)).toEqual(before);
  });

  it('ends with the command', async () => {
    const child = start(folder, 'inspect', 'model.onnx');
    const close = new Promise(resolve => child.on('close', resolve));
    const types = await processOf(child.pid!, 'types-process.js');
    child.kill('SIGKILL');
    await close;
    const isRunning = () => {
      try {
        return process.kill(types, 0);
      } catch {
        return false;
      }
    };
    await expect.poll(isRunning, { timeout: 10_000 }).toBe(false);
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
