import assert from 'node:assert/strict';
import fs from 'node:fs';
import v8 from 'node:v8';
import vm from 'node:vm';
import { drainEventfd, eventfd, signalEventfd } from '../../linux/eventfd.ts';
import { close, read, write } from '../../linux/file.ts';

const counterOf = (fd: number): bigint => {
  const bytes = Buffer.alloc(8);
  return read(fd, bytes) < 0 ? 0n : bytes.readBigUInt64LE();
};

describe('eventfd', () => {
  let fd: number;
  beforeEach(() => {
    fd = eventfd();
  });
  afterEach(() => close(fd));

  it('starts at 0, non-blocking and close-on-exec', () => {
    assert.equal(drainEventfd(fd), false);
    const info = fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1');
    const flags = Number.parseInt(/^flags:\s*([0-7]+)/m.exec(info)![1]!, 8);
    assert.equal(flags & 0o2004000, 0o2004000);
  });

  it('counts signals by one and is drained at once', () => {
    for (let i = 0; i < 3; i++) signalEventfd(fd);
    assert.equal(counterOf(fd), 3n);
    signalEventfd(fd);
    signalEventfd(fd);
    assert.equal(drainEventfd(fd), true);
    assert.equal(drainEventfd(fd), false);
  });

  it('takes a full counter and a closed descriptor without an error', () => {
    const full = Buffer.alloc(8);
    full.writeBigUInt64LE(2n ** 64n - 2n);
    write(fd, full);
    signalEventfd(fd);
    assert.equal(counterOf(fd), 2n ** 64n - 2n);
    signalEventfd(-1);
    assert.equal(drainEventfd(-1), false);
  });

  it('adds 1 and harms no other memory, whatever the garbage collector did', () => {
    // The bytes behind read and write must outlive the evaluation of the module; they did not once.
    v8.setFlagsFromString('--expose-gc');
    const gc = vm.runInNewContext('gc') as () => void;
    gc();
    gc();
    const small = Array.from({ length: 50_000 }, () => new Uint8Array(8).fill(0x5a));
    for (let i = 0; i < 10; i++) {
      signalEventfd(fd);
      assert.equal(counterOf(fd), 1n);
      signalEventfd(fd);
      assert.equal(drainEventfd(fd), true);
    }
    assert(small.every((bytes) => bytes.every((byte) => byte === 0x5a)));
  });
});
