import { crc32, inflateSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { encodePng } from '../../../cli/ui/png.js';

function chunks(png: Buffer) {
  const found: { type: string; data: Buffer }[] = [];
  for (let at = 8; at < png.length; ) {
    const end = at + 8 + png.readUInt32BE(at);
    expect(png.readUInt32BE(end)).toBe(crc32(png.subarray(at + 4, end)));
    found.push({ type: png.toString('ascii', at + 4, at + 8), data: png.subarray(at + 8, end) });
    at = end + 4;
  }
  return found;
}

test.each([
  [1, 0],
  [3, 2],
] as const)('an image of %d channels', (channels, colourType) => {
  const pixels = Uint8Array.from({ length: 3 * 2 * channels }, (_, i) => 10 * i);
  const png = encodePng({ width: 3, height: 2, channels, pixels });
  expect(png.subarray(0, 8).toString('latin1')).toBe('\x89PNG\r\n\x1a\n');
  const [header, data, end, ...more] = chunks(png);
  expect(header).toEqual({
    type: 'IHDR',
    data: Buffer.from([0, 0, 0, 3, 0, 0, 0, 2, 8, colourType, 0, 0, 0]),
  });
  const row = 3 * channels;
  const rows = [0, ...pixels.subarray(0, row), 0, ...pixels.subarray(row)];
  expect(data?.type).toBe('IDAT');
  expect([...inflateSync(data!.data)]).toEqual(rows);
  expect(end).toEqual({ type: 'IEND', data: Buffer.alloc(0) });
  expect(more).toEqual([]);
});
