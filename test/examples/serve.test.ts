import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const SERVER = join(import.meta.dirname, '../../examples/browser/serve.js');

describe('the server of the browser example', () => {
  let server: ChildProcess;
  let port = 0;
  beforeAll(async () => {
    server = spawn(process.execPath, [SERVER], { env: { ...process.env, PORT: '0' } });
    const [line] = await once(server.stdout!, 'data');
    port = Number(/:(\d+)/.exec(String(line))![1]);
  }, 60_000);
  afterAll(() => {
    server.kill();
  });

  /** The status that the server answers to a request line as it stands: clients would tidy up the path. */
  async function status(path: string): Promise<number> {
    const socket = connect(port, '127.0.0.1');
    socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
    let answer = '';
    for await (const chunk of socket) answer += chunk;
    return Number(answer.split(' ')[1]);
  }

  test.each(['/', '/train.js', '/?steps=2', '/step.json'])('has %s', async path => {
    expect(await status(path)).toBe(200);
  });

  test.each([
    ...['//', '/ort/', '/ort/..', '/ort/../../../package.json', '/ort/%2e%2e/package.json', '/ort/%00'],
    ...['/constructor', '/__proto__', '/toString', '/../serve.js', '/nothing', 'http://[', '*'],
  ])('has no %s, and goes on', async path => {
    expect(await status(path)).toBeGreaterThanOrEqual(400);
    expect(server.exitCode).toBeNull();
  });

  test('listens to this machine only', async () => {
    const other = connect(port, '127.0.0.2');
    await expect(once(other, 'connect')).rejects.toThrow(/ECONNREFUSED|ENETUNREACH|EADDRNOTAVAIL/);
  });
});
