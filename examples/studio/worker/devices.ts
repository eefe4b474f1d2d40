/** Where the runtime computes. */
import { setRuntime } from 'agd-onnx/web';

type Gpu = { requestAdapter(): Promise<object | null> };

/** Why there is no WebGPU here; undefined where there is. */
export async function whyNoWebgpu(): Promise<string | undefined> {
  const { gpu } = navigator as Navigator & { gpu?: Gpu };
  if (!gpu) return isSecureContext ? 'this browser has none' : 'the page needs https or localhost';
  return (await gpu.requestAdapter().catch(() => null)) ? undefined : 'the browser found no GPU';
}

/** Loads the build of the runtime for a device: that for WebGPU lacks kernels of the CPU. */
export async function useRuntime(device: string): Promise<void> {
  const ort =
    device === 'webgpu' ? await import('onnxruntime-web/webgpu') : await import('onnxruntime-web/wasm');
  // More threads need headers that static hosts rarely send.
  ort.env.wasm.numThreads = 1;
  setRuntime(ort as unknown as Parameters<typeof setRuntime>[0]);
}
