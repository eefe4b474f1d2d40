/** A run as far as it went. */
import type { RunRecord, Settings } from './protocol.js';

export const emptyRecord = (settings: Settings): RunRecord => ({
  ...{ settings, losses: [], epochs: [], worst: [], notes: [] },
  ...{ stepsPerEpoch: 0, samples: 0, parameters: 0 },
});
