/** Who takes part: how to start it, and what it lacks where it cannot. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { withLargePages } from '../dist/node/internal.js';

export const PYTHON = process.env.PYTHON ?? 'python3';
export const PYTORCH = path('peers/pytorch.py');

/**
 * `version` throws where the peer is not there. `mark` is the goal that it stands for. Peers without threads of their
 * own choice take part once, beside the largest number of threads.
 */
export const PEERS = [
  {
    name: 'agd-onnx',
    title: 'agd-onnx',
    optimizer: 'AGD',
    threads: true,
    version: () => packageVersion('../package.json'),
    // As `train` starts the process that trains.
    racer: (args, options) => ({
      ...node('peers/agd-onnx.mjs', [...args, JSON.stringify(options)]),
      env: withLargePages(),
    }),
  },
  {
    name: 'pytorch',
    title: 'PyTorch, eager',
    mark: 'eager',
    optimizer: 'AGD, as its authors write it',
    threads: true,
    version: torchVersion,
    racer: args => ({ command: PYTHON, args: [PYTORCH, 'run', ...args, 'agd'] }),
  },
  {
    name: 'pytorch-compiled',
    title: 'PyTorch, torch.compile',
    mark: 'compiled',
    optimizer: 'AdamW, fused',
    threads: true,
    version: () => {
      const version = torchVersion();
      if (spawnSync(process.env.CXX ?? 'g++', ['--version']).status !== 0)
        throw new Error('torch.compile needs a C++ compiler: g++, or the one that CXX names');
      return version;
    },
    racer: args => ({ command: PYTHON, args: [PYTORCH, 'run', ...args, 'compiled-adamw'] }),
  },
  {
    name: 'jax-js',
    title: '@jax-js/jax, WebAssembly',
    mark: 'js',
    optimizer: 'AGD, jitted with the step',
    version: () => packageVersion('node_modules/@jax-js/jax/package.json'),
    racer: args => node('peers/jax-js.mjs', args),
  },
  {
    name: 'tfjs',
    title: '@tensorflow/tfjs, CPU',
    mark: 'js',
    optimizer: 'AGD, in its operations',
    version: () => packageVersion('node_modules/@tensorflow/tfjs/package.json'),
    racer: args => node('peers/tfjs.mjs', [...args, 'cpu']),
  },
  {
    name: 'tfjs-wasm',
    title: '@tensorflow/tfjs, WebAssembly',
    mark: 'js',
    optimizer: 'AGD, in its operations',
    threads: true,
    version: () => packageVersion('node_modules/@tensorflow/tfjs-backend-wasm/package.json'),
    racer: args => node('peers/tfjs.mjs', [...args, 'wasm']),
  },
  {
    name: 'onnxruntime-web',
    title: 'onnxruntime-web, training',
    mark: 'js',
    optimizer: 'AdamW of the artifacts',
    version: () => packageVersion('node_modules/onnxruntime-web/package.json'),
    racer: args => node('peers/ort-web.mjs', args),
  },
];

/** Training artifacts can be run by two peers alone, models of real size by PyTorch alone; to compile them takes minutes. */
export function takesPart({ name, mark }, workload, { isNamed }) {
  if (name === 'agd-onnx') return true;
  if (workload.real) return mark === 'eager' || (mark === 'compiled' && isNamed);
  return (name === 'onnxruntime-web') === (workload.name === 'artifacts');
}

function path(relative) {
  return fileURLToPath(new URL(relative, import.meta.url));
}

const node = (script, args) => ({ command: process.execPath, args: [path(script), ...args] });

function packageVersion(file) {
  try {
    return JSON.parse(readFileSync(path(file), 'utf8')).version;
  } catch {
    throw new Error('not installed: npm install --prefix bench');
  }
}

let torch;

/** Loads PyTorch once, which takes seconds. */
function torchVersion() {
  torch ??= spawnSync(PYTHON, ['-c', 'import torch; print(torch.__version__)']);
  if (torch.status !== 0) throw new Error(`${PYTHON} has no torch; PYTHON may name another one`);
  return String(torch.stdout).trim();
}
