/** Queries, keys and values that one layer computes, as layers of their own. */
import type { AdaptedLayer } from './adapted-layers.js';

/** What a layer of all three is called; the three are its siblings then, as in a model that has them apart. */
const PACKED = /^(.*\.)?(?:qkv|qkv_proj|Wqkv|c_attn|in_proj|query_key_value)$/;

/** The parts of a layer that are layers in PyTorch: `q_proj`, `k_proj` and `v_proj`. */
export function partsOf(layer: AdaptedLayer): AdaptedLayer[] {
  const widths = widthsOf(layer) ?? [];
  if (widths.reduce((sum, n) => sum + n, 0) !== layer.outputs) return [];
  const siblings = PACKED.exec(layer.module);
  const prefix = siblings ? (siblings[1] ?? '') : `${layer.module}.`;
  let from = 0;
  return widths.map((outputs, i) => {
    const module = `${prefix}${['q_proj', 'k_proj', 'v_proj'][i]}`;
    const part = { from, all: layer.outputs };
    from += outputs;
    return { ...layer, module, name: `${module}.weight`, outputs, part };
  });
}

/** Numbers of outputs that are queries, keys and values. */
function widthsOf({ node, output, outputs }: AdaptedLayer): number[] | undefined {
  if (/^Q?Attention$/.test(node.opType)) {
    const sizes = node.attrs.get('qkv_hidden_sizes');
    return sizes?.type === 'ints' ? sizes.value.map(Number) : Array(3).fill(outputs / 3);
  }
  const [reader, ...others] = output.readers;
  if (reader?.opType !== 'GroupQueryAttention' || reader.domain !== 'com.microsoft' || others.length)
    return undefined;
  if (reader.inputs[0] !== output || reader.inputs[1] || reader.inputs[2]) return undefined;
  const heads = ['num_heads', 'kv_num_heads', 'kv_num_heads'].map(name => {
    const attr = reader.attrs.get(name);
    return attr?.type === 'int' ? Number(attr.value) : Number.NaN;
  });
  const total = heads.reduce((sum, n) => sum + n, 0);
  return heads.map(n => (n * outputs) / total);
}
