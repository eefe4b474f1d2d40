import type { Graph, Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { Builder } from '../../ops/core/builder.js';
import { Attributes } from '../../ops/core/rule.js';
import { ELEMENTWISE } from '../common/elementwise.js';

/** Bytes of a core's cache for each element of its share of a tile: some six tensors in use, and what they are read ahead of. */
const CACHE_PER_ELEMENT = 64;
/** In smaller caches than this, shares would be so small that what a node costs counts more. */
const LEAST_CACHE = 2 ** 20;
/** With one thread, and with several: the runtime computes a product with a number on one thread if it has less than 88,400 elements. */
const ALONE = { least: 2 ** 14, most: 2 ** 15 };
const SHARED = { least: 90_000, most: 2 ** 17 };

/**
 * Gives the tiles of large updates the size at which each thread's share stays in its core's second-level cache, of `cache` bytes. The file
 * has tiles that suit a cache shared by the cores. The numbers are the same. Changes the model's nodes.
 */
export function resizeTiles(model: Model, { threads, cache }: { threads: number; cache: number }): void {
  if (cache < LEAST_CACHE) return;
  const { least, most } = threads > 1 ? SHARED : ALONE;
  const range = { least, most: Math.max((threads * cache) / CACHE_PER_ELEMENT, most) };
  const { graph } = model;
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const extents = new Map<number, Value>();
  for (const scan of graph.nodes) {
    const old = tileOf(graph, scan);
    if (!old) continue;
    const tile = largestPart(old.size, range);
    if (!tile || tile === old.tile) continue;
    const shape = extents.get(tile) ?? g.tensor(Tensor.ints([-1, tile]), 'tile').value;
    extents.set(tile, shape);
    for (const { producer } of scan.inputs as Value[]) producer!.setInput(1, shape);
    for (const value of [...scan.inputs, ...scan.outputs]) retype(value!, [old.size / tile, tile]);
    const [body] = scan.subgraphs() as [Graph];
    const inner = [...body.inputs, ...body.nodes.flatMap(node => node.outputs)];
    for (const value of inner) if (value?.shape?.[0] === old.tile) retype(value, [tile]);
  }
}

/** Of a Scan that applies elementwise operators to tiles, which nothing else reads: the extents of a tile and of the whole. */
function tileOf(graph: Graph, scan: Node): { tile: number; size: number } | undefined {
  const body = scan.opType === 'Scan' && !scan.domain ? scan.subgraphs()[0] : undefined;
  if (!body || new Attributes(scan).int('num_scan_inputs', 0) !== scan.inputs.length || scan.attrs.size > 2)
    return undefined;
  const [count, tile] = scan.inputs[0]?.shape ?? [];
  if (typeof count !== 'number' || typeof tile !== 'number') return undefined;
  const isWhole = (v: Value | null) => `${v?.shape}` === `${[count, tile]}`;
  const isCut = (v: Value | null) =>
    isWhole(v) &&
    isReshape(v!.producer) &&
    v!.uses.length === 1 &&
    `${graph.initializers.get(v!.producer.inputs[1]!)?.numbers()}` === `${[-1, tile]}`;
  const isJoined = (v: Value | null) =>
    isWhole(v) &&
    !graph.outputs.includes(v!) &&
    v!.uses.every(({ node, index }) => isReshape(node) && !index);
  const isSingle = (v: Value) => v.shape?.length === 0 || `${v.shape}` === '1';
  // A file declares few types of what is inside.
  const isPart = (v: Value | null) => !v?.shape || `${v.shape}` === `${[tile]}` || isSingle(v);
  const isTiled =
    scan.inputs.every(isCut) &&
    scan.outputs.every(isJoined) &&
    [...body.captures(), ...body.initializers.keys()].every(isSingle) &&
    body.nodes.every(
      node => isElementwise(node) && !node.domain && [...node.inputs, ...node.outputs].every(isPart),
    );
  return isTiled ? { tile, size: count * tile } : undefined;
}

const isElementwise = ({ opType }: Node) => ELEMENTWISE.has(opType) || opType === 'Identity';
const isReshape = (node: Node | undefined): node is Node => node?.opType === 'Reshape' && !node.domain;

function retype(value: Value, shape: number[]): void {
  if (value.type?.kind === 'tensor') value.type = { ...value.type, shape };
}

/** The largest divisor of `size` in this range. */
function largestPart(size: number, { least, most }: { least: number; most: number }): number | undefined {
  for (let count = Math.ceil(size / most); count <= size / least; count++)
    if (size % count === 0) return size / count;
  return undefined;
}
