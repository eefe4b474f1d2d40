import { readdir } from 'node:fs/promises';
import { dirname, extname, join, parse, relative, sep } from 'node:path';
import { AgdError } from '../../../graph/errors.js';
import type { Block, Field, Source, Values } from '../source.js';

/** What sharp's prebuilt binaries decode. */
const EXTENSIONS = new Set(
  ['jpg', 'jpeg', 'jpe', 'jfif', 'png', 'webp', 'gif', 'avif', 'tif', 'tiff'].map(name => `.${name}`),
);

export const isImageFile = (path: string): boolean => EXTENSIONS.has(extname(path).toLowerCase());

/** Paths need no room: a block of them is as many as are worth a thread's turn. */
const ROWS = 1024;

export type ImageFolder = Source & {
  /** Files that were not taken as images; hidden ones are not counted. */
  readonly ignored: number;
};

/**
 * The images in a folder: `image`, the path of each, sorted. Where they are in folders of their own, `label`, the name
 * of the first of these, is the class: `cats/1.jpg` and `cats/siamese/2.jpg` are cats. Where there are two folders, `images` and
 * `masks`, `mask` is the path of the mask of the same name. Throws `bad-data` where there are no images, where some are in
 * folders and some are not, where the folders are named as the parts of a data set, and where an image has no mask; `io`.
 */
export async function openImageFolder(folder: string): Promise<ImageFolder> {
  const { images, ignored } = await listImages(folder);
  if (!images.length) {
    const others = ignored ? `, ${ignored} other file${ignored === 1 ? '' : 's'}` : '';
    throw new AgdError('bad-data', `Folder ${folder} holds no images (${others.slice(2) || 'it is empty'}).`);
  }
  const tops = images.map(path => path.split(sep)[0]!);
  const apart = images.findIndex(path => !path.includes(sep));
  const isFlat = images.every(path => !path.includes(sep));
  if (apart >= 0 && !isFlat)
    throw new AgdError(
      'bad-data',
      `Folder ${folder} has images in folders, one for each class, but also ${images[apart]} outside of them: move it into the folder of its class.`,
    );
  const parts = [...new Set(tops)];
  if (!isFlat && parts.every(name => PARTS.test(name))) throw splitFolder(folder, parts);
  const paths = (list: readonly string[]) => list.map(path => join(folder, path));
  const masked = pairMasks(folder, images, tops);
  if (masked) return imageSource(folder, { image: paths(masked.images), mask: paths(masked.masks) }, ignored);
  return imageSource(folder, { image: paths(images), ...(isFlat ? {} : { label: tops }) }, ignored);
}

/** What the parts of a data set are called, which are no classes. */
const PARTS = /^(train(ing)?|val(id(ation)?)?|dev|test(ing)?|eval(uation)?)$/i;

function splitFolder(folder: string, parts: readonly string[]): AgdError {
  const train = parts.find(name => /^train/i.test(name)) ?? parts[0]!;
  const val = parts.find(name => name !== train);
  const flags = [
    `--data ${join(folder, train)}`,
    ...(val === undefined ? [] : [`--val ${join(folder, val)}`]),
  ];
  return new AgdError(
    'bad-data',
    `Folder ${folder} has ${parts.join(' and ')} where the folders of the classes are expected: use ${flags.join(' ')}.`,
  );
}

/** All images below the folder, relative to it, in an order that does not depend on the system. */
async function listImages(folder: string): Promise<{ images: string[]; ignored: number }> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((cause: unknown) => {
    throw new AgdError('io', `Folder ${folder} cannot be read: ${(cause as Error).message}.`, { cause });
  });
  const files = entries
    .filter(entry => !entry.isDirectory())
    .map(entry => relative(folder, join(entry.parentPath, entry.name)))
    .filter(path => !path.split(sep).some(part => part.startsWith('.')));
  const key = (path: string) => path.split(sep).join('\0');
  const images = files.filter(isImageFile).sort((a, b) => (key(a) < key(b) ? -1 : 1));
  return { images, ignored: files.length - images.length };
}

const IMAGES = new Set(['image', 'images']);
const MASKS = new Set(['mask', 'masks']);

/** Images and masks by the same path, extensions apart. */
function pairMasks(folder: string, files: readonly string[], tops: readonly string[]) {
  const names = new Set(tops);
  const [image] = [...names].filter(name => IMAGES.has(name.toLowerCase()));
  const [mask] = [...names].filter(name => MASKS.has(name.toLowerCase()));
  if (names.size !== 2 || image === undefined || mask === undefined) return undefined;
  const stem = (path: string) => {
    const { dir, name } = parse(path);
    return join(dir, name).split(sep).slice(1).join('/');
  };
  const byStem = new Map(files.filter((_, i) => tops[i] === mask).map(path => [stem(path), path]));
  const images = files.filter((_, i) => tops[i] === image);
  const masks = images.map(path => {
    const found = byStem.get(stem(path));
    if (found !== undefined) return found;
    throw new AgdError('bad-data', `Image ${join(folder, path)} has no mask in ${join(folder, mask)}.`);
  });
  return { images, masks };
}

function imageSource(
  name: string,
  columns: Readonly<Record<string, readonly string[]>>,
  ignored: number,
): ImageFolder {
  const count = columns.image!.length;
  const fields = Object.keys(columns).map(
    (field): Field => ({ name: field, kind: field === 'label' ? 'text' : 'image' }),
  );
  const blocks = Array.from({ length: Math.ceil(count / ROWS) }, (_, i) => Math.min(ROWS, count - i * ROWS));
  return {
    name,
    fields,
    blocks,
    ignored,
    async read(block: number, wanted = Object.keys(columns)): Promise<Block> {
      const values = new Map<string, Values>();
      for (const field of wanted)
        if (columns[field]) values.set(field, columns[field].slice(block * ROWS, (block + 1) * ROWS));
      return { rows: blocks[block]!, values };
    },
    async close() {},
  };
}

/**
 * A table with the columns of it that name image files as fields of kind `image`, their paths taken from where the table
 * is. The same source where there are none. Columns are told by the values of the first block, or named by `columns`.
 */
export async function resolveImages(
  source: Source,
  file: string,
  columns?: readonly string[],
): Promise<Source> {
  if (!source.blocks.length) return source;
  const texts = source.fields.filter(({ kind }) => kind === 'text').map(({ name }) => name);
  const first = await source.read(0, texts);
  const named = texts.filter(name => {
    const values = (first.values.get(name) as readonly (string | null)[]).filter(value => value !== null);
    return columns?.includes(name) ?? (values.length > 0 && values.every(isImageFile));
  });
  if (!named.length) return source;
  const folder = dirname(file);
  return {
    name: source.name,
    fields: source.fields.map(field => (named.includes(field.name) ? { ...field, kind: 'image' } : field)),
    blocks: source.blocks,
    async read(block, fields) {
      const { rows, values } = await source.read(block, fields);
      const resolved = [...values].map(([name, list]): [string, Values] => [
        name,
        named.includes(name)
          ? (list as readonly (string | null)[]).map(path =>
              path === null ? null : resolvePath(folder, path),
            )
          : list,
      ]);
      return { rows, values: new Map(resolved) };
    },
    close: () => source.close(),
  };
}

/** Relative paths are those from the table's folder, with either slash. */
const resolvePath = (folder: string, path: string) =>
  /^([/\\]|[A-Za-z]:)/.test(path) ? path : join(folder, path.replaceAll('\\', '/'));
