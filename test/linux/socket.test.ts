import assert from 'node:assert/strict';
import { drainEventfd, eventfd, signalEventfd } from '../../linux/eventfd.ts';
import { close, setNonBlocking } from '../../linux/file.ts';
import { receiveDescriptors, SCM_MAX_FD, sendDescriptors, socketPair } from '../../linux/socket.ts';
import { failsWith } from '../helpers/system-error.ts';

describe('sockets with descriptors', () => {
  const opened: number[] = [];
  const pair = (): [number, number] => {
    const both = socketPair();
    opened.push(...both);
    return both;
  };
  afterEach(() => {
    for (const fd of opened.splice(0)) close(fd);
  });

  it('carry bytes and working descriptors, in order', () => {
    const [a, b] = pair();
    const events = [eventfd(), eventfd(), eventfd()];
    opened.push(...events);
    assert.equal(sendDescriptors(a, Buffer.from('three'), events), 5);
    const bytes = Buffer.alloc(16);
    const received = receiveDescriptors(b, bytes, 8)!;
    opened.push(...received.fds);
    assert.equal(bytes.toString('latin1', 0, received.length), 'three');
    assert.equal(received.fds.length, 3);
    signalEventfd(received.fds[1]!);
    assert.deepEqual(events.map(drainEventfd), [false, true, false]);
  });

  it('carry bytes alone', () => {
    const [a, b] = pair();
    sendDescriptors(a, Buffer.from('x'), []);
    assert.deepEqual(receiveDescriptors(b, Buffer.alloc(4), 1), { length: 1, fds: [] });
  });

  it('say that nothing waits, and that the peer is gone', () => {
    const [a, b] = socketPair();
    opened.push(b);
    setNonBlocking(b);
    assert.equal(receiveDescriptors(b, Buffer.alloc(4), 1), null);
    close(a);
    assert.deepEqual(receiveDescriptors(b, Buffer.alloc(4), 1), { length: 0, fds: [] });
  });

  it('refuse more descriptors than expected, and keep none of them', () => {
    const [a, b] = pair();
    const events = [eventfd(), eventfd(), eventfd(), eventfd()];
    opened.push(...events);
    sendDescriptors(a, Buffer.from('x'), events);
    const next = eventfd();
    close(next);
    assert.throws(() => receiveDescriptors(b, Buffer.alloc(4), 1), /more descriptors came than the 1 expected/);
    const after = eventfd();
    opened.push(after);
    assert.equal(after, next, 'the lowest free descriptor is the same as before');
  });

  it('refuse what cannot be sent', () => {
    const [a] = pair();
    assert.throws(() => sendDescriptors(a, Buffer.alloc(0), [0]), /at least one byte/);
    assert.throws(() => sendDescriptors(a, Buffer.from('x'), new Array(SCM_MAX_FD + 1).fill(0)), /at most 253/);
    failsWith('EBADF', 'sendmsg', `socket=${a}, bytes=1, fds=-1`, () => sendDescriptors(a, Buffer.from('x'), [-1]));
    failsWith('EBADF', 'recvmsg', 'socket=-1, bytes=1', () => receiveDescriptors(-1, Buffer.alloc(1), 1));
  });
});
