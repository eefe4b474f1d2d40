import { type IncomingHttpHeaders, request, ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type LivePage, serveLivePage } from '../../cli/live-page.js';
import { RunRecord } from '../../cli/run-record.js';
import { start, workplace } from './run.js';

let record: RunRecord;
let page: LivePage;
let closed: boolean;
beforeEach(async () => {
  record = new RunRecord();
  page = await serveLivePage(record, '<model>.onnx');
  closed = false;
});
const close = async () => {
  if (!closed) await page.close();
  closed = true;
};
afterEach(close);

type Answer = { status: number; headers: IncomingHttpHeaders; body: string };

function ask(url: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request(url, { headers, method, agent: false }, response => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', text => {
        body += text;
      });
      response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers, body }));
    });
    asked.on('error', reject);
    asked.end();
  });
}

const status = async (...args: Parameters<typeof ask>) => (await ask(...args)).status;
const begin = {
  type: 'start',
  time: 0,
  epochs: 2,
  stepsPerEpoch: 4,
  stepsBefore: 0,
  batchSize: 1,
  samples: 4,
} as const;
const step = (n: number) => ({ type: 'step', time: 0, epoch: 1, step: n, loss: 1 / n, lr: 0.1 }) as const;

describe('the server', () => {
  it('listens on the loopback interface only, with a token that cannot be guessed', () => {
    expect(page.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/[\w-]{24}\/$/);
  });
  it('answers only who knows the token', async () => {
    const { origin } = new URL(page.url);
    expect(await status(page.url)).toBe(200);
    for (const path of ['/', '/events', `/${'a'.repeat(24)}/`, `${new URL(page.url).pathname}other`])
      expect(await status(origin + path), path).toBe(404);
    expect(await status(`${page.url}events/more`)).toBe(404);
  });
  it('refuses other names of itself and other sites', async () => {
    const { port } = new URL(page.url);
    expect(await status(page.url, { host: `localhost:${port}` })).toBe(200);
    expect(await status(page.url, { host: `rebound.example:${port}` })).toBe(403);
    expect(await status(page.url, { host: '127.0.0.1' })).toBe(403);
    expect(await status(page.url, { origin: `http://127.0.0.1:${port}` })).toBe(200);
    expect(await status(page.url, { origin: 'http://other.example' })).toBe(403);
    expect(await status(page.url, { origin: 'null' })).toBe(403);
    expect(await status(page.url, { 'sec-fetch-site': 'cross-site' })).toBe(403);
    expect(await status(page.url, {}, 'POST')).toBe(405);
  });
  it('gives a page that loads nothing from elsewhere and cannot be framed', async () => {
    const { headers, body } = await ask(page.url);
    expect(headers['content-security-policy']).toContain("default-src 'none'");
    expect(headers['content-security-policy']).toContain("frame-ancestors 'none'");
    const [, nonce] = /script-src 'nonce-([\w-]+)'/.exec(headers['content-security-policy'] as string)!;
    expect(body.match(/<script/g)).toHaveLength(1);
    expect(body).toContain(`<script nonce="${nonce}">`);
    expect(headers['cache-control']).toBe('no-store');
    expect(body).toContain('&lt;model&gt;.onnx');
    expect(body).not.toMatch(/(src|href)="http/);
    expect(body).not.toContain('Content-Security-Policy');
  });
});

it('shows how the run stands, and tells browsers until it ends', async () => {
  expect((await ask(page.url)).body).toContain('Training has not begun.');
  const events = ask(`${page.url}events`);
  record.watch(begin);
  for (const n of [1, 2, 3]) record.watch(step(n));
  page.changed();
  const { body } = await ask(page.url);
  expect(body).toContain('Epoch 1 of 2, step 3 of 8.');
  expect(body).toContain('Loss of each step');
  record.watch({ type: 'validation', time: 0, epoch: 1, batch: 3, batches: 9 });
  expect((await ask(page.url)).body).toContain('validation, batch 3 of 9');
  record.watch({ type: 'end', time: 0, stopped: false, reason: 'epochs', steps: 8, skipped: 0 });
  await close();
  const { headers, body: stream } = await events;
  expect(headers['content-type']).toBe('text/event-stream');
  const parts = stream.split('\n\n').filter(Boolean);
  expect(parts.at(-1)).toBe('event: end\ndata:');
  expect(JSON.parse(parts.at(-2)!.slice('data: '.length))).toContain('Done after 8 steps.');
  await expect(ask(page.url)).rejects.toThrow(/ECONNREFUSED/);
});

it('neither piles up pages for a browser that does not read, nor waits for it', async () => {
  // More than the buffers of a connection hold.
  const large = await serveLivePage(record, 'm'.repeat(2 ** 24));
  const { port, pathname } = new URL(large.url);
  const write = vi.spyOn(ServerResponse.prototype, 'write');
  const socket = connect(Number(port), '127.0.0.1').pause();
  try {
    socket.on('error', () => {});
    socket.write(`GET ${pathname}events HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`);
    await vi.waitFor(() => expect(write).toHaveBeenCalledTimes(1));
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    for (let i = 0; i < 3; i++) {
      large.changed();
      vi.advanceTimersByTime(1e9);
    }
    vi.useRealTimers();
    expect(write).toHaveBeenCalledTimes(1);
    await large.close();
  } finally {
    vi.useRealTimers();
    write.mockRestore();
    socket.destroy();
  }
});

it('says of a run that failed why it did', async () => {
  const events = ask(`${page.url}events`);
  record.watch(begin);
  await ask(page.url);
  closed = true;
  await page.close('the loss is not finite');
  expect((await events).body).toContain('Failed: the loss is not finite');
});

it('train --ui prints its address, and ends with the run', async () => {
  const folder = await workplace();
  const flags = [
    '--loss',
    'cross-entropy',
    '--data',
    'train.npz',
    '--epochs',
    '2000',
    '--batch-size',
    '4',
    '--ui',
  ];
  const child = start(folder, 'train', 'model.onnx', ...flags);
  let out = '';
  const url = await new Promise<string>(resolve => {
    child.stdout.on('data', text => {
      out += text;
      const found = /^the run is shown at (http:\S+)$/m.exec(out);
      if (found && /^epoch/m.test(out)) resolve(found[1]!);
    });
  });
  expect((await ask(url)).body).toContain('Loss of each step');
  const ended = new Promise(resolve => child.on('exit', resolve));
  child.kill('SIGINT');
  expect(await ended).toBe(130);
  await expect(ask(url)).rejects.toThrow(/ECONNREFUSED/);
});
