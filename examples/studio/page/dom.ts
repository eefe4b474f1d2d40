/** The page's elements. */
export const byId = <T extends HTMLElement = HTMLElement>(id: string): T => document.getElementById(id) as T;

type Properties = { class?: string; scope?: 'row' | 'col' };

/** Makes an element; text is text, never markup. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  { class: className, scope }: Properties = {},
  ...children: (Node | string | number)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (scope) (element as unknown as HTMLTableCellElement).scope = scope;
  element.append(...children.map(child => (child instanceof Node ? child : String(child))));
  return element;
}

export const definitions = (entries: readonly (readonly [string, string | undefined])[]) =>
  entries.flatMap(([term, text]) => (text ? [make('dt', {}, term), make('dd', {}, text)] : []));

export function save(name: string, content: BlobPart, type: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
