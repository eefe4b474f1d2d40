/** Rejects attribute values that no kernel supports: some crash the process, others make a kernel loop for ages. */
import { AgdError } from '../../graph/errors.js';
import { allGraphs, type Graph, type Node } from '../../graph/ir.js';
import { record } from '../../graph/record.js';

/** Attributes that are counts or sizes, which runtimes keep in 32 bits, with their minimum. */
const LEAST = record<number>({
  blocksize: 1,
  block_size: 0,
  bits: 1,
  group: 1,
  num_groups: 1,
  num_heads: 1,
  kv_num_heads: 0,
  hidden_size: 1,
  num_outputs: 1,
  kernel_shape: 1,
  strides: 1,
  dilations: 1,
  pads: 1 - 2 ** 31,
  output_padding: 0,
  output_height: 0,
  output_width: 0,
});
const MOST = 2 ** 31 - 1;

/** Kernels square the block size in 64 bits; no tensor has this many channels. */
const MOST_OF = record<number>({ blocksize: 2 ** 15 });

/** The runtime's own operators have attributes of the same names and meanings. */
const DOMAINS = new Set(['', 'com.microsoft']);

/**
 * Throws `invalid-model` for a node of the standard operators, or the runtime's own, with an attribute out of range.
 */
export function checkAttributes(graph: Graph): void {
  for (const { nodes } of allGraphs(graph))
    for (const node of nodes) if (DOMAINS.has(node.domain)) checkNode(node);
}

/** Smaller tensors cost little, whatever size they claim. */
const LARGE = 2 ** 16;

/** Throws `invalid-model` or `external-data` if a large tensor claims more elements than are stored. */
export function checkStored(graph: Graph): void {
  for (const { initializers } of allGraphs(graph))
    for (const tensor of initializers.values())
      if (tensor.size >= LARGE && !tensor.isZero && !tensor.strings) tensor.at(tensor.size - 1);
}

function checkNode(node: Node): void {
  for (const [name, attr] of node.attrs) {
    const least = LEAST[name];
    if (least === undefined || (attr.type !== 'int' && attr.type !== 'ints')) continue;
    const most = name === 'num_outputs' ? node.outputs.length : (MOST_OF[name] ?? MOST);
    for (const value of attr.type === 'int' ? [attr.value] : attr.value)
      if (value < least || value > most)
        throw new AgdError(
          'invalid-model',
          `${node.label}: attribute '${name}' is ${value}, which is not from ${least} to ${most}.`,
        );
  }
}
