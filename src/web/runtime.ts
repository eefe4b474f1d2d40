/** Stands in for `onnxruntime-node`: the runtime that the page brings, such as onnxruntime-web. */
import type * as ort from 'onnxruntime-node';
import { AgdError } from '../graph/errors.js';
import { files } from './files.js';
import { setImmediate } from './node/globals.js';

/** onnxruntime-web, or any package with the interface of onnxruntime-common. */
export type Runtime = Pick<typeof ort, 'InferenceSession' | 'Tensor'> & {
  env: { logLevel?: string; versions?: Readonly<Record<string, string>> };
};

let chosen: Runtime | undefined;

/** Chooses the runtime, before anything else is asked for: `setRuntime(await import('onnxruntime-web'))`. */
export function setRuntime(runtime: Runtime): void {
  chosen = runtime;
  runtime.env.logLevel = 'fatal';
  env.versions = runtime.env.versions;
}

function runtime(): Runtime {
  if (chosen) return chosen;
  throw new AgdError(
    'bad-state',
    "No runtime was chosen: call setRuntime(await import('onnxruntime-web')) first.",
  );
}

/** Set by `setRuntime`. */
export const env: Runtime['env'] = {};

type Options = ort.InferenceSession.SessionOptions;

/** What Node and React Native call the CPU is WebAssembly in onnxruntime-web. */
const providers = ({ executionProviders = [] }: Options) =>
  executionProviders.map(provider =>
    provider === 'cpu' && env.versions?.web !== undefined ? 'wasm' : provider,
  );

export const InferenceSession = {
  async create(model: Uint8Array | string, options: Options): Promise<ort.InferenceSession> {
    const session = await runtime().InferenceSession.create(
      typeof model === 'string' ? files.read(model) : model,
      { ...options, executionProviders: providers(options) as Options['executionProviders'] },
    );
    const run = session.run.bind(session) as (...args: unknown[]) => ReturnType<typeof session.run>;
    // WebAssembly computes in the calling thread: messages and timers, such as a request to stop, come between two runs.
    const afterMessages = async (...args: unknown[]) => {
      await new Promise<void>(resolve => setImmediate(resolve));
      return run(...args);
    };
    return Object.assign(session, { run: afterMessages });
  },
};

/** Makes tensors of the chosen runtime. */
class RuntimeTensor {
  constructor(...given: unknown[]) {
    const Chosen = runtime().Tensor as unknown as new (...args: unknown[]) => RuntimeTensor;
    // biome-ignore lint/correctness/noConstructorReturn: what `new` gives is the runtime's own.
    return new Chosen(...given);
  }
}
export const Tensor = RuntimeTensor as unknown as typeof ort.Tensor;
