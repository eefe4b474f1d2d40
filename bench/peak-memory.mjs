/** Loaded before a program: prints the largest resident set the process had when it ends. */
process.on('exit', () => process.stderr.write(`peak memory ${process.resourceUsage().maxRSS} kB\n`));
