import { onnx } from 'onnx-proto';
import { describe, expect, it } from 'vitest';
import { MESSAGES, parse, serialize } from '../../../src/graph/proto/schema.js';
import { Filler, plain } from '../filled.js';

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

  it('has the fields that are newer: what ONNX 1.23 wrote is read', () => {
    const metadataProps = (key: string) => ({ metadataProps: [{ key, value: 'v' }] });
    const opsetImport = [{ version: 21 }];
    expect(plain(parse('ModelProto', Buffer.from(NEWEST, 'base64')))).toEqual({
      irVersion: 13,
      opsetImport,
      ...metadataProps('model'),
      configuration: [{ name: 'config', numDevices: 2, device: ['gpu'] }],
      graph: {
        name: 'g',
        ...metadataProps('graph'),
        input: [{ name: 'x', ...metadataProps('input') }],
        output: [{ name: 'y' }],
        initializer: [{ name: 'w', dataType: 1, dims: [0], ...metadataProps('tensor') }],
        valueInfo: [
          { name: 'opaque', type: { opaqueType: { domain: 'd', name: 'o' } } },
          { name: 'sparse', type: { sparseTensorType: { elemType: 1 } } },
          { name: 'maybe', type: { optionalType: { elemType: { tensorType: { elemType: 7 } } } } },
        ],
        node: [
          {
            opType: 'F',
            domain: 'local',
            overload: 'o',
            name: 'n',
            input: ['x'],
            output: ['y'],
            ...metadataProps('node'),
            deviceConfigurations: [
              {
                configurationId: 'config',
                pipelineStage: 3,
                shardingSpec: [
                  {
                    tensorName: 'x',
                    device: [0, 1],
                    indexToDeviceGroupMap: [{ key: 4, value: [5, 6] }],
                    shardedDim: [
                      {
                        axis: 7,
                        simpleSharding: [{ dimValue: 8, numShards: 9 }, { dimParam: 'N' }],
                      },
                    ],
                  },
                ],
              },
            ],
          },
        ],
      },
      functions: [
        {
          name: 'F',
          domain: 'local',
          overload: 'o',
          input: ['a'],
          output: ['a'],
          attributeProto: [{ name: 'alpha', type: 1, f: 0.5 }],
          valueInfo: [{ name: 'v' }],
          opsetImport,
          ...metadataProps('function'),
        },
      ],
    });
  });
});

/** A model with every field that onnx-proto lacks, written by the official Python package. */
const NEWEST =
  'CA06wwEKTQoBeBIBeRoBbiIBRjoFbG9jYWxCAW9KCQoEbm9kZRIBdlIqCgZjb25maWcSHgoBeBAAEAEaBggEEAUQBiINCAcSBAgIGAkS' +
  'AxIBThgDEgFnKhUIABABQgF3ggELCgZ0ZW5zb3ISAXZaDwoBeCIKCgVpbnB1dBIBdmIDCgF5ahIKBm9wYXF1ZRIIOgYKAWQSAW9qDgoG' +
  'c3BhcnNlEgRCAggBahEKBW1heWJlEghKBgoECgIIB4IBCgoFZ3JhcGgSAXZCAhAVcgoKBW1vZGVsEgF2ygE8CgFGIgFhKgFhSgIQFVIF' +
  'bG9jYWxaDwoFYWxwaGEVAAAAP6ABAWIDCgF2agFvcg0KCGZ1bmN0aW9uEgF20gEPCgZjb25maWcQAhoDZ3B1';
