/** Chooses the device for `auto`: by trying each. */
import { checkOption } from '../../ops/core/option-type.js';
import type { Provider } from '../../ops/core/provider.js';
import { deviceType } from '../../passes/options/device.js';
import type { Device } from '../../passes/options.js';
import { probeApart } from './probe-apart.js';

/** What a probe found: how long a product of matrices takes there and on the CPU, or why there is none. */
export type Probed = { milliseconds: number; cpuMilliseconds: number } | { reason: string };
export type Probe = (provider: Provider) => Promise<Probed>;

/** `why` is a line for the user where the choice was left to the program. */
export type Chosen = { device: Exclude<Device, 'auto'>; why?: string };

/** WebGPU has to be so many times as fast as the CPU: its driver may compute on the CPU too. */
const LEAST_GAIN = 2;

const NAMES = { cuda: 'CUDA', webgpu: 'WebGPU' } as const;

/** CUDA if there is a GPU that it runs on, else WebGPU if it is faster than the CPU, else the CPU. */
export async function chooseDevice(probe: Probe): Promise<Required<Chosen>> {
  const rejected: string[] = [];
  for (const device of ['cuda', 'webgpu'] as const) {
    const found = await probe(device);
    if ('reason' in found) {
      rejected.push(`${NAMES[device]}: ${found.reason}`);
      continue;
    }
    const [there, here] = [found.milliseconds, found.cpuMilliseconds].map(ms =>
      ms < 10 ? ms.toPrecision(2) : Math.round(ms),
    );
    const times = `a product of two matrices takes ${there} ms there, ${here} ms on the CPU`;
    if (device === 'cuda' || found.cpuMilliseconds >= LEAST_GAIN * found.milliseconds)
      return { device, why: `device: ${device}, chosen because ${[times, ...rejected].join('; ')}` };
    rejected.push(`${NAMES[device]}: ${times}`);
  }
  return {
    device: 'cpu',
    why: `device: cpu, chosen because nothing faster is available (${rejected.join('; ')})`,
  };
}

let chosen: Promise<Required<Chosen>> | undefined;

/** The device to run on; `auto` is decided once in a process. Throws `bad-option` for a device that there is not. */
export async function resolveDevice(device: Device = 'cpu'): Promise<Chosen> {
  checkOption('device', deviceType, device);
  if (device !== 'auto') return { device };
  chosen ??= chooseDevice(probeApart);
  return chosen;
}

/** The same where an option has it: `auto` is replaced, with a line on it for `tell`. */
export async function withDevice<T extends { device?: Device }>(
  options: T,
  tell: (why: string) => void = () => {},
): Promise<T> {
  if (options.device === undefined) return options;
  const { device, why } = await resolveDevice(options.device);
  if (why !== undefined) tell(why);
  return { ...options, device };
}
