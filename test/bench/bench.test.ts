import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
// @ts-expect-error: plain JavaScript without types
import { PEERS, takesPart } from '../../bench/peers.mjs';
// @ts-expect-error: plain JavaScript without types
import { race } from '../../bench/race.mjs';
// @ts-expect-error: plain JavaScript without types
import { against, tableData } from '../../bench/tables.mjs';
// @ts-expect-error: plain JavaScript without types
import { WORKLOADS } from '../../bench/workloads.mjs';

const bench = (...args: string[]) =>
  promisify(execFile)(process.execPath, [join(import.meta.dirname, '../../bench/main.mjs'), ...args]);

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bench-'));
});
afterAll(() => rm(folder, { recursive: true }));

type Measured = { ms: number; megabytes: number };

/** A result in which the models take these times and memory: ours, and PyTorch's. */
const resultOf = (rows: Record<string, [Measured, Measured]>) => ({
  peers: PEERS.filter((p: { name: string }) => ['agd-onnx', 'pytorch'].includes(p.name)),
  leftOut: [],
  rows: Object.entries(rows).map(([workload, [ours, theirs]]) => ({
    ...{ workload, threads: 2, parameters: 10 },
    results: { 'agd-onnx': ours, pytorch: theirs },
  })),
});

const of = (ms: number, megabytes = 100) => ({ ms, megabytes });

test('a ratio that is more than a tenth below the earlier one is a loss', () => {
  const before = resultOf({ lenet: [of(10), of(20)], gpt: [of(10), of(20)], dcn: [of(10), of(20)] });
  const now = resultOf({ lenet: [of(20), of(37)], gpt: [of(20), of(35)], lstm: [of(1), of(1)] });
  const { text, lost } = against(now, before);
  expect(lost).toEqual(['gpt against PyTorch, eager']);
  expect(text).toContain('2.00');
  expect(text).not.toContain('LSTM');
  expect(against(resultOf({ lstm: [of(1), of(1)] }), before)).toEqual({ lost: [] });
});

test('goals: each ratio, the geometric mean of the small models, and memory', () => {
  const train = resultOf({
    lenet: [of(10), of(20)],
    gpt: [of(10), of(9)],
    'agd-1': [of(10), of(500)],
    'vit-small': [of(10, 109), of(9)],
  });
  const rows = (title: RegExp) =>
    tableData({ train }).find((table: { title: string }) => title.test(table.title)).rows;
  expect(rows(/time over ours/)).toEqual([
    ['LeNet, batch 64', 'PyTorch, eager', '2.00', '1 reached'],
    ['GPT', 'PyTorch, eager', '0.90', '1 missed'],
    ['AGD alone, 1 tensor', 'PyTorch, eager', '50.00', '1 reached'],
    ['ViT-small, 8 x 224²', 'PyTorch, eager', '0.90', '0.9 reached'],
    ['Geometric mean of 2', 'PyTorch, eager', '1.34', '1.4 missed'],
  ]);
  expect(rows(/peak memory/)).toEqual([
    ['LeNet, batch 64', '1.00', '1 reached'],
    ['GPT', '1.00', '1 reached'],
    ['AGD alone, 1 tensor', '1.00', '1 reached'],
    ['ViT-small, 8 x 224²', '1.09', '1.1 reached'],
  ]);
});

test('models of real size run beside PyTorch alone, and beside torch.compile where it is named', () => {
  const peersOf = (name: string, isNamed = false) => {
    const workload = WORKLOADS.find((w: { name: string }) => w.name === name);
    return PEERS.filter((p: object) => takesPart(p, workload, { isNamed })).map(
      (p: { name: string }) => p.name,
    );
  };
  expect(peersOf('gpt2-small')).toEqual(['agd-onnx', 'pytorch']);
  expect(peersOf('gpt2-small', true)).toEqual(['agd-onnx', 'pytorch', 'pytorch-compiled']);
  expect(peersOf('artifacts')).toEqual(['agd-onnx', 'onnxruntime-web']);
});

test('agd-onnx takes part in a race', async () => {
  await writeFile(join(folder, 'small.json'), JSON.stringify({ parameters: { p0: { dims: [10] } } }));
  const [ours] = PEERS;
  const racer = { name: 'agd-onnx', threads: true, ...ours.racer([folder, 'small', '1'], {}) };
  const results = await race([racer], { rounds: 1, seconds: 0.01, patience: 60 });
  expect(results['agd-onnx'].error).toBeUndefined();
  expect(results['agd-onnx'].losses).toHaveLength(5);
  expect(results['agd-onnx'].ms).toBeGreaterThan(0);
});

test('unknown names and files that are no results are refused before anything runs', async () => {
  const refused = (...args: string[]) => bench(...args).catch((e: { stderr: string }) => e.stderr);
  expect(await refused('gpt3')).toMatch(/There is no 'gpt3'; there are limits, .*gpt2-small/);
  expect(await refused('--against', join(folder, 'missing.json'))).toMatch(
    /is not the --json file of a bench/,
  );
  expect(await refused('--only', 'gpt')).toMatch(/Unknown option '--only'/);
  expect((await bench('--help')).stdout).toContain('--against FILE');
});
