/** Operators whose outputs have no derivative: integers, booleans, shapes, random numbers. */
import { noGradient } from './core/rule.js';

export const Shape = noGradient('its output is integers');
export const Equal = noGradient('its output is booleans');
