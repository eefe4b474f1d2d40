import { AgdError } from '../graph/errors.js';
import { allGraphs, type Graph, type Node } from '../graph/ir.js';
import * as activation from './activation.js';
import * as convolution from './convolution.js';
import type { Provider } from './core/provider.js';
import type { Families, OpDef, Rule } from './core/rule.js';
import * as elementwise from './elementwise.js';
import * as indexing from './indexing.js';
import * as linalg from './linalg.js';
import * as lossOperators from './loss-operators.js';
import * as movement from './movement.js';
import * as nondifferentiable from './nondifferentiable.js';
import * as normalization from './normalization.js';
import * as pooling from './pooling.js';
import * as reduction from './reduction.js';

/** What most models are made of; `on-demand.ts` has the others. */
const COMMON: Families = {
  '': [
    activation,
    convolution,
    elementwise,
    indexing,
    linalg,
    lossOperators,
    movement,
    nondifferentiable,
    normalization,
    pooling,
    reduction,
  ],
};

/** By domain and operator. */
const TABLE = new Map<string, Map<string, OpDef>>();

function addFamilies(families: Families): void {
  for (const [domain, files] of Object.entries(families)) {
    const table = TABLE.get(domain) ?? new Map<string, OpDef>();
    TABLE.set(domain, table);
    for (const [opType, def] of files.flatMap(Object.entries)) {
      if (table.has(opType)) throw new Error(`Operator ${opType} has two rules.`);
      table.set(
        opType,
        typeof def === 'function' ? { kind: 'rule', rule: def as Rule<never, never> } : (def as OpDef),
      );
    }
  }
}
addFamilies(COMMON);

let isComplete = false;

/** Adds the definitions of `on-demand.ts`, where they are not there yet. */
export function completeOperators(others: Families): void {
  if (!isComplete) addFamilies(others);
  isComplete = true;
}

/**
 * Loads what `opDef` may be asked for: all definitions, unless a graph has no operators but those that most models are made
 * of. The runner of passes calls it whenever the graph has changed.
 */
export async function loadOperators(graph?: Graph): Promise<void> {
  if (isComplete || (graph && [...allGraphs(graph)].every(areKnown))) return;
  completeOperators((await import('./on-demand.js')).OTHERS);
}

function areKnown({ nodes }: Graph): boolean {
  const standard = TABLE.get('')!;
  // After each pass that changed the graph: by index, and most operators are standard.
  for (let i = 0; i < nodes.length; i++) {
    const { domain, opType } = nodes[i]!;
    if (!(domain === '' ? standard.has(opType) : definitionOf(nodes[i]!))) return false;
  }
  return true;
}

type Operator = Pick<Node, 'domain' | 'opType'>;

const domainOf = ({ domain }: Operator) => (domain === 'ai.onnx' ? '' : domain);

const definitionOf = (node: Operator) => TABLE.get(domainOf(node))?.get(node.opType);

/** The definition of a node's operator, if it is known. `loadOperators` has to be called before. */
export function opDef(node: Operator): OpDef | undefined {
  const found = definitionOf(node);
  if (!found && !isComplete) throw new Error(`Nobody has loaded the definition of ${node.opType}.`);
  return found;
}

const EXTENSIONS = new Set<OpDef>();

/** Adds the definition of an operator by an extension, after all others. Throws `bad-option` if the operator is known already. */
export function addOperator(operator: Operator, def: OpDef): void {
  const domain = domainOf(operator);
  if (opDef(operator))
    throw new AgdError(
      'bad-option',
      `Operator '${domain || 'ai.onnx'}.${operator.opType}' has a gradient already; an extension cannot replace it.`,
    );
  const table = TABLE.get(domain) ?? new Map<string, OpDef>();
  TABLE.set(domain, table.set(operator.opType, def));
  EXTENSIONS.add(def);
}

/** The expansion of a node that no kernel of the provider computes: of an extension's operator, or in some form. */
export function expansionWithoutKernel(
  node: Node,
  provider: Provider,
): Extract<OpDef, { kind: 'expansion' }> | undefined {
  const def = opDef(node);
  if (def?.kind !== 'expansion') return undefined;
  return EXTENSIONS.has(def) || def.lacksKernel?.(node, provider) ? def : undefined;
}

/** Every operator of the table, as [domain, opType, definition]. */
export function* opTable(): Generator<[domain: string, opType: string, def: OpDef]> {
  for (const [domain, table] of TABLE) for (const [opType, def] of table) yield [domain, opType, def];
}
