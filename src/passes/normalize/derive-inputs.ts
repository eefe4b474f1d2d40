/** Computes the inputs of a decoder that follow from its tokens: attention mask, positions, empty cache. */
import { AgdError } from '../../graph/errors.js';
import type { Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';
import { globTest } from '../common/match-names.js';
import { cacheExtents, type Derived, derivableInputs, neededReader, tokensOf } from './derivable-inputs.js';

/** Those of the tokens that a value follows: of which it shares the name of its length, or else of its part of the model. */
function tokensFor({ name, shape = [] }: Value, tokens: readonly Value[]): Value {
  const alike = tokens.filter(t => typeof shape[1] === 'string' && t.shape![1] === shape[1]);
  if (shape.length === 2 && alike.length === 1) return alike[0]!;
  return /^(decoder_|past|cache)/.test(name) ? tokens.at(-1)! : tokens[0]!;
}

/**
 * Computes these inputs from the tokens, so that they need not be fed; positions count what the mask keeps, where one is
 * fed. Names may be globs. Throws `no-such-value` for one that matches no such input.
 */
export function deriveInputs(model: Model, globs: readonly string[]): void {
  const { graph } = model;
  const derivable = derivableInputs(graph);
  const tests = globs.map(globTest);
  globs.forEach((glob, i) => {
    if (graph.inputs.some(v => tests[i]!(v.name) && derivable.has(v))) return;
    const known = [...derivable.keys()].map(v => `'${v.name}'`).join(', ');
    throw new AgdError(
      'no-such-value',
      `--derive-inputs '${glob}' matches no input that follows from the tokens; ${known ? `these do: ${known}` : 'the model has none'}.`,
    );
  });
  const chosen = [...derivable].filter(([v]) => tests.some(test => test(v.name)));
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const masks = graph.inputs.filter(v => derivable.get(v) === 'ones' && !chosen.some(([c]) => c === v));
  const all = tokensOf(graph);
  const given = (value: Value) => {
    const tokens = tokensFor(value, all);
    const mask = masks.find(m => tokensFor(m, all) === tokens);
    return { tokens: g.of(tokens), batch, mask: mask && g.of(mask) };
  };
  const front: Node[] = [];
  // All caches read the size of the batch, which has to be computed before the first of them.
  const batch = g.into(front, () => g.of(all[0]!).dims(0, 1));
  const [late, early] = [true, false].map(isLate => chosen.filter(([v]) => !!neededReader(v) === isLate));
  for (const [value, derived] of [...early!, ...late!]) {
    const reader = neededReader(value);
    const nodes = reader ? [] : front;
    const made = g.into(nodes, () => derive(value, derived, given(value)));
    value.replaceAllUses(made.value);
    if (reader) graph.insertBefore(reader, ...nodes);
  }
  graph.prepend(...front);
  graph.inputs = graph.inputs.filter(v => !chosen.some(([c]) => c === v));
}

type Given = { tokens: Expr; batch: Expr; mask: Expr | undefined };

function derive(value: Value, derived: Derived, { tokens, batch, mask }: Given): Expr {
  const { g } = tokens;
  const { shape = [] } = value;
  const dtype = value.dtype!;
  const filled = (extents: Expr, number: number) =>
    g.emit(
      'ConstantOfShape',
      [extents],
      { value: Tensor.filled(dtype, [1], number) },
      {
        types: [value.type],
      },
    )[0]!;
  switch (derived) {
    case 'false':
    case 'zero':
      return g.tensor(
        Tensor.filled(
          dtype,
          shape.map(d => (typeof d === 'number' ? d : 1)),
          0,
        ),
      );
    case 'zeros':
    case 'ones':
      return filled(tokens.dims(0, 2), derived === 'ones' ? 1 : 0);
    case 'positions in order': {
      const own = tokens.dims(1, 2).iota();
      if (shape.length === 1) return own.cast(dtype);
      const all = mask
        ? mask
            .cast('int64')
            .op('CumSum', [g.scalar(1, 'int64')])
            .sub(1)
            .maximum(0)
        : own.unsqueeze([0]).expand(tokens.dims(0, 2));
      return all.cast(dtype);
    }
    case 'an empty cache': {
      const reader = neededReader(value);
      const extents = cacheExtents(value).map((d, i) => {
        if (typeof d === 'number') return d;
        if (d === 'batch') return batch;
        return i === shape.length - 1 ? headSize(reader!, g) : keyHeads(reader!);
      });
      const known = extents.map((d, i) => (typeof d === 'number' ? d : (shape[i] ?? null)));
      return filled(g.vector(extents), 0).typed({ kind: 'tensor', dtype, shape: known });
    }
  }
}

const keyHeads = (reader: Node) => new Attributes(reader).int('kv_num_heads', 1);

/** Of queries alone, or with keys and values beside them. */
function headSize(reader: Node, g: Builder): Expr {
  const [query, key] = reader.inputs;
  const heads = new Attributes(reader).int('num_heads', 1) + (key ? 0 : 2 * keyHeads(reader));
  return g.of(query!).dims(-1).div(heads);
}
