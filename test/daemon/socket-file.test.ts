import assert from 'node:assert/strict';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { freeSocketPath, makePrivately } from '../../daemon/socket-file.ts';
import { close } from '../../linux/file.ts';
import { bindUnix } from '../../linux/unix-socket.ts';

describe("the file of a daemon's socket", () => {
  let folder: string;
  let socket: string;

  beforeEach(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-'));
    socket = path.join(folder, 'socket');
  });
  afterEach(() => fs.rmSync(folder, { recursive: true, force: true }));

  it('is free where there is nothing', async () => {
    assert.equal(await freeSocketPath(socket), 'free');
  });

  it('is removed when nobody listens', async () => {
    close(bindUnix(socket));
    assert.equal(await freeSocketPath(socket), 'free');
    assert.ok(!fs.existsSync(socket));
  });

  it('stays while somebody listens', async () => {
    const server = net.createServer().listen(socket);
    try {
      await new Promise((resolve) => server.once('listening', resolve));
      assert.equal(await freeSocketPath(socket), 'alive');
      assert.ok(fs.existsSync(socket));
    } finally {
      server.close();
    }
  });

  it('stays when it is no socket', async () => {
    fs.writeFileSync(socket, 'precious');
    assert.equal(await freeSocketPath(socket), 'no socket');
    assert.equal(fs.readFileSync(socket, 'utf8'), 'precious');
  });

  it('has mode 0600 from the first moment, and leaves the umask as it was', () => {
    const before = process.umask();
    close(makePrivately(() => bindUnix(socket)));
    assert.equal(fs.statSync(socket).mode & 0o777, 0o600);
    assert.throws(() => makePrivately(() => bindUnix(socket)), { code: 'EADDRINUSE' });
    assert.equal(process.umask(), before);
  });
});
