/** The results of the GPU benchmark as markdown. */
const dash = '–';
const number = (value, digits = 2) =>
  value === undefined || value === null
    ? dash
    : Number.isFinite(value)
      ? Number(value.toPrecision(digits + 1)).toString()
      : String(value);
const percent = value => (value === undefined || value === null ? dash : `${(100 * value).toFixed(1)} %`);
const size = megabytes =>
  megabytes === undefined || megabytes === null ? dash : `${Math.round(megabytes)} MB`;

function table(head, rows) {
  const lines = [head, head.map(() => '---'), ...rows];
  return lines
    .map(cells => `| ${cells.map(cell => String(cell).replaceAll('|', '\\|')).join(' | ')} |`)
    .join('\n');
}

const PEERS = {
  'eager-agd': 'PyTorch, AGD',
  'fused-adamw': 'PyTorch, fused AdamW',
  'compiled-adamw': 'torch.compile',
};

export function markdown({
  date,
  device,
  deviceName,
  machine,
  quick,
  conformance,
  epochs,
  speed,
  peers,
  leftOut,
}) {
  const parts = [
    `# Training on ${deviceName ?? device}`,
    `Measured on ${date}: device \`${device}\`, ${machine}.${quick ? ' Tiny sizes, to try the script: the times mean nothing.' : ''}`,
  ];
  if (conformance?.length)
    parts.push(
      '## Beside the CPU',
      table(
        ['model', 'steps', 'losses', 'gradients', 'parameters', ''],
        conformance.map(r =>
          r.error
            ? [r.name, dash, dash, dash, dash, r.error]
            : [
                r.name,
                r.steps,
                ...[r.losses, r.gradients, r.parameters].map(v => number(v, 1)),
                r.passed ? 'ok' : 'DIFFERS',
              ],
        ),
      ),
      'The largest differences of losses and first gradients as shares of the largest value, and of what parameters moved.',
    );
  if (epochs?.length)
    parts.push(
      '## One epoch',
      table(
        ['model', 'samples', 'seconds', 'train loss', 'validation loss', 'accuracy', ''],
        epochs.map(r => [
          r.name,
          r.samples ?? dash,
          number(r.seconds),
          number(r.trainLoss, 3),
          number(r.loss, 3),
          percent(r.accuracy),
          r.error ?? '',
        ]),
      ),
    );
  if (speed?.length)
    parts.push(
      '## Time of a step',
      table(
        ['workload', 'agd-onnx', 'steps a run', 'transfers', 'busy', 'memory', ...Object.values(PEERS), ''],
        speed.map(r => {
          const peer = name => peers?.find(p => p.workload === r.name && p.peer === name);
          const shown = name => {
            const found = peer(name);
            if (!found) return dash;
            return found.error ?? `${number(found.ms)} ms, ${size(found.deviceMegabytes)}`;
          };
          return [
            r.title,
            r.ms === undefined ? dash : `${number(r.ms)} ms`,
            r.stepsPerRun ?? dash,
            percent(r.transferShare),
            r.busy === undefined ? dash : percent(r.busy / 100),
            size(r.deviceMegabytes),
            ...Object.keys(PEERS).map(shown),
            r.error ?? '',
          ];
        }),
      ),
      'Transfers: the share of the time of a run that does not depend on its number of steps. Busy and memory (of all processes) are those that nvidia-smi reports; memory of PyTorch is what its tensors take at most.',
    );
  if (leftOut.length)
    parts.push('## Left out', leftOut.map(({ part, reason }) => `- ${part}: ${reason}`).join('\n'));
  return `${parts.join('\n\n')}\n`;
}
