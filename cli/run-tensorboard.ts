/** Event files of TensorBoard: TFRecords of protobuf messages (tensorflow/core/util/event.proto, framework/summary.proto). */
import { mkdirSync, openSync, readdirSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import protobuf from 'protobufjs/minimal.js';
import { attempts, historyEvents, type Start, type Watcher } from './run-log.js';
import { type Scalars, scalarsOf } from './run-scalars.js';

/**
 * Writes the scalars of a run into a new event file in `folder`. One of a resumed run takes the place of what older files
 * there have from its first step on. Each fold of a cross-validation has a folder of its own in it, which is a run to TensorBoard. Where it cannot be written, `warn` is told once, and training goes on.
 */
export function runTensorBoard(folder: string, warn: (text: string) => void): Watcher {
  const attempt = attempts(folder, 'event files', warn);
  let file: number | undefined;
  let stepsPerEpoch = 0;
  const add = (scalars: Scalars | undefined) => {
    if (scalars && file !== undefined) writeSync(file, record(summaryEvent(scalars)));
  };
  const begin = (start: Start) => {
    stepsPerEpoch = start.stepsPerEpoch;
    const own = start.fold === undefined ? folder : join(folder, `fold-${start.fold}`);
    mkdirSync(own, { recursive: true });
    const hasOthers = readdirSync(own).some(name => name.includes('tfevents'));
    const name = `events.out.tfevents.${Math.floor(start.time / 1000)}.agd-onnx.${process.pid}`;
    file = openSync(join(own, name), 'w');
    writeSync(file, record(versionEvent(start.time)));
    writeSync(file, record(startEvent(start.time, start.stepsBefore + 1)));
    if (!hasOthers)
      for (const event of historyEvents(start))
        add(
          scalarsOf({ ...event, time: Number.isFinite(event.time) ? event.time : start.time }, stepsPerEpoch),
        );
  };
  return event =>
    attempt(() => (event.type === 'start' ? begin(event) : add(scalarsOf(event, stepsPerEpoch))));
}

const DOUBLE = 1;
const BYTES = 2;
const FLOAT = 5;
const tag = (field: number, type: number) => (field << 3) | type;

/** `wall_time` (1) in seconds, `step` (2) where it is not 0, and one of the others. */
function event(time: number, step: number): protobuf.Writer {
  const writer = protobuf.Writer.create()
    .uint32(tag(1, DOUBLE))
    .double(time / 1000);
  return step ? writer.uint32(tag(2, 0)).int64(step) : writer;
}

/** `file_version` (3), which the first record has. */
const versionEvent = (time: number) => event(time, 0).uint32(tag(3, BYTES)).string('brain.Event:2').finish();

/** `session_log` (7) with `status` (1) START: readers drop what other files have from this step on. */
const startEvent = (time: number, step: number) =>
  event(time, step).uint32(tag(7, BYTES)).fork().uint32(tag(1, 0)).int32(1).ldelim().finish();

/** `summary` (5) with a `value` (1) for each scalar: `tag` (1) and `simple_value` (2). */
function summaryEvent({ time, step, values }: Scalars): Uint8Array {
  const writer = event(time, step).uint32(tag(5, BYTES)).fork();
  for (const [name, value] of values) {
    writer.uint32(tag(1, BYTES)).fork();
    writer.uint32(tag(1, BYTES)).string(name).uint32(tag(2, FLOAT)).float(value).ldelim();
  }
  return writer.ldelim().finish();
}

/** Length, masked CRC of the length, data, masked CRC of the data (tensorflow/core/lib/io/record_writer.h). */
export function record(data: Uint8Array): Buffer {
  const framed = Buffer.alloc(data.length + 16);
  framed.writeBigUInt64LE(BigInt(data.length), 0);
  framed.writeUInt32LE(masked(framed.subarray(0, 8)), 8);
  framed.set(data, 12);
  framed.writeUInt32LE(masked(data), data.length + 12);
  return framed;
}

/** Rotated and shifted, as a CRC of data that contain CRCs is weak. */
function masked(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** The polynomial of Castagnoli (RFC 3720, B.4), reflected. */
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc >>> 0;
});

export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
