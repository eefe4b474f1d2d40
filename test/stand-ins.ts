/** Shared libraries that stand in for parts of CUDA: each names the libraries that it needs and does nothing. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

export const canBuild =
  process.platform === 'linux' && process.arch === 'x64' && spawnSync('gcc', ['--version']).status === 0;

if (!canBuild) console.warn('Tests with stand-in libraries are skipped: they need gcc on Linux x64.');

function compile(path: string, needed: readonly string[] = []): void {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-stand-in-'));
  const source = join(folder, 'nothing.c');
  writeFileSync(source, 'int nothing(void) { return 0; }\n');
  const libraries = needed.map(name => join(folder, name));
  for (const library of libraries) compileOne(library, source, []);
  compileOne(path, source, libraries);
  rmSync(folder, { recursive: true });
}

function compileOne(path: string, source: string, libraries: readonly string[]): void {
  const name = `-Wl,-soname,${basename(path)}`;
  const args = ['-shared', '-fPIC', '-Wl,--no-as-needed', name, '-o', path, source, ...libraries];
  const { status, stderr } = spawnSync('gcc', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
}

/** The two libraries of the CUDA provider, of which the second needs these, which are not there. */
export function standInProvider(folder: string, needed: readonly string[]): void {
  mkdirSync(folder, { recursive: true });
  compile(join(folder, 'libonnxruntime_providers_shared.so'));
  compile(join(folder, 'libonnxruntime_providers_cuda.so'), needed);
}

export function standInLibrary(path: string): void {
  compile(path);
}
