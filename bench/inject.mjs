/** What `agd-onnx inject` costs: time by nodes, memory by weights. Each figure is of a process of its own. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statfsSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { saveModel } from '../dist/node/index.js';
import { chain, wide } from './models.mjs';

const CLI = fileURLToPath(new URL('../bin/agd-onnx.js', import.meta.url));
const MEASURE = fileURLToPath(new URL('./peak-memory.mjs', import.meta.url));

/** Rows of [workload, seconds, MB of peak memory], medians of `runs`. */
export async function benchInject({
  nodes = [1000, 10000, 100000],
  megabytes = [10, 100, 1024, 3072],
  runs = 3,
} = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-bench-'));
  try {
    const rows = [];
    for (const n of nodes)
      for (const plain of [0, 16]) {
        const path = join(folder, `chain-${n}-${plain}.onnx`);
        await saveModel(chain(n, plain), path);
        const parameters = 2 * Math.ceil(n / (4 + plain));
        rows.push({
          workload: `${n} nodes, ${parameters} parameters`,
          ...measure(path, n > 50_000 ? 1 : runs),
        });
      }
    for (const size of megabytes) {
      const free = statfsSync(folder);
      if (free.bavail * free.bsize < 3 * size * 2 ** 20) {
        rows.push({ workload: `${size} MB of external weights`, error: 'left out: the disk has no room' });
        continue;
      }
      const path = join(folder, `wide-${size}.onnx`);
      await saveModel(wide(size), path, { externalData: 'always' });
      rows.push({ workload: `${size} MB of external weights`, ...measure(path, size > 500 ? 1 : runs) });
      rmSync(path);
      rmSync(`${path}.data`);
    }
    return rows;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function measure(path, runs) {
  const results = Array.from({ length: runs }, () => {
    const args = [
      '--import',
      MEASURE,
      CLI,
      'inject',
      path,
      '--loss',
      'mse',
      '-o',
      path.replace('.onnx', '.agd.onnx'),
    ];
    const begin = performance.now();
    const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    const seconds = (performance.now() - begin) / 1000;
    const peak = /peak memory (\d+) kB/.exec(stderr);
    if (status !== 0 || !peak) throw new Error(`inject failed: ${stderr}`);
    return { seconds, megabytes: Number(peak[1]) / 1024 };
  });
  const median = key => results.map(r => r[key]).sort((a, b) => a - b)[Math.floor(runs / 2)];
  return { seconds: median('seconds'), megabytes: median('megabytes'), file: statSync(path).size };
}
