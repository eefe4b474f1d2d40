/** The form of settings, and its values in the address of the page. */
import type { Settings } from '../protocol.js';
import { byId } from './dom.js';

const DIGITS: Settings = {
  ...{ loss: '', label: '', optimizer: 'agd', lr: 0, epochs: 2, batch: 32, split: 0.2 },
  ...{ trains: 'all', match: '', rank: 8, activations: '', classes: 0, device: 'cpu' },
};
const OWN: Settings = { ...DIGITS, epochs: 10, batch: 16 };

export const defaults = (kind: 'digits' | 'own'): Settings => (kind === 'digits' ? DIGITS : OWN);

const form = byId<HTMLFormElement>('settings');
type Control = HTMLInputElement | HTMLSelectElement;
const control = (name: string) => form.elements.namedItem(name) as Control;
const NAMES = Object.keys(DIGITS) as (keyof Settings)[];

export function readForm(): Settings {
  const entries = NAMES.map(name => {
    const { value } = control(name);
    return [name, typeof DIGITS[name] === 'number' ? Number(value) : value];
  });
  return Object.fromEntries(entries) as Settings;
}

/** Zero is no number of one's own: the field is empty. */
const EMPTY = new Set(['lr', 'classes']);

/** `base` has the values in place of those that a field does not take, as of the address. */
export function fillForm(settings: Settings, base = DIGITS): void {
  for (const name of NAMES) {
    const field = control(name);
    const value = settings[name];
    // What is disabled counts as valid.
    field.disabled = false;
    field.value = value === 0 && EMPTY.has(name) ? '' : String(value);
    // A select has no such option, or not here: its first one is meant.
    if (field instanceof HTMLSelectElement && (field.selectedOptions[0]?.disabled ?? true))
      field.selectedIndex = 0;
    if (field instanceof HTMLInputElement && !field.validity.valid) field.value = String(base[name] || '');
  }
  showFields();
}

/** Fields that mean nothing for the choice at hand are not shown. */
export function showFields(): void {
  const { trains } = readForm();
  showField('match', trains === 'lora' || trains === 'match');
  showField('rank', trains === 'lora');
}

/** A hidden field is disabled, so that what it says is not checked. */
export function showField(name: 'match' | 'rank' | 'split', isShown: boolean): void {
  byId(`${name}-field`).hidden = !isShown;
  control(name).disabled = !isShown;
}

/** The settings of the address, on top of the defaults. */
export function fromAddress(base: Settings): Settings {
  const given = new URLSearchParams(location.search);
  const entries = NAMES.filter(name => given.has(name)).map(name => {
    const text = given.get(name)!;
    return [name, typeof base[name] === 'number' ? Number(text) || 0 : text];
  });
  return { ...base, ...Object.fromEntries(entries) };
}

export function toAddress(settings: Settings, base: Settings): void {
  const changed = NAMES.filter(name => settings[name] !== base[name]);
  const query = new URLSearchParams(changed.map(name => [name, String(settings[name])]));
  history.replaceState(null, '', query.size ? `?${query}` : location.pathname);
}

export const inAddress = (name: keyof Settings): boolean => new URLSearchParams(location.search).has(name);

export function fillOptimizers(names: readonly string[]): void {
  const field = control('optimizer') as HTMLSelectElement;
  const { value } = field;
  field.replaceChildren(...names.map(name => new Option(name)));
  field.value = value;
}

/** The options of the target: columns of a table. */
export function fillLabels(labels: readonly string[]): void {
  byId('label-field').hidden = !labels.length;
  const field = control('label') as HTMLSelectElement;
  const before = field.value;
  field.replaceChildren(...labels.map((label, i) => new Option(label, i ? label : '')));
  if (!labels.length) field.append(new Option('', ''));
  field.value = before;
  if (field.selectedIndex < 0) field.selectedIndex = 0;
}

const CONTROLS: Record<string, string> = {
  ...{ loss: 'Loss', label: 'Target', columns: 'Target', lr: 'Learning rate', epochs: 'Epochs' },
  ...{
    'batch-size': 'Batch size',
    'val-split': 'Validation share',
    lora: 'LoRA adapters',
    train: 'What trains',
  },
  ...{
    freeze: 'What trains',
    classes: 'New head',
    'checkpoint-activations': 'Activations',
    device: 'Device',
    optimizer: 'Optimizer',
  },
};

/** Errors name the options of the command line: here they are the controls of the page, and paths are file names. */
export const inPageTerms = (message: string): string =>
  message
    .replace(/--([a-z-]+)(?: [A-Z]+\b)?/g, (flag, name: string) =>
      CONTROLS[name] ? `‘${CONTROLS[name]}’` : flag,
    )
    .replace(/\/(?:studio|incoming|kept)\/(?:model|data|run)\/?/g, '')
    .replace('which cannot be found.', 'which is missing: add that file, too.')
    .replace('`agd-onnx inspect` lists them', 'they are listed below the model');
