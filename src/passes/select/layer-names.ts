/** What a layer is called: in `--head`, in globs of adapters, in errors. */
import type { Node, Value } from '../../graph/ir.js';
import { sourcesOf } from './read-origins.js';

/** Names that an exporter made up. */
const isMadeUp = (name: string) => /^(onnx::|val_\d|arith_constant)/.test(name);

const WEIGHT = /^(.+?)[./](?:weight|kernel|MatMul\/ReadVariableOp|Cast\/ReadVariableOp)[\w.:/]*$/;

/**
 * The module that a layer is, by the name of its weight or of what an exporter computed that from, of its bias, or of its
 * node; and the name of its weight.
 */
export function layerNames(weight: Value, node: Node, bias?: Value): { module: string; name: string } {
  const [source] = sourcesOf(weight);
  const found =
    WEIGHT.exec(source ?? weight.name)?.[1] ??
    (isMadeUp(weight.name)
      ? (/^(.+)[./]bias$/.exec(bias?.name ?? '')?.[1] ?? (node.name || weight.name))
      : weight.name);
  const module = found
    .replace(/^\//, '')
    .replace(/[./](MatMul|Gemm|Conv|Gather)(_\w+)?$/, '')
    .replaceAll('/', '.');
  // The model builder of ONNX Runtime's generation API shortens the name of a decoder's attention.
  const isBuilt = /\.MatMul\.weight/.test(weight.name);
  return {
    module: isBuilt ? module.replace(/^(model\.layers\.\d+)\.attn\./, '$1.self_attn.') : module,
    name: isMadeUp(weight.name) ? `${module}.weight` : weight.name,
  };
}
