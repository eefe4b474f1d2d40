/** Paths that commands read and write. */
import { realpathSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { AgdError } from '../src/command/startup.js';
import type { InjectOptions } from '../src/internal.js';
import { print } from './ui/terminal.js';

type Path = string | undefined;

/** Throws `bad-option` where an output would overwrite what it is made from, or another output. */
export function checkOutputs(outputs: readonly Path[], inputs: readonly Path[]): void {
  const taken = new Map(
    inputs.flatMap(path => (path === undefined ? [] : [[sameFile(path), 'what it is made from']])),
  );
  for (const path of outputs) {
    if (path === undefined) continue;
    const other = taken.get(sameFile(path));
    if (other) throw new AgdError('bad-option', `${path} would overwrite ${other}: choose another file.`);
    taken.set(sameFile(path), 'another output');
  }
}

/** The paths of options that take one or several. */
export const pathsOf = (...options: readonly (string | readonly string[] | undefined)[]): string[] =>
  options.flatMap(paths => paths ?? []);

/** Two paths of one file, through links too, have one name. */
function sameFile(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return resolve(path);
  }
}

/** Makes a folder to write to. Throws `io`. */
export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (error) {
    throw new AgdError('io', `Cannot make the folder ${path}: ${(error as Error).message}.`);
  }
}

/** Writes texts by their names into a folder, and says so. Throws `io`. */
export async function writeTexts(folder: string, texts: Record<string, string>): Promise<void> {
  const { writeFileAtomic } = await import('../src/internal.js');
  const paths = Object.keys(texts).map(name => join(folder, name));
  for (const [i, text] of Object.values(texts).entries())
    await writeFileAtomic(paths[i]!, [Buffer.from(text)]);
  print(`wrote ${paths.join(', ')}`);
}

/** The original file's bytes go into the injected one, so that the trained weights can go back into it. */
export async function withOriginal(options: InjectOptions, model: string): Promise<InjectOptions> {
  return { ...options, original: await readFile(model).catch(() => undefined) };
}
