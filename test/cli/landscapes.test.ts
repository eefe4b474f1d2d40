import { existsSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { OPTIMIZER_NAMES } from '../../src/ops/optimizers/index.js';
import { agdOnnx } from './run.js';

const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
const landscapes = (...args: string[]) => agdOnnx(folder, 'landscapes', ...args);
const FUNCTIONS = ['absolute', 'beale', 'quadratic', 'rosenbrock'];
/** The row of an optimizer: the last value and the rate by function. */
const row = (out: string, name: string) =>
  out
    .split('\n')
    .find(line => line.startsWith(`${name} `))!
    .trim()
    .split(/ {2,}/)
    .slice(1);

it('draws the trajectories of all optimizers over every function', () => {
  const { code, out, err } = landscapes('--steps', '3', '--lr', '1e-3');
  expect(err).toBe('');
  expect(code).toBe(0);
  const files = readdirSync(join(folder, 'landscapes'));
  expect(files.sort()).toEqual(
    ['report.html', ...FUNCTIONS.flatMap(name => [`${name}-values.svg`, `${name}-trajectories.svg`])].sort(),
  );
  for (const name of OPTIMIZER_NAMES) expect(row(out, name), name).toHaveLength(8);
  const svg = readFileSync(join(folder, 'landscapes/beale-trajectories.svg'), 'utf8');
  expect(svg.match(/class="line trajectory"/g)).toHaveLength(OPTIMIZER_NAMES.length);
  expect(svg.match(/class="contour"/g)!.length).toBeGreaterThan(5);
  const page = readFileSync(join(folder, 'landscapes/report.html'), 'utf8');
  expect(page.replace(/<.?span>/g, '')).toContain('agd-onnx landscapes --steps 3 --lr 1e-3');
});

it('takes steps of the gradient, each at the best of its rates', () => {
  const who = ['--optimizers', 'sgd,sgd(momentum=0.9),agd', '--lr', '1e-3,1e-2,9; agd=0.1'];
  const { out, code } = landscapes(...who, '--steps', '1', '-o', 'one');
  expect(code).toBe(0);
  // From (-3, -1), where f is 16.4 and its gradient (-8.4, -7.6).
  const [x, y] = [-3 + 0.084, -1 + 0.076];
  const value = ((x + y) ** 2 + (x - y) ** 2 / 10).toPrecision(4);
  expect(row(out, 'sgd').slice(4, 6)).toEqual([value, '0.01']);
  expect(row(out, 'sgd(momentum=0.9)').slice(4, 6)).toEqual([value, '0.01']);
  expect(row(out, 'agd')[5]).toBe('0.1');
});

it('says who diverged at every rate, and draws the others', () => {
  const who = ['--optimizers', 'sgd,adam', '--lr', 'sgd=10', '--steps', '60'];
  const { out, code } = landscapes(...who, '-o', 'wild');
  expect(code).toBe(0);
  expect(out).toMatch(/^sgd .*diverged/m);
  const svg = readFileSync(join(folder, 'wild/rosenbrock-trajectories.svg'), 'utf8');
  expect(svg.match(/class="line trajectory"/g)).toHaveLength(1);
});

it('draws other signs with another seed', () => {
  const who = ['--optimizers', 'adahessian', '--lr', '0.1', '--steps', '20'];
  const values = ['0', '0', '1'].map(seed => row(landscapes(...who, '--seed', seed).out, 'adahessian')[2]);
  expect(values[0]).toBe(values[1]);
  expect(values[0]).not.toBe(values[2]);
});

it('says in one line what is wrong', () => {
  for (const [args, what] of [
    [['--steps', '0'], /--steps must be a whole number of at least 1, not 0/],
    [['--optimizers', 'newton'], /Unknown optimizer 'newton'/],
    [['--lr', 'adam=x'], /--lr: expected comma-separated numbers/],
    [['--epochs', '3'], /epochs/],
  ] as const) {
    const { code, err } = landscapes(...args, '-o', 'none');
    expect(code).toBe(1);
    expect(err.trim()).toMatch(what);
  }
  expect(existsSync(join(folder, 'none'))).toBe(false);
});
