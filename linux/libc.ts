/**
 * The bridge to libc: one place that knows koffi.
 *
 * Every other file of this floor declares its system calls through {@link libcFunction} and reports failure through
 * {@link check}, so that a failed call always becomes a {@link SystemError}.
 *
 * Addresses of the process are plain numbers everywhere: user addresses end below 2^47, so a double holds them exactly.
 */
import koffi from 'koffi';
import { errnoName } from './errno.ts';

const libc = koffi.load('libc.so.6');

/** An address in this process, exact in a double (user space ends below 2^47). */
export type Address = number;

/** A libc function with its `.async` form, which runs on another thread and reports through a callback. */
// biome-ignore lint/suspicious/noExplicitAny: the C signature given as text decides the types
export type CFunction = ((...args: any[]) => number) & { async: (...args: any[]) => void };

/** Declares one function of libc by its C prototype, in koffi's syntax. */
export function libcFunction(prototype: string): CFunction {
  return libc.func(prototype) as unknown as CFunction;
}

/**
 * The same for another shared library, such as `libpcap.so.0.8`, which is loaded now. Throws what dlopen(3) says when this
 * machine has none of that name.
 */
export function libraryFunctions(name: string): (prototype: string) => CFunction {
  const library = koffi.load(name);
  return (prototype) => library.func(prototype) as unknown as CFunction;
}

/** Names a struct for use in prototypes; members by name, in koffi's type names. Buffers inside live through a call. */
export function structure(name: string, members: Record<string, string>): void {
  koffi.struct(name, members);
}

/** A failed system call: which, with which arguments, and why. */
export class SystemError extends Error {
  /** Name of the errno, as Node's own errors have it: `EINVAL`. */
  readonly code: string;
  readonly errno: number;
  /** Name of the call: `mmap`. */
  readonly syscall: string;
  /** The arguments that matter, by name. */
  readonly args: Readonly<Record<string, unknown>>;

  constructor(syscall: string, errno: number, args: Record<string, unknown>) {
    const shown = Object.entries(args).map(([name, value]) => `${name}=${format(value)}`);
    super(`${syscall}(${shown.join(', ')}) failed: ${errnoName(errno)}`);
    this.name = 'SystemError';
    this.code = errnoName(errno);
    this.errno = errno;
    this.syscall = syscall;
    this.args = args;
  }
}

function format(value: unknown): string {
  if (typeof value === 'number' && Number.isInteger(value) && value > 0xffff) return `0x${value.toString(16)}`;
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

/** Passes a result of 0 or more through; throws {@link SystemError} for -1 with the calling thread's errno. */
export function check(result: number, syscall: string, args: Record<string, unknown>): number {
  if (result < 0) throw new SystemError(syscall, koffi.errno(), args);
  return result;
}

/** errno of the last failed call on this thread. */
export function lastErrno(): number {
  return koffi.errno();
}

/**
 * Calls `fn` on another thread and resolves with its result (-1 for failure; its errno stays on that thread).
 * For calls that end in this process's own FUSE mount, which would deadlock when made synchronously.
 */
export function callAsync(fn: CFunction, ...args: unknown[]): Promise<number> {
  return new Promise((resolve, reject) => {
    fn.async(...args, (error: Error | null, result: number) => (error ? reject(error) : resolve(result)));
  });
}

/** An ArrayBuffer over memory of this process that JavaScript does not own. Touch it only while it is mapped. */
export function viewMemory(address: Address, length: number): ArrayBuffer {
  return koffi.view(BigInt(address), length);
}

/**
 * Where the bytes of a typed array or Buffer stand. They do not move while the array is alive, and an address does not
 * keep it alive: hold the array in a field, or see {@link permanentAddressOf}.
 */
export function addressOf(bytes: ArrayBufferView): Address {
  return Number(koffi.address(bytes));
}

const permanent: ArrayBufferView[] = [];

/**
 * {@link addressOf} for an array that lives as long as the process. A constant of a module is not enough: one that no
 * function mentions is garbage when the module has been evaluated, and its memory becomes somebody else's.
 */
export function permanentAddressOf(bytes: ArrayBufferView): Address {
  permanent.push(bytes);
  return addressOf(bytes);
}
