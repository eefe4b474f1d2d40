import { types } from '../../src/command/startup.js';
import type { ModelDiff } from '../../src/internal.js';
import type { Options } from '../flags.js';
import { formatCount, formatNumber } from '../ui/format.js';
import { renderTable } from '../ui/table.js';
import { painter, print, printJson, printPainted } from '../ui/terminal.js';

export const model = 'ONNX file, as it was before';
export const other = 'ONNX file, as it is after';

const OUTPUT = { group: 'Output', commands: [], stage: 'run' } as const;

export const options = {
  json: { ...OUTPUT, type: types.flag, help: 'Print JSON' },
} satisfies Options;

export const examples = [['diff model.onnx model.trained.onnx', 'what training changed']] as const;

type Args = { model: string; other: string; json?: boolean; color?: boolean };

export async function handler({ model: before, other: after, json, color }: Args): Promise<void> {
  const { diffModels, isSameModel, openModel } = await import('../../src/internal.js');
  const found = diffModels(await openModel(before), await openModel(after));
  if (json) {
    printJson(found);
    return;
  }
  if (isSameModel(found)) {
    print(`no difference: ${formatCount(found.unchanged, 'tensor')} with the same values`);
    return;
  }
  const paint = painter(process.stdout, color);
  const { moved, unchanged } = found;
  print(`${formatCount(moved.length, 'tensor')} moved, ${unchanged} did not`);
  const number = (x: number | undefined) => (x === undefined ? '-' : formatNumber(x));
  const rows = moved.map(t => [
    t.name,
    `${t.dtype}[${t.shape}]`,
    number(t.relative),
    number(t.maxAbs),
    number(t.cosine),
    `${t.changed} of ${t.elements}`,
  ]);
  const head = ['tensor', 'type', 'relative L2', 'max abs', 'cosine', 'elements changed'];
  if (rows.length) printPainted(renderTable({ head, rows }, paint));
  for (const line of structure(found)) print(line);
}

/** A line for each difference of the graphs. */
function structure({ tensors, nodes, inputs, outputs, opsets }: ModelDiff): string[] {
  const type = ({ dtype, shape }: { dtype: string; shape: readonly number[] }) => `${dtype}[${shape}]`;
  return [
    ...lines('tensor', tensors, type),
    ...lines('node', nodes, ({ operator }) => operator),
    ...lines('input', inputs, x => x.type),
    ...lines('output', outputs, x => x.type),
    ...lines('operator set', opsets, ({ version }) => `${version}`),
  ];
}

function lines<T>(
  what: string,
  {
    added,
    removed,
    changed,
  }: {
    added: (T & { name: string })[];
    removed: (T & { name: string })[];
    changed: { name: string; from: T; to: T }[];
  },
  text: (x: T) => string,
): string[] {
  return [
    ...removed.map(x => `- ${what} ${x.name} ${text(x)}`),
    ...added.map(x => `+ ${what} ${x.name} ${text(x)}`),
    ...changed.map(({ name, from, to }) => {
      const [a, b] = [text(from), text(to)];
      return `~ ${what} ${name} ${a === b ? a : `${a} -> ${b}`}`;
    }),
  ];
}
