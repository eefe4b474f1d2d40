/** What a user waits for: help, and the first training step after a command. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { median } from './race.mjs';

const CLI = fileURLToPath(new URL('../bin/agd-onnx.js', import.meta.url));
const LENET = fileURLToPath(new URL('../models/lenet.onnx', import.meta.url));
const DIGITS = fileURLToPath(new URL('../models/mnist/train.npz', import.meta.url));

/** Rows of `{what, ms, goal}`, medians of `runs`. */
export async function measureStart({ runs = 9 } = {}) {
  const rows = [{ what: 'node, nothing loaded', ms: time(['-e', '0'], runs) }];
  for (const args of [['--help'], ['train', '--help']])
    rows.push({ what: `agd-onnx ${args.join(' ')}`, ms: time([CLI, ...args], runs), goal: 150 });
  const first = [];
  for (let i = 0; i < runs; i++) first.push(await firstStep());
  rows.push({ what: 'first step of LeNet', ms: median(first), goal: 1500 });
  return rows;
}

function time(args, runs) {
  const times = Array.from({ length: runs }, () => {
    const begin = performance.now();
    const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr);
    return performance.now() - begin;
  });
  return median(times);
}

/** Until the log of a training command names its first step. */
async function firstStep() {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-bench-'));
  const log = join(folder, 'log');
  const options = ['--loss', 'cross-entropy', '--data', DIGITS, '--batch-size', '64', '--scale', '1/255'];
  const begin = performance.now();
  const args = [CLI, 'train', LENET, ...options, '--log', log, '-o', join(folder, 'trained.onnx')];
  const child = spawn(process.execPath, args, { stdio: 'ignore' });
  try {
    while (!existsSync(log) || !readFileSync(log, 'utf8').includes('"type":"step"')) {
      if (child.exitCode !== null) throw new Error('Training LeNet ended before its first step.');
      await new Promise(resolve => setTimeout(resolve, 2));
    }
    return performance.now() - begin;
  } finally {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  }
}
