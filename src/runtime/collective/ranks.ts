import { availableParallelism } from 'node:os';
import type { Collective } from './collective.js';

/** The ranks of a run as a line for the user, and how many threads each can have where they share a machine. */
export async function describeRanks(collective: Collective): Promise<{ text: string; threads: number }> {
  const { size, engine, host } = collective;
  const all = await collective.allGather(Buffer.from(host) as Uint8Array);
  const hosts = new Map<string, number>();
  for (const name of all.map(bytes => Buffer.from(bytes).toString()))
    hosts.set(name, (hosts.get(name) ?? 0) + 1);
  const places = [...hosts].map(([name, ranks]) => (hosts.size > 1 ? `${name}: ${ranks}` : name)).join(', ');
  const plural = (n: number, what: string) => `${n} ${what}${n === 1 ? '' : 's'}`;
  return {
    text: `${plural(size, 'rank')} on ${plural(hosts.size, 'host')} (${places}), ${engine}`,
    threads: Math.max(1, Math.floor(availableParallelism() / hosts.get(host)!)),
  };
}
