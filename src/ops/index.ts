import { AgdError } from '../graph/errors.js';
import type { Node } from '../graph/ir.js';
import * as activation from './activation.js';
import * as attention from './attention.js';
import * as controlFlow from './control-flow.js';
import * as convolution from './convolution.js';
import type { Provider } from './core/provider.js';
import type { OpDef, Rule } from './core/rule.js';
import * as einsum from './einsum.js';
import * as elementwise from './elementwise.js';
import * as indexing from './indexing.js';
import * as linalg from './linalg.js';
import * as lossOperators from './loss-operators.js';
import * as contribAttention from './microsoft/attention.js';
import * as contribExperts from './microsoft/experts.js';
import * as contrib from './microsoft/fused.js';
import * as contribGrouped from './microsoft/grouped-attention.js';
import * as contribIntegers from './microsoft/integers.js';
import * as contribLinear from './microsoft/linear-attention.js';
import * as contribQuantized from './microsoft/quantized.js';
import * as movement from './movement.js';
import * as nondifferentiable from './nondifferentiable.js';
import * as normalization from './normalization.js';
import * as onnxOptimizers from './onnx-optimizers.js';
import * as pooling from './pooling.js';
import * as quantization from './quantization.js';
import * as recurrent from './recurrent.js';
import * as reduction from './reduction.js';
import * as regions from './regions.js';
import * as resampling from './resampling.js';
import * as sequence from './sequence.js';
import * as signal from './signal.js';

/** The families of each domain; an export's name is the operator's name. */
const FAMILIES: Record<string, Record<string, unknown>[]> = {
  '': [
    activation,
    attention,
    controlFlow,
    convolution,
    einsum,
    elementwise,
    indexing,
    linalg,
    movement,
    lossOperators,
    normalization,
    nondifferentiable,
    pooling,
    quantization,
    recurrent,
    reduction,
    regions,
    resampling,
    sequence,
    signal,
  ],
  'ai.onnx.preview.training': [onnxOptimizers],
  'com.microsoft': [
    contrib,
    contribAttention,
    contribExperts,
    contribGrouped,
    contribIntegers,
    contribLinear,
    contribQuantized,
  ],
};

/** By domain and operator. */
const TABLE = new Map<string, Map<string, OpDef>>();
for (const [domain, families] of Object.entries(FAMILIES)) {
  const table = new Map<string, OpDef>();
  TABLE.set(domain, table);
  for (const family of families) {
    for (const [opType, def] of Object.entries(family)) {
      if (table.has(opType)) throw new Error(`Operator ${opType} has two rules.`);
      table.set(
        opType,
        typeof def === 'function' ? { kind: 'rule', rule: def as Rule<never, never> } : (def as OpDef),
      );
    }
  }
}

type Operator = Pick<Node, 'domain' | 'opType'>;

const domainOf = ({ domain }: Operator) => (domain === 'ai.onnx' ? '' : domain);

/** The definition of a node's operator, if it is known. */
export function opDef(node: Operator): OpDef | undefined {
  return TABLE.get(domainOf(node))?.get(node.opType);
}

const EXTENSIONS = new Set<OpDef>();

/** Adds the definition of an operator by an extension. Throws `bad-option` if the operator is known already. */
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
