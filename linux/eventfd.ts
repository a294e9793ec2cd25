/** Event descriptors: `<sys/eventfd.h>`. One signal adds 1 to the counter; draining reads it back to 0. */

import { readAddress, writeAddress } from './file.ts';
import { type Address, check, libcFunction, permanentAddressOf } from './libc.ts';

const EFD_NONBLOCK = 0o4000;
const EFD_CLOEXEC = 0o2000000;
const COUNTER_BYTES = 8;

const c = { eventfd: libcFunction('int eventfd(unsigned int initial, int flags)') };

const oneAddress: Address = permanentAddressOf(new BigUint64Array([1n]));
const drainedAddress: Address = permanentAddressOf(new BigUint64Array(1));

/** eventfd(2), non-blocking and close-on-exec, with counter 0. */
export function eventfd(): number {
  return check(c.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), 'eventfd', {});
}

/** Adds 1. A full counter (EAGAIN) is as good as a signal; other failures are the owner's loss alone. */
export function signalEventfd(fd: number): void {
  writeAddress(fd, oneAddress, COUNTER_BYTES);
}

/** Resets the counter: true when it was signalled. The descriptor must be non-blocking. */
export function drainEventfd(fd: number): boolean {
  return readAddress(fd, drainedAddress, COUNTER_BYTES) === COUNTER_BYTES;
}
