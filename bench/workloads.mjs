/**
 * What is measured beside peers. `goals` are the peer's time per step over ours, with two threads; `macs` the
 * multiplications of the forward pass's matrix products and convolutions, `first` those of them whose input is data and
 * needs no gradient. `model` is the exported model where it is not called as the workload, `options` are those of inject,
 * `updated` is how many parameters a step changes where these are not all, and `convolutional` are those whose multiplications
 * take some peers longer. Those that are `real` have the size that people fine-tune: they take seconds a step and run with the
 * most threads only, and `--quick` leaves them out, as it does those that are not `quick`.
 */
const TOKENS = 16 * 128;
const block = 4 * (12 * 128 ** 2 + 2 * 128 * 128);
const language = { macs: TOKENS * (block + 128 * 1000), first: 0 };
const mlp = batch => ({ macs: batch * (784 * 512 + 512 * 512 + 512 * 10), first: batch * 784 * 512 });
const real = { real: true, goals: { eager: 0.9, compiled: 0.7 } };
const stage = (size, c, k) => size ** 2 * 9 * (c * k + 5 * k * k);
const stem = 32 ** 2 * 27 * 16;
const shortcuts = 16 ** 2 * 16 * 32 + 8 ** 2 * 32 * 64;
const resnet = stem + stage(32, 16, 16) + stage(16, 16, 32) + stage(8, 32, 64) + shortcuts + 640;
const deepCross = { macs: 1024 * (221 * 3 + 221 * 256 + 256 * 128 + 349), first: 0 };

export const WORKLOADS = [
  {
    name: 'mlp-32',
    quick: true,
    title: 'MLP, batch 32',
    goals: { eager: 1, compiled: 0.7, js: 5 },
    ...mlp(32),
  },
  { name: 'mlp-128', title: 'MLP, batch 128', goals: { eager: 1, compiled: 0.7, js: 5 }, ...mlp(128) },
  {
    name: 'lenet',
    quick: true,
    title: 'LeNet, batch 64',
    convolutional: true,
    goals: { eager: 1, compiled: 0.7, js: 10 },
    macs: 64 * (28 ** 2 * 150 + 10 ** 2 * 2400 + 400 * 120 + 120 * 84 + 840),
    first: 64 * 28 ** 2 * 150,
  },
  {
    name: 'resnet20',
    quick: true,
    title: 'ResNet-20, batch 64',
    convolutional: true,
    goals: { eager: 1, compiled: 0.7, js: 10 },
    macs: 64 * resnet,
    first: 64 * stem,
  },
  {
    name: 'lstm',
    quick: true,
    title: 'LSTM language model',
    goals: { eager: 1, compiled: 0.7, js: 5 },
    macs: 700 * (2 * 4 * 200 * 400 + 200 * 10_000),
    first: 0,
  },
  {
    name: 'transformer',
    quick: true,
    title: 'Transformer',
    goals: { eager: 1, compiled: 0.7, js: 5 },
    ...language,
  },
  { name: 'gpt', quick: true, title: 'GPT', goals: { eager: 1, compiled: 0.7, js: 5 }, ...language },
  {
    name: 'dcn',
    quick: true,
    title: 'Deep & Cross',
    goals: { eager: 1, compiled: 0.5, js: 5 },
    ...deepCross,
  },
  {
    name: 'dcn-lazy',
    title: 'Deep & Cross, lazy rows',
    goals: { eager: 20, compiled: 10, js: 5 },
    model: 'dcn',
    options: { lazyRows: ['*'] },
    updated: 26 * 1024 * 8 + 91_404,
    ...deepCross,
  },
  { name: 'agd-1', title: 'AGD alone, 1 tensor', goals: { eager: 1 }, macs: 0, first: 0 },
  { name: 'agd-100', quick: true, title: 'AGD alone, 100 tensors', goals: { eager: 1 }, macs: 0, first: 0 },
  { name: 'agd-resnet50', title: "AGD alone, ResNet-50's", goals: { eager: 1 }, macs: 0, first: 0 },
  { name: 'gpt2-small', title: 'GPT-2 small, 2 x 128', macs: 31_624_200_192, first: 0, ...real },
  { name: 'bert-base', title: 'BERT-base, 8 x 128', macs: 86_977_818_624, first: 0, ...real },
  {
    name: 'resnet50',
    title: 'ResNet-50, 8 x 160²',
    macs: 16_698_572_800,
    first: 8 * 80 ** 2 * 147 * 64,
    ...real,
  },
  {
    name: 'mobilenetv3-large',
    title: 'MobileNetV3-large, 16 x 224²',
    macs: 3_465_436_160,
    first: 16 * 112 ** 2 * 27 * 16,
    ...real,
  },
  {
    name: 'vit-small',
    title: 'ViT-small, 8 x 224²',
    macs: 33_929_748_480,
    first: 8 * 196 * 768 * 384,
    ...real,
  },
  {
    name: 'artifacts',
    title: "MLP, ORT's training artifacts",
    goals: { js: 5 },
    macs: 64 * (784 * 500 + 500 * 10),
    first: 64 * 784 * 500,
  },
];

/** Of a step: forward, and twice that backward. */
export const operations = ({ macs, first }) => 2 * (3 * macs - first);

/** AGD reads parameter, gradient and two moments, and writes all but the gradient, in float32. */
export const UPDATE_BYTES = 28;

/** Of the seven small models beside PyTorch, eager: the geometric mean of its time over ours. */
export const MEAN_GOAL = 1.4;

/** What our peak memory may be of PyTorch's. */
export const MEMORY_GOAL = 1;
export const REAL_MEMORY_GOAL = 1.1;
