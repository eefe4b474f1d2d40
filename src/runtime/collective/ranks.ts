import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fromUtf8, toUtf8 } from '../../graph/bytes.js';
import type { Collective } from './collective.js';

/** The ranks of a run as a line for the user, and how many threads each can have where they share the cores of a machine. */
export async function describeRanks(
  collective: Collective,
  cores = allowedCores(),
): Promise<{ text: string; threads: number }> {
  const { size, engine, host } = collective;
  const own = JSON.stringify([host, cores]);
  const all = await collective.allGather<Uint8Array>(toUtf8(own));
  const places = all.map(fromUtf8);
  const hosts = new Map<string, number>();
  for (const place of places) {
    const [name] = JSON.parse(place) as [string];
    hosts.set(name, (hosts.get(name) ?? 0) + 1);
  }
  const shown = [...hosts].map(([name, ranks]) => (hosts.size > 1 ? `${name}: ${ranks}` : name)).join(', ');
  const plural = (n: number, what: string) => `${n} ${what}${n === 1 ? '' : 's'}`;
  // Launchers may give each rank cores of its own.
  const sharing = places.filter(place => place === own).length;
  return {
    text: `${plural(size, 'rank')} on ${plural(hosts.size, 'host')} (${shown}), ${engine}`,
    threads: Math.max(1, Math.floor(availableParallelism() / sharing)),
  };
}

/** The numbers of the cores that this process may run on, such as `0-3`; '' where the system does not tell. */
function allowedCores(): string {
  try {
    return /^Cpus_allowed_list:\s*(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '';
  } catch {
    return '';
  }
}
