/** The loss curve. */
import type { RunRecord } from '../protocol.js';

const NS = 'http://www.w3.org/2000/svg';
const HEIGHT = 220;
const [LEFT, RIGHT, TOP, BOTTOM] = [44, 8, 20, 26];

function shape(tag: string, attributes: Record<string, string | number>, text = ''): SVGElement {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.textContent = text;
  return element;
}

export const short = (x: number): string =>
  Number.isFinite(x) ? (Math.abs(x) >= 100 ? x.toFixed(0) : String(Number(x.toPrecision(3)))) : '–';

type Point = readonly [step: number, loss: number];

/** At most about two points for each pixel: the mean of neighbours, so that noise does not hide the course. */
function thinned(losses: readonly number[], most: number): Point[] {
  const size = Math.max(1, Math.ceil(losses.length / most));
  const points: Point[] = [];
  for (let at = 0; at < losses.length; at += size) {
    const part = losses.slice(at, at + size).filter(Number.isFinite);
    if (part.length) points.push([at + size / 2 + 0.5, part.reduce((a, b) => a + b) / part.length]);
  }
  return points;
}

/** Draws the losses of steps, and those of validation at the ends of epochs. */
export function drawCurve(
  svg: SVGSVGElement,
  { losses, epochs, stepsPerEpoch }: RunRecord,
  steps: number,
): void {
  const width = svg.clientWidth || 300;
  const train = thinned(losses, width / 2);
  const validation = epochs.flatMap(({ epoch, validation }): Point[] =>
    validation ? [[epoch * stepsPerEpoch, validation.loss]] : [],
  );
  const all = [...train, ...validation];
  const top = Math.max(...all.map(([, loss]) => loss), 1e-6);
  const last = Math.max(steps, losses.length, 1);
  const x = (step: number) => LEFT + ((width - LEFT - RIGHT) * step) / last;
  const y = (loss: number) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - loss / top);
  const line = (points: readonly Point[]) =>
    points.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(' ');
  const ticks = [0, top / 2, top].flatMap(value => [
    shape('line', { class: 'axis', x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
    shape('text', { x: LEFT - 6, y: y(value) + 4, 'text-anchor': 'end' }, short(value)),
  ]);
  svg.replaceChildren(
    ...ticks,
    shape('text', { x: LEFT, y: HEIGHT - 8 }, '0'),
    shape('text', { x: width - RIGHT, y: HEIGHT - 8, 'text-anchor': 'end' }, `step ${last}`),
    shape('polyline', { class: 'train', points: line(train) }),
    shape('polyline', { class: 'validation', points: line(validation) }),
    ...validation.map(([step, loss]) =>
      shape('circle', { cx: x(step), cy: y(loss), r: 2.5, fill: 'currentColor' }),
    ),
    ...key(width, validation.length > 0),
  );
  svg.setAttribute('aria-label', described(losses, validation));
}

function key(width: number, hasValidation: boolean): SVGElement[] {
  const entry = (at: number, name: string) => [
    shape('line', { class: name, x1: at, x2: at + 20, y1: 9, y2: 9 }),
    shape('text', { x: at + 25, y: 13 }, name),
  ];
  return [...entry(width - 170, 'train'), ...(hasValidation ? entry(width - 95, 'validation') : [])];
}

function described(losses: readonly number[], validation: readonly Point[]): string {
  if (!losses.length) return 'No loss curve yet';
  const course = `Training loss from ${short(losses[0]!)} to ${short(losses.at(-1)!)} in ${losses.length} steps`;
  return validation.length ? `${course}; validation loss ${short(validation.at(-1)![1])}` : course;
}
