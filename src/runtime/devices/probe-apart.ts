/** Tries a device in a process of its own, as drivers may crash or print. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Probe, Probed } from './choose.js';

/** A probe that takes longer found a device that is not worth waiting for. */
const PROBE_MS = 60_000;

export const probeApart: Probe = provider =>
  new Promise(resolve => {
    const script = fileURLToPath(new URL('probe.js', import.meta.url));
    // Within Electron, the program that runs is Electron's own.
    const env = { ...process.env, ELECTRON_RUN_AS_NODE: '1' };
    execFile(process.execPath, [script, provider], { env, timeout: PROBE_MS }, (error, stdout) => {
      try {
        resolve(JSON.parse(stdout.trim().split('\n').at(-1)!) as Probed);
      } catch {
        const how = error?.signal ? `ended by ${error.signal}` : `exit code ${error?.code}`;
        resolve({ reason: `trying it crashed (${how})` });
      }
    });
  });
