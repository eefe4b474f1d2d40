/** ONNX Runtime with its CUDA provider: the installed one, or one from npm, with stand-ins of the CUDA libraries. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

const ROOT = process.cwd();
const CACHE = join(ROOT, 'node_modules/.cache/cuda');
const PROVIDER = 'libonnxruntime_providers_cuda.so';
const BINARIES = 'bin/napi-v6/linux/x64';

/** The packages that hold the provider and the runtime of the same version; the other files of both are left out. */
const RUNTIME = 'onnxruntime-node@1.29.0';
const WITH_PROVIDER = 'com.github.asus4.onnxruntime.linux-x64-gpu@0.4.9';

export type CudaRuntime = {
  /** The folder of onnxruntime-node. */
  folder: string;
  /** The folder of the stand-ins; undefined where there is a GPU. */
  standIns: string | undefined;
};

/** The runtime, or why there is none on this machine. */
export async function cudaRuntime(): Promise<CudaRuntime | string> {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'the provider is for Linux on x64';
  const installed = join(ROOT, 'node_modules/onnxruntime-node');
  const isInstalled = existsSync(join(installed, BINARIES, PROVIDER));
  const folder = isInstalled ? installed : join(CACHE, 'onnxruntime-node');
  if (!existsSync(join(folder, BINARIES, PROVIDER))) {
    try {
      await fetchProvider(folder);
    } catch (error) {
      return `npm does not bring the provider: ${(error as Error).message.split('\n')[0]}`;
    }
  }
  if (existsSync('/dev/nvidiactl')) return { folder, standIns: undefined };
  for (const tool of ['gcc', 'nm', 'readelf'])
    if (!has(tool)) return `there is no GPU, and the stand-ins of its libraries need ${tool}`;
  const standIns = join(CACHE, isInstalled ? 'stand-ins-of-installed' : 'stand-ins');
  await makeStandIns(join(folder, BINARIES, PROVIDER), standIns);
  return { folder, standIns };
}

/** Lays the runtime and the provider into `folder`, in one step. */
async function fetchProvider(folder: string): Promise<void> {
  await mkdir(CACHE, { recursive: true });
  const work = await mkdtemp(join(CACHE, 'fetch-'));
  const unpack = (name: string, ...rest: string[]) => {
    const pack = ['pack', '--silent', '--ignore-scripts', '--pack-destination', work, name];
    const file = execFileSync('npm', pack, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    execFileSync('tar', ['xzf', join(work, file), '--wildcards', ...rest]);
  };
  try {
    const made = join(work, 'made');
    await mkdir(join(made, BINARIES), { recursive: true });
    const own = ['package/package.json', 'package/dist/*', `package/${BINARIES}/*`];
    unpack(RUNTIME, '-C', made, '--strip-components=1', ...own);
    const libraries = ['*/libonnxruntime_providers_cuda.so', '*/libonnxruntime_providers_shared.so'];
    unpack(WITH_PROVIDER, '-C', join(made, BINARIES), '--strip-components=4', ...libraries);
    await rm(folder, { recursive: true, force: true });
    await rename(made, folder);
  } finally {
    await rm(work, { recursive: true });
  }
}

/** Libraries that the provider loads by name, beside those that it is linked to. */
const LOADED = ['libcudnn.so.9'];

/** Builds the libraries that `provider` needs of CUDA into `folder`, unless they are there and newer than their source. */
async function makeStandIns(provider: string, folder: string): Promise<void> {
  const source = await readFile(join(ROOT, 'test/cuda/stand-in.c'), 'utf8');
  const written = join(folder, 'stand-in.c');
  if (existsSync(written) && (await readFile(written, 'utf8')) === source) return;
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  const linked = [...read('readelf', '-d', provider).matchAll(/NEEDED.*\[(lib(?:cu|nv)[^\]]+)\]/g)].map(
    m => m[1]!,
  );
  const wanted = [...read('nm', '-D', '--undefined-only', provider).matchAll(/ U (\w+)(?:@(\S+))?$/gm)];
  const own = new Set([...source.matchAll(/(\w+)\(/g)].map(m => m[1]!));
  for (const library of new Set([...linked, ...LOADED])) {
    const [, stem = '', version = ''] = /^lib(\w+)\.so\.(\d+)/.exec(library)!;
    const isVersioned = wanted.some(([, , by]) => by === library);
    const linkedTo = wanted.flatMap(([, name, by]) =>
      by === library || (!by && name!.startsWith(stem)) ? [name!] : [],
    );
    const names = LOADED.includes(library) ? [...linkedTo, ...(await namesIn(provider, stem))] : linkedTo;
    const isRuntime = stem === 'cudart';
    const stubs = [...new Set(names)].filter(name => !(isRuntime && own.has(name))).map(stub);
    const base = join(folder, stem);
    await writeFile(`${base}.c`, ['#include <stdlib.h>', 'int standIn;', ...stubs].join('\n'));
    await writeFile(`${base}.map`, `${library} { global: *; };\n`);
    const map = isVersioned ? [`-Wl,--version-script=${base}.map`] : [];
    const runtime = isRuntime
      ? [join(ROOT, 'test/cuda/stand-in.c'), `-DCUDA_VERSION=${Number(version) * 1000}`]
      : [];
    const out = ['-o', join(folder, library), `-Wl,-soname,${library}`];
    execFileSync('gcc', ['-w', '-shared', '-fPIC', ...out, `${base}.c`, ...runtime, ...map]);
  }
  await writeFile(written, source);
}

/** Names of functions of a library that the provider looks up when it runs. */
async function namesIn(provider: string, stem: string): Promise<string[]> {
  const text = (await readFile(provider)).toString('latin1');
  return [...text.matchAll(new RegExp(`\\0(${stem}[A-Z][A-Za-z0-9_]+)(?=\\0)`, 'g'))].map(m => m[1]!);
}

/** A function that does nothing: handles are made, sizes are above 0, and all goes well. */
function stub(name: string): string {
  if (name === 'cudnnGetRNNWeightSpaceSize')
    return `int ${name}(void *h, void *d, size_t *n) { *n = 1 << 20; return 0; }`;
  if (name === 'cudnnDropoutGetStatesSize')
    return `int ${name}(void *h, size_t *n) { *n = 1 << 20; return 0; }`;
  if (/Create/.test(name)) return `int ${name}(void **made) { *made = calloc(1, 64); return 0; }`;
  if (/^cudnnGet\w*Version/.test(name)) return `size_t ${name}(void) { return 91000; }`;
  if (/ErrorString|GetStatus/.test(name)) return `const char *${name}(void) { return "stand-in"; }`;
  return `int ${name}(void) { return 0; }`;
}

const read = (command: string, ...args: string[]) =>
  execFileSync(command, args, { encoding: 'utf8', maxBuffer: 2 ** 28 });

function has(tool: string): boolean {
  try {
    execFileSync(tool, ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** The environment of a process that loads the runtime. */
export function environmentOf({ folder, standIns }: CudaRuntime): NodeJS.ProcessEnv {
  const paths = [standIns, join(folder, BINARIES), process.env.LD_LIBRARY_PATH];
  return { ...process.env, LD_LIBRARY_PATH: paths.filter(Boolean).join(':') };
}

/** The folder of a file of this one's. */
export const beside = (url: string, name: string) => join(dirname(new URL(url).pathname), name);
