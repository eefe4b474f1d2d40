/** Passes that clean the graph and describe it in the file. */
import { asksForAdapters } from '../adapters/adapter-names.js';
import { type Pass, pass } from '../common/context.js';
import { dropUnreadInputs, eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import { narrowSplits } from '../common/narrow-splits.js';
import { declareValueTypes } from '../file/declare-value-types.js';
import { describeStep } from '../file/describe-step.js';
import { embedOriginal, encodeWithout } from '../file/embed-original.js';

export const FILE_PASSES = [
  pass({
    name: 'eliminate-dead-nodes',
    does: 'Removes nodes and initializers that no output depends on',
    requires: ['work'],
    ensures: [],
    run: c => eliminateDeadNodes(c.work),
  }),
  pass({
    name: 'drop-unread-inputs',
    does: 'Removes inputs that nothing reads',
    requires: ['work'],
    ensures: [],
    run: c => dropUnreadInputs(c.work),
  }),
  pass({
    name: 'narrow-splits',
    does: 'Replaces Splits with more outputs than WebGPU supports by several, if the step targets it',
    requires: ['work'],
    ensures: [],
    run: c => c.options.provider === 'webgpu' && narrowSplits(c.work),
  }),
  pass({
    name: 'declare-value-types',
    does: 'Declares the types of values whose shapes no runtime infers',
    requires: ['work', 'typed'],
    ensures: [],
    run: c => declareValueTypes(c.work),
  }),
  pass({
    name: 'describe-step',
    does: 'Binds states to their next values, and describes the step in the metadata',
    requires: [
      'work',
      'g',
      'optimizer',
      'spec',
      'loss',
      'inference',
      'exports',
      'trained',
      'groups',
      'grads',
      'statistics',
      'leastBatch',
      'schedule',
      'begins',
      'divisor',
      'lossParts',
      'attached',
    ],
    ensures: ['description'],
    run(c) {
      c.description = describeStep(c);
      return true;
    },
  }),
  pass({
    name: 'embed-original',
    does: 'Stores the original file in the metadata, without the tensors that the graph holds',
    requires: ['work', 'model', 'description'],
    ensures: [],
    run(c) {
      const { model, description, options } = c;
      const isRewritten = c.moved || asksForAdapters(options) || options.qat;
      const original = (!isRewritten && options.original) || encodeWithout(c.work.graph.initializers, model);
      const learned = [...description.parameters.map(p => p.name), ...description.statistics];
      embedOriginal(c.work, original, model, learned);
      return true;
    },
  }),
] satisfies readonly Pass[];
