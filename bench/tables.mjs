/** Results as tables: data `{title, head, rows}`, shown on a terminal or as Markdown. */
import { renderTable } from '../dist/cli/ui/table.js';
import {
  MEAN_GOAL,
  MEMORY_GOAL,
  operations,
  REAL_MEMORY_GOAL,
  UPDATE_BYTES,
  WORKLOADS,
} from './workloads.mjs';

export const describe = ({ date, machine, system, isFastest }) =>
  `${date}, ${machine.processor}, ${machine.cores} cores, ${machine.gigabytes} GiB, ${system}${isFastest ? ', fastest steps instead of medians' : ''}`;

/** Texts of the tables of these suites. */
export function tables(result, suites) {
  return tableData(result)
    .filter(({ suite }) => suites.has(suite))
    .map(({ title, head, rows }) => `${title}\n${rows.length ? renderTable({ head, rows }) : 'none'}`);
}

/** All tables of a result, in the order they are shown in. */
export function tableData(result) {
  const { limits, start, inject, train } = result;
  return [
    ...(limits ? [limitTable(limits)] : []),
    ...(start ? [startTable(start)] : []),
    ...(inject ? [injectTable(inject)] : []),
    ...(train ? trainTables(train) : []),
    ...(train && limits ? [reachTable(train, limits)] : []),
  ];
}

/** With columns for the peers that have any result. */
function trainTables({ peers, rows, leftOut }) {
  const train = { peers: peers.filter(p => rows.some(r => r.results[p.name]?.ms)), rows, leftOut };
  return [peerTable, timeTable, goalTable, memoryTable, memoryGoalTable, lossTable, leftOutTable].map(table =>
    table(train),
  );
}

const digits = value => (value === undefined ? '' : value >= 100 ? value.toFixed(0) : value.toPrecision(3));
const titleOf = name => WORKLOADS.find(w => w.name === name).title;

function limitTable(limits) {
  return {
    suite: 'limits',
    title: 'Limits of the machine',
    head: ['threads', 'matrix product, Gflop/s', 'copy, read and written, GB/s'],
    rows: limits.map(l => [l.threads, digits(l.flops / 1e9), digits(l.bandwidth / 1e9)]),
  };
}

function startTable(start) {
  return {
    suite: 'start',
    title: 'Start',
    head: ['what', 'ms', 'goal'],
    rows: start.map(({ what, ms, goal }) => [
      what,
      ms.toFixed(0),
      goal === undefined ? '' : judged(goal, ms <= goal),
    ]),
  };
}

function injectTable(inject) {
  return {
    suite: 'inject',
    title: 'Inject, the whole command',
    head: ['model', 'seconds', 'MB at peak'],
    rows: inject.map(r => [r.workload, r.seconds?.toFixed(2) ?? r.error, r.megabytes?.toFixed(0) ?? '']),
  };
}

function peerTable({ peers }) {
  return {
    suite: 'train',
    title: 'Peers',
    head: ['peer', 'version', 'optimizer', 'threads'],
    rows: peers.map(({ title, version, optimizer, threads }) => [
      title,
      version,
      optimizer,
      threads ? 'as given' : 'one',
    ]),
  };
}

function timeTable({ peers, rows }) {
  return {
    suite: 'train',
    title: 'A training step, ms (median)',
    head: ['workload', 'threads', ...peers.map(p => p.title)],
    rows: rows.map(({ workload, threads, results }) => [
      titleOf(workload),
      threads,
      ...peers.map(p => digits(results[p.name]?.ms)),
    ]),
  };
}

/** With the most threads, the peer's time over ours: `{workload, mark, ratio, goal, peer}`. */
export function ratios({ peers, rows }) {
  const most = Math.max(...rows.map(r => r.threads));
  return rows
    .filter(r => r.threads === most && r.results['agd-onnx']?.ms)
    .flatMap(({ workload, results }) =>
      ['eager', 'compiled', 'js'].flatMap(mark => {
        const measured = peers.filter(p => p.mark === mark && results[p.name]?.ms);
        if (measured.length === 0) return [];
        const [best] = measured.toSorted((a, b) => results[a.name].ms - results[b.name].ms);
        const goal = WORKLOADS.find(w => w.name === workload).goals[mark];
        return [
          { workload, mark, ratio: results[best.name].ms / results['agd-onnx'].ms, goal, peer: best.title },
        ];
      }),
    );
}

/** The largest share of a ratio that may be lost against an earlier run. */
const LOSS = 0.1;

/** Ratios compared with an earlier run: `{text, lost}`, where `lost` names those that dropped by more than LOSS. No text if nothing is comparable. */
export function against(train, earlier) {
  const key = r => `${r.workload} against ${r.peer}`;
  const before = new Map(ratios(earlier).map(r => [key(r), r.ratio]));
  const common = ratios(train).filter(r => before.has(key(r)));
  const lost = common.filter(r => r.ratio < (1 - LOSS) * before.get(key(r))).map(key);
  const rows = common.map(r => [
    ...[titleOf(r.workload), r.peer, before.get(key(r)).toFixed(2), r.ratio.toFixed(2)],
    `${(100 * (r.ratio / before.get(key(r)) - 1)).toFixed(0)} %`,
  ]);
  if (rows.length === 0) return { lost };
  const head = ['workload', 'peer', 'before', 'now', 'change'];
  return { text: `The peer's time over ours, before and now\n${renderTable({ head, rows })}`, lost };
}

const judged = (goal, isReached) => `${goal} ${isReached ? 'reached' : 'missed'}`;

function goalTable(train) {
  const all = ratios(train);
  const rows = all.map(({ workload, ratio, goal, peer }) => [
    titleOf(workload),
    peer,
    ratio.toFixed(2),
    goal === undefined ? 'none' : judged(goal, ratio >= goal),
  ]);
  const eager = all.filter(r => r.mark === 'eager' && isMeant(r.workload));
  const mean = Math.exp(eager.reduce((sum, r) => sum + Math.log(r.ratio), 0) / eager.length);
  if (eager.length > 1)
    rows.push([
      `Geometric mean of ${eager.length}`,
      eager[0].peer,
      mean.toFixed(2),
      judged(MEAN_GOAL, mean >= MEAN_GOAL),
    ]);
  return {
    suite: 'train',
    title: "The peer's time over ours, most threads",
    head: ['workload', 'peer', 'ratio', 'goal'],
    rows,
  };
}

/** Of the seven small models, each counts once in the mean. */
function isMeant(name) {
  const { quick, macs } = WORKLOADS.find(w => w.name === name);
  return Boolean(quick) && macs > 0;
}

/** Beside PyTorch, eager. */
function memoryGoalTable({ peers, rows }) {
  const peer = peers.find(p => p.mark === 'eager');
  const most = Math.max(...rows.map(r => r.threads));
  const measured = rows.filter(
    r => r.threads === most && r.results['agd-onnx']?.megabytes && r.results[peer?.name]?.megabytes,
  );
  return {
    suite: 'train',
    title: `Our peak memory over that of ${peer?.title ?? 'PyTorch'}`,
    head: ['workload', 'ratio', 'goal'],
    rows: measured.map(({ workload, results }) => {
      const ratio = results['agd-onnx'].megabytes / results[peer.name].megabytes;
      const goal = WORKLOADS.find(w => w.name === workload).real ? REAL_MEMORY_GOAL : MEMORY_GOAL;
      return [titleOf(workload), ratio.toFixed(2), judged(goal, ratio <= goal)];
    }),
  };
}

function memoryTable({ peers, rows }) {
  return {
    suite: 'train',
    title: 'Peak memory of the process, MB',
    head: ['workload', 'threads', ...peers.map(p => p.title)],
    rows: rows.map(({ workload, threads, results }) => [
      titleOf(workload),
      threads,
      ...peers.map(p => results[p.name]?.megabytes?.toFixed(0) ?? ''),
    ]),
  };
}

/** The same start and the same optimizer have to give the same losses. */
function lossTable({ peers, rows }) {
  const most = Math.max(...rows.map(r => r.threads));
  const at = (r, i) => r?.losses?.[i]?.toFixed(4) ?? '';
  return {
    suite: 'train',
    title: 'Loss of the first and fifth step (the first parameter, where there is only an update)',
    head: ['workload', ...peers.map(p => p.title)],
    rows: rows
      .filter(r => r.threads === most)
      .map(({ workload, results }) => [
        titleOf(workload),
        ...peers.map(p => [at(results[p.name], 0), at(results[p.name], 4)].filter(Boolean).join(' / ')),
      ]),
  };
}

function leftOutTable({ leftOut }) {
  return {
    suite: 'train',
    title: 'Left out',
    head: ['peer', 'workload', 'threads', 'reason'],
    rows: leftOut.map(({ peer, workload, threads, reason }) => [
      peer,
      workload ? titleOf(workload) : 'all',
      threads ?? 'any',
      reason,
    ]),
  };
}

/** Step times over the machine's limit: the products at the best rate, then the update at the speed of copying. */
function reachTable({ rows }, limits) {
  return {
    suite: 'train',
    title: "Step time over the machine's limit",
    head: ['workload', 'threads', 'Gflop', 'MB of update', 'limit, ms', 'ours, ms', 'ours over limit'],
    rows: rows.flatMap(({ workload, threads, parameters, results }) => {
      const limit = limits.find(l => l.threads === threads);
      const { ms } = results['agd-onnx'] ?? {};
      if (!limit || !ms) return [];
      const known = WORKLOADS.find(w => w.name === workload);
      const flops = operations(known);
      const bytes = UPDATE_BYTES * (known.updated ?? parameters);
      const least = 1000 * (flops / limit.flops + bytes / limit.bandwidth);
      return [
        [
          ...[titleOf(workload), threads, digits(flops / 1e9), digits(bytes / 1e6)],
          ...[digits(least), digits(ms), (ms / least).toFixed(2)],
        ],
      ];
    }),
  };
}
