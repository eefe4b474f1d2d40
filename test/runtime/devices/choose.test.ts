import { expect, it } from 'vitest';
import { chooseDevice, type Probed, resolveDevice, withDevice } from '../../../src/runtime/devices/choose.js';

const choose = (cuda: Probed, webgpu: Probed) =>
  chooseDevice(async name => (name === 'cuda' ? cuda : webgpu));
const fast = { milliseconds: 2, cpuMilliseconds: 40 };
const slow = { milliseconds: 300, cpuMilliseconds: 40 };
const absent = { reason: 'it is not installed' };

it('CUDA comes first, and what was left out is told', async () => {
  expect(await choose(fast, fast)).toEqual({
    device: 'cuda',
    why: 'device: cuda, chosen because a product of two matrices takes 2.0 ms there, 40 ms on the CPU',
  });
  // With small products, a fast processor is nearly as fast.
  expect((await choose({ milliseconds: 2, cpuMilliseconds: 3 }, fast)).device).toBe('cuda');
  const { device, why } = await choose(absent, fast);
  expect(device).toBe('webgpu');
  expect(why).toMatch(/2\.0 ms there, 40 ms on the CPU; CUDA: it is not installed$/);
});

it('a driver that computes on the CPU is not chosen', async () => {
  const { device, why } = await choose(absent, slow);
  expect(device).toBe('cpu');
  expect(why).toBe(
    'device: cpu, chosen because nothing faster is available (CUDA: it is not installed; WebGPU: a product of two matrices takes 300 ms there, 40 ms on the CPU)',
  );
});

it('a device that is named is taken as it is', async () => {
  expect(await resolveDevice()).toEqual({ device: 'cpu' });
  expect(await resolveDevice('cuda:2')).toEqual({ device: 'cuda:2' });
  const told: string[] = [];
  const options = { device: 'webgpu' as const, threads: 2 };
  expect(await withDevice(options, why => told.push(why))).toEqual(options);
  expect(told).toEqual([]);
});

it.each(['gpu', 'cuda:x', 'cuda:-1', 'cuda:01', 'webgpu:1', 'cpu:0', 3])(
  '%s is not a device',
  async device => {
    await expect(resolveDevice(device as never)).rejects.toThrow(
      /device must be one of auto, cpu, cuda, webgpu, or cuda:N/,
    );
  },
);
