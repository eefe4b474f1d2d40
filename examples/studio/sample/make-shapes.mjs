/**
 * Writes 300 images of three classes, each into the folder of its class: node examples/studio/sample/make-shapes.mjs FOLDER
 *
 * Circles, squares and triangles of random size, place and color on a noisy background; always the same ones.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32, deflateSync } from 'node:zlib';

const SIDE = 32;
const PER_CLASS = 100;

const INSIDE = {
  circle: (x, y) => x * x + y * y < 1,
  square: (x, y) => Math.max(Math.abs(x), Math.abs(y)) < 0.85,
  triangle: (x, y) => y < 0.8 && Math.abs(x) < (y + 1) * 0.55,
};

/** Numbers from 0 to 1: a linear congruential generator. */
function random(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type), data]);
  const all = Buffer.alloc(body.length + 8);
  all.writeUInt32BE(data.length, 0);
  body.copy(all, 4);
  all.writeUInt32BE(crc32(body), body.length + 4);
  return all;
}

/** An RGB image as PNG. */
function png(pixels) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(SIDE, 0);
  header.writeUInt32BE(SIDE, 4);
  header.set([8, 2, 0, 0, 0], 8);
  // Each row begins with its filter: none.
  const rows = Array.from({ length: SIDE }, (_, y) => [0, ...pixels.slice(3 * SIDE * y, 3 * SIDE * (y + 1))]);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  const data = deflateSync(Buffer.from(rows.flat()));
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', data),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function shape(isInside, draw) {
  const radius = 7 + 6 * draw();
  const [cx, cy] = [SIDE / 2 + 6 * (draw() - 0.5), SIDE / 2 + 6 * (draw() - 0.5)];
  const color = [0, 1, 2].map(() => 130 + 120 * draw());
  const ground = [0, 1, 2].map(() => 70 * draw());
  const pixels = [];
  for (let y = 0; y < SIDE; y++)
    for (let x = 0; x < SIDE; x++) {
      const base = isInside((x - cx) / radius, (y - cy) / radius) ? color : ground;
      pixels.push(...base.map(value => Math.round(Math.max(0, Math.min(255, value + 50 * (draw() - 0.5))))));
    }
  return pixels;
}

/** Writes the folders of the classes into `folder`. */
export async function makeShapes(folder, perClass = PER_CLASS) {
  const draw = random(2026);
  for (const [name, isInside] of Object.entries(INSIDE)) {
    await mkdir(join(folder, name), { recursive: true });
    for (let i = 0; i < perClass; i++)
      await writeFile(join(folder, name, `${String(i).padStart(3, '0')}.png`), png(shape(isInside, draw)));
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await makeShapes(process.argv[2] ?? 'shapes');
