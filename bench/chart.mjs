/** The ratios of a run as an SVG: a bar for each peer, a line where the goal is. */
import { ratios } from './tables.mjs';
import { WORKLOADS } from './workloads.mjs';

const [LEFT, WIDTH, ROW, TOP] = [190, 560, 20, 62];
const MARKS = {
  eager: ['#c2571a', 'PyTorch, eager, AGD'],
  compiled: ['#8a5cc2', 'torch.compile, fused AdamW'],
  js: ['#1a7fc2', 'best JavaScript peer'],
};

/** A logarithmic axis from a quarter to a hundred. */
const [LOW, HIGH] = [0.25, 100];
const place = ratio => {
  const inside = Math.min(HIGH, Math.max(LOW, ratio));
  return LEFT + (WIDTH * Math.log(inside / LOW)) / Math.log(HIGH / LOW);
};

export function chart(result) {
  const parts = [];
  let y = TOP;
  for (const { name, title } of WORKLOADS) {
    const bars = ratios(result.train).filter(r => r.workload === name);
    if (bars.length === 0) continue;
    parts.push(text(LEFT - 10, y + (ROW * bars.length) / 2 + 4, title, 'end'));
    for (const bar of bars) {
      parts.push(...drawn(bar, y));
      y += ROW;
    }
    y += ROW / 2;
  }
  const axis = [0.25, 0.5, 1, 2, 5, 10, 20, 50, 100].map(tick => {
    const x = place(tick).toFixed(1);
    const line = `<line x1="${x}" x2="${x}" y1="${TOP - 4}" y2="${y}" stroke="${tick === 1 ? '#444' : '#ddd'}"/>`;
    return line + text(x, TOP - 10, `${tick}`, 'middle');
  });
  const legend = Object.values(MARKS).map(
    ([color, label], i) =>
      `<rect x="${LEFT + 190 * i}" y="12" width="12" height="12" fill="${color}"/>${text(LEFT + 18 + 190 * i, 22, label)}`,
  );
  const note = text(
    LEFT,
    y + 22,
    "The peer's time of a step over ours, most threads: more is better. Black line: goal.",
  );
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${LEFT + WIDTH + 70}" height="${y + 36}" font-family="sans-serif" font-size="12">`,
    "<title>The peers' times of a step over agd-onnx's</title>",
    '<rect width="100%" height="100%" fill="#fff"/>',
    ...[...axis, ...legend, ...parts, note],
    '</svg>',
    '',
  ].join('\n');
}

function drawn({ mark, ratio, goal }, y) {
  const [from, to] = [place(Math.min(ratio, 1)), place(Math.max(ratio, 1))].map(x => x.toFixed(1));
  const at = goal && place(goal).toFixed(1);
  return [
    `<rect x="${from}" y="${y + 2}" width="${(to - from).toFixed(1)}" height="${ROW - 4}" fill="${MARKS[mark][0]}"/>`,
    text(Number(to) + 6, y + ROW - 6, ratio.toFixed(ratio < 10 ? 2 : 0)),
    ...(goal
      ? [`<line x1="${at}" x2="${at}" y1="${y}" y2="${y + ROW}" stroke="#000" stroke-width="2"/>`]
      : []),
  ];
}

const text = (x, y, content, anchor = 'start') =>
  `<text x="${x}" y="${y}" text-anchor="${anchor}">${content}</text>`;
