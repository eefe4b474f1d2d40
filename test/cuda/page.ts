/** docs/reference/placement.md. */
import { table } from '../docs/pages.js';
import type { Row } from './main.js';

const INTRO = `# Placement

Where ONNX Runtime's CUDA provider runs the nodes of training steps with AGD. Made by \`npm run test:cuda -- --write\`, which
needs no GPU: the provider says where nodes run when it makes a session (version 1.29.0; CUDA libraries that do nothing stand
in for those of a machine without a GPU). The test fails if a node is left to the CPU that computes anything other than
extents of tensors, in any form of a step; if a step with a fixed batch copies anything between the device and the CPU, or
one with a free batch more than ten times; or if a step computes in float64 on the device.

- **batch**: free, as most exporters write it, or fixed at the number of samples of the data.
- **device**: nodes with a kernel there.
- **extents**: nodes on the CPU that compute extents from extents, for which nothing waits.
- **CPU**: other nodes on the CPU; the device waits for them.
- **copies**: within one step, each of which is a wait.
- **float64**: nodes on the device that compute in float64, in which most GPUs are slow.

The first of two numbers is that of the file as \`inject\` writes it without \`--for\`, the second that with \`--for cuda\`, which
\`train --device cuda\` chooses by itself. Both files run on every provider, and compute the same up to rounding.`;

const tally = (ops: readonly string[]) =>
  [...new Set(ops)].map(op => `${op} ${ops.filter(o => o === op).length}`).join(', ') || '0';

const FORMS = `## Forms

The same models as they are run: one step, K steps in a Scan, the halves of a step that is split at the gradients, and an
evaluation, written with \`--for cuda\`. The most of any of the models:`;

export function placementPage(rows: readonly Row[]): string {
  const steps = rows.filter(r => r.form === 'step' && r.provider === 'cuda');
  const compared = steps.map(row => {
    const before = rows.find(
      r => r.model === row.model && r.batch === row.batch && r.form === 'step' && r.provider === 'cpu',
    )!;
    const both = (of: (r: Row) => number | string) => `${of(before)} → ${of(row)}`;
    return [
      row.model,
      row.batch,
      both(r => r.device),
      both(r => r.extents),
      both(r => tally(r.host)),
      both(r => r.copies),
      both(r => r.float64),
    ];
  });
  const own = rows.filter(r => r.provider === 'cuda');
  const most = (numbers: readonly number[]) => `${Math.max(0, ...numbers)}`;
  const forms = [...new Set(own.map(r => r.form))].map(form => {
    const of = own.filter(r => r.form === form);
    const copies = (batch: Row['batch']) => most(of.filter(r => r.batch === batch).map(r => r.copies));
    return [
      form,
      `${new Set(of.map(r => r.model)).size}`,
      most(of.map(r => r.host.length)),
      copies('free'),
      copies('fixed'),
    ];
  });
  return [
    INTRO,
    table(['model', 'batch', 'device', 'extents', 'CPU', 'copies', 'float64'], compared),
    FORMS,
    table(['form', 'models', 'CPU', 'copies, free batch', 'copies, fixed batch'], forms),
    '',
  ]
    .join('\n\n')
    .trimEnd()
    .concat('\n');
}
