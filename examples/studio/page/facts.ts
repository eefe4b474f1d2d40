/** What is known of model and data. */
import type { ModelFacts, Project } from '../protocol.js';
import { byId, definitions, make } from './dom.js';
import { counted, size } from './words.js';

export function showFacts({ kind, model, data, taught, ignored = [] }: Project): void {
  const columns = data?.columns.map(({ column, kind: type }) => `${column} (${type})`) ?? [];
  const arrays = data?.arrays.map(({ name, type }) => `${name}: ${type}`) ?? [];
  const entries = definitions([
    ['Model', model ? `${model.name}, ${size(model.bytes)}` : 'none yet'],
    ['Inputs', model?.inputs.map(({ name, type }) => `${name}: ${type}`).join(', ')],
    ['Outputs', model?.outputs.map(({ name, type }) => `${name}: ${type}`).join(', ')],
    ['Without gradient', model?.missing.join(', ')],
    ['Data', data ? `${data.name}, ${counted(data.samples, 'sample')}` : 'none yet'],
    ['Columns', shortened(columns)],
    ['Arrays', arrays.join(', ')],
    ['Drawings', taught ? String(taught) : ''],
    ['Not used', shortened(ignored)],
  ]);
  const list = make('dl', {}, ...entries);
  byId('facts').replaceChildren(list, ...(model?.parameters.length ? [parameters(model)] : []));
  byId('use-digits').hidden = kind === 'digits';
}

const MOST = 12;
const shortened = (names: readonly string[]) =>
  names.length > MOST
    ? `${names.slice(0, MOST).join(', ')} and ${names.length - MOST} more`
    : names.join(', ');

function parameters({ parameters: all }: ModelFacts): HTMLElement {
  const elements = all.reduce((n, p) => n + p.elements, 0);
  const frozen = all.filter(p => !p.trains);
  const rest = frozen.length ? `, ${frozen.length} of ${all.length} tensors do not train` : '';
  const rows = all.map(({ name, type, trains, why }) =>
    make('tr', {}, make('td', {}, name), make('td', {}, type), make('td', {}, trains ? 'trains' : why)),
  );
  const head = ['Name', 'Type', 'Training'].map(name => make('th', { scope: 'col' }, name));
  const table = make(
    'table',
    { class: 'names' },
    make('thead', {}, make('tr', {}, ...head)),
    make('tbody', {}, ...rows),
  );
  const region = make('div', { class: 'scroll' }, table);
  region.tabIndex = 0;
  region.setAttribute('role', 'region');
  region.setAttribute('aria-label', 'Parameters');
  return make(
    'details',
    {},
    make('summary', {}, `${elements.toLocaleString('en')} parameters${rest}`),
    region,
  );
}

/** The number of classes that the model tells apart: the last extent of its only output. */
export function classesOf(model: ModelFacts | undefined): number | undefined {
  const extent = model?.outputs.length === 1 ? /[[,](\d+)\]$/.exec(model.outputs[0]!.type)?.[1] : undefined;
  return extent === undefined ? undefined : Number(extent);
}
