/** Where the runtime computes. */
import { setRuntime } from 'agd-onnx/web';

type Adapter = { limits: { maxBufferSize: number; maxStorageBufferBindingSize: number } };
type Gpu = { requestAdapter(): Promise<Adapter | null> };

const adapter = (): Promise<Adapter | null> =>
  (navigator as Navigator & { gpu: Gpu }).gpu.requestAdapter().catch(() => null);

/** The largest tensor that the GPU takes, in bytes. */
export async function maxBuffer(): Promise<number | undefined> {
  const limits = (await adapter())?.limits;
  return limits && Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize);
}

/** The memory of a page, in bytes: all of WebAssembly's, or what the machine has. */
export function memoryLimit(): number {
  const { deviceMemory = 4 } = navigator as Navigator & { deviceMemory?: number };
  return Math.min(4, deviceMemory) * 2 ** 30;
}

/** Why there is no WebGPU here; undefined where there is. */
export async function whyNoWebgpu(): Promise<string | undefined> {
  const { gpu } = navigator as Navigator & { gpu?: Gpu };
  if (!gpu) return isSecureContext ? 'this browser has none' : 'the page needs https or localhost';
  return (await adapter()) ? undefined : 'the browser found no GPU';
}

/** Loads the build of the runtime for a device: that for WebGPU lacks kernels of the CPU. */
export async function useRuntime(device: string): Promise<void> {
  const ort =
    device === 'webgpu' ? await import('onnxruntime-web/webgpu') : await import('onnxruntime-web/wasm');
  // More threads need headers that static hosts rarely send.
  ort.env.wasm.numThreads = 1;
  setRuntime(ort as unknown as Parameters<typeof setRuntime>[0]);
}
