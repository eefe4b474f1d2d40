import { existsSync } from 'node:fs';
import { AgdError, types } from '../../src/command/startup.js';
import type { Suggestion } from '../../src/internal.js';
import { checkOutputs } from '../files.js';
import type { Options } from '../flags.js';
import { formatCount } from '../ui/format.js';
import { print } from '../ui/terminal.js';

export const model = 'ONNX file';

export const options = {
  data: {
    ...{ group: 'Data', commands: [], stage: 'run', required: true },
    type: types.text,
    help: 'Table to train on: .csv, .tsv, .parquet, .arrow, .jsonl or .json',
  },
  label: {
    ...{ group: 'Data', commands: [], stage: 'run' },
    type: types.text,
    help: 'Target column',
    shown: 'inferred from the output',
  },
  out: {
    ...{ group: 'Output', commands: [], stage: 'run' },
    type: types.text,
    alias: 'o',
    help: 'Configuration to write',
    shown: 'agd.config.yaml',
  },
  force: {
    ...{ group: 'Output', commands: [], stage: 'run' },
    type: types.flag,
    help: 'Overwrite an existing file',
  },
} satisfies Options;

export const examples = [
  ['init model.onnx --data people.csv -o agd.config.yaml', 'then: agd-onnx train --config agd.config.yaml'],
] as const;

type Args = { model: string; data: string; label?: string; out?: string; force?: boolean };

export async function handler({ model, data, label, out = 'agd.config.yaml', force }: Args): Promise<void> {
  const { openRecords, suggestTraining, writeFileAtomic } = await import('../../src/internal.js');
  checkOutputs([out], [model, data]);
  if (existsSync(out) && !force)
    throw new AgdError(
      'bad-option',
      `${out} exists already: choose another file with -o, or replace it with --force.`,
    );
  const source = await openRecords(data);
  try {
    const suggestion = await suggestTraining(model, source, label);
    await writeFileAtomic(out, [Buffer.from(configText(model, data, out, suggestion))]);
  } finally {
    await source.close();
  }
  print(`wrote ${out}`);
  print(`train with: agd-onnx train --config ${out}`);
}

/** A text as YAML takes it. */
const quoted = (text: string) =>
  /^[A-Za-z_./][\w./-]*$/.test(text) && !/^(true|false|null|yes|no|on|off|y|n)$/i.test(text)
    ? text
    : text.includes('"') && /^[^'\r\n\\]*$/.test(text)
      ? `'${text}'`
      : JSON.stringify(text);

/** Shorter columns are padded so that the remarks behind them line up. */
const WIDTH = 44;

function configText(model: string, data: string, out: string, suggestion: Suggestion): string {
  const { label, otherLabels, loss, reason, inputs, unused, unclear } = suggestion;
  const lines = [
    `# Made by agd-onnx init from the model and the data. Train with: agd-onnx train --config ${out}`,
    '# Flags take precedence over this file; docs/reference/options.md lists all options.',
    '',
    `model: ${quoted(model)}`,
    `data: ${quoted(data)}`,
    '# The share of the rows that is kept for validation. With a file of its own: validation: FILE',
    'valSplit: 0.2',
    '',
  ];
  if (label) {
    const others = otherLabels.length ? ` Other candidates: ${otherLabels.join(', ')}.` : '';
    lines.push(`# The column to predict: ${remark(label)}.${others}`, `label: ${quoted(label.column)}`, '');
    if (label.missing) lines.splice(-1, 0, `skipMissing: [${quoted(label.column)}]`);
  }
  lines.push(`# The model gives ${reason}.`);
  if (loss.output === undefined) lines.push(`loss: ${loss.kind}`);
  else lines.push('loss:', `  kind: ${loss.kind}`, `  output: ${quoted(loss.output)}`);
  lines.push(
    '',
    '# What feeds each input of the model, in this order. docs/guide/preprocessing.md explains the transforms.',
  );
  if (unused.length) lines.push(`# Not used: ${unused.join(', ')}.`);
  lines.push('columns:');
  for (const { input, type, columns, gives, takes } of inputs) {
    if (gives !== takes)
      lines.push(
        `  # These columns give ${formatCount(gives!, 'number')}, but the input takes ${takes}: choose among them.`,
      );
    lines.push(`  # ${type}`, `  ${quoted(input)}:`);
    for (const { text, summary } of columns) {
      const item = `    - ${quoted(text)}`;
      lines.push(summary ? `${item.padEnd(WIDTH)}  # ${remark(summary)}` : item);
    }
    if (inputs.length === 1)
      for (const text of unclear)
        lines.push(`${`    # - ${quoted(text)}`.padEnd(WIDTH)}  # left out; or select its parts, as here`);
  }
  lines.push(
    '',
    'epochs: 10',
    'batchSize: 32',
    'seed: 0',
    'optimizer:',
    '  name: agd',
    '  # lr: 0.001',
    '',
    '# Early stopping, a schedule, and states to resume from:',
    '# schedule: cosine',
    `# state: ${quoted(model.replace(/(\.onnx)?$/, '.agd.onnx'))}`,
    '',
  );
  return lines.map(line => `${line.replace(/[\r\n]/g, ' ')}\n`).join('');
}

/** What a column has in it. */
function remark({ kind, missing, distinct, range, rows }: NonNullable<Suggestion['label']>): string {
  const number = (x: number) => String(Number(x.toPrecision(4)));
  const parts = [
    kind as string,
    kind === 'text' || kind === 'bool' ? distinct && formatCount(distinct, 'value') : undefined,
    range && kind !== 'bool' ? `${number(range[0])} to ${number(range[1])}` : undefined,
    missing ? `${missing} of ${rows} missing` : undefined,
  ];
  return parts.filter(Boolean).join(', ');
}
