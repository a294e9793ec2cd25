import assert from 'node:assert/strict';
import { drainEventfd, eventfd, signalEventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { POLLIN, POLLOUT, PollSet } from '../../linux/poll.ts';
import { failsWith } from '../helpers/system-error.ts';

const POLLNVAL = 0x20;

describe('PollSet', () => {
  const descriptors: number[] = [];
  afterEach(() => {
    for (const fd of descriptors.splice(0)) close(fd);
  });
  const newEventfd = (): number => {
    const fd = eventfd();
    descriptors.push(fd);
    return fd;
  };

  it('says what happened, and nothing when time is over', () => {
    const set = new PollSet();
    const fd = newEventfd();
    assert.equal(set.add(fd, POLLIN), 0);
    assert.equal(set.wait(0), 0);
    const start = performance.now();
    assert.equal(set.wait(20), 0);
    assert(performance.now() - start >= 15);
    assert.equal(set.revents(0), 0);
    signalEventfd(fd);
    assert.equal(set.wait(-1), 1);
    assert.equal(set.revents(0), POLLIN);
    drainEventfd(fd);
    assert.equal(set.wait(0), 0);
    assert.equal(set.revents(0), 0);
  });

  it('waits for fractions of a millisecond, and for as long as it is told', () => {
    const set = new PollSet();
    const fd = newEventfd();
    set.add(fd, POLLIN);
    const shortest = Math.min(
      ...Array.from({ length: 50 }, () => {
        const start = performance.now();
        assert.equal(set.waitPrecisely(0.3), 0);
        return performance.now() - start;
      }),
    );
    assert(shortest >= 0.3 && shortest < 0.9, `${shortest} ms at the least`);
    const start = performance.now();
    assert.equal(set.waitPrecisely(1020.5), 0);
    assert(performance.now() - start >= 1020.5);
    signalEventfd(fd);
    assert.equal(set.waitPrecisely(5000), 1);
    assert.equal(set.revents(0), POLLIN);
    failsWith('EINVAL', 'ppoll', 'count=1, timeoutMs=-5', () => set.waitPrecisely(-5));
  });

  it('grows, and keeps what was added before', () => {
    const set = new PollSet();
    const fds = Array.from({ length: 200 }, newEventfd);
    for (const [i, fd] of fds.entries()) assert.equal(set.add(fd, i % 2 === 0 ? POLLIN : POLLIN | POLLOUT), i);
    assert.equal(set.size, 200);
    for (const i of [0, 63, 64, 127, 128, 199]) signalEventfd(fds[i]!);
    assert.equal(set.wait(0), 103, 'the odd ones can be written to, three even ones read');
    for (const i of fds.keys()) {
      const readable = [0, 63, 64, 127, 128, 199].includes(i) ? POLLIN : 0;
      assert.equal(set.revents(i), readable | (i % 2 === 0 ? 0 : POLLOUT), `descriptor ${i}`);
    }
  });

  it('begins again after clear', () => {
    const set = new PollSet();
    const [one, two] = [newEventfd(), newEventfd()];
    signalEventfd(one);
    set.add(one, POLLIN);
    set.wait(0);
    set.clear();
    assert.equal(set.size, 0);
    assert.equal(set.wait(0), 0);
    assert.equal(set.add(two, POLLIN), 0);
    assert.equal(set.wait(0), 0);
    assert.equal(set.revents(0), 0);
  });

  it('answers POLLNVAL for a descriptor that is not open', () => {
    const set = new PollSet();
    set.add(0xffff, POLLIN);
    assert.equal(set.wait(0), 1);
    assert.equal(set.revents(0), POLLNVAL);
  });

  it('names the call when the kernel refuses', () => {
    const set = new PollSet();
    const limit = Number(/^Max open files\s+(\d+)/m.exec(limits())![1]);
    for (let i = 0; i <= limit; i++) set.add(-1, 0);
    const count = limit + 1;
    const shown = count > 0xffff ? `0x${count.toString(16)}` : `${count}`;
    failsWith('EINVAL', 'poll', `count=${shown}, timeoutMs=0`, () => set.wait(0));
  });
});

function limits(): string {
  return process.getBuiltinModule('node:fs').readFileSync('/proc/self/limits', 'latin1');
}
