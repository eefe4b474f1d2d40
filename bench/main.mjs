/** `npm run bench`: compares agd-onnx with its peers, see --help. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { chart } from './chart.mjs';
import { benchInject } from './inject.mjs';
import { measureLimits } from './limits.mjs';
import { PEERS, PYTHON, PYTORCH, takesPart } from './peers.mjs';
import { race } from './race.mjs';
import { measureStart } from './start.mjs';
import { against, describe, tables } from './tables.mjs';
import { WORKLOADS } from './workloads.mjs';

const SUITES = ['limits', 'start', 'inject', 'train'];
/** Real sizes take seconds a step, and longer to compile. */
const TURNS = { rounds: 7, seconds: 0.25, patience: 30 };
const REAL_TURNS = { rounds: 3, seconds: 1.5, patience: 400 };
const names = list => list.map(item => item.name).join(', ');

const HELP = `npm run bench -- [SUITE ...] [WORKLOAD ...] [options]

Compares agd-onnx with its peers, which take turns in one run, and lists what was left out. If workloads are named, such
as gpt2-small, only these run. Workloads: ${names(WORKLOADS)}.

Suites (default: all)
  limits   the machine's best rate for matrix products and for copying memory
  start    time of the command's help and of its first training step
  inject   time and memory of agd-onnx inject, by number of nodes and by size of the weights
  train    a training step, compared with each peer

Options
  --peers NAMES    ${names(PEERS)}
  --artifacts DIR  ORT training artifacts of an MLP (784 inputs, 10 classes), for onnxruntime-web and agd-onnx
    --threads LIST   numbers of threads, such as 1,2 [2]
  --rounds N       turns per peer [7; realistic sizes: 3]
  --seconds N      length of a turn [0.25; realistic sizes: 1.5]
  --patience N     leave out a peer that is not ready after this many seconds [30; realistic sizes: 400]
  --quick          three rounds of some small workloads against PyTorch with the most threads, in two minutes
  --fastest        compare the fastest steps instead of the median ones, for a busy machine
  --against FILE   compare the ratios with an earlier --json FILE; exit code 1 if any is more than 10 % lower
  --json FILE      write the results; bench/table.mjs turns them into the tables of docs/explain/performance.md
  --svg FILE       write a chart with the goals marked
  --help

The models are exported from PyTorch: PYTHON names a Python with torch [python3]. Realistic sizes also need
transformers, and are compared with torch.compile only if --peers names it. Install the JavaScript peers with
npm install --prefix bench.`;

const { values, positionals } = readArguments();
if (values.help) console.log(HELP);
else await main().catch(error => fail(error.message));

function readArguments() {
  const text = { type: 'string' };
  const flag = { type: 'boolean', default: false };
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        against: text,
        fastest: flag,
        peers: text,
        artifacts: text,
        json: text,
        svg: text,
        quick: flag,
        help: flag,
        threads: text,
        rounds: text,
        seconds: text,
        patience: text,
      },
    });
    chosen(positionals, [...SUITES, ...WORKLOADS.map(({ name }) => name)]);
    return { values, positionals };
  } catch (error) {
    fail(error.message);
  }
}

/** The items of `all` that a list with commas names. */
function select(list, all) {
  const wanted = list?.split(',');
  if (wanted)
    chosen(
      wanted,
      all.map(item => item.name),
    );
  return all.filter(item => !wanted || wanted.includes(item.name));
}

function chosen(wanted, known) {
  const unknown = wanted.find(name => !known.includes(name));
  if (unknown !== undefined) fail(`There is no '${unknown}'; there are ${known.join(', ')}.`);
}

function fail(message) {
  console.error(`bench: ${message}`);
  process.exit(1);
}

async function main() {
  const { quick } = values;
  const named = WORKLOADS.filter(({ name }) => positionals.includes(name));
  const workloads = named.length > 0 ? named : WORKLOADS.filter(w => !quick || w.quick);
  const peers = select(values.peers ?? (quick ? 'agd-onnx,pytorch' : undefined), PEERS);
  const threads = (values.threads ?? '2').split(',').map(Number);
  const earlier = values.against && readEarlier(values.against);
  const has = suite =>
    positionals.length === 0 || positionals.includes(suite) || (suite === 'train' && named.length > 0);
  const result = {
    date: new Date().toISOString().slice(0, 10),
    ...(values.fastest ? { isFastest: true } : {}),
    machine: {
      processor: cpus()[0].model,
      cores: cpus().length,
      gigabytes: Math.round(totalmem() / 2 ** 30),
    },
    system: `${process.platform} ${release()}, Node ${process.version}`,
  };
  const show = () => {
    for (const text of tables(result, new Set(shown))) console.log(`\n${text}`);
    if (values.json) writeFileSync(values.json, `${JSON.stringify(result, undefined, 1)}\n`);
    if (values.svg && result.train) writeFileSync(values.svg, chart(result));
  };
  const shown = [];
  const step = async (suite, measure) => {
    if (!has(suite)) return;
    result[suite] = await measure();
    shown.splice(0, shown.length, suite);
    show();
  };
  console.log(describe(result));
  await step('limits', () => measureLimits(threads));
  await step('start', () => measureStart(values.quick ? { runs: 3 } : {}));
  await step('inject', () =>
    benchInject(values.quick ? { nodes: [1000, 10_000], megabytes: [10], runs: 1 } : {}),
  );
  await step('train', () => train(workloads, peers, threads));
  if (earlier) compare(result, earlier, values.against);
}

function readEarlier(file) {
  try {
    const { train } = JSON.parse(readFileSync(file, 'utf8'));
    if (!train) throw new Error('it has no training steps');
    return { train };
  } catch (error) {
    fail(`${file} is not the --json file of a bench: ${error.message}.`);
  }
}

function compare({ train }, earlier, file) {
  const { text, lost } = train ? against(train, earlier.train) : { lost: [] };
  if (!text) fail(`${file} has no ratio that was measured now.`);
  console.log(`\n${text}`);
  if (lost.length) fail(`more than 10 % slower than in ${file}, against the same peer: ${lost.join(', ')}.`);
}

async function train(workloads, peers, threads) {
  const { present, leftOut } = whoIsThere(peers);
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-bench-'));
  try {
    const possible = workloads.filter(({ name }) => name !== 'artifacts' || values.artifacts);
    if (possible.length < workloads.length)
      leftOut.push({ peer: 'onnxruntime-web', workload: 'artifacts', reason: 'no --artifacts DIR is given' });
    prepare(folder, possible);
    const rows = [];
    const known = { rates: new Map(), late: new Map() };
    for (const workload of possible)
      for (const count of workload.real ? [Math.max(...threads)] : threads)
        rows.push(await row(folder, workload, count, present, count === Math.max(...threads), known));
    for (const { workload, threads, results } of rows)
      for (const [peer, { error }] of Object.entries(results))
        if (error) leftOut.push({ peer, workload, threads, reason: error });
    return {
      peers: present.map(({ racer, version, ...peer }) => ({ ...peer, version: version() })),
      leftOut,
      rows,
    };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function exported({ name, model = name }) {
  return model;
}

/** Writes what the racers read. */
function prepare(folder, workloads) {
  const names = new Set(workloads.map(exported));
  if (names.delete('artifacts')) {
    const parameters = { fc1: { dims: [500, 785] }, fc2: { dims: [10, 501] } };
    const text = JSON.stringify({ artifacts: values.artifacts, parameters });
    writeFileSync(join(folder, 'artifacts.json'), text);
  }
  if (names.size === 0) return;
  // In one process: to load PyTorch takes as long as most exports.
  spawnSync(PYTHON, [PYTORCH, 'export', folder, ...names]);
  const lacking = [...names].find(name => !existsSync(join(folder, `${name}.json`)));
  if (lacking !== undefined)
    throw new Error(
      `${PYTHON} exports no ${lacking}: it lacks torch, onnx, onnxscript or transformers. PYTHON may name another one.`,
    );
}

function whoIsThere(peers) {
  const leftOut = [];
  const present = peers.filter(({ name, version }) => {
    try {
      version();
      return true;
    } catch (error) {
      leftOut.push({ peer: name, reason: error.message });
      return false;
    }
  });
  return { present, leftOut };
}

/**
 * One workload with so many threads: each peer's result. `rates` are the fewest milliseconds that each peer has taken so far
 * per multiplication of such a kind: where even a step at that rate takes more than half of the time that a peer has to warm up,
 * it is not started. `late` are the peers that were not ready in time, each with the exported model: it is not started for that
 * again.
 */
async function row(folder, workload, threads, peers, isLast, { rates, late }) {
  const { name, options = {}, macs } = workload;
  const turns = workload.real ? REAL_TURNS : TURNS;
  const patience = Number(values.patience ?? turns.patience);
  const taking = peers.filter(
    peer => takesPart(peer, workload, { isNamed: !!values.peers }) && (isLast || peer.threads),
  );
  const kindOf = peer => `${peer.name} ${workload.convolutional ?? false}`;
  const secondsOf = peer => ((rates.get(kindOf(peer)) ?? 0) * macs) / 1000;
  const lateKey = peer => `${peer.name} ${exported(workload)}`;
  const racing = taking.filter(peer => secondsOf(peer) <= patience / 2 && !late.has(lateKey(peer)));
  const racers = racing.map(peer => ({
    name: peer.name,
    ...peer.racer([folder, exported(workload), String(threads)], options),
  }));
  const results = await race(racers, {
    rounds: Number(values.rounds ?? (values.quick ? 3 : turns.rounds)),
    seconds: Number(values.seconds ?? turns.seconds),
    patience,
    fastest: values.fastest,
  });
  for (const peer of taking) {
    const { ms } = results[peer.name] ?? {};
    if (ms && macs)
      rates.set(kindOf(peer), Math.min(ms / macs, rates.get(kindOf(peer)) ?? Number.POSITIVE_INFINITY));
    if (results[peer.name]?.isLate) late.set(lateKey(peer), results[peer.name].error);
    results[peer.name] ??= {
      error:
        late.get(lateKey(peer)) ??
        `a step would take ${Math.round(secondsOf(peer))} s at its best rate so far`,
    };
  }
  const { parameters } = JSON.parse(readFileSync(join(folder, `${exported(workload)}.json`), 'utf8'));
  const size = dims => dims.reduce((n, d) => n * d, 1);
  const row = {
    workload: name,
    threads,
    parameters: Object.values(parameters).reduce((n, p) => n + size(p.dims), 0),
    results,
  };
  const text = Object.entries(row.results).map(
    ([peer, r]) => `${peer} ${r.error ?? `${r.ms.toFixed(2)} ms`}`,
  );
  console.log(`${name}, ${threads} threads: ${text.join(', ')}`);
  return row;
}
