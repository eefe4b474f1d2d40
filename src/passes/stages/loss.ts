/** Passes that attach the loss, and choose what trains or what is differentiated, and with which options. */
import { AgdError } from '../../graph/errors.js';
import { adapterNames, wholeHead } from '../adapters/adapter-names.js';
import { type Pass, pass } from '../common/context.js';
import { addCotangents } from '../differentiate/add-cotangents.js';
import { attachLoss, attachSampleLosses } from '../differentiate/attach-loss.js';
import { checkLoss } from '../differentiate/check-loss.js';
import { isAttached } from '../normalize/attached.js';
import { noLoss } from '../options.js';
import { groupsOfScales } from '../quantize/learned-scales.js';
import { scalesOf } from '../quantize/quantization-record.js';
import { refuseRounded } from '../select/detect-quantization.js';
import { headParameters } from '../select/find-head.js';
import { distancesFromHead } from '../select/group-layers.js';
import { groupParameters } from '../select/group-parameters.js';
import { parameterUses } from '../select/parameter-uses.js';
import { selectParameters } from '../select/select-parameters.js';

import { loadOnDemand } from './load-on-demand.js';
export const LOSS_PASSES = [
  pass({
    name: 'attach-loss',
    does: 'Adds the loss as an output and the target as an input',
    requires: ['work', 'g'],
    ensures: ['spec', 'loss', 'inference', 'exports', 'lossNodes'],
    run(c) {
      const { g, options } = c;
      if (!options.loss) throw noLoss();
      c.spec = options.loss;
      const before = new Set(g.graph.nodes);
      const isPartial = options.lossDivisor || (options.accumulate ?? 1) > 1;
      c.loss = attachLoss(g, c.spec, { emptyIsZero: isPartial, inParts: isPartial && !options.dpSgd });
      const { loss, exposed } = c.loss;
      const own = g.graph.outputs.filter(v => v !== loss && !exposed?.includes(v) && !isAttached(v.name));
      c.inference = own.map(v => v.name);
      c.lossNodes = new Set(g.graph.nodes.filter(node => !before.has(node)));
      c.exports = options.exports && [...options.exports];
      return true;
    },
  }),
  pass({
    name: 'attach-sample-losses',
    does: 'Adds the loss of each sample as an output, or the mean if the model computes its loss itself',
    requires: ['g'],
    ensures: ['samples'],
    run(c) {
      const { g, options } = c;
      if (!options.loss) throw noLoss();
      if (options.loss.kind === 'output') c.loss = attachLoss(g, options.loss);
      c.samples = options.loss.kind === 'output' ? undefined : attachSampleLosses(g, options.loss);
      return true;
    },
  }),
  pass({
    name: 'choose-state',
    does: 'Selects the parameters and running statistics that are fed in evaluation',
    requires: ['work', 'g'],
    ensures: ['trained'],
    run(c) {
      c.trained = [...c.work.graph.initializers.keys()].filter(v => c.options.state?.has(v.name));
      c.g.forget(c.trained);
      return false;
    },
  }),
  pass({
    name: 'add-cotangents',
    does: 'Adds a cotangent input for each output to differentiate',
    requires: ['g'],
    ensures: ['seeds'],
    run(c) {
      c.seeds = addCotangents(c.g, c.options.cotangents ?? []);
      return true;
    },
  }),
  pass({
    name: 'use-gradients',
    does: 'Finds loss, gradients and running statistics in a graph that computes them',
    requires: ['work', 'g'],
    ensures: [
      'spec',
      'loss',
      'inference',
      'exports',
      'parameters',
      'trained',
      'given',
      'statistics',
      'leastBatch',
      'warnings',
      'model',
    ],
    async run(c) {
      const { useGradients } = await loadOnDemand();
      Object.assign(c, useGradients(c.g, c.work, c.source, c.options));
      return true;
    },
  }),
  pass({
    name: 'select-parameters',
    does: 'Decides which initializers train: by options, then by the file, then by rules',
    requires: ['work', 'g', 'origins', 'loss'],
    ensures: ['parameters', 'trained'],
    async run(c) {
      const { graph } = c.g;
      const { loss, output, constants } = c.loss;
      const ends = c.spec?.kind === 'output' ? graph.outputs.filter(v => v !== loss) : [output ?? loss];
      const head = () => headParameters(c.work, ends);
      const adapters = adapterNames(c.work);
      const quantizers = scalesOf(c.work);
      const given = { constants, head, adapters, newHead: wholeHead(c.work), quantizers };
      c.warnings ??= [];
      const copies =
        c.origins.size && (graph.inputs[0]?.shape?.[0] as number) > 1
          ? (await loadOnDemand()).findCopies(graph, c.origins, c.warnings)
          : undefined;
      c.parameters = await selectParameters(graph, [loss], c.origins, c.options, { ...given, copies });
      refuseRounded(graph, c.parameters, c.options);
      c.trained = c.parameters.flatMap(p => (p.trains ? [p.value] : []));
      c.g.forget(c.trained);
      return false;
    },
  }),
  pass({
    name: 'choose-wrt',
    does: 'Selects the inputs and initializers to differentiate with respect to',
    requires: ['g'],
    ensures: ['trained'],
    async run(c) {
      const { g, options, loss } = c;
      if (!options.wrt)
        throw new AgdError('bad-option', 'Choose with --wrt what to differentiate with respect to.');
      const { chooseWrt } = await loadOnDemand();
      c.trained = chooseWrt(g.graph, options.wrt, loss?.constants);
      g.forget(c.trained);
      return false;
    },
  }),
  pass({
    name: 'check-loss',
    does: 'Warns if the loss does not seem to fit the output that it reads',
    requires: ['g', 'spec', 'loss'],
    ensures: ['warnings'],
    run(c) {
      const found = c.loss.output ? checkLoss(c.g.graph, c.spec, c.loss.output) : [];
      c.warnings = [...(c.warnings ?? []), ...found];
      return false;
    },
  }),
  pass({
    name: 'group-parameters',
    does: 'Resolves the optimizer options that differ by parameter',
    requires: ['work', 'g', 'loss', 'trained', 'optimizer'],
    ensures: ['groups', 'distances'],
    async run(c) {
      const { optimizer, settings } = c.optimizer;
      const { layerDecay, unfreezeEvery } = c.options;
      const byLayer = layerDecay !== undefined || unfreezeEvery !== undefined;
      c.distances = byLayer ? distancesFromHead(c.g.graph, c.trained) : [];
      const ends = [c.loss.output ?? c.loss.loss];
      const uses = optimizer.forUse ? parameterUses(c.g.graph, c.trained, ends) : [];
      const groups = await groupParameters(c.trained, optimizer, settings, c.options, c.distances, uses);
      const chosen = { name: c.optimizer.name, settings };
      c.groups = groupsOfScales(c.work, c.trained, groups, chosen, c.options.groups);
      return false;
    },
  }),
] satisfies readonly Pass[];
