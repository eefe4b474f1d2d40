import { runPages } from './commands.js';

runPages(import.meta.filename);
