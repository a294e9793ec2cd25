import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { close } from '../../linux/file.ts';
import { receiveDescriptors, sendDescriptors } from '../../linux/socket.ts';
import { acceptUnix, bindUnix, connectUnix, listenUnix, peerPid } from '../../linux/unix-socket.ts';
import { failsWith } from '../helpers/system-error.ts';

describe('Unix sockets by path', () => {
  let directory: string;
  let socket: string;
  const opened: number[] = [];
  const opening = (fd: number): number => {
    opened.push(fd);
    return fd;
  };

  beforeEach(() => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-unix-'));
    socket = path.join(directory, 'socket');
  });
  afterEach(() => {
    for (const fd of opened.splice(0)) close(fd);
    fs.rmSync(directory, { recursive: true });
  });

  it('listen, connect, and know their peers', () => {
    const listener = opening(bindUnix(socket));
    listenUnix(listener);
    assert.equal(acceptUnix(listener), null, 'nobody waits');
    const client = opening(connectUnix(socket));
    const server = opening(acceptUnix(listener)!);
    assert.equal(acceptUnix(listener), null, 'there was one');
    for (const fd of [client, server]) {
      assert.equal(peerPid(fd), process.pid);
      assert.equal(receiveDescriptors(fd, Buffer.alloc(1), 1), null, 'they do not block');
    }
    sendDescriptors(client, Buffer.from('x'), [listener]);
    const { length, fds } = receiveDescriptors(server, Buffer.alloc(1), 1)!;
    assert.equal(length, 1);
    opening(fds[0]!);
  });

  it('say what is wrong', () => {
    failsWith('ENOENT', 'connect', `path="${socket}"`, () => connectUnix(socket));
    const listener = bindUnix(socket);
    failsWith('ECONNREFUSED', 'connect', `path="${socket}"`, () => connectUnix(socket));
    failsWith('EADDRINUSE', 'bind', `path="${socket}"`, () => bindUnix(socket));
    close(listener);
    failsWith('ECONNREFUSED', 'connect', `path="${socket}"`, () => connectUnix(socket));
    const deaf = opening(bindUnix(`${socket}2`));
    failsWith('EINVAL', 'accept4', `listener=${deaf}`, () => acceptUnix(deaf));
    failsWith('EBADF', 'listen', 'fd=-1', () => listenUnix(-1));
    failsWith('EBADF', 'getsockopt', 'fd=-1, name="SO_PEERCRED"', () => peerPid(-1));
    for (const name of ['', 'a\0b', `/${'x'.repeat(107)}`]) {
      assert.throws(() => bindUnix(name), /is no path of a socket: 1 to 107 bytes without NUL/);
    }
  });
});
