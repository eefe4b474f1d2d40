/**
 * The programs of docs/guide/languages.md run, and get the losses of the library. Those of languages that are not at hand
 * are skipped, with the reason in the output:
 *
 * - ONNXRUNTIME_PYTHON: a Python with onnxruntime, if python3 has none
 * - ONNXRUNTIME_GO: the source of github.com/yalue/onnxruntime_go
 * - ORT_RUST: the source of the crate ort, with its dependencies where cargo finds them offline
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { Tensor } from '../src/graph/tensor.js';
import { inject } from '../src/passes/inject.js';
import { sessionShapes } from '../src/runtime/session.js';
import { Trainer } from '../src/runtime/train/trainer.js';
import { agdOnnx, workplace } from './cli/run.js';
import { mlp } from './sample.js';

const ROOT = join(import.meta.dirname, '..');
const PAGE = readFileSync(join(ROOT, 'docs/guide/languages.md'), 'utf8');
const LIBRARY = join(ROOT, `node_modules/onnxruntime-node/bin/napi-v6/${process.platform}/${process.arch}`);
const { ONNXRUNTIME_PYTHON: PYTHON = 'python3', ONNXRUNTIME_GO: GO, ORT_RUST: RUST } = process.env;
const HAS_LIBRARY = existsSync(join(LIBRARY, 'libonnxruntime.so.1'));

const code = (language: string) => new RegExp(`\`\`\`${language}\n(.*?)\`\`\``, 's').exec(PAGE)![1]!;

function run(folder: string, command: readonly string[], env: NodeJS.ProcessEnv = {}): string {
  const [name, ...args] = command as [string, ...string[]];
  const { status, stdout, stderr, error } = spawnSync(name, args, {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  expect({ command, status, error, stderr: status === 0 ? '' : stderr }).toEqual({
    command,
    status: 0,
    error: undefined,
    stderr: '',
  });
  return stdout;
}

const works = (...command: string[]) => spawnSync(command[0]!, command.slice(1)).status === 0;

/** Of compilers on a busy machine, in milliseconds. */
const TIMEOUT = 300_000;

type Language = {
  /** Writes and builds the program, and returns its command. */
  build: (folder: string) => readonly string[];
  /** Why it cannot run here. */
  missing?: string;
  forms: readonly string[];
};

const FOLDERS = ['plain', 'four 4'];
const ALL = [...FOLDERS, 'model.agd.onnx'];

const LANGUAGES: Record<string, Language> = {
  js: {
    build(folder) {
      writeFileSync(join(folder, 'train.mjs'), code('js'));
      return [process.execPath, 'train.mjs'];
    },
    forms: FOLDERS,
  },
  c: {
    missing: !HAS_LIBRARY ? 'no libonnxruntime.so.1' : works('cc', '--version') ? undefined : 'no C compiler',
    build(folder) {
      writeFileSync(join(folder, 'train.c'), code('c'));
      const warnings = ['-Wall', '-Wextra', '-Werror'];
      const link = [join(folder, 'lib/libonnxruntime.so'), '-lm', `-Wl,-rpath,${join(folder, 'lib')}`];
      run(folder, [
        'cc',
        ...warnings,
        `-I${join(ROOT, 'test/languages')}`,
        'train.c',
        ...link,
        '-o',
        'train-c',
      ]);
      return ['./train-c'];
    },
    forms: FOLDERS,
  },
  python: {
    missing: works(PYTHON, '-c', 'import onnxruntime') ? undefined : `${PYTHON} has no onnxruntime`,
    build(folder) {
      writeFileSync(join(folder, 'train.py'), code('python'));
      return [PYTHON, 'train.py'];
    },
    forms: ALL,
  },
  go: {
    missing: GO && HAS_LIBRARY ? undefined : 'ONNXRUNTIME_GO is not set',
    build(folder) {
      const module = 'github.com/yalue/onnxruntime_go';
      mkdirSync(join(folder, 'go'));
      writeFileSync(join(folder, 'go/train.go'), code('go'));
      writeFileSync(
        join(folder, 'go/go.mod'),
        `module train\n\ngo 1.19\n\nrequire ${module} v1.0.0\n\nreplace ${module} => ${resolve(GO!)}\n`,
      );
      const env = { GOFLAGS: '-mod=mod', GOPROXY: 'off' };
      run(join(folder, 'go'), ['go', 'build', '-o', '../train-go', '.'], env);
      return ['./train-go'];
    },
    forms: FOLDERS,
  },
  rust: {
    missing: RUST && HAS_LIBRARY ? undefined : 'ORT_RUST is not set',
    build(folder) {
      mkdirSync(join(folder, 'rust/src'), { recursive: true });
      writeFileSync(join(folder, 'rust/src/main.rs'), code('rust'));
      const dependency = `{ path = "${resolve(RUST!)}", default-features = false, features = ["std", "api-22"] }`;
      writeFileSync(
        join(folder, 'rust/Cargo.toml'),
        `[package]\nname = "train"\nedition = "2024"\n\n[dependencies]\nort = ${dependency}\n`,
      );
      const lib = join(folder, 'lib');
      run(join(folder, 'rust'), ['cargo', 'build', '--quiet', '--offline'], {
        ORT_LIB_LOCATION: lib,
        ORT_PREFER_DYNAMIC_LINK: '1',
        RUSTFLAGS: `-C link-arg=-Wl,-rpath,${lib}`,
      });
      return ['./rust/target/debug/train'];
    },
    forms: ALL,
  },
};

let folder: string;
const wanted: Record<string, number[]> = {};

/** The losses of the library in ten runs on the batch of the programs. */
async function lossesOfLibrary(perRun: number): Promise<number[]> {
  const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } }, sessionShapes);
  const trainer = await Trainer.create(model);
  const losses: number[] = [];
  for (let i = 0; i < 10 * perRun; i++) {
    const start = (i % perRun) * 16;
    const x = Float32Array.from({ length: 64 }, (_, j) => Math.sin(start * 4 + j));
    const target = BigInt64Array.from({ length: 16 }, (_, j) => BigInt((start + j) % 3));
    const batch = { x: Tensor.from('float32', [16, 4], x), target: Tensor.from('int64', [16], target) };
    losses.push((await trainer.step(batch)).loss);
  }
  await trainer.release();
  return losses;
}

beforeAll(async () => {
  folder = await workplace();
  const page = PAGE.matchAll(/^ {4}agd-onnx (inject .*)$/gm);
  for (const [, command] of page) expect(agdOnnx(folder, ...command!.split(' ')).code).toBe(0);
  symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'), 'junction');
  if (HAS_LIBRARY) {
    mkdirSync(join(folder, 'lib'));
    copyFileSync(join(LIBRARY, 'libonnxruntime.so.1'), join(folder, 'lib/libonnxruntime.so.1'));
    symlinkSync('libonnxruntime.so.1', join(folder, 'lib/libonnxruntime.so'));
  }
  const single = await lossesOfLibrary(1);
  Object.assign(wanted, { plain: single, 'model.agd.onnx': single, 'four 4': await lossesOfLibrary(4) });
}, TIMEOUT);

describe.each(Object.entries(LANGUAGES))('the program in %s', (name, { missing, build, forms }) => {
  let command: readonly string[];
  if (missing) console.warn(`skipped the program in ${name}: ${missing}`);
  beforeAll(() => {
    if (!missing) command = build(folder);
  }, TIMEOUT);
  it.skipIf(missing).each(forms)('trains %s', form => {
    const env = { ONNXRUNTIME_LIBRARY: join(folder, 'lib/libonnxruntime.so.1') };
    const losses = run(folder, [...command, ...form.split(' ')], env)
      .trim()
      .split('\n')
      .map(line => Number(line.replace('loss ', '')));
    expect(losses).toHaveLength(wanted[form]!.length);
    const errors = losses.map((loss, i) => Math.abs(loss - wanted[form]![i]!));
    expect(Math.max(...errors)).toBeLessThan(2e-5);
  });
});

it('each language of the table has its program, and each program is in the table', () => {
  const programs = [...PAGE.matchAll(/^```(\w+)$/gm)].map(([, language]) => language);
  expect(programs).toEqual(['python', 'js', 'c', 'csharp', 'java', 'go', 'rust', 'swift']);
});
