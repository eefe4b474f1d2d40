/** MPI through koffi, the one importer of it: an optional dependency, loaded when a distributed run begins. */
import { hostname } from 'node:os';
import type { KoffiFunc, LibraryHandle } from 'koffi';
import { AgdError } from '../../graph/errors.js';
import type { Collective, Numbers, ReduceOp } from './collective.js';
import { Guard } from './guard.js';
import { findLaunch, type Launch } from './launcher.js';

type Koffi = typeof import('koffi');
type KoffiCall = KoffiFunc<(...args: unknown[]) => number>;
type Handle = number | bigint;

/** Elements of one message: counts are 32-bit integers. */
const MOST_ELEMENTS = 2 ** 28;

/** Seconds that the library has to end the process. */
const ABORT_SECONDS = 5;

/** Only one thread at a time calls the library, but not always the same one. */
const THREAD_SERIALIZED = 2;

/** Seconds to wait for the others: a rank may write a large state, or read all data, meanwhile. */
export const TIMEOUT = 600;

/**
 * The constants of an implementation. Those of Open MPI are addresses of variables of the library, those of MPICH, Intel MPI
 * and others with its binary interface are integers.
 */
type Constants = { handle: string; inPlace: bigint; of: (name: keyof typeof MPICH) => Handle };

const MPICH = {
  comm_world: 0x44000000,
  float: 0x4c00040a,
  double: 0x4c00080b,
  int: 0x4c000405,
  byte: 0x4c00010d,
  op_sum: 0x58000003,
  op_max: 0x58000001,
  errors_return: 0x54000001,
} as const;

const OPEN_MPI: Partial<Record<keyof typeof MPICH, string>> = {
  comm_world: 'ompi_mpi_comm_world',
  errors_return: 'ompi_mpi_errors_return',
  op_sum: 'ompi_mpi_op_sum',
  op_max: 'ompi_mpi_op_max',
};

const FILES: Record<string, Record<'Open MPI' | 'MPICH', readonly string[]>> = {
  linux: {
    'Open MPI': ['libmpi.so.40', 'libmpi.so'],
    MPICH: ['libmpich.so.12', 'libmpi.so.12', 'libmpich.so', 'libmpi.so'],
  },
  darwin: { 'Open MPI': ['libmpi.dylib'], MPICH: ['libmpich.dylib', 'libmpi.dylib'] },
};

/**
 * Joins the run that `mpirun` or `srun` started this process for. `library` is the path of the MPI library, which is otherwise
 * looked for by the names of Open MPI and MPICH. Throws `bad-option` if this process was not started so, or koffi or the
 * library is missing, and `collective` if the library is not that of the launcher. The process is killed, with a message, if the
 * other ranks have not joined after `timeout` seconds.
 */
export async function openCollective({
  library,
  timeout = TIMEOUT,
}: {
  library?: string;
  timeout?: number;
} = {}): Promise<Collective> {
  const launch = findLaunch();
  if (!launch)
    throw new AgdError(
      'bad-option',
      'This process is not part of a distributed run: start it with mpirun -n RANKS, or with srun.',
    );
  const koffi = await loadKoffi();
  const mpi = new Mpi(loadLibrary(koffi, launch, library));
  mpi.join(launch, library, timeout);
  return mpi;
}

/** Bytes of stack of a call in another thread: MPICH takes more than the default of 256 kB. */
const STACK = 2 ** 22;

/** It may be configured once. */
let isConfigured = false;

async function loadKoffi(): Promise<Koffi> {
  try {
    const koffi = await import('koffi');
    if (!isConfigured) koffi.config({ async_stack_size: STACK });
    isConfigured = true;
    return koffi;
  } catch (cause) {
    throw new AgdError(
      'bad-option',
      `MPI is called through the package koffi, which cannot be loaded here (${firstLine(cause)}). Install it: npm install koffi.`,
      { cause },
    );
  }
}

const firstLine = (cause: unknown) =>
  (cause instanceof Error ? cause.message : String(cause)).split('\n')[0]!;

function loadLibrary(koffi: Koffi, launch: Launch, path: string | undefined): LibraryHandle {
  const known = FILES[process.platform];
  const kinds =
    launch.library === 'MPICH' ? (['MPICH', 'Open MPI'] as const) : (['Open MPI', 'MPICH'] as const);
  // UCX, to which MPICH and Open MPI may be linked, tests its memory hooks by moving the end of the heap up and down again. Where a
  // thread of Node allocates in between, that takes its memory away: one start in a hundred crashed.
  process.env.UCX_MEM_EVENTS ??= 'n';
  const names = path === undefined ? [...new Set(kinds.flatMap(kind => known?.[kind] ?? []))] : [path];
  let failure: unknown;
  for (const name of names)
    try {
      // Plugins of Open MPI look up the symbols of the library that loads them.
      return koffi.load(name, { global: true });
    } catch (cause) {
      failure ??= cause;
    }
  throw new AgdError(
    'bad-option',
    path === undefined
      ? `No MPI library was found (${names.join(', ') || `none is known for ${process.platform}`}): install Open MPI or MPICH, or give its path with --mpi-library.`
      : `--mpi-library: ${path} cannot be loaded: ${firstLine(failure)}`,
    { cause: failure },
  );
}

function constantsOf(library: LibraryHandle): Constants {
  const address = (name: string) => library.symbol(name) as bigint;
  try {
    address('ompi_mpi_comm_world');
  } catch {
    return { handle: 'int', inPlace: 0xffff_ffff_ffff_ffffn, of: name => MPICH[name] };
  }
  return { handle: 'void *', inPlace: 1n, of: name => address(OPEN_MPI[name] ?? `ompi_mpi_${name}`) };
}

class Mpi implements Collective {
  rank = 0;
  size = 1;
  host = hostname();
  engine = 'MPI';
  readonly #library: LibraryHandle;
  readonly #constants: Constants;
  readonly #functions = new Map<string, KoffiCall>();
  // Before MPI_Init, after which some libraries do not support that their process forks.
  readonly #guard = new Guard();
  #last: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  constructor(library: LibraryHandle) {
    this.#library = library;
    this.#constants = constantsOf(library);
  }

  join({ rank, size, launcher }: Launch, path: string | undefined, timeout: number): void {
    const provided = [0];
    this.#guard.set(
      timeout,
      `agd-onnx: rank ${rank} has waited ${timeout} s for the other ranks in MPI_Init: one of them has not started, or has ended. This process is killed.`,
    );
    this.#check(
      'MPI_Init_thread',
      this.#function('MPI_Init_thread(void *argc, void *argv, int required, _Out_ int *provided)')(
        null,
        null,
        THREAD_SERIALIZED,
        provided,
      ),
    );
    this.#guard.clear();
    const world = this.#constants.of('comm_world');
    const number = (name: string) => {
      const out = [0];
      this.#check(name, this.#function(`${name}(HANDLE comm, _Out_ int *out)`)(world, out));
      return out[0]!;
    };
    this.rank = number('MPI_Comm_rank');
    this.size = number('MPI_Comm_size');
    this.#check(
      'MPI_Comm_set_errhandler',
      this.#function('MPI_Comm_set_errhandler(HANDLE comm, HANDLE handler)')(
        world,
        this.#constants.of('errors_return'),
      ),
    );
    const text = (name: string) => {
      const [bytes, length] = [Buffer.alloc(8192), [0]];
      this.#check(name, this.#function(`${name}(void *text, _Out_ int *length)`)(bytes, length));
      return bytes.toString('utf8', 0, length[0]).replace(/\0.*/s, '');
    };
    this.engine = versionIn(text('MPI_Get_library_version'));
    this.host = text('MPI_Get_processor_name');
    if (size !== undefined && this.size !== size)
      throw new AgdError(
        'collective',
        `${launcher} started ${size} processes, but ${this.engine}${path === undefined ? '' : ` (${path})`} sees ${this.size}: it is another MPI than that of ${launcher}. Give the right library with --mpi-library PATH${launcher === 'srun' ? ', or the plugin of this one with srun --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH)' : ''}.`,
      );
    if (provided[0]! < THREAD_SERIALIZED)
      throw new AgdError(
        'collective',
        `${this.engine} was built without support for threads, which is needed here: use another build of it.`,
      );
  }

  async allReduce(data: Exclude<Numbers, Uint8Array>, op: ReduceOp = 'sum'): Promise<void> {
    const { inPlace, of } = this.#constants;
    const reduce = 'MPI_Allreduce(void *from, void *to, int count, HANDLE type, HANDLE op, HANDLE comm)';
    for (const part of parts(data))
      await this.#call(
        reduce,
        inPlace,
        part,
        part.length,
        this.#typeOf(part),
        of(`op_${op}`),
        of('comm_world'),
      );
  }

  async allGather<T extends Numbers>(data: T): Promise<T[]> {
    const { of } = this.#constants;
    const gather =
      'MPI_Allgather(void *from, int count, HANDLE type, void *to, int each, HANDLE type2, HANDLE comm)';
    const own = Int32Array.of(data.length);
    const lengths = new Int32Array(this.size);
    await this.#call(gather, own, 1, of('int'), lengths, 1, of('int'), of('comm_world'));
    const { places, total } = placesOf(lengths);
    const all = emptyLike(data, total);
    const type = this.#typeOf(data);
    await this.#call(
      'MPI_Allgatherv(void *from, int count, HANDLE type, void *to, void *counts, void *places, HANDLE type2, HANDLE comm)',
      ...[data, data.length, type, all, lengths, places, type, of('comm_world')],
    );
    return Array.from(lengths, (length, rank) => all.slice(places[rank], places[rank]! + length) as T);
  }

  async allToAll(parts: readonly Uint8Array[]): Promise<Uint8Array[]> {
    const { of } = this.#constants;
    const counts = Int32Array.from(parts, part => part.length);
    const lengths = new Int32Array(this.size);
    await this.#call(
      'MPI_Alltoall(void *from, int count, HANDLE type, void *to, int each, HANDLE type2, HANDLE comm)',
      ...[counts, 1, of('int'), lengths, 1, of('int'), of('comm_world')],
    );
    const [given, taken] = [placesOf(counts), placesOf(lengths)];
    const [own, all] = [new Uint8Array(given.total), new Uint8Array(taken.total)];
    parts.forEach((part, rank) => {
      own.set(part, given.places[rank]);
    });
    await this.#call(
      'MPI_Alltoallv(void *from, void *counts, void *places, HANDLE type, void *to, void *counts2, void *places2, HANDLE type2, HANDLE comm)',
      ...[own, counts, given.places, of('byte'), all, lengths, taken.places, of('byte'), of('comm_world')],
    );
    return Array.from(lengths, (length, rank) => all.slice(taken.places[rank], taken.places[rank]! + length));
  }

  async reduceScatter<T extends Float32Array | Float64Array>(data: T, counts: readonly number[]): Promise<T> {
    const { of } = this.#constants;
    const own = emptyLike(data, counts[this.rank]!);
    await this.#call(
      'MPI_Reduce_scatter(void *from, void *to, void *counts, HANDLE type, HANDLE op, HANDLE comm)',
      ...[data, own, Int32Array.from(counts), this.#typeOf(data), of('op_sum'), of('comm_world')],
    );
    return own;
  }

  async broadcast(data: Numbers, root = 0): Promise<void> {
    const broadcast = 'MPI_Bcast(void *data, int count, HANDLE type, int root, HANDLE comm)';
    for (const part of parts(data))
      await this.#call(
        broadcast,
        part,
        part.length,
        this.#typeOf(part),
        root,
        this.#constants.of('comm_world'),
      );
  }

  async barrier(): Promise<void> {
    await this.#call('MPI_Barrier(HANDLE comm)', this.#constants.of('comm_world'));
  }

  abort(reason: string): void {
    process.stderr.write(`agd-onnx: ${this.#self}: ${reason}\n`);
    // It asks the launcher, which may be out of reach too.
    this.#guard.set(ABORT_SECONDS, this.#killed('MPI_Abort', ABORT_SECONDS));
    this.#function('MPI_Abort(HANDLE comm, int code)')(this.#constants.of('comm_world'), 1);
  }

  async close(timeout?: number): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#last;
    if (timeout !== undefined) this.#guard.set(timeout, this.#killed('MPI_Finalize', timeout));
    // By the thread that initialized the library.
    this.#check('MPI_Finalize', this.#function('MPI_Finalize()')());
    this.#guard.clear();
  }

  get #self(): string {
    return `rank ${this.rank} of ${this.size} (${this.host})`;
  }

  #killed(call: string, seconds: number): string {
    return `agd-onnx: ${this.#self}: ${call} has not returned after ${seconds} s: the launcher cannot be reached. This process is killed.`;
  }

  /** Runs in another thread, so that this one can notice if it takes too long. One call at a time. */
  #call(prototype: string, ...args: unknown[]): Promise<void> {
    const call = this.#function(prototype);
    const run = this.#last.then(
      () =>
        new Promise<void>((resolve, reject) => {
          call.async(...args, (error: unknown, code: number) => {
            if (error) return reject(error);
            try {
              this.#check(prototype.slice(0, prototype.indexOf('(')), code);
              resolve();
            } catch (failure) {
              reject(failure);
            }
          });
        }),
    );
    this.#last = run.catch(() => {});
    return run;
  }

  #function(prototype: string): KoffiCall {
    const known = this.#functions.get(prototype);
    if (known) return known;
    const made = this.#library.func(`int ${prototype.replaceAll('HANDLE', this.#constants.handle)}`);
    this.#functions.set(prototype, made);
    return made;
  }

  #check(name: string, code: number): void {
    if (code !== 0) throw new AgdError('collective', `${this.engine}: ${name} failed with error ${code}.`);
  }

  #typeOf(data: Numbers): Handle {
    const { of } = this.#constants;
    if (data instanceof Float32Array) return of('float');
    if (data instanceof Float64Array) return of('double');
    return of(data instanceof Int32Array ? 'int' : 'byte');
  }
}

/** An array of the same type; bytes may come in a Buffer. */
function emptyLike<T extends Numbers>(data: T, length: number): T {
  if (data instanceof Uint8Array) return new Uint8Array(length) as T;
  return new (data.constructor as new (length: number) => T)(length);
}

/** Where the parts of one array begin that are so long. */
function placesOf(lengths: Int32Array): { places: Int32Array; total: number } {
  const places = new Int32Array(lengths.length);
  let total = 0;
  lengths.forEach((length, rank) => {
    places[rank] = total;
    total += length;
  });
  if (total > 2 ** 31 - 1)
    throw new AgdError('collective', `${total} numbers are more than MPI can exchange at once.`);
  return { places, total };
}

/** Messages that are not too long for one call. */
function* parts<T extends Numbers>(data: T): Generator<T> {
  for (let i = 0; i < data.length; i += MOST_ELEMENTS) yield data.subarray(i, i + MOST_ELEMENTS) as T;
}

/** 'Open MPI v4.1.4, package: ...' and 'MPICH Version:\t4.0.2\n...' as 'Open MPI 4.1.4' and 'MPICH 4.0.2'. */
function versionIn(text: string): string {
  const [, name, version] = /^(.*?)[\s:]*(?:Version|Library)?[\s:]*v?(\d[\w.]*)/.exec(text) ?? [];
  return name ? `${name.trim()} ${version}` : text.split(/[\n,]/)[0]!;
}
