/**
 * Kills training at random moments, each time resumes it with the same command, and compares what it writes with what a run
 * without kills writes. Every feature with state is on: images that threads decode and augment, mixup, weighted sampling, early
 * stopping, best and last checkpoints, a plateau schedule, averaged weights.
 *
 *   node bench/kills.mjs [KILLS [SEED]]    # after npm run build; prints a line for each run
 */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';

const CLI = fileURLToPath(new URL('../bin/agd-onnx.js', import.meta.url));
const LENET = fileURLToPath(new URL('../models/lenet.onnx', import.meta.url));
const CLASSES = { few: 8, many: 48, some: 24 };
const KILLS_PER_RUN = 10;

const [kills = 100, seed = 1] = process.argv.slice(2).map(Number);

/** Uniform in [0, 1): mulberry32. */
let state = seed;
function draw() {
  state = (state + 0x6d2b79f5) | 0;
  let x = Math.imul(state ^ (state >>> 15), 1 | state);
  x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
  return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
}

/** A folder for each class, with squares of its own brightness under noise. */
async function makeImages(folder) {
  for (const [label, [name, count]] of Object.entries(CLASSES).entries()) {
    mkdirSync(join(folder, name), { recursive: true });
    for (let i = 0; i < count; i++) {
      const pixels = Buffer.alloc(32 * 32);
      for (let p = 0; p < pixels.length; p++) pixels[p] = 40 + 60 * label + 55 * draw();
      const raw = { width: 32, height: 32, channels: 1 };
      await sharp(pixels, { raw })
        .png()
        .toFile(join(folder, name, `${i}.png`));
    }
  }
}

const commandOf = (folder, name, runSeed) => [
  ...['train', LENET, '--loss', 'cross-entropy', '--data', join(folder, 'images'), '--val-split', '0.25'],
  ...[
    '--columns',
    'input=image:image(resize=30)',
    '--augment',
    'flip,crop:padding=2,color:brightness=0.3,mixup',
  ],
  ...['--sampler', 'weighted', '--batch-size', '8', '--epochs', '14', '--lr', '2e-3', '--seed', `${runSeed}`],
  ...['--schedule', 'plateau:patience=2,factor=0.5', '--ema', '0.98', '--export-ema'],
  ...['--metric', 'accuracy', '--monitor', 'accuracy', '--patience', '9', '--min-delta', '0.001'],
  ...['--keep-best', '3', '--keep-last', '2', '--save-every', '3steps', '--json'],
  ...['--state', join(folder, `${name}.agd.onnx`), '-o', join(folder, `${name}.onnx`)],
];

/** Runs until the end, or until it is killed some milliseconds after it starts or makes its first step. True where it was killed. */
async function run(args, kill) {
  const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let killed = false;
  let errors = '';
  const shoot = () => {
    killed = child.exitCode === null && child.kill('SIGKILL');
  };
  let timer = kill && !kill.afterStep ? setTimeout(shoot, kill.ms) : undefined;
  child.stderr.on('data', text => {
    errors += text;
  });
  for await (const line of createInterface({ input: child.stdout }))
    if (kill?.afterStep && line.includes('"type":"step"')) timer ??= setTimeout(shoot, kill.ms);
  if (child.exitCode === null && child.signalCode === null)
    await new Promise(resolve => child.once('exit', resolve));
  clearTimeout(timer);
  if (!killed && child.exitCode !== 0) throw new Error(`exit code ${child.exitCode}: ${errors}`);
  return killed && child.signalCode === 'SIGKILL';
}

function filesOf(folder, name) {
  const checkpoints = `${name}.agd.onnx.checkpoints`;
  const kept = readdirSync(join(folder, checkpoints)).sort();
  return { exported: readFileSync(join(folder, `${name}.onnx`)), kept };
}

let [done, runs, different] = [0, 0, 0];
while (done < kills) {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-kills-'));
  try {
    await makeImages(join(folder, 'images'));
    const runSeed = seed * 1000 + runs++;
    const begin = performance.now();
    await run(commandOf(folder, 'whole', runSeed));
    const length = performance.now() - begin;
    let own = 0;
    for (;;) {
      const isLast = own >= KILLS_PER_RUN || done >= kills;
      // Mostly while it trains, and sometimes while it starts or resumes.
      const kill = { afterStep: draw() < 0.8, ms: draw() * length * 0.15 };
      if (!(await run(commandOf(folder, 'killed', runSeed), isLast ? undefined : kill))) break;
      own++;
      done++;
    }
    const [whole, killed] = ['whole', 'killed'].map(name => filesOf(folder, name));
    const isSame = whole.exported.equals(killed.exported) && String(whole.kept) === String(killed.kept);
    if (!isSame) different++;
    console.log(
      `run ${runs}: ${own} kills, ${isSame ? 'same bytes' : `DIFFERENT (${whole.kept} and ${killed.kept})`}`,
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
console.log(
  `${done} kills in ${runs} runs: ${different ? `${different} runs differ` : 'the bytes of runs without kills'}`,
);
process.exitCode = different ? 1 : 0;
