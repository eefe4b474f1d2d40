/** HTML or SVG that is safe as it stands. Text becomes Markup only through `h`, which escapes it. */
export class Markup {
  /** `source` is taken as it is: only for what this program wrote itself. */
  constructor(readonly source: string) {}

  toString(): string {
    return this.source;
  }
}

export type Attributes = Record<string, string | number | undefined>;
export type Child = string | Markup | readonly Child[];

const VOID = new Set(['meta', 'img', 'br']);

/** One element. Texts and attribute values are escaped; attributes that are undefined are left out. */
export function h(name: string, attributes: Attributes = {}, ...children: Child[]): Markup {
  let open = `<${name}`;
  for (const [key, value] of Object.entries(attributes))
    if (value !== undefined) open += ` ${key}="${escapeText(String(value))}"`;
  return new Markup(VOID.has(name) ? `${open}>` : `${open}>${content(children)}</${name}>`);
}

function content(child: Child): string {
  if (typeof child === 'string') return escapeText(child);
  return child instanceof Markup ? child.source : child.map(content).join('');
}

const ENTITIES: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Text as it may stand in HTML and XML, in an attribute too; characters that XML forbids become U+FFFD. */
export function escapeText(text: string): string {
  const legal = text.replace(/[^\P{Cc}\t\n\r]|\p{Cs}/gu, '\ufffd');
  return legal.replace(/[&<>"']/g, character => ENTITIES[character]!);
}
