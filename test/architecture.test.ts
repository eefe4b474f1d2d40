/** The rooms of the house depend one way: graph <- ops <- passes <- runtime <- cli. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
const LAYERS = ['src/graph', 'src/ops', 'src/passes', 'src/runtime'];

function sources(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter(file => file.endsWith('.ts'))
    .map(file => join(folder, file));
}

function imports(file: string): string[] {
  return importsIn(readFileSync(join(ROOT, file), 'utf8'), file);
}

function importsIn(text: string, file: string): string[] {
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map(([, target]) =>
    target!.startsWith('.') ? relative(ROOT, join(ROOT, dirname(file), target!)) : target!,
  );
}

const layerOf = (path: string) => LAYERS.findIndex(layer => path.startsWith(`${layer}/`));

/** The imports of `file` that its layer forbids. */
function forbidden(file: string, targets: readonly string[]): string[] {
  const layer = layerOf(file);
  return targets.filter(target => {
    if (file.startsWith('cli/'))
      return target.startsWith('src/') && !/^src\/(internal|command\/\w+)\.js$/.test(target);
    if (target === 'onnxruntime-node') return layer !== LAYERS.indexOf('src/runtime');
    if (target.startsWith('protobufjs') || target === 'onnx-proto')
      return !/^src\/graph\/(proto|dtype)/.test(file);
    return (
      layer >= 0 &&
      (layerOf(target) > layer ||
        target.startsWith('cli/') ||
        /^src\/(index\.js|internal\.js|command\/)/.test(target))
    );
  });
}

describe('imports', () => {
  const files = [...LAYERS, 'cli'].flatMap(sources);
  it.each(files)('of %s point the right way', file => {
    expect(forbidden(file, imports(file))).toEqual([]);
  });
});

/** Files that import each other, directly or through others: each group once. */
function circles(graph: ReadonlyMap<string, readonly string[]>): string[][] {
  const reached = new Map(
    [...graph.keys()].map(start => {
      const seen = new Set<string>();
      const visit = (file: string) => {
        for (const next of graph.get(file) ?? [])
          if (!seen.has(next)) {
            seen.add(next);
            visit(next);
          }
      };
      visit(start);
      return [start, seen] as const;
    }),
  );
  const groups = [...reached].flatMap(([file, seen]) =>
    seen.has(file) ? [[...seen].filter(other => reached.get(other)?.has(file)).sort()] : [],
  );
  return [...new Map(groups.map(group => [group.join(), group])).values()];
}

describe('circles of imports', () => {
  const files = sources('src').map(file => ({ file, text: readFileSync(join(ROOT, file), 'utf8') }));
  const graphOf = (change: (text: string) => string) =>
    new Map(
      files.map(({ file, text }) => [
        file,
        importsIn(change(text), file).map(target => target.replace(/\.js$/, '.ts')),
      ]),
    );
  it('are found', () => {
    const graph = { a: ['b'], b: ['c'], c: ['b'], d: ['d', 'a'] };
    expect(circles(new Map(Object.entries(graph)))).toEqual([['b', 'c'], ['d']]);
  });
  it('there are none, types aside', () => {
    expect(circles(graphOf(text => text.replace(/^(import|export) type [^;]*;/gm, '')))).toEqual([]);
  });
  it('there are none with types in graph and passes', () => {
    const inner = (file: string) => /^src\/(graph|passes)\//.test(file);
    expect(circles(graphOf(text => text)).filter(group => group.some(inner))).toEqual([]);
  });
});

it('tells a wrong import', () => {
  expect(forbidden('src/graph/ir.ts', ['src/ops/index.js'])).toHaveLength(1);
  expect(forbidden('src/passes/inject.ts', ['onnxruntime-node', 'src/runtime/session.js'])).toHaveLength(2);
  expect(forbidden('src/ops/linalg.ts', ['protobufjs/minimal.js', 'src/index.js'])).toHaveLength(2);
  expect(forbidden('src/runtime/session.ts', ['src/command/startup.js'])).toHaveLength(1);
  expect(
    forbidden('cli/main.ts', ['src/graph/errors.js', 'src/internal.js', 'src/command/startup.js']),
  ).toHaveLength(1);
});

/** Names come from files: what prints them replaces the characters that steer a terminal. */
it('prints from one place', () => {
  const printing = sources('cli').filter(file =>
    /console\.\w+\(/.test(readFileSync(join(ROOT, file), 'utf8')),
  );
  expect(printing).toEqual(['cli/ui/terminal.ts']);
});

describe('the page on the architecture', () => {
  const page = readFileSync(join(ROOT, 'docs/explain/architecture.md'), 'utf8');
  /** The first cells of the rows of the table that has this column. */
  const rowsOf = (column: string) => {
    const [, table] = page.split(new RegExp(`^\\| ${column} .*\\n.*\\n`, 'm'));
    return [...table!.split('\n\n')[0]!.matchAll(/^\| `([^`]+)`/gm)].map(([, name]) => name!);
  };

  it('has a row for each folder of passes', () => {
    const folders = readdirSync(join(ROOT, 'src/passes'), { withFileTypes: true });
    const names = folders.flatMap(entry => (entry.isDirectory() ? [entry.name] : []));
    expect(rowsOf('folder +\\| passes').sort()).toEqual(names.sort());
  });

  it('lists the rewrites for the CPU in their order', () => {
    const text = readFileSync(join(ROOT, 'src/runtime/cpu.ts'), 'utf8');
    const order = [...text.matchAll(/import\('\.\.\/passes\/\w+\/([\w-]+)\.js'\)/g)].map(([, name]) => name!);
    const rows = rowsOf('pass +\\| what it rewrites');
    expect(rows.filter(name => order.includes(name))).toEqual(order.filter(name => name !== 'blocks'));
  });
});
