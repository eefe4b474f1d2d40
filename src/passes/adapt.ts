/** Changes a model before training, as `adapt` does: another head, or a longer vocabulary. */
import { cloneModel } from '../graph/clone.js';
import { dependents } from '../graph/dependents.js';
import { AgdError } from '../graph/errors.js';
import type { Model } from '../graph/ir.js';
import { Names } from '../graph/names.js';
import { spellDefaultDomain } from '../graph/proto/read.js';
import { checkOption, unknownName } from '../ops/core/option-type.js';
import { extendVocabulary } from './adapt/extend-vocabulary.js';
import { type Generator, uniformByFanIn } from './adapt/initial-values.js';
import { removeNodes } from './adapt/remove-nodes.js';
import { type Row, replaceHead } from './adapt/replace-head.js';
import { updateShapeConstants, updateTypes } from './adapt/update-shapes.js';
import { eliminateDeadNodes } from './common/eliminate-dead-nodes.js';
import { isInjected } from './file/step-metadata.js';
import { showType } from './inspect.js';
import type { ShapeOracle } from './normalize/infer-shapes.js';
import { inlineFunctions } from './normalize/inline-functions.js';
import { ADAPT_OPTIONS, type AdaptOptions } from './options/adapt.js';
import { findHead, HEAD_KEY, type Head, outputsOf } from './select/find-head.js';

export type AdaptReport = {
  /** The layers with another number of outputs: the head, or the output layers of a vocabulary. */
  heads: { name: string; operator: string; before: number; after: number }[];
  /** The embedding that has more rows. */
  embedding?: { name: string; before: number; after: number };
  /** Parameters with new values. */
  parameters: string[];
  /** Operators that were removed after the head. */
  removed: string[];
  outputs: { name: string; type: string }[];
};

/**
 * A copy of the model with a new head, or a longer vocabulary; an ordinary model. The names of a new head's parameters
 * are in its metadata, where `--freeze backbone` finds them. Throws `bad-option`, `no-such-value` where there is nothing
 * of the kind, `unsupported-op` for a layer whose form does not allow it.
 */
export async function adapt(
  source: Model,
  options: AdaptOptions,
  oracle: ShapeOracle,
  generator: Generator,
): Promise<{ model: Model; report: AdaptReport }> {
  checkOptions(options);
  if (isInjected(source))
    throw new AgdError(
      'bad-option',
      'The model already contains a training step: adapt the original, or the output of agd-onnx export.',
    );
  const model = cloneModel(source);
  spellDefaultDomain(model);
  inlineFunctions(model);
  const names = Names.of(model);
  const draw = (stream: number) => generator(options.seed ?? 0, stream);
  const { vocabulary } = options;
  const report =
    vocabulary === undefined ? newHead(model, names, options, draw) : longer(model, names, vocabulary, draw);
  eliminateDeadNodes(model);
  const { initializers } = model.graph;
  const changed = [...initializers.keys()].filter(v => report.parameters.includes(v.name));
  await updateTypes(model, changed, oracle);
  const outputs = model.graph.outputs.map(v => ({ name: v.name, type: showType(v.type) }));
  return { model, report: { ...report, outputs } };
}

function checkOptions({ seed: _, ...options }: AdaptOptions): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const found = Object.hasOwn(ADAPT_OPTIONS, name)
      ? ADAPT_OPTIONS[name as keyof typeof ADAPT_OPTIONS]
      : undefined;
    if (!found) throw unknownName('option', name, Object.keys(ADAPT_OPTIONS));
    checkOption(name, found.type, value);
    const conflicts: readonly string[] = 'conflicts' in found ? found.conflicts : [];
    const other = conflicts.find(name => options[name as keyof typeof options] !== undefined);
    if (other) throw new AgdError('bad-option', `${name} cannot be combined with ${other}.`);
  }
  const { classes, outputs = classes, vocabulary = outputs, keep = [] } = options;
  if (vocabulary === undefined)
    throw new AgdError(
      'bad-option',
      'Choose a new form for the model: --classes N, --outputs N (with --regression, without Softmax), or --vocabulary N.',
    );
  if (keep.length > (outputs ?? 0))
    throw new AgdError(
      'bad-option',
      `keep names ${keep.length} old classes, but the new head has ${outputs} outputs.`,
    );
}

type Draws = (stream: number) => () => number;
type Report = Omit<AdaptReport, 'outputs'>;

function newHead(model: Model, names: Names, options: AdaptOptions, draw: Draws): Report {
  const { graph } = model;
  const { keep = [], headMlp: hidden = [], regression } = options;
  const outputs = (options.classes ?? options.outputs)!;
  const head = findHead(graph, graph.outputs, options.head);
  const before = outputsOf(head);
  const lost = keep.find(row => row >= before);
  if (lost !== undefined)
    throw new AgdError(
      'bad-option',
      `keep: head '${head.name}' has no class ${lost}, only 0 to ${before - 1}.`,
    );
  const removed = head.tail.filter(
    ({ opType }) =>
      /^(Dequantize|Quantize)Linear$/.test(opType) ||
      (regression && /^((Log)?Softmax|Sigmoid)$/.test(opType)),
  );
  const values = draw(hidden.length);
  const row: Row = (index, what, fanIn, old) =>
    index < keep.length ? old(keep[index]!) : uniformByFanIn(what === 'bias' ? 1 : fanIn, fanIn, values);
  const parameters = replaceHead(model, names, head, { outputs, hidden, row, draw });
  settle(model, names, head, before, outputs);
  removeNodes(graph, removed);
  model.metadata.set(HEAD_KEY, JSON.stringify(parameters));
  return { heads: [described(head, before, outputs)], parameters, removed: removed.map(n => n.opType) };
}

function longer(model: Model, names: Names, after: number, draw: Draws): Report {
  const { table, before, heads } = extendVocabulary(model, names, after, draw);
  for (const head of heads) settle(model, names, head, before, after);
  return {
    heads: heads.map(head => described(head, before, after)),
    embedding: { name: table.name, before, after },
    parameters: [
      table.name,
      ...heads.flatMap(h => [h.weight.value.name, ...(h.bias ? [h.bias.value.name] : [])]),
    ],
    removed: [],
  };
}

const described = ({ name, node }: Head, before: number, after: number) => ({
  ...{ name, operator: node.opType, before, after },
});

/** Shapes after the head that have its number of outputs in them. */
function settle({ graph }: Model, names: Names, head: Head, before: number, after: number): void {
  const nodes = head.outputs.length ? head.tail : dependents(graph.nodes, [head.output]);
  updateShapeConstants(graph, names, nodes, head.classAxis, before, after);
}
