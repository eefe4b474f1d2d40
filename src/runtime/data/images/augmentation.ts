export type { Augmentation } from '../../../passes/recipe/augmentation.js';
