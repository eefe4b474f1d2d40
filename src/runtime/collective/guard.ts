/** Ends a process that is blocked: calls of MPI can block its thread of JavaScript, in which no timer fires then. */
import { spawn } from 'node:child_process';
import type { Socket } from 'node:net';

/**
 * Each line gives seconds and a message for a new deadline, or 0 for none; the end of the input ends all. It sleeps a second at a
 * time: a sleep whose start a TERM interrupts is left behind, and launchers wait for it, as it has their pipes.
 */
const SCRIPT = `
timer=
clear() { [ -z "$timer" ] || kill "$timer" 2>/dev/null; timer=; }
while read -r seconds message; do
  clear
  [ "$seconds" = 0 ] && continue
  (
    sleeping=
    trap 'kill $sleeping 2>/dev/null; exit' TERM
    while [ "$seconds" -gt 0 ]; do
      sleep 1 2>/dev/null & sleeping=$!
      wait "$sleeping"
      seconds=$((seconds - 1))
    done
    echo "$message" >&2
    kill -KILL "$1" 2>/dev/null
  ) &
  timer=$!
done
clear`;

/** A shell beside this process that kills it at a deadline, and ends with it. Where there is no shell, it does nothing. */
export class Guard {
  readonly #orders: Socket;

  constructor() {
    // A session of its own, since a terminal sends Ctrl-C to all processes of one.
    const shell = spawn('/bin/sh', ['-c', SCRIPT, 'sh', `${process.pid}`], {
      stdio: ['pipe', 'ignore', 'inherit'],
      detached: true,
    });
    this.#orders = shell.stdin as Socket;
    // Neither keeps the event loop running.
    for (const one of [shell, this.#orders]) one.on('error', () => {}).unref();
  }

  /** Kills this process after so many seconds, with the message on its standard error, unless `clear` comes before. */
  set(seconds: number, message: string): void {
    this.#orders.write(`${Math.ceil(seconds)} ${message.replaceAll('\n', ' ')}\n`);
  }

  clear(): void {
    this.#orders.write('0\n');
  }
}
