/**
 * `npm run bench -- [inject] [train] [--only mlp-32,lenet] [--json FILE] [--seconds 3]`: what injecting costs, and
 * a training step beside PyTorch's. PyTorch is looked for in the Python that PYTHON names (else python3).
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { renderTable } from '../dist/cli/ui/table.js';
import { benchInject } from './inject.mjs';

const WORKLOADS = ['mlp-32', 'mlp-128', 'lenet', 'resnet20', 'lstm', 'gpt', 'dcn'];
const PYTHON = process.env.PYTHON ?? 'python3';
const PEER = fileURLToPath(new URL('./peers/pytorch.py', import.meta.url));
const OURS = fileURLToPath(new URL('./train-one.mjs', import.meta.url));

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: 'string' },
    json: { type: 'string' },
    seconds: { type: 'string', default: '3' },
    threads: { type: 'string', default: '1,2' },
    quick: { type: 'boolean', default: false },
  },
});
const suites = positionals.length ? positionals : ['inject', 'train'];
const result = { node: process.version, processor: cpus()[0].model, cores: cpus().length };

if (suites.includes('inject')) {
  const sizes = values.quick ? { nodes: [1000, 10000], megabytes: [10, 1024], runs: 1 } : {};
  result.inject = await benchInject(sizes);
  const rows = result.inject.map(r => [r.workload, r.seconds.toFixed(2), r.megabytes.toFixed(0)]);
  console.log(renderTable({ head: ['inject, whole process', 'seconds', 'MB at peak'], rows }));
}

if (suites.includes('train')) {
  const found = spawnSync(PYTHON, ['-c', 'import torch; print(torch.__version__)'], { encoding: 'utf8' });
  if (found.status !== 0)
    console.log(`train: left out, ${PYTHON} has no torch (it also exports the models).`);
  else result.train = benchTrain(found.stdout.trim());
}
if (values.json) writeFileSync(values.json, `${JSON.stringify(result, undefined, 1)}\n`);

/** Ours and PyTorch's in turn, workload by workload; the ratio is PyTorch's time over ours. */
function benchTrain(version) {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-bench-'));
  try {
    execFileSync(PYTHON, [PEER, 'export', folder], { stdio: 'ignore' });
    const measured = [];
    for (const name of values.only?.split(',') ?? WORKLOADS)
      for (const threads of values.threads.split(',')) {
        const ours = json(process.execPath, [OURS, join(folder, `${name}.onnx`), threads, values.seconds]);
        const peer = json(PYTHON, [PEER, 'run', name, '--threads', threads, '--seconds', values.seconds]);
        measured.push({ name, threads: Number(threads), ours, peer });
      }
    const rows = measured.map(({ name, threads, ours, peer }) => [
      name,
      threads,
      ours.ms?.toFixed(2) ?? ours.error,
      peer.ms?.toFixed(2) ?? peer.error,
      ours.ms && peer.ms ? (peer.ms / ours.ms).toFixed(2) : '',
      ours.megabytes?.toFixed(0) ?? '',
      peer.megabytes?.toFixed(0) ?? '',
    ]);
    const peer = `PyTorch ${version}, eager, official AGD's update`;
    console.log(
      renderTable({ head: ['step', 'threads', 'ms', `ms, ${peer}`, 'ratio', 'MB', 'MB, peer'], rows }),
    );
    return measured;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function json(command, args) {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) return { error: stderr.trim().split('\n').at(-1).slice(0, 80) };
  return JSON.parse(stdout.trim().split('\n').at(-1));
}
