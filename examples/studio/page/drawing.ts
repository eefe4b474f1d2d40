/** The area to draw a digit in, and what the model takes it for. */
import { byId, make } from './dom.js';

const SIDE = 28;
/** The digit's longer side in the image, as in the data it learns from. */
const DIGIT = 20;
const PEN = 20;

const canvas = byId<HTMLCanvasElement>('canvas');
const context = canvas.getContext('2d', { willReadFrequently: true })!;

export type Drawing = { pixels(): Uint8Array | undefined; clear(): void };

/** Calls back whenever the drawing changes. */
export function startDrawing(onChange: () => void): Drawing {
  let last: [number, number] | undefined;
  const cursor = { x: canvas.width / 2, y: canvas.height / 2 };
  context.lineWidth = PEN;
  context.lineCap = 'round';
  context.lineJoin = 'round';
  const clear = () => {
    context.fillStyle = '#fff';
    context.fillRect(0, 0, canvas.width, canvas.height);
  };
  const lineTo = (x: number, y: number) => {
    context.beginPath();
    context.moveTo(...(last ?? [x, y]));
    context.lineTo(x, y);
    context.stroke();
    last = [x, y];
    onChange();
  };
  const at = ({ offsetX, offsetY }: PointerEvent): [number, number] => {
    const scale = canvas.width / canvas.clientWidth;
    return [offsetX * scale, offsetY * scale];
  };
  canvas.onpointerdown = event => {
    canvas.setPointerCapture(event.pointerId);
    last = undefined;
    lineTo(...at(event));
  };
  canvas.onpointermove = event => {
    if (event.buttons) lineTo(...at(event));
  };
  canvas.onpointerup = () => {
    last = undefined;
  };
  // With the keyboard: arrows move the pen, which draws while Space is held.
  let isDown = false;
  canvas.onkeydown = event => {
    const step = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] }[event.key];
    if (event.key === ' ') isDown = true;
    else if (!step) return;
    event.preventDefault();
    cursor.x = Math.min(canvas.width, Math.max(0, cursor.x + (step?.[0] ?? 0)));
    cursor.y = Math.min(canvas.height, Math.max(0, cursor.y + (step?.[1] ?? 0)));
    if (isDown) lineTo(cursor.x, cursor.y);
  };
  canvas.onkeyup = event => {
    if (event.key !== ' ') return;
    isDown = false;
    last = undefined;
  };
  clear();
  return { pixels, clear };
}

/** The drawing as the digits of the data are: light on dark, scaled to 20 pixels, its center of mass in the middle. */
function pixels(): Uint8Array | undefined {
  const { width, height } = canvas;
  const { data } = context.getImageData(0, 0, width, height);
  const ink = (x: number, y: number) => 255 - data[4 * (y * width + x)]!;
  let [left, right, top, bottom] = [width, -1, height, -1];
  let [mass, sumX, sumY] = [0, 0, 0];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const value = ink(x, y);
      if (!value) continue;
      [left, right, top, bottom] = [
        Math.min(left, x),
        Math.max(right, x),
        Math.min(top, y),
        Math.max(bottom, y),
      ];
      [mass, sumX, sumY] = [mass + value, sumX + value * x, sumY + value * y];
    }
  if (!mass) return undefined;
  const scale = DIGIT / Math.max(right - left + 1, bottom - top + 1, PEN);
  const small = new OffscreenCanvas(SIDE, SIDE).getContext('2d', { willReadFrequently: true })!;
  small.fillStyle = '#fff';
  small.fillRect(0, 0, SIDE, SIDE);
  small.imageSmoothingQuality = 'high';
  const [x, y] = [SIDE / 2 - (sumX / mass) * scale, SIDE / 2 - (sumY / mass) * scale];
  small.drawImage(canvas, x, y, width * scale, height * scale);
  const found = small.getImageData(0, 0, SIDE, SIDE).data;
  return Uint8Array.from({ length: SIDE * SIDE }, (_, i) => 255 - found[4 * i]!);
}

const bars = byId('bars');
bars.replaceChildren(
  ...Array.from({ length: 10 }, (_, digit) =>
    make('li', {}, make('span', {}, digit), make('span', { class: 'bar' }), make('span', {}, '–')),
  ),
);

/** Shows probabilities as bars; none for no drawing. */
export function showBars(probabilities: readonly number[] | undefined): void {
  const most = probabilities ? Math.max(...probabilities) : Number.NaN;
  [...bars.children].forEach((item, digit) => {
    const p = probabilities?.[digit];
    item.classList.toggle('most', p === most);
    (item.children[1] as HTMLElement).style.setProperty('--share', `${100 * (p ?? 0)}%`);
    item.children[2]!.textContent = p === undefined ? '–' : `${Math.round(100 * p)} %`;
  });
}

/** A button for each digit, to say what the drawing is. */
export function onTeach(teach: (digit: number) => void): void {
  const buttons = Array.from({ length: 10 }, (_, digit) => {
    const button = make('button', {}, digit);
    button.type = 'button';
    button.ariaLabel = `Teach the drawing as ${digit}`;
    button.onclick = () => teach(digit);
    return button;
  });
  byId('teach').append(...buttons);
}
