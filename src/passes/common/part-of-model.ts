import { cloneModel } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { readDescription } from '../file/step-metadata.js';
import { dropUnreadInputs, eliminateDeadNodes } from './eliminate-dead-nodes.js';

/**
 * The part of a model that computes these values, which may be inner ones, as its outputs. Inputs that it does not
 * read are removed, and initializers are constants, not inputs. Throws `no-such-value`.
 */
export function partOfModel(model: Model, outputs: readonly string[]): Model {
  const part = cloneModel(model);
  const { graph } = part;
  const written = graph.nodes.flatMap(n => n.outputs.flatMap(v => v ?? []));
  const values = new Map([...written, ...graph.outputs].map(v => [v.name, v]));
  graph.outputs = outputs.map(name => {
    const value = values.get(name);
    if (!value) throw new AgdError('no-such-value', `The model computes no value '${name}'.`);
    return value;
  });
  graph.inputs = graph.inputs.filter(v => !graph.initializers.has(v));
  part.trainingInfo = [];
  eliminateDeadNodes(part);
  dropUnreadInputs(part);
  return part;
}

/**
 * The training part of an injected model: its outputs are the loss and the next values of the state, without inputs
 * that only other outputs need.
 */
export function trainingPart(injected: Model): Model {
  const part = cloneModel(injected);
  const { loss } = readDescription(injected);
  const kept = new Set([loss.name, ...part.trainingInfo.flatMap(info => info.updates.map(u => u.value))]);
  part.graph.outputs = part.graph.outputs.filter(v => kept.has(v.name));
  eliminateDeadNodes(part);
  dropUnreadInputs(part);
  return part;
}
