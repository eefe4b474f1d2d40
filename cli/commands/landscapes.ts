import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AgdError, allOptimizerNames, types } from '../../src/command/startup.js';
import type { Candidate, Model } from '../../src/internal.js';
import { candidatesOf } from '../candidates.js';
import { makeFolder, writeTexts } from '../files.js';
import type { Options } from '../flags.js';
import { PACKAGE } from '../package-folder.js';
import { commandLine } from '../run-display.js';
import { formatCount, formatNumber } from '../ui/format.js';
import { renderReport, type Section } from '../ui/report.js';
import type { Interval } from '../ui/scale.js';
import { lineChart } from '../ui/svg.js';
import { renderTable, type Table } from '../ui/table.js';
import { painter, printPainted } from '../ui/terminal.js';
import { CHART, trajectoryChart } from '../ui/trajectories.js';

const LANDSCAPES = fileURLToPath(new URL('models/landscapes/', PACKAGE));
const RATES = [1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1];
/** Points of the grid along each axis. */
const GRID = 120;

const RUN = { group: 'Run', commands: [], stage: 'run' } as const;

export const options = {
  optimizers: {
    ...RUN,
    type: types.text,
    group: 'Optimizer',
    shown: 'all',
    help: 'Optimizers to plot, e.g. agd,sgd(momentum=0.9)',
  },
  lr: {
    ...RUN,
    type: types.text,
    group: 'Optimizer',
    shown: RATES.map(formatNumber).join(),
    help: "Learning rates to try, e.g. '0.1,1; sgd=1e-3,1e-2'",
  },
  steps: { ...RUN, type: types.count, help: 'Steps per run', shown: '500' },
  seed: { ...RUN, type: types.countFromZero, help: 'Seed of the random signs of adahessian', shown: '0' },
  out: {
    ...RUN,
    type: types.text,
    group: 'Output',
    alias: 'o',
    help: 'Folder to write to',
    shown: 'landscapes',
  },
} satisfies Options;

export const examples = [["landscapes --optimizers 'agd,sgd(momentum=0.9)' -o landscapes", '']] as const;

type Args = {
  optimizers?: string;
  lr?: string;
  steps?: number;
  seed?: number;
  out?: string;
  color?: boolean;
};

/** What the model's file says of the function, as models/landscapes/make.mjs writes it. */
type Landscape = { formula: string; minimum: [number, number]; x: Interval; y: Interval };

/** Where an optimizer was before each step, and the values there. */
type Trajectory = { candidate: string; lr: number; points: number[][]; values: number[] };

export async function handler(args: Args): Promise<void> {
  const { optimizers = allOptimizerNames.join(), lr, steps = 500, seed = 0 } = args;
  const { out = 'landscapes', color } = args;
  const candidates = candidatesOf(optimizers, lr, () => RATES);
  const { loadModel } = await import('../../src/internal.js');
  await makeFolder(out);
  const files: Record<string, string> = {};
  const sections: Section[] = [];
  const rows = candidates.map(({ name }) => [name]);
  const head = ['optimizer'];
  for (const file of (await readdir(LANDSCAPES)).filter(name => name.endsWith('.onnx')).sort()) {
    const name = basename(file, '.onnx');
    const model = await loadModel(join(LANDSCAPES, file));
    const best: (Trajectory | undefined)[] = [];
    for (const candidate of candidates) best.push(await bestWay(model, candidate, steps, seed));
    best.forEach((trajectory, i) => {
      rows[i]!.push(
        trajectory ? formatNumber(trajectory.values.at(-1)!) : 'diverged',
        trajectory ? formatNumber(trajectory.lr) : '',
      );
    });
    head.push(name, 'lr');
    const charts = await draw(
      model,
      best.filter(trajectory => trajectory !== undefined),
    );
    for (const [what, svg] of Object.entries(charts)) files[`${name}-${what}.svg`] = svg;
    sections.push({ title: name, blocks: [{ kind: 'charts', svgs: Object.values(charts) }] });
  }
  const table = { head, rows };
  printPainted(renderTable(table, painter(process.stdout, color)));
  files['report.html'] = page(sections, table, steps);
  await writeTexts(out, files);
}

/** The trajectory with the lowest mean value, which favours a fast and direct descent; diverging ones are left out. */
async function bestWay(
  model: Model,
  candidate: Candidate,
  steps: number,
  seed: number,
): Promise<Trajectory | undefined> {
  let best: Trajectory | undefined;
  for (const lr of candidate.rates) {
    const trajectory = await walk(model, candidate, lr, steps, seed);
    if (trajectory && !(best && mean(trajectory.values) >= mean(best.values))) best = trajectory;
  }
  return best;
}

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b) / values.length;

async function walk(
  model: Model,
  { name: candidate, optimizer }: Candidate,
  lr: number,
  steps: number,
  seed: number,
): Promise<Trajectory | undefined> {
  const { inject, Trainer } = await import('../../src/internal.js');
  const loss = { kind: 'output', output: 'f' } as const;
  const injected = await inject(model, { loss, optimizer: { ...optimizer, lr }, seed });
  const trainer = await Trainer.create(injected.model, { threads: 1 });
  const trajectory: Trajectory = { candidate, lr, points: [], values: [] };
  try {
    for (let k = 0; k <= steps; k++) {
      trajectory.points.push(trainer.state.get('point')!.numbers());
      trajectory.values.push((await trainer.step({})).loss);
    }
    return trajectory;
  } catch (error) {
    if (error instanceof AgdError && error.code === 'non-finite') return undefined;
    throw error;
  } finally {
    await trainer.release();
  }
}

/** Charts of the trajectories over the function's contours, and of the values along them. */
async function draw(model: Model, trajectories: readonly Trajectory[]): Promise<Record<string, string>> {
  const { formula, minimum, x, y } = JSON.parse(model.metadata.get('landscape')!) as Landscape;
  const named = trajectories.map(trajectory => ({
    ...trajectory,
    name: `${trajectory.candidate} at ${formatNumber(trajectory.lr)}`,
  }));
  const ends = named.map(
    trajectory => `${trajectory.name} ends at ${formatNumber(trajectory.values.at(-1)!)}`,
  );
  const values = await valuesOn(model, x, y);
  return {
    trajectories: trajectoryChart({
      title: formula,
      description: `Contours of the function and the trajectories of optimizers from one point. ${ends.join(', ')}.`,
      x,
      y,
      minimum,
      grid: { columns: GRID, rows: GRID, values },
      paths: named,
    }),
    values: lineChart({
      title: 'Value after each step',
      height: CHART.height,
      x: { label: 'step' },
      y: { label: 'f', scale: 'log', min: 1e-8 },
      series: named.map(trajectory => ({ name: trajectory.name, y: trajectory.values })),
    }),
  };
}

/** The values on a grid: the model's nodes take many points as well as one. */
async function valuesOn(model: Model, x: Interval, y: Interval): Promise<number[]> {
  const { Session, Tensor } = await import('../../src/internal.js');
  const at = ([from, to]: Interval, k: number) => from + ((to - from) * k) / (GRID - 1);
  const points = Array.from({ length: GRID * GRID }, (_, k) => [
    at(x, k % GRID),
    at(y, Math.floor(k / GRID)),
  ]);
  const { graph } = model;
  const grid = Tensor.from('float32', [points.length, 2], Float32Array.from(points.flat()));
  for (const value of graph.initializers.keys())
    if (value.name === 'point') graph.initializers.set(value, grid);
  graph.outputs[0]!.type = { kind: 'tensor', dtype: 'float32', shape: [points.length] };
  const session = await Session.create(model);
  const { f } = await session.run({}, ['f']);
  await session.release();
  return f!.numbers();
}

function page(sections: readonly Section[], table: Table, steps: number): string {
  return renderReport({
    title: 'Optimizers on 2-D test functions',
    subtitle: `All from one point, ${formatCount(steps, 'step')}, each at the learning rate, of those tried, with the lowest mean value. Dots mark final points, rings mark minima.`,
    sections: [
      ...sections,
      { title: 'Values at the end', blocks: [{ kind: 'table', ...table }] },
      {
        title: 'How to reproduce',
        blocks: [{ kind: 'code', code: commandLine(process.argv.slice(2)) }],
      },
    ],
  });
}
