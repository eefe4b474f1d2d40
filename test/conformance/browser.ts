/** Runs cases in a page of headless Chromium, on onnxruntime-web. */
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium, type Page } from 'playwright-core';
import { bundle } from '../../cli/build-web.js';
import { AgdError } from '../../src/graph/errors.js';
import type { Device } from '../../src/passes/options.js';
import type * as InPage from './in-page.js';
import type { Result } from './run-case.js';

/** Where Debian's package has it. */
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const RUNTIME = fileURLToPath(new URL('../../../node_modules/onnxruntime-web/dist', import.meta.url));

export const hasChromium = () => existsSync(CHROMIUM);

const TYPES: Record<string, string> = {
  '.mjs': 'text/javascript',
  '.js': 'text/javascript',
  '.wasm': 'application/wasm',
  '.onnx': 'application/octet-stream',
};

/** Chooses the runtime; one thread, as the page is not isolated from others. */
const startOf = (build: string) => `
  import * as ort from '/runtime/ort.${build}.bundle.min.mjs';
  import * as inPage from '/library/index.js';
  Object.assign(ort.env.wasm, { wasmPaths: '/runtime/', numThreads: 1 });
  inPage.setRuntime(ort);
  Object.assign(globalThis, { inPage });
`;

/** Neither the library nor the runtime compiles code from texts: pages need not allow 'unsafe-eval'. */
const POLICY = "script-src 'self' 'wasm-unsafe-eval'";

/** Serves the files of folders, by the first part of the path; anything else is the page, under that policy. */
async function serve(folders: Record<string, string>, start: string) {
  const server = createServer(async ({ url = '/' }, response) => {
    const [, folder = '', name = ''] = url.split('/');
    const path = folders[folder] && join(folders[folder], basename(name));
    const type = TYPES[extname(name)];
    if (url === '/start.js') return response.writeHead(200, { 'content-type': TYPES['.js'] }).end(start);
    if (!path || !type)
      return response
        .writeHead(200, { 'content-type': 'text/html', 'content-security-policy': POLICY })
        .end('<script type="module" src="/start.js"></script>');
    response.writeHead(200, { 'content-type': type }).end(await readFile(path));
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

/**
 * A page that has the library and the runtime, until it is closed, and files of these folders, by the first part of their path: the runtime's build for WebGPU lacks kernels of the CPU.
 * Throws `bad-state` where there is no Chromium.
 */
export async function openPage(device?: Device, folders: Record<string, string> = {}) {
  if (!hasChromium())
    throw new AgdError('bad-state', `There is no Chromium at ${CHROMIUM}; the variable CHROMIUM names it.`);
  const out = await mkdtemp(join(tmpdir(), 'agd-onnx-page-'));
  await bundle(fileURLToPath(new URL('in-page.js', import.meta.url)), out);
  const { server, url } = await serve(
    { ...folders, library: out, runtime: RUNTIME },
    startOf(device === 'webgpu' ? 'webgpu' : 'wasm'),
  );
  const args = ['--no-sandbox', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'];
  const browser = await chromium.launch({ executablePath: CHROMIUM, args });
  const tab = await browser.newPage();
  await tab.goto(url);
  await tab.waitForFunction(() => 'inPage' in globalThis);
  return {
    tab,
    runCase: (folder: string) => runIn(tab, folder, device),
    async close() {
      await browser.close();
      server.close();
      await rm(out, { recursive: true });
    },
  };
}

async function runIn(tab: Page, folder: string, device?: Device): Promise<Result> {
  const names = await readdir(folder);
  const contents = await Promise.all(names.map(name => readFile(join(folder, name), 'base64')));
  const given = {
    name: basename(folder),
    device,
    contents: names.map((name, i) => [name, contents[i]!] as const),
  };
  return tab.evaluate(async ({ name, device: on, contents: all }) => {
    const { inPage } = globalThis as unknown as { inPage: typeof InPage };
    for (const [file, base64] of all)
      await inPage.files.write(
        `/cases/${name}/${file}`,
        Uint8Array.from(atob(base64), c => c.charCodeAt(0)),
      );
    return inPage.runCase(`/cases/${name}`, on);
  }, given);
}
