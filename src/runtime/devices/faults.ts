/** Why a device cannot be used, in words of what is missing, and what to do about it. */
import { closeSync, existsSync, openSync, readdirSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { characters } from '../../graph/bytes.js';
import { type Device, placeOf } from '../../passes/options.js';

/** `remedy` is a sentence, or empty. */
export type Fault = { reason: string; remedy: string };

/** A device that runs: not `auto`. */
export type Concrete = Exclude<Device, 'auto'>;

/** The package of the runtime, the folder of its libraries, and folders in which CUDA may be installed. */
export type RuntimeFiles = { package: string; binaries: string; cuda: readonly string[] };

/** The files of the onnxruntime-node that this process uses. */
function runtimeFiles(): RuntimeFiles {
  const folder = dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json'));
  const versions = readdirSync(join(folder, 'bin')).sort();
  const binaries = join(folder, 'bin', versions.at(-1)!, process.platform, process.arch);
  return { package: folder, binaries, cuda: ['/usr/local', '/opt'] };
}

/** What the runtime's error says of the device; undefined where it is about something else, such as the model. */
export function faultOf(error: unknown, device: Concrete, files?: RuntimeFiles): Fault | undefined {
  const text = String(error instanceof Error ? error.message : error);
  const { provider, gpu } = placeOf(device);
  if (provider === 'cuda') return cudaFault(text, gpu, files ?? runtimeFiles());
  if (provider === 'webgpu') return webgpuFault(text);
  return undefined;
}

/** The driver that each version of CUDA needs, at least. */
const DRIVERS: Record<string, string> = { 12: '525', 13: '580' };

const CUDA_FAILURES: Record<string, (gpu: number, cuda: string) => Fault> = {
  35: (_, cuda) => ({
    reason: `there is no NVIDIA driver, or it is older than CUDA ${cuda} needs`,
    remedy: `Install version ${DRIVERS[cuda] ?? DRIVERS[12]} or later; nvidia-smi prints the version; containers also need --gpus all.`,
  }),
  100: () => ({
    reason: 'no NVIDIA GPU is visible',
    remedy: 'Compare with nvidia-smi -L and the variable CUDA_VISIBLE_DEVICES.',
  }),
  101: gpu => ({
    reason: `there is no GPU number ${gpu}`,
    remedy: 'nvidia-smi -L lists them, counted from 0; CUDA_VISIBLE_DEVICES hides some.',
  }),
  209: () => ({
    reason: 'the CUDA provider has no code for this GPU',
    remedy: 'ONNX Runtime supports GPUs of compute capability 7.5 (Turing) and later.',
  }),
};

function cudaFault(text: string, gpu: number, files: RuntimeFiles): Fault | undefined {
  const failure = CUDA_FAILURES[/CUDA failure (\d+)/.exec(text)?.[1] ?? ''];
  if (failure) return failure(gpu, cudaVersion(files) ?? '12');
  const other = /CUDA failure \d+: [^;]*/.exec(text)?.[0].trim();
  if (other) return { reason: other, remedy: '' };
  const missing = /cuDNN is unavailable.*?(libcudnn[\w.]*)/.exec(text)?.[1];
  if (missing) return missingLibrary(missing === 'libcudnn.so' ? 'libcudnn.so.9' : missing, files);
  if (/Failed to load shared library|OrtSessionOptionsAppendExecutionProvider_Cuda/i.test(text))
    return notLoaded(files);
  return undefined;
}

const providerFile = ({ binaries }: RuntimeFiles) => join(binaries, 'libonnxruntime_providers_cuda.so');

/** Why the CUDA provider does not load: the runtime's own error does not say. */
function notLoaded(files: RuntimeFiles): Fault {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    return {
      reason: `onnxruntime-node has CUDA for Linux on x64 only, and this is ${process.platform} on ${process.arch}`,
      remedy: 'Use --device webgpu.',
    };
  const shared = join(files.binaries, 'libonnxruntime_providers_shared.so');
  if (![providerFile(files), shared].every(file => existsSync(file)))
    return {
      reason: 'the CUDA provider of onnxruntime-node is not installed',
      remedy: `Install it with: node ${join(relative(process.cwd(), files.package), 'script/install.js')} --onnxruntime-node-install=cuda12.`,
    };
  const message = loaderMessage(providerFile(files));
  const library = /^(lib[\w.-]+): cannot open shared object/.exec(message)?.[1];
  if (library) return missingLibrary(library, files);
  const why = /cannot open|undefined symbol|version .* not found/.test(message) ? `: ${message}` : '';
  return { reason: `ONNX Runtime does not load its CUDA provider${why}`, remedy: '' };
}

/** What the system's loader says of a library. Where it loads, Node's own message is that it is not an addon. */
function loaderMessage(path: string): string {
  try {
    process.dlopen({ exports: {} }, path, constants.dlopen.RTLD_LAZY);
    return '';
  } catch (error) {
    return (error as Error).message.split('\n')[0]!;
  }
}

const LIBRARY_FOLDERS = ['lib64', 'targets/x86_64-linux/lib', 'lib'];

/** The minor version whose libraries are installed for each version of CUDA. */
const MINORS: Record<string, string> = { 12: '9', 13: '0' };

function missingLibrary(library: string, files: RuntimeFiles): Fault {
  if (library.startsWith('libcuda.so'))
    return {
      reason: `the NVIDIA driver is not installed (${library})`,
      remedy: 'Install it, with sudo ubuntu-drivers install on Ubuntu; containers need --gpus all instead.',
    };
  const cuda = cudaVersion(files) ?? '12';
  const isCudnn = library.startsWith('libcudnn');
  const reason = `the provider needs ${library}, of ${isCudnn ? 'cuDNN for ' : ''}CUDA ${cuda}`;
  const folder = folderOf(library, files);
  if (folder)
    return {
      reason: `${reason}, which is in ${folder}, where it is not looked for`,
      remedy: `Run: export LD_LIBRARY_PATH=${folder}:$LD_LIBRARY_PATH.`,
    };
  const name = isCudnn ? `libcudnn9-cuda-${cuda}` : `cuda-libraries-${cuda}-${MINORS[cuda] ?? '0'}`;
  return {
    reason,
    remedy: `Install it with: sudo apt-get install ${name} (of NVIDIA's package repository), or add its folder to LD_LIBRARY_PATH.`,
  };
}

/** The folder of an installed CUDA that has the library, of which the system's loader need not know. */
function folderOf(library: string, { cuda }: RuntimeFiles): string | undefined {
  const roots = cuda.flatMap(root =>
    existsSync(root) ? readdirSync(root).flatMap(name => (/^cuda/.test(name) ? [join(root, name)] : [])) : [],
  );
  return roots
    .flatMap(root => LIBRARY_FOLDERS.map(folder => join(root, folder)))
    .find(folder => existsSync(join(folder, library)));
}

/** The version of CUDA that the provider was built for, by the libraries that it names. */
function cudaVersion(files: RuntimeFiles): string | undefined {
  let file: number;
  try {
    file = openSync(providerFile(files), 'r');
  } catch {
    return undefined;
  }
  try {
    const part = new Uint8Array(2 ** 22);
    // Parts overlap by more than the length of a name.
    for (let at = 0, read = part.length; read === part.length; at += read - 64) {
      read = readSync(file, part, 0, part.length, at);
      const found = /lib(?:cudart|cublasLt|cublas)\.so\.(\d+)/.exec(characters(part.subarray(0, read)));
      if (found) return found[1];
    }
    return undefined;
  } finally {
    closeSync(file);
  }
}

function webgpuFault(text: string): Fault | undefined {
  if (/requires f16 but the device does not support it/.test(text))
    return {
      reason: 'its adapter does not compute in float16 (it lacks shader-f16)',
      remedy: 'Use a float32 model and --precision fp32.',
    };
  if (!/WebGPU adapter|adapter_result|No supported adapters/i.test(text)) {
    const isLost = /webgpu|dawn/i.test(text) && /device.*lost|provider|backend/i.test(text);
    return isLost ? { reason: text.split('\n')[0]!, remedy: '' } : undefined;
  }
  const reason = 'no WebGPU adapter was found';
  if (process.platform !== 'linux') return { reason, remedy: 'Update the driver of the GPU.' };
  if (/cannot open shared object/.test(loaderMessage('libvulkan.so.1')))
    return {
      reason: `${reason}, as libvulkan.so.1 is not installed`,
      remedy: 'Install it with: sudo apt-get install libvulkan1 mesa-vulkan-drivers.',
    };
  return {
    reason: `${reason} by Vulkan`,
    remedy:
      'Install the driver of the GPU, or sudo apt-get install mesa-vulkan-drivers; vulkaninfo --summary lists adapters.',
  };
}

const FULL =
  /CUDA failure 2\b|CUBLAS failure 3\b|_ALLOC_FAILED|Failed to allocate memory for requested buffer|bad_alloc|out of memory|OutOfMemory/i;

/** A line on what did not fit into memory, and what to change; undefined for other errors. */
export function outOfMemory(error: unknown, device: Concrete): string | undefined {
  const text = String(error instanceof Error ? error.message : error);
  if (!FULL.test(text)) return undefined;
  const [, op, name] = /running (\w+) node\. Name:'(.*?)'/.exec(text) ?? [];
  const bytes = /buffer of size (\d+)/.exec(text)?.[1];
  const asked = bytes && `${Math.ceil(Number(bytes) / 2 ** 20)} MB more`;
  const who = op ? `${op}${name ? ` '${name}'` : ''} needs ${asked ?? 'more than is left'}` : asked;
  const what = device === 'cpu' ? 'The memory is full' : `The memory of device '${device}' is full`;
  return `${what}${who ? `: ${who}` : ''}. Use a smaller --batch-size; in training, --accumulate N with it keeps the size of an update, --memory SIZE chooses both, --checkpoint-activations keeps less for the backward pass, and --precision fp16 halves what it keeps.`;
}
