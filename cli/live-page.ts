/** A page on a run while it goes on, for browsers on this machine only. */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { RunRecord } from './run-record.js';
import { runSections, tiles } from './run-report.js';
import { formatCount } from './ui/format.js';
import { h, Markup } from './ui/markup.js';
import { pageOf, renderMain } from './ui/report.js';

export type LivePage = {
  /** With a random token, without which the server answers nothing. */
  url: string;
  /** The record has changed: browsers are told, a few times a second at most. */
  changed(): void;
  /** Sends the last state, with the error of a run that failed, and closes. */
  close(failure?: string): Promise<void>;
};

const HOST = '127.0.0.1';
const PAUSE_MS = 1000;
/** How long the end of a run waits for browsers that do not read. */
const END_MS = 1000;
/** Drawing takes at most this share of the time. */
const DRAWING_SHARE = 0.05;

/**
 * Serves the page of a run on a free port of the loopback interface. Requests have to name the token, and host and origin
 * of the page itself, so that no other site that the browser shows can read it.
 */
export async function serveLivePage(record: RunRecord, title: string): Promise<LivePage> {
  const token = randomBytes(18).toString('base64url');
  const clients = new Set<ServerResponse>();
  /** Those that have not read what was sent, and missed a page since. */
  const behind = new Set<ServerResponse>();
  const server = createServer((request, response) => {
    const { port } = server.address() as AddressInfo;
    const found = judge(request, port, token);
    if (typeof found === 'number') return void response.writeHead(found, HEADERS).end();
    if (found === 'page') {
      const nonce = randomBytes(18).toString('base64url');
      const policy = `default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'nonce-${nonce}'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;
      response.writeHead(200, {
        ...HEADERS,
        'Content-Type': 'text/html; charset=utf-8',
        'Content-Security-Policy': policy,
      });
      return void response.end(pageOf({ title, main: draw(), script: { nonce, source: SCRIPT } }));
    }
    response.writeHead(200, { ...HEADERS, 'Content-Type': 'text/event-stream' });
    response.write(message(draw()));
    clients.add(response);
    response.on('drain', () => behind.delete(response) && changed());
    response.on('close', () => {
      clients.delete(response);
      behind.delete(response);
    });
    return undefined;
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, HOST, resolve);
  });
  server.unref();

  const draw = (failure?: string) => liveMain(record, title, failure);
  let timer: NodeJS.Timeout | undefined;
  let pause = PAUSE_MS;
  const send = () => {
    timer = undefined;
    if (!clients.size) return;
    const start = performance.now();
    const text = message(draw());
    for (const client of clients)
      if (client.writableNeedDrain) behind.add(client);
      else client.write(text);
    pause = Math.max(PAUSE_MS, (performance.now() - start) / DRAWING_SHARE);
  };
  const changed = () => {
    timer ??= setTimeout(send, pause).unref();
  };
  return {
    url: `http://${HOST}:${(server.address() as AddressInfo).port}/${token}/`,
    changed,
    async close(failure) {
      clearTimeout(timer);
      const text = `${message(draw(failure))}event: end\ndata:\n\n`;
      const ended = [...clients].map(client => new Promise<void>(done => client.end(text, done)));
      let late: NodeJS.Timeout | undefined;
      const limit = new Promise<void>(done => {
        late = setTimeout(done, END_MS);
      });
      await Promise.race([Promise.all(ended), limit]);
      clearTimeout(late);
      await new Promise<void>(done => {
        server.close(() => done());
        server.closeAllConnections();
      });
    },
  };
}

const HEADERS = {
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Opener-Policy': 'same-origin',
};

/** What a request gets, or with which status it is refused. */
function judge({ method, url = '', headers }: IncomingMessage, port: number, token: string) {
  const hosts = [`${HOST}:${port}`, `localhost:${port}`];
  if (!hosts.includes(headers.host ?? '')) return 403;
  if (headers.origin !== undefined && !hosts.some(host => headers.origin === `http://${host}`)) return 403;
  const site = headers['sec-fetch-site'];
  if (site !== undefined && site !== 'same-origin' && site !== 'none') return 403;
  const [, given = '', file, ...more] = url.split('/');
  if (!isSame(given, token) || more.length) return 404;
  if (method !== 'GET') return 405;
  return file === '' ? 'page' : file === 'events' ? 'events' : 404;
}

/** In a time that does not tell how much of it is right. */
function isSame(given: string, token: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(token)];
  return a.length === b.length && timingSafeEqual(a, b);
}

const message = (main: Markup) => `data: ${JSON.stringify(main.source)}\n\n`;

/** Replaces what the page shows; what a reader has opened stays open. */
const SCRIPT = `
const main = document.querySelector('main');
const source = new EventSource('events');
source.onmessage = ({ data }) => {
  const open = [...main.querySelectorAll('details')].map(d => d.open);
  main.innerHTML = JSON.parse(data);
  main.querySelectorAll('details').forEach((d, i) => { d.open = open[i] ?? false; });
};
source.addEventListener('end', () => source.close());
source.onerror = () => {
  source.close();
  const status = main.querySelector('.status');
  if (status) status.textContent = 'The run has ended, or cannot be reached.';
};
`;

function liveMain(record: RunRecord, title: string, failure?: string): Markup {
  const { losses, epochs, start, end, validation } = record;
  const { epochs: total = 1, stepsPerEpoch = 1 } = start ?? {};
  const done = losses.length;
  const status =
    failure !== undefined
      ? `Failed: ${failure}`
      : end
        ? `${end.stopped ? 'Stopped' : 'Done'} after ${formatCount(end.steps, 'step')}.`
        : !start
          ? 'Training has not begun.'
          : validation
            ? `Epoch ${validation.epoch} of ${total}: validation, batch ${formatCount(validation.batch)} of ${formatCount(validation.batches)}.`
            : `Epoch ${Math.min(total, Math.floor(done / stepsPerEpoch) + 1)} of ${total}, step ${formatCount(done)} of ${formatCount(total * stepsPerEpoch)}.`;
  const bar = h('progress', {
    value: end ? 1 : done,
    max: end ? 1 : total * stepsPerEpoch,
    'aria-label': 'Progress',
  });
  const hasData = done > 0 || epochs.length > 0;
  return renderMain({
    title,
    lead: new Markup(`${h('p', { class: 'status', role: 'status' }, status)}${bar}`),
    tiles: hasData ? tiles(record) : [],
    sections: hasData ? runSections(record) : [],
  });
}
