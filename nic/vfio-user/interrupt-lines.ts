/**
 * The interrupts of one kind (INTx, MSI or MSI-X) as a vfio-user client has set them up: an eventfd each, and a mask.
 *
 *     raise ──► no eventfd: lost      masked: pending, until it is unmasked      else: its eventfd is signalled
 */
import fs from 'node:fs';
import { EOPNOTSUPP } from '../../linux/errno.ts';
import { signalEventfd } from '../../linux/eventfd.ts';
import { close, setNonBlocking } from '../../linux/file.ts';
import {
  type IrqSet,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VfioUserError,
} from './messages.ts';

const NO_FD = -1;

export class InterruptLines {
  /** Ours to close. */
  readonly #eventfds: Int32Array;
  readonly #masked: Uint8Array;
  readonly #pending: Uint8Array;
  #used = 0;

  constructor(count: number) {
    this.#eventfds = new Int32Array(count).fill(NO_FD);
    this.#masked = new Uint8Array(count);
    this.#pending = new Uint8Array(count);
  }

  get count(): number {
    return this.#eventfds.length;
  }

  /** Whether the client has set up any of them. */
  get inUse(): boolean {
    return this.#used > 0;
  }

  /** The device sends interrupt `n`. */
  raise(n: number): void {
    const fd = this.#eventfds[n] ?? NO_FD;
    if (fd === NO_FD) return;
    if (this.#masked[n] !== 0) this.#pending[n] = 1;
    else signalEventfd(fd);
  }

  /**
   * Carries out a DEVICE_SET_IRQS. The eventfds that it keeps are taken out of `fds`. Throws {@link VfioUserError}; nothing
   * changes then.
   */
  set(set: IrqSet, fds: number[]): void {
    const { data, action, start, count } = set;
    if (start + count > this.count) {
      const last = start + count - 1;
      throw new VfioUserError(`interrupts ${start} to ${last} of kind ${set.index}, which has ${this.count}`);
    }
    if (data === VFIO_IRQ_SET_DATA_EVENTFD) {
      this.#setEventfds(set, fds);
      return;
    }
    if (fds.length > 0) throw new VfioUserError(`${fds.length} descriptors come along, though flags say none does`);
    if (count === 0) {
      const off = data === VFIO_IRQ_SET_DATA_NONE && action === VFIO_IRQ_SET_ACTION_TRIGGER && start === 0;
      if (!off) throw new VfioUserError(`none of the interrupts from ${start} on`);
      this.clear();
      return;
    }
    for (let i = 0; i < count; i++) {
      if (data === VFIO_IRQ_SET_DATA_BOOL && !set.chosen[i]) continue;
      this.#act(action, start + i);
    }
  }

  #act(action: number, n: number): void {
    if (action === VFIO_IRQ_SET_ACTION_MASK) this.#masked[n] = 1;
    if (action === VFIO_IRQ_SET_ACTION_TRIGGER) this.raise(n);
    if (action !== VFIO_IRQ_SET_ACTION_UNMASK) return;
    this.#masked[n] = 0;
    if (this.#pending[n] === 0) return;
    this.#pending[n] = 0;
    this.raise(n);
  }

  #setEventfds({ action, start, count }: IrqSet, fds: number[]): void {
    // "must send all valid FDs or all invalid FDs in single msg": none means that these are off.
    if (fds.length !== 0 && fds.length !== count) {
      throw new VfioUserError(`${fds.length} descriptors for ${count} interrupts`);
    }
    if (action !== VFIO_IRQ_SET_ACTION_TRIGGER) {
      if (fds.length === 0) return;
      throw new VfioUserError('eventfds that mask or unmask are not served here', EOPNOTSUPP);
    }
    for (const fd of fds) checkEventfd(fd);
    for (let n = start; n < start + count; n++) this.#drop(n);
    for (const [i, fd] of fds.splice(0).entries()) this.#eventfds[start + i] = fd;
    this.#used += this.#eventfds.subarray(start, start + count).filter((fd) => fd !== NO_FD).length;
  }

  #drop(n: number): void {
    this.#pending[n] = 0;
    if (this.#eventfds[n] === NO_FD) return;
    close(this.#eventfds[n]!);
    this.#eventfds[n] = NO_FD;
    this.#used--;
  }

  /** Switches all off. */
  clear(): void {
    for (let n = 0; n < this.count; n++) this.#drop(n);
    this.#masked.fill(0);
  }
}

/** Also sees to it that a write never waits: on a pipe that is full the client could stop us. */
function checkEventfd(fd: number): void {
  const what = fs.readlinkSync(`/proc/self/fd/${fd}`);
  if (what !== 'anon_inode:[eventfd]') throw new VfioUserError(`the descriptor is no eventfd (${what})`);
  setNonBlocking(fd);
}
