/** Ranks that do not train the same thing would diverge without an error: what must be equal is compared by hashes. */
import { createHash } from 'node:crypto';
import { fromUtf8, toUtf8 } from '../../graph/bytes.js';
import { AgdError } from '../../graph/errors.js';
import type { Tensor } from '../../graph/tensor.js';
import type { Collective } from './collective.js';

/**
 * Throws `collective` on all ranks, naming the ranks and what they have otherwise, unless all give the same text for
 * each name, such as options, model and data.
 */
export async function demandAgreement(
  collective: Collective,
  facts: Readonly<Record<string, string>>,
  advice = 'Start all ranks with the same command, model and data, and the same version of agd-onnx',
): Promise<void> {
  const own = { host: collective.host, facts };
  const all = await collective.allGather<Uint8Array>(toUtf8(JSON.stringify(own)));
  const ranks = all.map(bytes => JSON.parse(fromUtf8(bytes)) as typeof own);
  const names = [...new Set(ranks.flatMap(r => Object.keys(r.facts)))];
  const first = ranks[0]!.facts;
  for (const name of names) {
    const others = ranks.flatMap((r, rank) => (r.facts[name] === first[name] ? [] : [{ rank, ...r }]));
    if (!others.length) continue;
    const [{ rank, host }] = others as [(typeof others)[number]];
    const who =
      others.length > 1 ? `${others.length} ranks, such as ${rank} (${host}),` : `rank ${rank} (${host})`;
    const differs = others.length > 1 || name === 'options' ? 'differ' : 'differs';
    const that = name === 'options' ? 'those' : 'that';
    throw new AgdError('collective', `The ${name} of ${who} ${differs} from ${that} of rank 0. ${advice}.`);
  }
}

/** Throws `collective` on all ranks if their states are not bit-equal. */
export function demandSameState(
  collective: Collective,
  state: ReadonlyMap<string, Tensor>,
  when: string,
): Promise<void> {
  return demandAgreement(
    collective,
    { [`state ${when}`]: hashTensors(state) },
    'The ranks computed different bits: machines of different kinds, or damaged memory. Resume from the last saved state',
  );
}

/** SHA-256 of names, types, shapes and contents, in the order of names. */
function hashTensors(tensors: ReadonlyMap<string, Tensor>): string {
  const hash = createHash('sha256');
  for (const [name, { dtype, dims, bytes }] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1)))
    hash.update(JSON.stringify([name, dtype, dims])).update(bytes);
  return hash.digest('hex');
}

/** SHA-256 of a value as JSON, with the keys of objects in order. */
export function hashJson(value: unknown): string {
  const sorted = (_: string, v: unknown) =>
    v && typeof v === 'object' && !Array.isArray(v)
      ? Object.fromEntries(Object.entries(v).sort(([a], [b]) => (a < b ? -1 : 1)))
      : v;
  return createHash('sha256')
    .update(JSON.stringify(value, sorted) ?? '')
    .digest('hex');
}
