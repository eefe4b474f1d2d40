/** What users see of `--device` where there is no GPU. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canBuild, standInProvider } from '../stand-ins.js';
import { workplace } from './run.js';

const ROOT = join(import.meta.dirname, '../..');
const BINARIES = `bin/napi-v6/${process.platform}/${process.arch}`;
let folder: string;
let installed: string;

/** The project with an onnxruntime-node of its own, whose CUDA provider is a stand-in; nothing is copied. */
function installation(): string {
  const to = mkdtempSync(join(tmpdir(), 'agd-onnx-installed-'));
  const link = (path: string) => symlinkSync(join(ROOT, path), join(to, path));
  const linkAll = (path: string, but: string) => {
    mkdirSync(join(to, path), { recursive: true });
    for (const name of readdirSync(join(ROOT, path))) if (name !== but) link(join(path, name));
  };
  for (const path of ['bin', 'dist', 'package.json']) link(path);
  linkAll('node_modules', 'onnxruntime-node');
  linkAll('node_modules/onnxruntime-node', 'bin');
  linkAll(`node_modules/onnxruntime-node/${BINARIES}`, '');
  return to;
}

beforeAll(async () => {
  folder = await workplace();
  installed = installation();
});
afterAll(() => {
  for (const path of [folder, installed]) rmSync(path, { recursive: true });
});

function run(...args: string[]) {
  const cli = join(installed, 'bin/agd-onnx.js');
  const links = ['--preserve-symlinks', '--preserve-symlinks-main'];
  const { status, stdout, stderr } = spawnSync(process.execPath, [...links, cli, ...args], {
    cwd: folder,
    encoding: 'utf8',
  });
  return { code: status, out: stdout, err: stderr };
}

const LOSS = ['--loss', 'cross-entropy', '--target', 'label'];
const COMMANDS = {
  train: ['train', 'model.onnx', ...LOSS, '--data', 'train.npz'],
  compare: ['compare', 'model.onnx', ...LOSS, '--data', 'train.npz', '--seeds', '1', '--optimizers', 'sgd'],
  evaluate: ['evaluate', 'model.onnx', ...LOSS, '--data', 'test.npz'],
  predict: ['predict', 'model.onnx', '--loss', 'cross-entropy', '--data', 'test.npz'],
  grad: ['grad', 'model.onnx', '--loss', 'cross-entropy', '--inputs', 'test.npz'],
};

describe.runIf(process.platform === 'linux' && process.arch === 'x64').each(Object.entries(COMMANDS))(
  '%s',
  (_, args) => {
    it('says how the CUDA provider is installed', () => {
      const { code, err } = run(...args, '--device', 'cuda:1');
      expect(code).toBe(1);
      expect(err).toMatch(
        /^agd-onnx: Device 'cuda:1' cannot be used here: the CUDA provider of onnxruntime-node is not installed\. Install it with: node \S+\/install\.js --onnxruntime-node-install=cuda12\. Otherwise use --device cpu\. \[device\]\n$/,
      );
    });

    it('says which device it chose', () => {
      const { code, out, err } = run(...args, '--device', 'auto');
      expect({ code, err }).toMatchObject({ code: 0, err: expect.any(String) });
      expect(out + err).toMatch(/device: (cpu|webgpu), chosen because .*CUDA: the CUDA provider/);
    });
  },
);

it.runIf(canBuild)('names the library that the provider lacks, from a configuration file too', () => {
  const binaries = join(installed, 'node_modules/onnxruntime-node', BINARIES);
  standInProvider(binaries, ['libnone.so.1', 'libcudart.so.12']);
  writeFileSync(join(folder, 'run.yaml'), 'device: cuda\n');
  const { code, err } = run(...COMMANDS.train, '--config', 'run.yaml');
  expect(code).toBe(1);
  expect(err).toMatch(
    /needs libnone\.so\.1, of CUDA 12\. Install it with: sudo apt-get install cuda-libraries-12-9/,
  );
});

it('refuses devices that there are not', () => {
  for (const device of ['webgpu:1', 'cuda:x']) {
    const { code, err } = run(...COMMANDS.evaluate, '--device', device);
    expect(code).toBe(1);
    expect(err).toContain('--device must be one of auto, cpu, cuda, webgpu, or cuda:N for GPU number N');
  }
});
