/** Stands in for the module of the same name in `runtime/devices`: a page has no other process to try a device in. */
import type { Probe } from '../runtime/devices/choose.js';
import { probe } from '../runtime/devices/probe.js';

export const probeApart: Probe = async provider =>
  provider === 'webgpu' ? probe(provider) : { reason: 'browsers have none' };
