/** A worker, which computes on one device: each has a build of the runtime of its own. */
import type { Device, TrainEvent } from 'agd-onnx/web';
import type { Answer, Api, Request } from '../protocol.js';

export function connect(
  device: Device,
  onEvent: (event: TrainEvent) => void,
): { api: Api; close: () => void } {
  const worker = new Worker(new URL('../worker/index.ts', import.meta.url), { type: 'module', name: device });
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  let last = 0;
  worker.onmessage = ({ data }: MessageEvent<Answer>) => {
    if ('event' in data) return onEvent(data.event);
    const call = waiting.get(data.id)!;
    waiting.delete(data.id);
    if ('error' in data) call.reject(new Error(data.error));
    else call.resolve(data.value);
  };
  worker.onerror = event => {
    event.preventDefault();
    const error = new Error(event.message || 'The worker could not be started.');
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  const call = (name: keyof Api, args: unknown[]) =>
    new Promise((resolve, reject) => {
      const request: Request = { id: ++last, call: name, args };
      waiting.set(request.id, { resolve, reject });
      worker.postMessage(request);
    });
  const api = new Proxy({} as Api, {
    get:
      (_, name) =>
      (...args: unknown[]) =>
        call(name as keyof Api, args),
  });
  return { api, close: () => worker.terminate() };
}
