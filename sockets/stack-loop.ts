/**
 * Runs a stack inside Node's event loop: polls while there is work, a little longer, and then sleeps.
 *
 *          frames, timers due, writes                spinMicroseconds without work
 *     ┌───────────► polling ──────────────────────────────────────────────────► asleep ─┐
 *     │     one poll a turn of the loop,                       a timer for the stack's  │
 *     │     so that Node's own IO and timers get theirs        deadline, and the        │
 *     └──────────────────────────────────────────────────────  device's descriptors ◄───┘
 *
 * While nobody needs it ({@link StackLoop.hold}) it does not keep the process alive, as Node's own sockets have it.
 */
import { yieldProcessor } from '../linux/sched.ts';
import { type Watch, watchReadable } from '../linux/watch.ts';
import type { WaitableDevice } from '../tcpip/devices/waitable-device.ts';
import { NEVER, type Time } from '../tcpip/network.ts';

const MICROSECONDS_PER_MS = 1000;
const DEFAULT_SPIN_MICROSECONDS = 50;
/** After longer sleeps the processor is not offered to others: whoever yields has no claim to be the next. */
const DENSE_MICROSECONDS = 1000;
/** setTimeout() takes 31 bits; whoever sleeps longer looks once in between. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** What the loop wants of a stack. */
export interface PolledStack {
  /** Looks for frames, runs what is due, sends what there is to send: how much it found to do, 0 for nothing. */
  poll(now: Time): number;
  /** When it wants to be polled next even if nothing comes. */
  readonly deadline: Time;
}

export interface StackLoopOptions {
  /** How long to go on polling after the last work, in microseconds. Default 50. */
  spinMicroseconds?: number;
}

export class StackLoop {
  /** Turns with a poll, those that found something to do, and times it slept. */
  polls = 0;
  busyPolls = 0;
  sleeps = 0;
  readonly #stack: PolledStack;
  readonly #device: WaitableDevice;
  readonly #spin: number;
  readonly #origin = performance.now();
  #watches: { fd: number; watch: Watch }[] = [];
  #immediate: NodeJS.Immediate | null = null;
  #timer: NodeJS.Timeout | null = null;
  /** When the timer goes off. */
  #timerAt: Time = NEVER;
  #lastWork: Time = 0;
  #polling = false;
  /** Woken in the midst of a poll. */
  #again = false;
  #asleep = false;
  #asleepSince: Time = 0;
  /** Something came soon after the last sleep began: whoever waits for this processor may well be the one who answers. */
  #isDense = true;
  #holders = 0;
  #open = true;

  /** Begins with the first {@link wake}. */
  constructor(
    stack: PolledStack,
    device: WaitableDevice,
    { spinMicroseconds = DEFAULT_SPIN_MICROSECONDS }: StackLoopOptions = {},
  ) {
    this.#stack = stack;
    this.#device = device;
    this.#spin = spinMicroseconds;
  }

  /** Microseconds since the loop was made; whole. */
  get now(): Time {
    return Math.floor((performance.now() - this.#origin) * MICROSECONDS_PER_MS);
  }

  /** Whether the stack is being polled: its time is now. */
  get polling(): boolean {
    return this.#polling;
  }

  /** There is something to do: polls in the next turn of the event loop. */
  wake(): void {
    if (this.#immediate !== null || !this.#open) return;
    if (this.#polling) {
      this.#again = true;
      return;
    }
    if (this.#asleep) this.#wakeUp();
    this.#turnSoon();
  }

  /** Never unref'd: the event loop would sleep with it. It lasts no longer than there is work. */
  #turnSoon(): void {
    this.#immediate = setImmediate(this.#turn);
  }

  #wakeUp(): void {
    this.#asleep = false;
    this.#device.disableNotification();
    // Whatever woke it up may be the beginning of more.
    this.#lastWork = this.now;
    this.#isDense = this.#lastWork - this.#asleepSince < DENSE_MICROSECONDS;
  }

  readonly #turn = (): void => {
    this.#immediate = null;
    if (!this.#open) return;
    const now = this.now;
    this.polls++;
    this.#polling = true;
    this.#again = false;
    let found: number;
    try {
      found = this.#stack.poll(now);
    } finally {
      this.#polling = false;
    }
    // Somebody's callback may have closed it.
    if (!this.#open) return;
    if (found > 0 || this.#again) {
      this.busyPolls++;
      this.#lastWork = now;
    } else if (this.#isDense) yieldProcessor();
    const { deadline } = this.#stack;
    // Sleeps are milliseconds: what is due within one is waited for awake, as paced sending wants it.
    if (deadline < now + MICROSECONDS_PER_MS || now < this.#lastWork + this.#spin || !this.#sleep(now, deadline)) {
      this.#turnSoon();
    }
  };

  /** False: something came meanwhile. */
  #sleep(now: Time, deadline: Time): boolean {
    if (this.#device.enableNotification()) {
      this.#device.disableNotification();
      return false;
    }
    this.sleeps++;
    this.#asleep = true;
    this.#asleepSince = now;
    this.#watch();
    // A timer that goes off too early costs a look, and a new one for each sleep costs more.
    if (deadline < this.#timerAt) {
      if (this.#timer !== null) clearTimeout(this.#timer);
      const delay = Math.min(Math.ceil((deadline - now) / MICROSECONDS_PER_MS), MAX_TIMEOUT_MS);
      this.#timerAt = now + delay * MICROSECONDS_PER_MS;
      this.#timer = setTimeout(this.#onTimer, delay);
      if (this.#holders === 0) this.#timer.unref();
    }
    return true;
  }

  readonly #onTimer = (): void => {
    this.#timer = null;
    this.#timerAt = NEVER;
    this.wake();
  };

  /** Watches the descriptors of the device, which may be others than last time. */
  #watch(): void {
    const { fds } = this.#device;
    if (fds.length === this.#watches.length && this.#watches.every(({ fd }, i) => fd === fds[i])) return;
    this.#unwatch();
    this.#watches = fds.map((fd) => ({ fd, watch: watchReadable(fd, this.#onReadable) }));
    if (this.#holders === 0) for (const { watch } of this.#watches) watch.unref();
  }

  #unwatch(): void {
    for (const { watch } of this.#watches) watch.close();
    this.#watches = [];
  }

  readonly #onReadable = (): void => {
    if (this.#asleep) this.wake();
    // A wake-up that was under way when polling began again; taken back, or it comes in every turn.
    else if (this.#open) this.#device.disableNotification();
  };

  // ---- what keeps the process alive

  /** Somebody waits for what the stack does: the process lives on. */
  hold(): void {
    if (this.#holders++ > 0) return;
    this.#timer?.ref();
    for (const { watch } of this.#watches) watch.ref();
  }

  /** Takes a {@link hold} back. */
  letGo(): void {
    if (--this.#holders > 0) return;
    this.#timer?.unref();
    for (const { watch } of this.#watches) watch.unref();
  }

  /** Polls no more. The device is the caller's. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#unwatch();
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#immediate !== null) clearImmediate(this.#immediate);
  }
}
