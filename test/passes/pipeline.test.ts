import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { encodeModel } from '../../src/graph/proto/codec.js';
import { contextOf, pass, runPasses } from '../../src/passes/common/context.js';
import { gradientModel } from '../../src/passes/differentiate.js';
import { trainingInfoForm } from '../../src/passes/file/write-training-info.js';
import { inject } from '../../src/passes/inject.js';
import { PASSES, PIPELINES } from '../../src/passes/pipeline.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { mlp } from '../sample.js';

const loss = { kind: 'cross-entropy' } as const;

describe('the pipelines', () => {
  it.each(Object.entries(PIPELINES))('%s: what a pass requires, an earlier one ensures', (_, passes) => {
    const there = new Set<string>();
    for (const { name, requires, ensures } of passes) {
      expect([name, requires.filter(fact => !there.has(fact))]).toEqual([name, []]);
      for (const fact of ensures) there.add(fact);
    }
  });

  it('use every pass', () => {
    const used = new Set(Object.values(PIPELINES).flatMap(passes => passes.map(p => p.name)));
    expect([...PASSES.keys()].filter(name => !used.has(name))).toEqual([]);
  });

  it('in docs/explain/architecture.md are up to date', async () => {
    const file = '../../docs/explain/architecture.md';
    const text = await readFile(join(import.meta.dirname, file), 'utf8');
    const rows = [
      ['pass', 'what it does', 'requires', 'ensures'],
      ...[...PASSES.values()].map(({ name, does, requires, ensures }) => [
        `\`${name}\``,
        does,
        requires.join(', '),
        ensures.join(', '),
      ]),
    ];
    const widths = rows[0]!.map((_, i) => Math.max(...rows.map(row => row[i]!.length)));
    const line = (row: readonly string[]) =>
      `| ${row.map((cell, i) => cell.padEnd(widths[i]!)).join(' | ')} |`;
    const [head, ...body] = rows.map(line);
    const normalize = PIPELINES.normalize.map(p => p.name).join(', ');
    const lists = Object.entries(PIPELINES).map(([name, passes]) => {
      const names = passes.map(p => p.name).join(', ');
      return `- \`${name}\`: ${name === 'normalize' ? names : names.replace(normalize, '_normalize_')}`;
    });
    const rule = line(widths.map(width => '-'.repeat(width)));
    const generated = ['', ...lists, '', head, rule, ...body, ''].join('\n');
    await expect(
      text.replace(
        /(<!-- generated from .* -->\n)[\s\S]*?(<!-- end -->)/,
        (_, start, end) => `${start}${generated}${end}`,
      ),
    ).toMatchFileSnapshot(file);
  });
});

describe('a pass', () => {
  it('runs alone', async () => {
    const context = await runPasses([PASSES.get('copy-model')!], contextOf(mlp(), {}, sessionShapes), [
      'work',
    ]);
    const { graph } = context.work;
    graph.outputs = [graph.nodes[0]!.outputs[0]!];
    expect(await PASSES.get('eliminate-dead-nodes')!.run(context)).toBe(true);
    expect(graph.nodes).toHaveLength(1);
    expect(await PASSES.get('eliminate-dead-nodes')!.run(context)).toBe(false);
  });

  it('that lacks a requirement, or does not ensure what it declares, is named', async () => {
    const context = contextOf(mlp(), {}, sessionShapes);
    await expect(runPasses([PASSES.get('fold-shapes')!], context)).rejects.toThrow(
      'Pass fold-shapes requires work, typed',
    );
    const idle = pass({ name: 'idle', does: '', requires: [], ensures: ['g'], run: () => false });
    await expect(runPasses([idle], context)).rejects.toThrow('Pass idle ensures g');
  });

  it('that breaks the graph is named where AGD_ONNX_CHECK is 1', async () => {
    const broken = pass({
      name: 'break-graph',
      does: '',
      requires: ['work'],
      ensures: [],
      run(c) {
        c.work.graph.nodes = [...c.work.graph.nodes].reverse();
        return true;
      },
    });
    const passes = [PASSES.get('copy-model')!, broken];
    await runPasses(passes, contextOf(mlp(), {}, sessionShapes));
    vi.stubEnv('AGD_ONNX_CHECK', '1');
    try {
      await expect(runPasses(passes, contextOf(mlp(), {}, sessionShapes))).rejects.toThrow(
        'After pass break-graph',
      );
    } finally {
      vi.unstubAllEnvs();
    }
  });
});

/** The step, the same from gradients, a step that comes with the model, and gradients alone. */
it('every pipeline leaves a consistent graph after each pass', async () => {
  vi.stubEnv('AGD_ONNX_CHECK', '1');
  try {
    const options = { loss, accumulate: 2, ema: 0.9, checkpointActivations: 2, clipGradNorm: 1 };
    const { model, report } = await inject(mlp(), options, sessionShapes);
    const output = report.description.loss.name;
    const given = { gradients: ['{param}_grad'], loss: { kind: 'output', output } } as const;
    await inject((await gradientModel(mlp(), { loss }, sessionShapes)).model, given, sessionShapes);
    await inject(trainingInfoForm(model), {}, sessionShapes);
    const [y] = mlp().graph.outputs;
    await gradientModel(mlp(), { cotangents: [y!.name], wrt: ['*'] }, sessionShapes);
  } finally {
    vi.unstubAllEnvs();
  }
});

it('dumps the model after each pass that changed it, in order, and is not changed by that', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'agd-onnx-passes-'));
  try {
    const dumpPasses = join(folder, 'passes');
    const { model } = await inject(mlp(), { loss, dumpPasses }, sessionShapes);
    const files = (await readdir(dumpPasses)).sort();
    const names = files.map(file => /^\d\d-(.*)\.onnx$/.exec(file)![1]!);
    const order = PIPELINES.inject.map(p => p.name);
    expect(names).toEqual(order.filter(name => names.includes(name)));
    expect(names).toEqual(
      expect.arrayContaining(['copy-model', 'attach-loss', 'backward', 'attach-optimizer']),
    );
    expect(names).not.toContain('expand-sparse');
    const last = await loadModel(join(dumpPasses, files.at(-1)!));
    expect(Buffer.compare(encodeModel(last), encodeModel(model))).toBe(0);
    const plain = await inject(mlp(), { loss }, sessionShapes);
    expect(Buffer.compare(encodeModel(plain.model), encodeModel(model))).toBe(0);
  } finally {
    await rm(folder, { recursive: true });
  }
});
