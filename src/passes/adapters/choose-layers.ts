/** Which layers of a model an option or a file of adapters names. */
import { AgdError } from '../../graph/errors.js';
import { globTest } from '../common/match-names.js';
import { type AdaptedLayer, describeLayer } from './adapted-layers.js';

const listed = (layers: readonly AdaptedLayer[]) =>
  layers.length
    ? `there are ${layers.slice(0, 12).map(describeLayer).join(', ')}${layers.length > 12 ? ` and ${layers.length - 12} more` : ''}.`
    : 'the model has none.';

/** The layers whose module, weight or node matches. Throws `no-such-value` if none does. */
export function layersMatching(layers: readonly AdaptedLayer[], glob: string, flag: string): AdaptedLayer[] {
  const test = globTest(glob);
  const found = layers.filter(l =>
    [l.module, l.name, l.weight.value.name, l.node.name].some(n => n && test(n)),
  );
  if (found.length) return found;
  throw new AgdError(
    'no-such-value',
    `${flag} '${glob}' matches no layer that multiplies with a weight; ${listed(layers)}`,
  );
}

/**
 * The layers that the entries of the file `name` are for, by the module; a file may name modules from further out. Throws
 * `no-such-value` for an entry without a layer, and `bad-option` for a layer of two.
 */
export function layersNamed<T extends { module: string; kind?: string }>(
  layers: readonly AdaptedLayer[],
  entries: readonly T[],
  name: string,
): Map<AdaptedLayer, T> {
  const taken = new Map<AdaptedLayer, T>();
  for (const entry of entries) {
    const { module, kind } = entry;
    const fits = (l: AdaptedLayer) => kind === undefined || l.kind === kind;
    const exact = layers.filter(l => fits(l) && l.module === module);
    const found = exact.length
      ? exact
      : layers.filter(l => fits(l) && (l.module.endsWith(`.${module}`) || module.endsWith(`.${l.module}`)));
    if (!found.length)
      throw new AgdError(
        'no-such-value',
        `${name} is an adapter of another model: it has values for '${module}', but of such layers ${listed(layers)}`,
      );
    for (const layer of found) {
      const other = taken.get(layer);
      if (other !== undefined)
        throw new AgdError(
          'bad-option',
          `${name} has two adapters for layer ${describeLayer(layer)}: '${other.module}' and '${module}'. It is of a larger model, or of one with other names of modules.`,
        );
      taken.set(layer, entry);
    }
  }
  return taken;
}
