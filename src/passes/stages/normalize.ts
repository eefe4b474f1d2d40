/** Passes that add adapters and quantization, and leave a typed copy with a place for each parameter. */
import { cloneModel } from '../../graph/clone.js';
import type { Model } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { spellDefaultDomain } from '../../graph/proto/read.js';
import { Builder } from '../../ops/core/builder.js';
import { asksForAdapters } from '../adapters/adapter-names.js';
import { contextOf, type Pass, pass, runPasses, type With } from '../common/context.js';
import { checkStored } from '../normalize/check-attributes.js';
import { expandExtensions } from '../normalize/expand-extensions.js';
import { expandSparse } from '../normalize/expand-sparse.js';
import { foldShapes } from '../normalize/fold-shapes.js';
import { inferShapes } from '../normalize/infer-shapes.js';
import { inlineFunctions } from '../normalize/inline-functions.js';
import { keepAllPositions } from '../normalize/keep-all-positions.js';
import { liftConstants } from '../normalize/lift-constants.js';
import { liftSubgraphInitializers } from '../normalize/lift-subgraph-initializers.js';
import { lowerOpset } from '../normalize/lower-opset.js';
import { splitMergedInitializers } from '../normalize/split-merged-initializers.js';
import { tieTransposedInitializers } from '../normalize/tie-transposed-initializers.js';
import { upgradeOpset } from '../normalize/upgrade-opset.js';
import { widenBfloat16 } from '../normalize/widen-bfloat16.js';
import { readOrigins } from '../select/read-origins.js';

import { loadOnDemand } from './load-on-demand.js';
export const NORMALIZE_PASSES = [
  pass({
    name: 'add-adapters',
    does: 'Adds the adapters that the options ask for',
    requires: [],
    ensures: [],
    async run(c) {
      if (!asksForAdapters(c.options)) return false;
      const notes: string[] = [];
      const { withAdapters } = await loadOnDemand();
      c.source = await withAdapters(c.source, c.options, c.oracle, notes);
      c.warnings = notes;
      return true;
    },
  }),

  pass({
    name: 'quantize-model',
    does: 'Rounds weights and activations as ONNX Runtime would quantize them',
    requires: [],
    ensures: [],
    async run(c) {
      const { qat, ranges, loss } = c.options;
      if (!qat) return false;
      const { quantizeModel } = await loadOnDemand();
      c.source = quantizeModel(c.source, qat, ranges, loss);
      return true;
    },
  }),

  pass({
    name: 'check-attributes',
    does: 'Rejects nodes with attributes that no kernel accepts',
    requires: [],
    ensures: [],
    run(c) {
      checkStored(c.source.graph);
      return false;
    },
  }),
  pass({
    name: 'copy-model',
    does: 'Copies the model, so that later passes leave the source unchanged',
    requires: [],
    ensures: ['work'],
    run(c) {
      c.work = cloneModel(c.source);
      spellDefaultDomain(c.work);
      return true;
    },
  }),
  pass({
    name: 'upgrade-opset',
    does: 'Converts operators of older operator sets to opset 18',
    requires: ['work'],
    ensures: ['upgraded'],
    run(c) {
      c.upgraded = true;
      return upgradeOpset(c.work);
    },
  }),
  pass({
    name: 'expand-sparse',
    does: 'Converts sparse initializers to dense ones',
    requires: ['work'],
    ensures: [],
    run: c => expandSparse(c.work),
  }),
  pass({
    name: 'inline-functions',
    does: "Inlines the calls of the model's functions",
    requires: ['work', 'upgraded'],
    ensures: ['inlined'],
    run(c) {
      c.inlined = true;
      return inlineFunctions(c.work);
    },
  }),
  pass({
    name: 'widen-bfloat16',
    does: 'Converts a bfloat16 model to float32, without changing its values',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => widenBfloat16(c.work),
  }),
  pass({
    name: 'lower-opset',
    does: 'Declares an older operator set if the runtime lacks a kernel of the newer one',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => lowerOpset(c.work),
  }),
  pass({
    name: 'read-origins',
    does: 'Reads what the file records about its constants: parameters, buffers, folded values',
    requires: ['work', 'inlined'],
    ensures: ['origins'],
    run(c) {
      c.origins = readOrigins(c.work);
      return false;
    },
  }),
  pass({
    name: 'lift-subgraph-initializers',
    does: 'Moves initializers of subgraphs to the main graph, where they can train',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => liftSubgraphInitializers(c.work),
  }),
  pass({
    name: 'split-merged-initializers',
    does: 'Separates parameters that an exporter merged because they were equal',
    requires: ['work', 'origins'],
    ensures: ['moved'],
    run(c) {
      c.moved = splitMergedInitializers(c.work, c.origins);
      return c.moved;
    },
  }),
  pass({
    name: 'tie-transposed-initializers',
    does: 'Ties weights of which an exporter stored a transposed copy',
    requires: ['work', 'moved'],
    ensures: [],
    run(c) {
      const tied = tieTransposedInitializers(c.work);
      c.moved ||= tied;
      return tied;
    },
  }),
  pass({
    name: 'place-parameters',
    does: 'Gives the same parameters to the model that trained values are written back to',
    requires: ['work', 'moved'],
    ensures: ['model'],
    async run(c) {
      c.model = c.moved ? await withPlaces(c) : c.source;
      return false;
    },
  }),
  pass({
    name: 'lift-constants',
    does: 'Converts Constant nodes that hold weights to initializers',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => liftConstants(c.work),
  }),
  pass({
    name: 'expand-extensions',
    does: 'Expands operators that extensions define, and forms without a kernel, in standard operators',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => expandExtensions(c.work, c.oracle, c.options.provider),
  }),
  pass({
    name: 'add-segments',
    does: 'Adds the input that says which packed document each token belongs to, and computes positions from it',
    requires: ['work', 'inlined'],
    ensures: [],
    async run(c) {
      if (!c.options.pack) return false;
      const { addSegments } = await loadOnDemand();
      addSegments(c.work);
      return true;
    },
  }),
  pass({
    name: 'derive-inputs',
    does: 'Computes the named inputs of a decoder from its tokens',
    requires: ['work', 'inlined'],
    ensures: [],
    async run(c) {
      const { deriveInputs: globs } = c.options;
      if (!globs?.length) return false;
      const { deriveInputs } = await loadOnDemand();
      deriveInputs(c.work, globs);
      return true;
    },
  }),
  pass({
    name: 'keep-all-positions',
    does: 'Makes a head that reads only the last token read all tokens, on request',
    requires: ['work', 'inlined'],
    ensures: [],
    run(c) {
      if (!c.options.allPositions) return false;
      keepAllPositions(c.work);
      return true;
    },
  }),
  pass({
    name: 'free-batch',
    does: 'Makes the fixed batch size of the named inputs dynamic',
    requires: ['work', 'inlined'],
    ensures: [],
    async run(c) {
      const { freeBatch: names } = c.options;
      if (!names?.length) return false;
      const { freeBatch } = await loadOnDemand();
      await freeBatch(c.work, names, c.oracle);
      return true;
    },
  }),
  pass({
    name: 'infer-shapes',
    does: 'Infers element types and shapes of all values with ONNX Runtime',
    requires: ['work'],
    ensures: ['typed'],
    async run(c) {
      c.typed = true;
      return inferShapes(c.work, c.oracle);
    },
  }),
  pass({
    name: 'fold-shapes',
    does: 'Evaluates the shape arithmetic that exporters leave in a graph',
    requires: ['work', 'typed'],
    ensures: [],
    repeatFrom: 'infer-shapes',
    // What a GPU waits for is worth folding, even if no type depends on it.
    run: c => foldShapes(c.work, { all: c.options.provider === 'cuda' }),
  }),
  pass({
    name: 'open-graph',
    does: 'Creates the builder that adds nodes to the typed graph',
    requires: ['work', 'typed'],
    ensures: ['g'],
    run(c) {
      const { work, options } = c;
      c.g = new Builder(work.graph, {
        names: Names.of(work),
        opsets: work.opsetImports,
        provider: options.provider,
      });
      return false;
    },
  }),
  pass({
    name: 'mask-segments',
    does: 'Masks attention between documents packed into the same row',
    requires: ['work', 'g'],
    ensures: [],
    async run(c) {
      if (!c.options.pack) return false;
      const { maskSegments } = await loadOnDemand();
      maskSegments(c.g);
      return true;
    },
  }),
] satisfies readonly Pass[];

const PLACE_IN_SOURCE = [
  'lift-subgraph-initializers',
  'read-origins',
  'split-merged-initializers',
  'tie-transposed-initializers',
];

/**
 * The source with an initializer for each parameter, and no other change. The body of a function cannot hold one for each
 * of its calls: with functions, it is a copy of the model at work.
 */
async function withPlaces({ source, work, oracle }: With<'work'>): Promise<Model> {
  if (source.functions.length) return cloneModel(work);
  const context = Object.assign(contextOf(source, {}, oracle), {
    work: cloneModel(source),
    inlined: true as const,
  });
  const passes = PLACE_IN_SOURCE.map(name => NORMALIZE_PASSES.find(p => p.name === name)!);
  return (await runPasses(passes, context, ['work'])).work;
}
