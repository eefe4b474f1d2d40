/** The script for GPU machines, on the CPU with tiny models: each part, and what happens to the others if one fails. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { saveModel } from '../../src/graph/files.js';
import { Tensor } from '../../src/graph/tensor.js';
import { writeSafetensors } from '../../src/runtime/data/safetensors.js';
import { mlp, mlpData } from '../sample.js';

const SCRIPT = join(import.meta.dirname, '../../bench/gpu/main.mjs');
let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
  for (const name of ['first', 'second']) {
    const path = join(folder, 'cases', name);
    mkdirSync(path, { recursive: true });
    const [x, target] = [...mlpData(12).values()].map(
      ({ dtype, dims, bytes }) => new Tensor(dtype, [3, 4, ...dims.slice(1)], bytes),
    );
    await saveModel(mlp(), join(path, 'model.onnx'));
    await writeSafetensors(
      join(path, 'case.safetensors'),
      new Map([
        ['input:x', x!],
        ['target', target!],
      ]),
    );
    const info = { steps: 3, loss: { kind: 'cross-entropy' }, agd: { lr: 0.01 }, batchNorm: 'train' };
    writeFileSync(join(path, 'case.json'), JSON.stringify(info));
  }
  writeFileSync(join(folder, 'cases/second/model.onnx'), 'not a model');
});
afterAll(() => rmSync(folder, { recursive: true }));

function bench(...args: string[]) {
  const out = join(folder, 'out');
  const all = [SCRIPT, '--quick', '--cases', join(folder, 'cases'), '--out', out, ...args];
  const env = { ...process.env, PYTHON: join(folder, 'no-python') };
  const { status, stdout, stderr } = spawnSync(process.execPath, all, { encoding: 'utf8', env });
  const read = (name: string) => readFileSync(join(out, name), 'utf8');
  return { status, output: stdout + stderr, read, result: () => JSON.parse(read('gpu.json')) };
}

it('runs whole, and a part that fails leaves the others', () => {
  const { status, output, read, result } = bench('--device', 'cpu');
  const { conformance, epochs, speed, peers, leftOut } = result();
  expect(conformance).toMatchObject([
    { name: 'first', passed: true, losses: 0, gradients: 0, parameters: 0 },
    { name: 'second', error: expect.stringContaining('Not an ONNX file') },
  ]);
  expect(epochs.map((e: { name: string }) => e.name)).toEqual(['lenet', 'resnet20', 'gpt']);
  for (const { loss, error } of epochs) expect({ loss, error }).toEqual({ loss: expect.any(Number) });
  expect(speed.map((s: { name: string }) => s.name)).toEqual(['mlp', 'gpt2', 'resnet50', 'dcn']);
  for (const { ms, stepsPerRun, error } of speed)
    expect({ ms, stepsPerRun, error }).toEqual({ ms: expect.any(Number), stepsPerRun: expect.any(Number) });
  expect(peers).toEqual([]);
  expect(leftOut).toContainEqual({
    part: 'peers of mlp',
    reason: expect.stringContaining('is not installed'),
  });
  expect(read('gpu.md')).toMatch(/\| first \| 3 \| 0 \| 0 \| 0 \| ok \|/);
  expect(output).toContain('## Time of a step');
  // A model that cannot be read is a failure.
  expect(status).toBe(1);
});

it('says what had no time, and refuses what there is not', () => {
  const { status, result } = bench('--device', 'cpu', '--minutes', '0.01');
  expect(status).toBe(0);
  expect(result().leftOut).toContainEqual({ part: 'speed of dcn', reason: 'no time was left' });
  expect(bench('--parts', 'speed,all').output).toMatch(
    /There is no part 'all'; there are conformance, epochs/,
  );
  expect(bench('--device', 'npu').output).toMatch(
    /--device must be one of cuda, cuda:N, webgpu, cpu, not 'npu'/,
  );
});
