/** The studio is built, trains in headless Chromium, and its download runs in Node. */
import { execFileSync } from 'node:child_process';
import { createReadStream, existsSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join } from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { chromium } from 'playwright-core';
import { expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '../..');
const CHROMIUM = '/usr/bin/chromium';
const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.wasm': 'application/wasm',
};
if (!existsSync(CHROMIUM))
  console.log('skipped: the studio trains: there is no Chromium (Debian: apt-get install chromium)');

it.skipIf(!existsSync(CHROMIUM))(
  'the studio trains digits, and its download runs',
  { timeout: 90_000 },
  async () => {
    execFileSync(
      process.execPath,
      ['node_modules/vite/bin/vite.js', 'build', '-c', 'examples/studio/vite.config.ts'],
      { cwd: ROOT, stdio: 'pipe' },
    );
    const server = createServer((request, response) => {
      const file = join(ROOT, 'dist/studio', request.url === '/' ? 'index.html' : request.url!);
      if (!existsSync(file)) return void response.writeHead(404).end();
      response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream' });
      createReadStream(file).pipe(response);
    }).listen(0, '127.0.0.1');
    const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
    try {
      const page = await browser.newPage({ viewport: { width: 380, height: 700 } });
      await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
      await page.fill('#epochs', '2');
      await page.click('#train');
      await page.waitForSelector('#download:not([disabled])');
      expect(await page.textContent('#status')).toMatch(/^Trained: 20 steps, loss \d/);
      expect(await page.textContent('#error')).toBe('');
      const points = await page.locator('polyline').getAttribute('points');
      expect(points!.split(' ')).toHaveLength(20);
      const [download] = await Promise.all([page.waitForEvent('download'), page.click('#download')]);
      const session = await InferenceSession.create(await download.path());
      const input = new Tensor('float32', new Float32Array(28 * 28), [1, 1, 28, 28]);
      const outputs = await session.run({ [session.inputNames[0]!]: input });
      expect(outputs[session.outputNames[0]!]!.dims).toEqual([1, 10]);
    } finally {
      await browser.close();
      server.close();
    }
  },
);
