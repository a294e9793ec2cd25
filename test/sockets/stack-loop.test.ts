import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import { run } from '../../lab/program.ts';
import { drainEventfd, eventfd, signalEventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { StackLoop } from '../../sockets/stack-loop.ts';
import type { WaitableDevice } from '../../tcpip/devices/waitable-device.ts';
import { NEVER } from '../../tcpip/network.ts';
import { until } from '../helpers/until.ts';

describe('a stack in the event loop', () => {
  let fd: number;
  let armed: boolean;
  let pending: boolean;
  let device: WaitableDevice;
  let stack: { poll(now: number): number; deadline: number };
  let work: number;
  let polled: number[];
  let loop: StackLoop;
  beforeEach(() => {
    fd = eventfd();
    armed = false;
    pending = false;
    work = 0;
    polled = [];
    device = {
      fds: [fd],
      enableNotification() {
        armed = true;
        return pending;
      },
      disableNotification() {
        armed = false;
        drainEventfd(fd);
      },
    } as Partial<WaitableDevice> as WaitableDevice;
    stack = {
      poll(now) {
        polled.push(now);
        return work > 0 ? work-- : 0;
      },
      deadline: NEVER,
    };
    loop = new StackLoop(stack, device, { spinMicroseconds: 100 });
    loop.hold();
  });
  afterEach(() => {
    loop.close();
    close(fd);
  });
  async function asleep(): Promise<void> {
    for (let sleeps = loop.sleeps; loop.sleeps === sleeps; await delay(1));
  }

  it('polls while there is work, a little longer, and then sleeps', async () => {
    assert.equal(polled.length, 0, 'not before it is woken');
    work = 20;
    loop.wake();
    loop.wake();
    assert.equal(polled.length, 0, 'not from within the call');
    await asleep();
    assert.ok(loop.busyPolls >= 20);
    assert.ok(loop.polls > loop.busyPolls, 'it looked a little longer');
    assert.ok(armed);
    assert.ok(
      polled.every((now, i) => Number.isInteger(now) && (i === 0 || now >= polled[i - 1]!)),
      'whole microseconds that go on',
    );
    const { polls } = loop;
    await delay(50);
    assert.equal(loop.polls, polls, 'nobody polls while it sleeps');
  });

  it('is woken by the device', async () => {
    loop.wake();
    await asleep();
    const { polls } = loop;
    work = 1;
    signalEventfd(fd);
    await asleep();
    assert.ok(loop.polls > polls);
    assert.equal(work, 0);
  });

  it('does not sleep when something came at the last moment', async () => {
    pending = true;
    loop.wake();
    await delay(5);
    assert.equal(loop.sleeps, 0);
    assert.equal(armed, false);
    pending = false;
    await asleep();
  });

  it('takes back a wake-up that comes while it polls', async () => {
    loop.wake();
    await asleep();
    stack.poll = () => 1;
    loop.wake();
    await delay(2);
    signalEventfd(fd);
    await delay(10);
    assert.equal(drainEventfd(fd), false, 'or it would come in every turn');
  });

  it('keeps deadlines', async () => {
    loop.wake();
    await asleep();
    const wanted = loop.now + 20_000;
    stack.deadline = wanted;
    stack.poll = (now) => {
      polled.push(now);
      if (now >= stack.deadline) stack.deadline = NEVER;
      return 0;
    };
    loop.wake();
    await until('the deadline is kept', () => stack.deadline === NEVER);
    assert.ok(polled.at(-1)! >= wanted);
    assert.ok(loop.now < wanted + 1_000_000);
  });

  it('keeps a later deadline with the timer of an earlier one', async () => {
    stack.deadline = loop.now + 100_000;
    loop.wake();
    await asleep();
    stack.deadline = loop.now + 400_000;
    const wanted = stack.deadline;
    loop.wake();
    await asleep();
    const { polls } = loop;
    await asleep();
    assert.ok(loop.polls > polls, 'woken too early, and asleep again');
    stack.poll = (now) => {
      if (now >= wanted) stack.deadline = NEVER;
      return 0;
    };
    await asleep();
    assert.equal(stack.deadline, NEVER);
  });

  it('waits awake for what is due within a millisecond', async () => {
    stack.deadline = loop.now + 900;
    const wanted = stack.deadline;
    let met = 0;
    stack.poll = (now) => {
      if (now >= wanted && met === 0) met = now;
      if (met > 0) stack.deadline = NEVER;
      return 0;
    };
    loop.wake();
    await asleep();
    assert.equal(loop.sleeps, 1);
    assert.ok(met >= wanted);
  });

  it('lets Node’s own timers and promises run between polls', async () => {
    stack.poll = () => 1;
    loop.wake();
    await delay(10);
    const { polls } = loop;
    assert.ok(polls > 1);
    await delay(5);
    assert.ok(loop.polls > polls);
  });

  it('goes on when it was woken from within a poll', async () => {
    let again = 3;
    stack.poll = () => {
      if (again-- > 0) loop.wake();
      return 0;
    };
    loop.wake();
    await asleep();
    assert.ok(again < 0);
    assert.equal(loop.busyPolls, 3);
  });

  it('polls no more after its end', async () => {
    stack.poll = () => {
      loop.close();
      return 1;
    };
    loop.wake();
    await delay(5);
    assert.equal(loop.polls, 1);
    loop.wake();
    signalEventfd(fd);
    await delay(5);
    assert.equal(loop.polls, 1);
  });

  it('polls on without a pause when nobody holds it', async () => {
    loop.letGo();
    loop.wake();
    await asleep();
    polled.length = 0;
    work = 5;
    signalEventfd(fd);
    // No other timer, which would have the event loop go round.
    await delay(1000);
    assert.ok(polled.length > 5);
    assert.ok(polled.at(-1)! - polled[0]! < 800_000, 'not by the next timer only');
    loop.hold();
  });

  it('lets the process end when nobody holds it', async () => {
    const program = `
      import { StackLoop } from '${new URL('../../sockets/stack-loop.ts', import.meta.url).href}';
      import { eventfd } from '${new URL('../../linux/eventfd.ts', import.meta.url).href}';
      const device = { fds: [eventfd()], enableNotification: () => false, disableNotification() {} };
      const stack = { poll: () => 0, deadline: 1e9 };
      const loop = new StackLoop(stack, device);
      loop.hold();
      loop.wake();
      setTimeout(() => { console.log('slept', loop.sleeps); loop.letGo(); }, 30);
    `;
    assert.equal(await run([process.execPath, '--input-type=module', '-e', program]), 'slept 1\n');
  });
});
