import { onnx } from 'onnx-proto';
import { describe, expect, it } from 'vitest';
import { MESSAGES, parse, serialize } from '../../src/graph/proto-schema.js';
import { Filler, plain } from './filled.js';

type Codec = {
  decode(bytes: Uint8Array): object;
  encode(message: object): { finish(): Uint8Array };
  prototype: object;
};

/** onnx-proto's classes for our message names. */
const CLASSES: Record<string, unknown> = {
  ...onnx,
  Segment: onnx.TensorProto.Segment,
  TensorType: onnx.TypeProto.Tensor,
  ElementType: onnx.TypeProto.Sequence,
  MapType: onnx.TypeProto.Map,
  Dimension: onnx.TensorShapeProto.Dimension,
};

const isKnown = (message: string, field: string) =>
  field in ((CLASSES[message] as Codec | undefined)?.prototype ?? {});

describe('the schema', () => {
  const known = Object.keys(MESSAGES).filter(name => name in CLASSES);

  it('has every message of onnx-proto', () => expect(known).toHaveLength(19));

  it('has the numbers and types of onnx-proto: what one writes, the other reads', () => {
    const filled = serialize('ModelProto', new Filler(false, isKnown).message('ModelProto', 6));
    const theirs = onnx.ModelProto.decode(filled);
    const back = parse('ModelProto', onnx.ModelProto.encode(theirs).finish());
    expect(plain(back)).toEqual(plain(parse('ModelProto', filled)));
  });
});
