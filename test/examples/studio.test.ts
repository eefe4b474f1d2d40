/** The studio is built, trains in headless Chromium, keeps its run, and its downloads run in Node. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { type Browser, chromium, type Page } from 'playwright-core';
import { type PreviewServer, preview } from 'vite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { describeNeeds } from '../../examples/studio/page/needs.js';
import { encodeModel } from '../../src/graph/proto/codec.js';
import { Tensor as Numbers } from '../../src/graph/tensor.js';
import { OPTIMIZER_NAMES } from '../../src/ops/optimizers/index.js';
import { readOnnxAdapter } from '../../src/runtime/formats/onnx-adapter.js';
import { Sketch } from '../sample.js';

/** What the tests read of the page. */
type Shown = {
  readonly id: string;
  readonly name: string;
  readonly value: string;
  readonly textContent: string | null;
  readonly outerHTML: string;
  readonly ariaLabel: string | null;
  readonly labels?: ArrayLike<Shown>;
  getAttribute(name: string): string | null;
};
declare const document: {
  querySelector(selector: string): Shown | null;
  querySelectorAll(selector: string): Iterable<Shown> & { length: number };
  documentElement: { scrollWidth: number; clientWidth: number; lang: string };
};

const ROOT = join(import.meta.dirname, '../..');
const CONFIG = join(ROOT, 'examples/studio/vite.config.ts');
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const hasChromium = existsSync(CHROMIUM);
if (!hasChromium)
  console.log('skipped: the studio trains: there is no Chromium (Debian: apt-get install chromium)');

/** x[batch,2] -> scores[batch,3]. */
function classifier(): Buffer {
  const s = new Sketch();
  const hidden = s.add(
    'Relu',
    [s.add('MatMul', [s.input('x', ['batch', 2]), s.weight('w1', [2, 8])], 'h')],
    'relu',
  );
  return Buffer.from(encodeModel(s.model([s.add('MatMul', [hidden, s.weight('w2', [8, 3])], 'scores')])));
}

/** x[batch,2] -> y[batch,1]. */
function regression(): Buffer {
  const s = new Sketch();
  return Buffer.from(
    encodeModel(s.model([s.add('MatMul', [s.input('x', ['batch', 2]), s.weight('w', [2, 1])], 'y')])),
  );
}

/** The same with activations of 2 GB in a batch of 16. */
function wide(): Buffer {
  const s = new Sketch();
  const hidden = s.add('MatMul', [s.input('x', ['batch', 2]), s.weight('w1', [2, 8])], 'h');
  const [axes, shape] = [[2], [1, 1, 4_000_000]].map((values, i) =>
    s.weight(`c${i}`, Numbers.from('int64', [values.length], BigInt64Array.from(values.map(BigInt)))),
  );
  const copies = s.add('Expand', [s.add('Unsqueeze', [hidden, axes!], 'u'), shape!], 'copies');
  const mean = s.add('ReduceMean', [s.add('Tanh', [copies], 'tanh'), axes!], 'mean', { keepdims: 0 });
  return Buffer.from(encodeModel(s.model([s.add('MatMul', [mean, s.weight('w2', [8, 3])], 'scores')])));
}

/** Classes that lie apart. */
function table(names = ['low', 'middle', 'high']): Buffer {
  const rows = Array.from({ length: 60 }, (_, i) => {
    const at = i % names.length;
    return `${at - 1 + ((i * 7) % 11) / 40},${1 - at * at + ((i * 5) % 13) / 40},${names[at]}`;
  });
  return Buffer.from(`a,b,size\n${rows.join('\n')}\n`);
}

const file = (name: string, buffer: Buffer) => ({ name, mimeType: 'application/octet-stream', buffer });

describe.skipIf(!hasChromium)('the studio', () => {
  let [browser, server]: [Browser?, PreviewServer?] = [];
  let page: Page;
  let url = '';
  const requests: string[] = [];
  /** What the content security policy refused, in the page and its workers. */
  const refused: string[] = [];
  const text = (selector: string) => page.textContent(selector);
  /** Until the status is such, or there is an error. */
  const until = (status: RegExp) =>
    page.waitForFunction(
      pattern =>
        document.querySelector('#error')!.textContent ||
        new RegExp(pattern).test(document.querySelector('#status')!.textContent!),
      status.source,
      { timeout: 60_000 },
    );
  const downloaded = async (button: string) => {
    const [download] = await Promise.all([page.waitForEvent('download'), page.click(button)]);
    return (await download.path())!;
  };

  beforeAll(async () => {
    for (const command of [
      ['node_modules/typescript/bin/tsc', '-p', 'examples/studio'],
      ['node_modules/vite/bin/vite.js', 'build', '-c', CONFIG],
    ])
      execFileSync(process.execPath, command, { cwd: ROOT, stdio: 'pipe' });
    server = await preview({
      configFile: CONFIG,
      logLevel: 'error',
      preview: { port: 0, host: '127.0.0.1' },
    });
    url = server.resolvedUrls!.local[0]!;
    browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
    page = await browser.newPage({ viewport: { width: 380, height: 800 } });
    page.on('request', request => requests.push(request.url()));
    page.on('console', message => {
      if (/Content Security Policy/.test(message.text())) refused.push(message.text());
    });
    await page.goto(url);
    await until(/^Ready/);
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
    await server?.close();
  });

  it('is painted', async () => {
    const paint = await page.evaluate(
      () => performance.getEntriesByName('first-contentful-paint')[0]?.startTime,
    );
    console.log(`first paint of the studio: ${paint?.toFixed(0)} ms`);
    expect(paint).toBeGreaterThan(0);
  });

  it('trains on digits, is paused, and goes on after it was closed', { timeout: 90_000 }, async () => {
    await page.click('#train');
    await until(/step ([3-9]|\d\d+) of/);
    await page.click('#pause');
    await until(/^Paused/);
    expect(await text('#error')).toBe('');
    const paused = (await text('#status'))!;
    expect(paused).toMatch(/^Paused after \d+ steps/);
    expect(await page.getAttribute('#curve svg', 'aria-label')).toMatch(/^Training loss from 2\.3/);
    const points = (await page.getAttribute('#curve .train', 'points'))!.split(' ');
    expect(points.length).toBeGreaterThan(1);

    await page.reload();
    await until(/^Paused/);
    expect(await text('#status')).toBe(paused);
    await page.click('#train');
    const steps = Number(/\d+/.exec(paused));
    await page.waitForFunction(
      before => Number(/step (\d+)/.exec(document.querySelector('#status')!.textContent!)?.[1]) > before,
      steps,
    );
    await page.click('#pause');
    await until(/^Paused/);

    const session = await InferenceSession.create(await downloaded('#download-model'));
    const { logits } = await session.run({
      input: new Tensor('float32', new Float32Array(784), [1, 1, 28, 28]),
    });
    expect(logits!.dims).toEqual([1, 10]);
  });

  it('says what a drawing is, and learns it', { timeout: 60_000 }, async () => {
    await page.click('#teach button:nth-child(2)');
    expect(await text('#error')).toBe('Draw a digit first.');
    const { x, y, width } = (await page.locator('#canvas').boundingBox())!;
    await page.mouse.move(x + width / 2, y + 20);
    await page.mouse.down();
    await page.mouse.move(x + width / 2, y + width - 20, { steps: 5 });
    await page.mouse.up();
    await page.waitForFunction(() => /%/.test(document.querySelector('#bars')!.textContent!));
    const shares = (await page.locator('#bars li > :last-child').allTextContents()).map(Number.parseFloat);
    expect(shares.reduce((a, b) => a + b)).toBeGreaterThan(90);
    await page.click('#teach button:nth-child(2)');
    await until(/step \d/);
    await page.click('#pause');
    await until(/^Paused/);
    expect(await text('#facts')).toContain('Drawings1');
  });

  it('trains a model on a table, with a new head', { timeout: 60_000 }, async () => {
    await page.setInputFiles('#choose-files', [file('own.onnx', classifier()), file('sizes.csv', table())]);
    await until(/^Ready/);
    expect(await text('#facts')).toContain('sizes.csv, 60 samples');
    expect(await text('#hint')).toContain('cross-entropy');
    await page.fill('[name=lr]', '0.05');
    await page.selectOption('[name=optimizer]', 'adamw');
    await page.fill('[name=epochs]', '20');
    await page.waitForURL(/\?optimizer=adamw&lr=0\.05&epochs=20$/);
    await page.click('#train');
    await until(/^Trained/);
    expect(await text('#error')).toBe('');
    expect(await text('#status')).toMatch(
      /^Trained after 60 steps, 20 epochs: validation accuracy \d+\.\d %$/,
    );
    expect(await page.locator('#confusion th[scope=row]').allTextContents()).toEqual([
      'high',
      'low',
      'middle',
    ]);
    expect(await page.locator('#worst li').count()).toBe(12);
    const session = await InferenceSession.create(await downloaded('#download-model'));
    const { scores } = await session.run({ x: new Tensor('float32', new Float32Array(4), [2, 2]) });
    expect(scores!.dims).toEqual([2, 3]);
  });

  it('reports a run as JSON', async () => {
    const report = JSON.parse(readFileSync(await downloaded('#download-json'), 'utf8'));
    expect(report).toMatchObject({
      ...{ model: { name: 'own.onnx' }, data: { name: 'sizes.csv', samples: 60, classes: 3 } },
      ...{ settings: { optimizer: 'adamw', epochs: 20 }, steps: 60, samples: 48 },
    });
    expect([report.losses.length, report.epochs.length]).toEqual([60, 20]);
  });

  it('says in a line what is wrong with a file, and keeps what it has', { timeout: 60_000 }, async () => {
    const before = await text('#status');
    const wrong = async (name: string, contents: string | Buffer) => {
      await page.setInputFiles('#choose-files', [file(name, Buffer.from(contents))]);
      await page.waitForFunction(
        wanted => document.querySelector('#error')!.textContent!.includes(wanted),
        name,
      );
      const error = (await text('#error'))!;
      expect(error).not.toMatch(/\n|\/studio|\/incoming|\/kept|undefined/);
      expect(await text('#status')).toBe(before);
      expect(await text('#facts')).toContain('sizes.csv, 60 samples');
      return error;
    };
    await wrong('bad.onnx', classifier().subarray(0, 60));
    await wrong('notes.doc', 'x');
    await wrong('bad.npz', 'x');
    expect(await wrong('bad.zip', 'x')).toBe('bad.zip is not a complete zip archive.');
    expect(await wrong('empty.csv', '')).toBe('empty.csv is empty.');
    await page.reload();
    await until(/^Trained/);
    expect(await text('#error')).toBe('');
    expect(await text('#status')).toBe(before);
  });

  it('trains on another column than the likely one', { timeout: 60_000 }, async () => {
    await page.setInputFiles('#choose-files', [
      file('notes.doc', Buffer.from('x')),
      file('regression.onnx', regression()),
      file('numbers.csv', Buffer.from(`a,b,c\n${'1.5,2,3\n0,1.5,1\n'.repeat(10)}`)),
    ]);
    await until(/^Ready/);
    expect(await text('#facts')).toContain('Not usednotes.doc');
    await page.fill('[name=classes]', '');
    await page.selectOption('[name=label]', 'a');
    await page.waitForFunction(() => /mse/.test(document.querySelector('#hint')!.textContent!));
    expect(await page.inputValue('[name=label]')).toBe('a');
    await page.setInputFiles('#choose-files', [
      file('more.csv', Buffer.from(`a,b,c\n${'2.5,2,3\n1,0.5,1\n'.repeat(10)}`)),
    ]);
    await page.waitForFunction(() => /more\.csv/.test(document.querySelector('#facts')!.textContent!));
    expect(await page.inputValue('[name=label]')).toBe('a');
    await page.waitForFunction(() => /mse/.test(document.querySelector('#hint')!.textContent!));
    await page.fill('[name=epochs]', '1');
    await page.click('#train');
    await until(/^Trained/);
    expect(await text('#error')).toBe('');
    expect(await text('#values')).toContain('mae');
  });

  it('finds data that an earlier version kept as single files', { timeout: 60_000 }, async () => {
    await page.evaluate(`(async () => {
      const root = await navigator.storage.getDirectory();
      await root.removeEntry('studio-data');
      const studio = await root.getDirectoryHandle('studio');
      const data = await studio.getDirectoryHandle('data', { create: true });
      const handle = await data.getFileHandle('older.csv', { create: true });
      const writable = await handle.createWritable();
      await writable.write('a,b,c\\n' + '2.5,2,3\\n1,0.5,1\\n'.repeat(10));
      await writable.close();
    })()`);
    for (const _ of ['moved', 'kept']) {
      await page.reload();
      await page.waitForFunction(() => /older\.csv, 20/.test(document.querySelector('#facts')!.textContent!));
    }
    expect(await text('#error')).toBe('');
  });

  it('trains LoRA adapters and a new head', { timeout: 60_000 }, async () => {
    await page.setInputFiles('#choose-files', [
      file('own.onnx', classifier()),
      file('sides.csv', table(['left', 'right'])),
    ]);
    await until(/^Ready/);
    await page.selectOption('[name=label]', '');
    await page.fill('[name=classes]', '2');
    const options = await page.locator('[name=optimizer] option').allTextContents();
    expect(options).toEqual(OPTIMIZER_NAMES);
    await page.selectOption('[name=optimizer]', 'lion');
    await page.selectOption('[name=trains]', 'lora');
    await page.fill('[name=rank]', '2');
    await page.fill('[name=epochs]', '1');
    await page.click('#train');
    await until(/^Trained/);
    expect(await text('#error')).toBe('');
    expect(await text('#needs')).toMatch(
      /^The run needs about \d+ MB of memory: [\d.]+ (bytes|kB|MB) for parameters and optimizer state, [\d.]+ (bytes|kB|MB) for gradients and activations\.$/,
    );
    const adapters = await readOnnxAdapter(await downloaded('#download-adapters'));
    // The new head trains as a whole.
    const shapes = [...adapters.values()].map(({ dims }) => [...dims]);
    expect(shapes).toEqual([
      [2, 2],
      [2, 8],
    ]);
    const session = await InferenceSession.create(await downloaded('#download-model'));
    const x = new Tensor('float32', new Float32Array(4), [2, 2]);
    expect(Object.values(await session.run({ x }))[0]!.dims).toEqual([2, 2]);
  });

  it('says before a run that it does not fit, and what would', { timeout: 60_000 }, async () => {
    await page.setInputFiles('#choose-files', [file('wide.onnx', wide()), file('sizes.csv', table())]);
    await until(/^Ready/);
    await page.fill('[name=classes]', '');
    await page.selectOption('[name=trains]', 'all');
    await page.click('#train');
    await page.waitForFunction(() => document.querySelector('#error')!.textContent);
    expect(await text('#error')).toMatch(
      /^The run needs about \d+(\.\d)? GB of memory, and a page has 4\.3 GB: it would fit with batch size \d+ \(\d\.\d GB\)\.$/,
    );
    expect(await text('#status')).toBe('Ready.');
  });

  it('says which file of a model is missing', { timeout: 60_000 }, async () => {
    const sample = (name: string) => file(name, readFileSync(join(ROOT, 'examples/studio/sample', name)));
    await page.setInputFiles('#choose-files', [sample('classifier.onnx')]);
    await until(/missing/);
    expect(await text('#status')).toBe(
      "The model cannot be trained: Tensor 'features.0.weight' lies in 'classifier.onnx.data', which is missing: add that file, too.",
    );
    expect(await page.isDisabled('#train')).toBe(true);
    await page.setInputFiles('#choose-files', [sample('classifier.onnx.data')]);
    await until(/^Ready/);
    expect(await text('#facts')).toContain('35,010 parameters');
  });

  it('takes settings that a field cannot have for its default', async () => {
    await page.click('#use-digits');
    await until(/^Ready/);
    await page.goto(`${url}?optimizer=nope&lr=abc&epochs=-3&batch=0&device=webgpu&split=5&trains=zzz&rank=x`);
    await until(/^Ready/);
    const values = await page.evaluate(() =>
      [...document.querySelectorAll('#settings [name]')].map(({ name, value }) => [name, value]),
    );
    expect(Object.fromEntries(values)).toMatchObject({
      ...{ optimizer: 'agd', lr: '', epochs: '2', batch: '32', split: '0.2', trains: 'all', rank: '8' },
    });
    await page.click('#options summary');
    await page.selectOption('[name=trains]', 'lora');
    await page.fill('[name=rank]', '');
    await page.selectOption('[name=trains]', 'all');
    await page.click('#train');
    await until(/step \d/);
    await page.click('#pause');
    await until(/^Paused/);
  });

  it('can be used with a screen reader and on a phone', async () => {
    const found = await page.evaluate(() => {
      const controls = [...document.querySelectorAll('button, input, select')];
      const unnamed = controls.filter(
        control =>
          !control.labels?.[0]?.textContent?.trim() && !control.textContent?.trim() && !control.ariaLabel,
      );
      const ids = [...document.querySelectorAll('[id]')].map(({ id }) => id);
      const pictures = [...document.querySelectorAll('[role=img]')];
      return {
        unnamed: unnamed.map(({ outerHTML }) => outerHTML),
        headings: document.querySelectorAll('h1').length,
        repeated: ids.filter((id, i) => ids.indexOf(id) !== i),
        silent: pictures.filter(picture => !picture.getAttribute('aria-label')).length,
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        language: document.documentElement.lang,
      };
    });
    expect(found).toEqual({
      ...{ unnamed: [], headings: 1, repeated: [], silent: 0, overflow: 0, language: 'en' },
    });
  });

  it('asks nobody else', async () => {
    const own = (request: string) => request.startsWith(url) || /^(blob|data):/.test(request);
    expect(requests.filter(request => !own(request))).toEqual([]);
    expect(requests.length).toBeGreaterThan(5);
    expect(refused).toEqual([]);
    await page.evaluate("new Image().src = 'https://127.0.0.1:1/pixel.png'");
    await expect.poll(() => refused.length).toBe(1);
  });
});

it('a run on a GPU is held against the largest tensor that it takes', () => {
  const parts = { total: 5e8, parameters: 7e7, activations: 4e8 };
  const needs = { ...parts, limit: 2 ** 32, largest: { name: 'logits', bytes: 3e8 }, maxBuffer: 2 ** 27 };
  const advice = { total: 3e8, settings: { batch: 8, trains: 'lora', match: '*', rank: 8 } as const };
  expect(describeNeeds({ ...needs, fits: false, advice })).toBe(
    "Tensor 'logits' takes 300 MB, and this GPU allows 134 MB: it would fit with batch size 8 and LoRA adapters of rank 8 (300 MB).",
  );
  expect(describeNeeds({ ...needs, maxBuffer: 2 ** 30, fits: true })).toBe(
    'The run needs about 500 MB of GPU memory: 70 MB for parameters and optimizer state, 400 MB for gradients and activations; the largest tensor takes 300 MB of the 1.1 GB that the GPU allows. Browsers do not report how much memory a GPU has.',
  );
});
