/** Execution providers, which differ in the operators that they have kernels for, by the names that users give. */
export const PROVIDERS = ['cpu', 'cuda', 'webgpu'] as const;
export type Provider = (typeof PROVIDERS)[number];

/** The provider of a device, which may name one of several: `cuda:1`. */
export const providerOf = (device: string | undefined): Provider | undefined =>
  PROVIDERS.find(name => device === name || device?.startsWith(`${name}:`));
