import { type Graph, type Node, Value } from '../../graph/ir.js';
import type { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { tileOf } from '../update/tile-large-updates.js';
import { ELEMENTWISE } from './elementwise.js';

/** Tensors that the update of a tile has in use at once: weight, gradient, two moments and two intermediate results. */
const TENSORS = 6;
const LEAST = 2 ** 17;
const MOST = 2 ** 20;

/** How many elements a tile may have for its update to fit in a cache of so many bytes. */
export function tileForCache(bytes: number): number {
  const elements = bytes / (TENSORS * Float32Array.BYTES_PER_ELEMENT);
  return Math.min(MOST, Math.max(LEAST, 2 ** Math.floor(Math.log2(elements))));
}

/**
 * Cuts the tensors that a step updates in tiles into tiles of up to `most` elements: threads share large ones better. `step` is the
 * body of the only node of `outer`, which has its constants. Each element is computed as before.
 */
export function retile(outer: Graph, step: Graph, names: Names, most: number): void {
  const shapes = new Map<number, Value>();
  const shapeOf = (tile: number) => {
    const shape = new Value(names.fresh('tiles'), { kind: 'tensor', dtype: 'int64', shape: [2] });
    outer.initializers.set(shape, Tensor.ints([-1, tile]));
    shapes.set(tile, shape);
    return shape;
  };
  for (const scan of step.nodes) {
    const body = scan.opType === 'Scan' && !scan.domain ? scan.subgraphs()[0] : undefined;
    const now = body && tilesOf(scan, body, outer);
    if (!now) continue;
    const size = now.count * now.tile;
    const tile = size <= most ? size : (tileOf(size, most) ?? now.tile);
    if (tile === now.tile) continue;
    const shape = shapes.get(tile) ?? shapeOf(tile);
    for (const input of scan.inputs) input!.producer!.setInput(1, shape);
    for (const value of [...scan.inputs, ...scan.outputs]) retype(value!, [size / tile, tile]);
    for (const value of [...body.inputs, ...body.nodes.flatMap(node => node.outputs)])
      if (value!.shape!.length) retype(value!, [tile]);
  }
}

/**
 * The tiles of a Scan that reads tensors reshaped for it alone, and computes each element from those at its place and from scalars;
 * undefined for any other.
 */
function tilesOf(scan: Node, body: Graph, outer: Graph): { count: number; tile: number } | undefined {
  const { shape } = scan.inputs[0] ?? {};
  const [count, tile] = (shape ?? []) as (number | undefined)[];
  const isPlain = [...scan.attrs.keys()].every(name => name === 'body' || name === 'num_scan_inputs');
  if (!isPlain || shape?.length !== 2 || !count || !tile) return undefined;
  const constant = ({ producer }: Value) =>
    producer?.opType === 'Reshape' && !producer.domain
      ? outer.initializers.get(producer.inputs[1]!)
      : undefined;
  const isCut = (v: Value | null) =>
    `${v?.shape}` === `${shape}` &&
    v!.readers.length === 1 &&
    !v!.outputOf.length &&
    `${constant(v!)?.numbers()}` === `${[-1, tile]}`;
  const isJoined = (v: Value | null) =>
    !v!.outputOf.length &&
    v!.readers.every(node => constant(node.outputs[0]!)?.numbers().includes(0) === false);
  const isOfElements = ({ opType, domain, outputs }: Node) =>
    ELEMENTWISE.has(opType) && !domain && outputs.every(v => isOfTile(v!));
  const isOfTile = (v: Value) => v.shape?.length === 0 || `${v.shape}` === `${tile}`;
  const isRight =
    scan.inputs.every(isCut) &&
    scan.outputs.every(isJoined) &&
    body.nodes.every(isOfElements) &&
    [...body.captures(), ...body.initializers.keys()].every(v => v.shape?.length === 0);
  return isRight ? { count, tile } : undefined;
}

function retype(value: Value, shape: readonly number[]): void {
  value.type = { kind: 'tensor', dtype: value.dtype!, shape };
}
