const element = <T extends Element = HTMLElement>(id: string) => document.getElementById(id) as unknown as T;
const status = element('status');
const losses: number[] = [];
let model: Uint8Array<ArrayBuffer> | undefined;

function draw() {
  const top = Math.max(...losses);
  const points = losses.map(
    (loss, i) => `${(300 * i) / Math.max(1, losses.length - 1)},${115 - (110 * loss) / top}`,
  );
  document.querySelector('polyline')!.setAttribute('points', points.join(' '));
  status.textContent = `Step ${losses.length}: loss ${losses.at(-1)!.toFixed(4)}`;
}

element<HTMLButtonElement>('train').onclick = () => {
  losses.length = 0;
  element('error').textContent = '';
  element<HTMLButtonElement>('train').disabled = true;
  status.textContent = 'Loading…';
  const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' });
  worker.onmessage = ({ data }) => {
    if (typeof data.event?.loss === 'number') {
      losses.push(data.event.loss);
      draw();
    }
    if (data.error) element('error').textContent = data.error;
    if (data.model) {
      losses.splice(0, Infinity, ...data.losses);
      draw();
      model = data.model;
      element<HTMLButtonElement>('download').disabled = false;
      status.textContent = `Trained: ${losses.length} steps, loss ${losses.at(-1)!.toFixed(4)}`;
    }
    if (data.error || data.model) {
      element<HTMLButtonElement>('train').disabled = false;
      worker.terminate();
    }
  };
  worker.postMessage({
    epochs: Number(element<HTMLInputElement>('epochs').value),
    base: new URL('./', location.href).href,
  });
};
element('download').onclick = () => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([model!]));
  link.download = 'trained.onnx';
  link.click();
};
