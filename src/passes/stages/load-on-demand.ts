/** Loads the passes that few models need, when the first of them runs. */
export const loadOnDemand = () => import('../on-demand.js');
