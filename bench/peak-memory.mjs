/** Loaded before a program: prints the largest resident set the process had when it ends. */
import { peakMegabytes } from './peak.mjs';

process.on('exit', () => process.stderr.write(`peak memory ${Math.round(1024 * peakMegabytes())} kB\n`));
