/** Files that are dropped or chosen. */
import type { Dropped } from '../protocol.js';
import { byId } from './dom.js';

export function onFiles(add: (files: Dropped[]) => void): void {
  for (const id of ['choose-files', 'choose-folder']) {
    const input = byId<HTMLInputElement>(id);
    input.onchange = () => {
      const files = [...(input.files ?? [])];
      if (files.length) add(files.map(file => ({ path: file.webkitRelativePath || file.name, file })));
      input.value = '';
    };
  }
  const body = document.body;
  body.ondragover = event => {
    event.preventDefault();
    body.classList.add('dropping');
  };
  body.ondragleave = event => {
    if (!event.relatedTarget) body.classList.remove('dropping');
  };
  body.ondrop = async event => {
    event.preventDefault();
    body.classList.remove('dropping');
    // What is dropped is gone after the first await.
    const dropped = [...(event.dataTransfer?.items ?? [])].map(
      item => [item.webkitGetAsEntry(), item.getAsFile()] as const,
    );
    const files = (
      await Promise.all(
        dropped.map(([entry, file]) => (entry ? filesIn(entry) : file ? [{ path: file.name, file }] : [])),
      )
    ).flat();
    if (files.length) add(files);
  };
}

async function filesIn(entry: FileSystemEntry): Promise<Dropped[]> {
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) =>
      (entry as FileSystemFileEntry).file(resolve, reject),
    );
    return [{ path: entry.fullPath.slice(1), file }];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const all: FileSystemEntry[] = [];
  // A reader gives a hundred entries at a time.
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) =>
      reader.readEntries(resolve, reject),
    );
    if (!some.length) break;
    all.push(...some);
  }
  return (await Promise.all(all.map(filesIn))).flat();
}
