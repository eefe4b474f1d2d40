/** Where a session runs: an execution provider, one of several GPUs, or a choice at the time of the run. */
import * as v from 'valibot';
import { choice, type OptionType } from '../../ops/core/option-type.js';
import { PROVIDERS, type Provider, providerOf } from '../../ops/core/provider.js';

/** An execution provider, `cuda:N` for the GPU of that number, or `auto` for the fastest that is available. */
export type Device = Provider | 'auto' | `cuda:${number}`;

const what = `one of auto, ${PROVIDERS.join(', ')}, or cuda:N for GPU number N`;

const names = choice(['auto', ...PROVIDERS]);
const gpu = v.pipe(v.string(what), v.regex(/^cuda:(0|[1-9]\d{0,2})$/, what));

export const deviceType: OptionType<Device> = v.pipe(
  v.union([names, gpu as unknown as OptionType<Device>], what),
  v.description(what),
);

/** The execution provider of a device, and which of several GPUs is meant. */
export function placeOf(device: Exclude<Device, 'auto'>): { provider: Provider; gpu: number } {
  return { provider: providerOf(device)!, gpu: Number(device.split(':')[1] ?? 0) };
}
