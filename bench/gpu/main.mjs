/** `npm run bench:gpu`: what a machine with one GPU shows within ten minutes, see --help. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { EPOCHS, WORKLOADS } from './models.mjs';
import { markdown } from './report.mjs';

const HELP = `npm run bench:gpu -- [options]

Trains on one GPU, compares with the CPU and with PyTorch on the same GPU, and writes a table. Each part runs in a process of
its own with its own time limit: one that fails or crashes leaves the results of the others.

Parts
  conformance  each conformance model on the device and on the CPU: losses, first gradients, parameters
  epochs       one epoch of LeNet, ResNet-20 and GPT
  speed        the time of a step of ${WORKLOADS.map(w => w.name).join(', ')}; transfers, memory
  peers        the same models in PyTorch: eager with AGD, with fused AdamW, and compiled

Options
  --device NAME   cuda, cuda:N, webgpu or cpu [cuda]
  --cases DIR     folder of conformance models [../shared/conformance/models]
  --parts LIST    parts to run [conformance,epochs,speed,peers]
  --only LIST     models and workloads to run [all]
  --minutes N     time limit of the whole [10]
  --quick         tiny models and short times, to try the script
  --out DIR       folder for gpu.json and gpu.md [bench/results]
  --help

The exit code is 1 if a model failed, or differs from the CPU.
PYTHON names the Python that has PyTorch [python3].`;

const ROOT = join(import.meta.dirname, '../..');
const PYTHON = process.env.PYTHON ?? 'python3';
const PARTS = ['conformance', 'epochs', 'speed', 'peers'];
const PEERS = ['eager-agd', 'fused-adamw', 'compiled-adamw'];

const values = readArguments();
if (values.help) console.log(HELP);
else await main();

function readArguments() {
  const text = { type: 'string' };
  const flag = { type: 'boolean', default: false };
  try {
    const { values } = parseArgs({
      options: {
        device: { ...text, default: 'cuda' },
        cases: { ...text, default: join(ROOT, '../shared/conformance/models') },
        parts: { ...text, default: PARTS.join(',') },
        only: text,
        minutes: { ...text, default: '10' },
        quick: flag,
        out: { ...text, default: join(ROOT, 'bench/results') },
        help: flag,
      },
    });
    const unknown = values.parts.split(',').find(part => !PARTS.includes(part));
    if (unknown !== undefined)
      throw new Error(`There is no part '${unknown}'; there are ${PARTS.join(', ')}.`);
    if (!(Number(values.minutes) > 0))
      throw new Error(`--minutes must be a number above 0, not '${values.minutes}'.`);
    if (!/^(cpu|webgpu|cuda(:\d+)?)$/.test(values.device))
      throw new Error(`--device must be one of cuda, cuda:N, webgpu, cpu, not '${values.device}'.`);
    return values;
  } catch (error) {
    console.error(`bench:gpu: ${error.message}`);
    process.exit(1);
  }
}

async function main() {
  const { device, quick } = values;
  const end = performance.now() + 60_000 * Number(values.minutes);
  const gpu = query('name,driver_version,memory.total')?.[0];
  const result = {
    date: new Date().toISOString().slice(0, 10),
    device,
    deviceName: device === 'cpu' ? cpus()[0].model : (gpu?.join(', driver ') ?? undefined),
    machine: `${process.platform} ${release()}, Node ${process.version}, ${cpus().length} cores`,
    quick,
    conformance: [],
    epochs: [],
    speed: [],
    peers: [],
    leftOut: [],
  };
  if (device !== 'cpu' && !gpu)
    result.leftOut.push({
      part: 'GPU',
      reason: 'nvidia-smi reports none: no name, use or memory of the device is known',
    });
  mkdirSync(values.out, { recursive: true });
  const save = () => {
    writeFileSync(join(values.out, 'gpu.json'), `${JSON.stringify(result, undefined, 1)}\n`);
    writeFileSync(join(values.out, 'gpu.md'), markdown(result));
  };
  /** Runs a process within its limit and what is left of the whole; the reason if it did not end well. */
  const within = (part, seconds, command, on) => {
    const left = (end - performance.now()) / 1000;
    if (left < 5) {
      result.leftOut.push({ part, reason: 'no time was left' });
      return { reason: 'no time was left', exhausted: true };
    }
    return run(command, Math.min(seconds, left), on);
  };
  const wanted = new Set(values.parts.split(','));
  const has = name => !values.only || values.only.split(',').includes(name);
  const ours = (part, options) => [
    process.execPath,
    join(import.meta.dirname, 'parts.mjs'),
    part,
    JSON.stringify({ device, tiny: quick, ...options }),
  ];

  if (wanted.has('conformance')) await conformance();
  save();
  if (wanted.has('epochs'))
    for (const name of ['lenet', ...Object.keys(EPOCHS)].filter(has)) await epoch(name);
  for (const workload of WORKLOADS.filter(({ name }) => has(name))) {
    if (wanted.has('speed')) await speed(workload);
    if (wanted.has('peers')) await peers(workload);
  }
  save();
  console.log(markdown(result));
  console.log(`wrote ${join(values.out, 'gpu.json')} and gpu.md`);
  const failed = [...result.conformance, ...result.epochs, ...result.speed];
  if (failed.some(({ error, passed }) => error || passed === false)) process.exitCode = 1;

  async function conformance() {
    if (!existsSync(values.cases)) {
      result.leftOut.push({
        part: 'conformance',
        reason: `there is no folder ${values.cases}: name one with --cases`,
      });
      return;
    }
    const pending = readdirSync(values.cases)
      .sort()
      .filter(name => has(name) && existsSync(join(values.cases, name, 'case.json')))
      .map(name => join(values.cases, name));
    const limit = performance.now() + 1000 * 150;
    while (pending.length && performance.now() < limit) {
      let current;
      const seen = line => {
        if (line.begins) current = line.name;
        else if (line.name) {
          result.conformance.push(line);
          pending.shift();
          current = undefined;
          console.log(`${line.name}: ${line.error ?? (line.passed ? 'ok' : 'differs')}`);
        } else if (line.error) result.leftOut.push({ part: 'conformance', reason: line.error });
      };
      const left = (limit - performance.now()) / 1000;
      const ended = await within('conformance', left, ours('conformance', { models: pending }), seen);
      if (ended.exhausted) return;
      if (!ended.reason || !current) break;
      // The model that ended the process is left out, and the next ones go on.
      seen({ name: current, error: ended.reason });
    }
    for (const folder of pending)
      result.leftOut.push({ part: `conformance of ${basename(folder)}`, reason: 'no time was left' });
  }

  async function epoch(name) {
    const found = { name };
    const ended = await within(`epoch of ${name}`, 40, ours('epoch', { name }), line =>
      Object.assign(found, line),
    );
    if (ended.exhausted) return;
    if (ended.reason) found.error ??= ended.reason;
    result.epochs.push(found);
    console.log(
      `epoch of ${name}: ${found.error ?? `${found.seconds.toFixed(1)} s, loss ${found.loss?.toFixed(3)}`}`,
    );
    save();
  }

  async function speed({ name, title }) {
    const found = { name, title };
    const watch = device === 'cpu' ? undefined : watchGpu();
    const seconds = quick ? 0.2 : 15;
    const ended = await within(`speed of ${name}`, 75, ours('speed', { name, seconds }), line =>
      Object.assign(found, line),
    );
    Object.assign(found, watch?.stop());
    if (ended.exhausted) return;
    if (ended.reason) found.error ??= ended.reason;
    result.speed.push(found);
    console.log(`${name}: ${found.error ?? `${found.ms.toFixed(2)} ms a step`}`);
    save();
  }

  async function peers(workload) {
    const { kind, name } = workload;
    const { sizes, batch } = quickSizes(workload);
    const options = {
      kind,
      sizes,
      batch,
      device,
      seconds: quick ? 0.2 : 8,
      peers: quick ? PEERS.slice(0, 2) : PEERS,
    };
    if (device === 'webgpu') {
      result.leftOut.push({ part: `peers of ${name}`, reason: 'PyTorch has no WebGPU' });
      return;
    }
    const command = [PYTHON, join(import.meta.dirname, 'torch_peer.py'), JSON.stringify(options)];
    const ended = await within(`peers of ${name}`, 90, command, line => {
      if (line.torch) Object.assign(result, { pytorch: line });
      if (!line.peer) return;
      result.peers.push({ workload: name, ...line });
      console.log(`${name}, ${line.peer}: ${line.error ?? `${line.ms.toFixed(2)} ms a step`}`);
    });
    if (ended.reason && !ended.exhausted)
      result.leftOut.push({ part: `peers of ${name}`, reason: ended.reason });
    save();
  }

  function quickSizes(workload) {
    return {
      sizes: quick ? workload.tiny : workload.sizes,
      batch: quick ? Math.min(4, workload.batch) : workload.batch,
    };
  }
}

/** Runs a command, whose lines of JSON `on` is told; the reason where it fails. */
function run([program, ...args], seconds, on) {
  return new Promise(resolve => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let [last, timedOut] = ['', false];
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
    }, 1000 * seconds);
    createInterface({ input: child.stdout }).on('line', line => {
      try {
        on(JSON.parse(line));
      } catch {
        last = line;
      }
    });
    createInterface({ input: child.stderr }).on('line', line => {
      if (line.trim()) last = line.trim();
    });
    child.on('error', error => {
      clearTimeout(timer);
      resolve({ reason: error.code === 'ENOENT' ? `${program} is not installed` : error.message });
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (timedOut) resolve({ reason: `its limit of ${Math.round(seconds)} s passed` });
      else if (signal) resolve({ reason: `it crashed (${signal})` });
      else resolve(code === 0 ? {} : { reason: last || `exit code ${code}` });
    });
  });
}

/** Rows of what nvidia-smi tells. */
function query(fields) {
  const { status, stdout } = spawnSync(
    'nvidia-smi',
    [`--query-gpu=${fields}`, '--format=csv,noheader,nounits'],
    {
      encoding: 'utf8',
    },
  );
  return status === 0
    ? stdout
        .trim()
        .split('\n')
        .map(line => line.split(', '))
    : undefined;
}

/** How much of the GPU is used, until it is stopped: the memory at its peak, and the median use while it works. */
function watchGpu() {
  const samples = [];
  const index = values.device.split(':')[1] ?? '0';
  const args = [
    '-i',
    index,
    '--query-gpu=utilization.gpu,memory.used',
    '--format=csv,noheader,nounits',
    '-lms',
    '200',
  ];
  const child = spawn('nvidia-smi', args, { stdio: ['ignore', 'pipe', 'ignore'] });
  child.on('error', () => {});
  createInterface({ input: child.stdout }).on('line', line => samples.push(line.split(', ').map(Number)));
  return {
    stop() {
      child.kill();
      if (!samples.length) return {};
      const busy = samples
        .map(([use]) => use)
        .slice(samples.length >> 1)
        .sort((a, b) => a - b);
      return {
        busy: busy[busy.length >> 1],
        deviceMegabytes: Math.max(...samples.map(([, memory]) => memory)),
      };
    },
  };
}
