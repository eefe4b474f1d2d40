/** The page of docs/guide/browser.md, built with Vite from the blocks of the guide, trains in headless Chromium. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { chromium } from 'playwright-core';
import { build, preview } from 'vite';
import { describe, expect, it } from 'vitest';
import { decodeModel, encodeModel } from '../../src/graph/proto/codec.js';
import { Sketch } from '../sample.js';

const ROOT = join(import.meta.dirname, '../..');
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const hasChromium = existsSync(CHROMIUM);
if (!hasChromium)
  console.log("skipped: the guide's page trains: there is no Chromium (Debian: apt-get install chromium)");

/** The blocks that begin with the name of a file. */
function filesOf(page: string): Map<string, string> {
  const blocks = page.matchAll(/^```\w+\n((?:\/\/|<!--) (\S+\.\w+)(?: -->)?\n.*?)^```$/gms);
  return new Map([...blocks].map(([, text, name]) => [name!, text!]));
}

/** x[batch,2] -> scores[batch,3]. */
function classifier(): Buffer {
  const s = new Sketch();
  const hidden = s.add('MatMul', [s.input('x', ['batch', 2]), s.weight('w1', [2, 8])], 'h');
  const scores = s.add('MatMul', [s.add('Relu', [hidden], 'r'), s.weight('w2', [8, 3])], 'scores');
  return Buffer.from(encodeModel(s.model([scores])));
}

/** Three classes that lie apart. */
function table(): Buffer {
  const rows = Array.from({ length: 120 }, (_, i) => {
    const at = i % 3;
    return `${at - 1 + ((i * 7) % 11) / 40},${1 - at * at + ((i * 5) % 13) / 40},${['a', 'b', 'c'][at]}`;
  });
  return Buffer.from(`length,width,species\n${rows.join('\n')}\n`);
}

describe("the guide's page", () => {
  const page = readFileSync(join(ROOT, 'docs/guide/browser.md'), 'utf8');
  const sources = filesOf(page);

  it('is about 30 lines of script', () => {
    expect([...sources.keys()]).toEqual(['index.html', 'src/main.js', 'src/worker.js', 'vite.config.js']);
    const scripts = [...sources]
      .filter(([name]) => name.startsWith('src/'))
      .flatMap(([, text]) => text.split('\n'));
    expect(scripts.filter(line => line.trim() && !line.startsWith('//')).length).toBeLessThan(38);
  });

  it.skipIf(!hasChromium)('trains a model of its visitor', { timeout: 240_000 }, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-guide-'));
    for (const [name, text] of sources) {
      mkdirSync(dirname(join(folder, name)), { recursive: true });
      writeFileSync(join(folder, name), text);
    }
    mkdirSync(join(folder, 'node_modules'));
    symlinkSync(ROOT, join(folder, 'node_modules/agd-onnx'), 'dir');
    for (const name of ['onnxruntime-web', 'onnxruntime-common'])
      symlinkSync(join(ROOT, 'node_modules', name), join(folder, 'node_modules', name), 'dir');
    const configFile = join(folder, 'vite.config.js');
    await build({ root: folder, configFile, logLevel: 'error' });
    const server = await preview({
      root: folder,
      configFile,
      logLevel: 'error',
      preview: { port: 0, host: '127.0.0.1' },
    });
    const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
    try {
      const tab = await browser.newPage();
      await tab.goto(server.resolvedUrls!.local[0]!);
      const file = (name: string, buffer: Buffer) => ({ name, mimeType: 'application/octet-stream', buffer });
      await tab.setInputFiles('#model', file('model.onnx', classifier()));
      await tab.setInputFiles('#data', file('flowers.csv', table()));
      await tab.click('#train');
      const download = tab.waitForEvent('download', { timeout: 200_000 });
      await tab.click('#download', { timeout: 200_000 });
      const log = (await tab.textContent('#log'))!;
      const losses = [...log.matchAll(/^epoch \d+: loss ([\d.]+), validation ([\d.]+)$/gm)].map(([, x]) =>
        Number(x),
      );
      expect(losses, log).toHaveLength(10);
      expect(losses.at(-1)).toBeLessThan(0.8 * losses[0]!);
      const trained = decodeModel(new Uint8Array(readFileSync((await (await download).path())!)));
      expect(trained.graph.outputs.map(v => v.name)).toEqual(['scores']);
    } finally {
      await browser.close();
      await server.close();
    }
  });
});
