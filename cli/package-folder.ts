import { existsSync } from 'node:fs';

/** The package's folder: the nearest one with a manifest, as sources and what is built of them lie at different depths. */
export const PACKAGE = nearest(new URL('.', import.meta.url));

function nearest(folder: URL): URL {
  const above = new URL('..', folder);
  const isFound = existsSync(new URL('package.json', folder)) || above.href === folder.href;
  return isFound ? folder : nearest(above);
}
