import type * as promises from 'node:fs/promises';

/** Calls of `fs`, one after another, in an existing folder; what each gives, or the code of its error. */
export async function changeOrder(fs: typeof promises, folder: string): Promise<unknown[]> {
  const at = (name: string) => `${folder}/${name}`;
  const seen: unknown[] = [];
  const see = async (action: () => Promise<unknown>) => {
    try {
      seen.push((await action()) ?? null);
    } catch (error) {
      seen.push((error as NodeJS.ErrnoException).code);
    }
  };
  const names = async (path: string) => (await fs.readdir(path)).filter(name => name !== 'keep').sort();
  const shown = async (path: string) => (await fs.readFile(path, 'utf8')) as string;
  await see(() => fs.writeFile(at('a'), 'one'));
  await see(() => shown(at('a')));
  await see(() => fs.open(at('a'), 'wx'));
  await see(() => fs.open(at('missing')));
  await see(() => fs.writeFile(at('no/folder'), ''));
  await see(() => fs.mkdir(at('b')));
  await see(() => fs.mkdir(at('b')));
  await see(() => fs.mkdir(at('c/d/e'), { recursive: true }).then(() => null));
  await see(() => fs.rename(at('a'), at('b/a')));
  await see(() => names(folder));
  await see(() => fs.rmdir(at('b')));
  await see(() => fs.unlink(at('b')).catch(() => 'refused'));
  await see(async () => (await fs.stat(at('b'))).isDirectory());
  await see(async () => {
    const file = await fs.open(at('sparse'), 'wx+');
    try {
      await file.truncate(8);
      await file.write(new Uint8Array([1, 2]), 0, 2, 4);
      await file.writeFile('start');
      const bytes = new Uint8Array(10);
      const { bytesRead } = await file.read(bytes, 1, 9, 2);
      await fs.unlink(at('sparse'));
      return [bytesRead, [...bytes], (await file.stat()).size, [...(await file.readFile())].length];
    } finally {
      await file.close();
    }
  });
  await see(() => fs.stat(at('sparse')));
  await see(() => fs.readlink(at('b/a')));
  await see(() => fs.readlink(at('missing')));
  await see(() => fs.access(at('missing')));
  await see(() => fs.rm(at('c')).catch(() => 'refused'));
  await see(() => fs.rm(at('c'), { recursive: true }));
  await see(() => fs.rm(at('c'), { recursive: true, force: true }));
  await see(async () => {
    const file = await fs.open(at('b/a'), 'a');
    await file.writeFile(' more');
    await file.close();
    return shown(at('b/a'));
  });
  await see(() => names(folder));
  return seen;
}
