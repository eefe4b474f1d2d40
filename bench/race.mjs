/**
 * Runs the same work in several processes by turns, so that what slows the machine down slows all of them. A racer
 * warms up, writes `{losses}`, and then does for each line on its standard input, a number of seconds, as many steps as
 * fit, and writes `{times, megabytes}`: milliseconds a step, and the process's largest resident set so far.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** A racer that has been timed for so long, and as long as all turns should take, takes no more of them. */
const ENOUGH_MS = 4000;

/** What is needed between turns for the threads of the last one to stop spinning. */
const PAUSE_MS = 100;

/** How many turns the first one is as long as. */
const FIRST = 3;

/**
 * By racer `{losses, ms, megabytes, steps}`, the median step of all rounds (`fastest`: the fastest), or `{error}`. A racer is
 * `{name, command, args, env}`; all but the first warm up side by side, and one that has not after `patience` seconds is left out.
 * Turns are short and many, so that what comes and goes with the machine's other programs is in every racer's times.
 */
export async function race(racers, { rounds, seconds, patience, fastest = false }) {
  const running = [];
  const enough = Math.max(ENOUGH_MS, 1000 * rounds * seconds);
  try {
    // The first learns from its times how many steps a run is to have.
    for (const group of [racers.slice(0, 1), racers.slice(1)]) {
      const started = group.map(racer => new Racer(racer));
      running.push(...started);
      await Promise.all(started.map(r => r.warmUp(patience)));
    }
    // Some find out in the first turn how many steps a run is to have: it does not count.
    for (let round = 0; round <= rounds; round++)
      for (const racer of running) {
        if (round === 1) racer.forget(enough);
        if (racer.error || racer.timed > enough) continue;
        await new Promise(resolve => setTimeout(resolve, PAUSE_MS));
        await racer.turn(round ? seconds : FIRST * seconds, patience);
      }
    return Object.fromEntries(running.map(r => [r.name, r.result(fastest)]));
  } finally {
    for (const racer of running) racer.stop();
  }
}

export const median = values => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

class Racer {
  name;
  error;
  #losses = [];
  #times = [];
  #megabytes;
  #stderr = '';
  #isLate = false;
  #process;
  #lines;

  constructor({ name, command, args, env }) {
    this.name = name;
    this.#process = spawn(command, args, { env });
    this.#process.on('error', error => this.#fail(error.message));
    this.#process.stdin.on('error', () => {});
    this.#process.stderr.on('data', text => {
      this.#stderr = (this.#stderr + text).slice(-20_000);
    });
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  async warmUp(patience) {
    const answer = await this.#answer(patience);
    this.#losses = answer?.losses ?? [];
  }

  async turn(seconds, patience) {
    this.#process.stdin.write(`${seconds}\n`);
    const answer = await this.#answer(seconds + patience);
    if (!answer) return;
    this.#times.push(...answer.times);
    this.#megabytes = answer.megabytes;
  }

  /** A single step that is so slow as to be timed enough counts. */
  forget(enough) {
    if (this.#times.length > 1 || this.timed <= enough) this.#times = [];
  }

  get timed() {
    return this.#times.reduce((sum, ms) => sum + ms, 0);
  }

  result(fastest) {
    if (this.error) return { error: this.error, ...(this.#isLate ? { isLate: true } : {}) };
    return {
      ms: fastest ? Math.min(...this.#times) : median(this.#times),
      megabytes: this.#megabytes,
      steps: this.#times.length,
      losses: this.#losses,
    };
  }

  stop() {
    this.#process.kill('SIGKILL');
  }

  /** The next message; undefined, with a reason, where none comes in time. */
  async #answer(seconds) {
    let timer;
    const late = new Promise(resolve => {
      timer = setTimeout(() => resolve('late'), 1000 * seconds);
    });
    while (!this.error) {
      const line = await Promise.race([this.#lines.next(), late]);
      if (line === 'late') {
        this.#isLate = true;
        this.#fail(`not ready within ${seconds} s`);
      } else if (line.done) this.#fail(lastLine(this.#stderr) ?? 'ended without a word');
      else if (line.value.startsWith('{')) {
        clearTimeout(timer);
        return JSON.parse(line.value);
      }
    }
    clearTimeout(timer);
    return undefined;
  }

  #fail(reason) {
    this.error ??= reason;
    this.stop();
  }
}

/** What a process that failed says of it: the line of its error, not the stack below. */
function lastLine(text) {
  const lines = text.split('\n').filter(line => line.trim());
  const line = lines.findLast(l => /^\s*\S*(Error|Exception)\b.*:/.test(l)) ?? lines.at(-1);
  return line?.trim().slice(0, 160);
}
