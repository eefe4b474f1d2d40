import { existsSync, readFileSync } from 'node:fs';

/** The largest resident set of this process so far. What Node tells begins with that of the program that started it. */
export function peakMegabytes() {
  const status = existsSync('/proc/self/status') ? readFileSync('/proc/self/status', 'utf8') : '';
  const peak = /VmHWM:\s+(\d+)/.exec(status);
  return (peak ? Number(peak[1]) : process.resourceUsage().maxRSS) / 1024;
}
