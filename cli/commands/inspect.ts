import { crashError, types } from '../../src/command/startup.js';
import type { Arguments } from '../arguments.js';
import type { Options } from '../flags.js';
import { typesProcess } from '../types.js';
import { describeStep } from '../ui/describe-step.js';
import { describeBest, formatBytes, formatCount } from '../ui/format.js';
import { renderTable } from '../ui/table.js';
import { painter, print, printJson, printPainted } from '../ui/terminal.js';

export const model = 'ONNX file, or a folder of training artifacts';

export const options = {
  json: { type: types.flag, group: 'Output', commands: [], stage: 'run', help: 'Print JSON' },
} satisfies Options;

export const examples = [['inspect model.onnx', 'parameters, operators, and what inject needs']] as const;

type Args = Pick<Arguments, 'model' | 'color' | 'train' | 'freeze'> & {
  loss?: { output?: string };
  json?: boolean;
  straightThrough?: boolean;
  unfreezeLast?: number;
};

export async function handler({ model: path, json, color, loss, ...args }: Args): Promise<void> {
  const { bestCheckpoint, inspect, openModel, modelFile, typesApart } = await import(
    '../../src/command/injection.js'
  );
  const { train, freeze, unfreezeLast, straightThrough } = args;
  const options = { output: loss?.output, train, freeze, unfreezeLast, straightThrough };
  const runtime = typesProcess();
  const file = await modelFile(path);
  const opened = await openModel(file);
  const found = await inspect(opened, options, typesApart(runtime));
  const best = await bestCheckpoint(opened, file);
  const { exitCode, signalCode } = runtime;
  // What the runtime refuses is something that inject needs; where it crashes, nothing is known.
  if (exitCode !== null || signalCode) throw crashError(exitCode, signalCode);
  if (json) {
    printJson(best ? { ...found, best } : found);
    return;
  }
  const paint = painter(process.stdout, color);
  const opsets = Object.entries(found.opsets).map(([domain, version]) => `${domain} ${version}`);
  const lines = (values: { name: string; type: string }[]) =>
    values.map(v => `${v.name} ${v.type}`).join(', ') || 'none';
  printPainted(`${paint('bold', path)}  ${found.kind} model`);
  print(`  opset ${opsets.join(', ')}; IR ${found.irVersion}; ${found.producer || 'producer not named'}`);
  print(`  inputs   ${lines(found.inputs)}`);
  const { training } = found;
  const own = training && new Set([...training.outputs, training.loss.name]);
  print(`  outputs  ${lines(found.outputs.filter(({ name }) => own?.has(name) ?? true))}`);
  if (found.functions.length) print(`  functions  ${found.functions.join(', ')}`);
  if (found.parameters.length) {
    const trained = found.parameters.filter(p => p.trains);
    const sum = (key: 'elements' | 'bytes') => trained.reduce((n, p) => n + p[key], 0);
    printPainted(`\n${paint('bold', 'Parameters')}`);
    const rows = found.parameters.map(p => [
      p.name,
      p.type,
      p.elements,
      formatBytes(p.bytes),
      p.trains ? 'yes' : 'no',
      p.by,
      p.why,
    ]);
    const foot = [`${trained.length} train`, '', sum('elements'), formatBytes(sum('bytes')), '', '', ''];
    printPainted(
      renderTable({ head: ['name', 'type', 'elements', 'size', 'trains', 'by', 'why'], rows, foot }, paint),
    );
  }
  if (training) {
    printPainted(`\n${paint('bold', 'Training step')}`);
    for (const line of describeStep(training)) print(`  ${line}`);
    if (best) print(`  best     ${describeBest(best)}, in ${best.file}`);
    print(`  state    ${formatCount(found.outputs.length - own!.size, 'tensor')}, each with its next value`);
  }
  if (found.split) {
    const { divisor, exchange } = found.split;
    printPainted(`\n${paint('bold', 'Exchange between workers')}  divisor ${divisor ?? 'unknown'}`);
    const rows = exchange.map(e => [e.name, e.reduce, e.weighted ? (e.divisor ?? 'equally') : 'no']);
    printPainted(renderTable({ head: ['name', 'reduce', 'weighted by'], rows }, paint));
  }
  printPainted(`\n${paint('bold', 'Operators')}  ${formatCount(found.nodes, 'node')}`);
  const rows = found.operators.map(o => [o.operator, o.count, o.gradient, o.onPath ? 'yes' : 'no']);
  printPainted(renderTable({ head: ['operator', 'count', 'gradient', 'on the path'], rows }, paint));
  printPainted(`\n${paint('bold', 'inject needs')}`);
  for (const need of found.needs) print(`  ${need}`);
}
