/**
 * Records a visit: drops the classifier of `sample/` and 300 images, trains a new head for their three classes, downloads the
 * model and runs it. Screenshots go to docs/images, in order: npm run studio:build && node examples/studio/record.mjs
 */
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { chromium } from 'playwright-core';
import { preview } from 'vite';
import { makeShapes } from './sample/make-shapes.mjs';

const here = path => fileURLToPath(new URL(path, import.meta.url));
const images = process.argv[2] ?? here('../../docs/images');
await mkdir(images, { recursive: true });
const folder = await mkdtemp(join(tmpdir(), 'studio-'));
await makeShapes(join(folder, 'shapes'));

const server = await preview({ configFile: here('vite.config.ts'), preview: { port: 0, host: '127.0.0.1' } });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox'],
});
const page = await browser.newPage({ viewport: { width: 1000, height: 1000 } });
const until = status =>
  page.waitForFunction(
    pattern => new RegExp(pattern).test(document.querySelector('#status').textContent),
    status,
    { timeout: 120_000 },
  );
const record = name =>
  page.screenshot({ path: join(images, `studio-${name}.jpg`), type: 'jpeg', quality: 65 });

await page.goto(server.resolvedUrls.local[0]);
await until('^Ready');
const files = await Promise.all(
  ['classifier.onnx', 'classifier.onnx.data'].map(async name => [
    name,
    await readFile(here(`sample/${name}`), 'base64'),
  ]),
);
const transfer = await page.evaluateHandle(given => {
  const made = new DataTransfer();
  for (const [name, base64] of given)
    made.items.add(new File([Uint8Array.from(atob(base64), c => c.charCodeAt(0))], name));
  return made;
}, files);
await page.dispatchEvent('#drop', 'drop', { dataTransfer: transfer });
await until('^Choose data');
await page.setInputFiles('#choose-folder', join(folder, 'shapes'));
await until('^Ready');
await record('1-dropped');
await page.click('#train');
await until('^Epoch 4');
await record('2-training');
await until('^Trained');
await record('3-trained');
const status = await page.textContent('#status');
const [download] = await Promise.all([page.waitForEvent('download'), page.click('#download-model')]);
const session = await InferenceSession.create(await download.path());
const image = new Tensor('float32', new Float32Array(3 * 32 * 32), [1, 3, 32, 32]);
const { scores } = await session.run({ image });
console.log(`${status}; ${download.suggestedFilename()} gives ${scores.dims[1]} scores`);

await page.click('#use-digits');
await until('^Ready');
await page.setViewportSize({ width: 380, height: 1000 });
await page.emulateMedia({ colorScheme: 'dark' });
await page.click('#options summary');
await page.fill('#settings [name=epochs]', '1');
await page.click('#options summary');
await page.click('#train');
await until('^Trained');
await page.evaluate(() => scrollTo(0, 0));
const pad = await page.locator('#canvas').boundingBox();
const at = (x, y) => [pad.x + x * pad.width, pad.y + y * pad.height];
await page.mouse.move(...at(0.3, 0.2));
await page.mouse.down();
for (const point of [
  [0.7, 0.2],
  [0.45, 0.85],
])
  await page.mouse.move(...at(...point), { steps: 8 });
await page.mouse.up();
await page.waitForFunction(() => /^7.*\d\d %/.test(document.querySelector('#bars .most')?.textContent));
await record('4-digits');

await browser.close();
await server.close();
await rm(folder, { recursive: true });
