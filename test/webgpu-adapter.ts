/** Whether this machine has a WebGPU adapter; why not is printed once by those who ask. */
import { Session } from '../src/runtime/session.js';
import { Sketch } from './sample.js';

async function adapter(): Promise<boolean> {
  const s = new Sketch();
  try {
    const model = s.model([s.add('Identity', [s.input('x', [1])], 'y')]);
    await (await Session.create(model, { device: 'webgpu' })).release();
    return true;
  } catch (error) {
    console.warn(`Skipped without a WebGPU adapter, which .ci/webgpu brings: ${(error as Error).message}`);
    return false;
  }
}

export const hasWebgpu = await adapter();
