/** The server's socket: clients that come, go at any instant, or are none. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { drainEventfd, eventfd } from '../../../linux/eventfd.ts';
import { close } from '../../../linux/file.ts';
import { SystemError } from '../../../linux/libc.ts';
import { memfd } from '../../../linux/mman.ts';
import { receiveDescriptors, sendDescriptors } from '../../../linux/socket.ts';
import { connectUnix } from '../../../linux/unix-socket.ts';
import {
  composeDmaMap,
  composeIrqSet,
  composeMessage,
  composeRegionAccess,
  composeVersion,
  regionDataOf,
} from '../../../nic/vfio-user/messages.ts';
import { VfioUserServer } from '../../../nic/vfio-user/server.ts';
import { descriptorsOf } from '../../helpers/descriptors.ts';
import { TOY_INTERRUPT, ToyDevice } from '../../helpers/toy-vfio-user-device.ts';
import { until } from '../../helpers/until.ts';

const HEADER_BYTES = 16;
const VERSION = 1;
const DMA_MAP = 2;
const SET_IRQS = 8;
const REGION_READ = 9;
const REGION_WRITE = 10;
const NO_REPLY = 0x10;
const EVENTFD_TRIGGER = { data: 4, action: 32, index: 2 };

interface Piece {
  bytes: Buffer;
  fds: number[];
}

describe('a vfio-user server', () => {
  let directory: string;
  let socket: string;
  let server: VfioUserServer;
  let device: ToyDevice;
  let log: string[];
  let before: string[];
  const clients: number[] = [];
  let memory: number;
  let interrupt: number;

  beforeEach(() => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-vfio-user-'));
    socket = path.join(directory, 'card');
    memory = memfd('client', 4096);
    interrupt = eventfd();
    log = [];
    server = new VfioUserServer(socket, { info: (m) => log.push(`info ${m}`), warn: (m) => log.push(`warn ${m}`) });
    device = new ToyDevice(server);
    server.serve(device);
    before = descriptorsOf(process.pid);
  });

  afterEach(async () => {
    for (const fd of clients.splice(0)) close(fd);
    server.close();
    assert.deepEqual(descriptorsOf(process.pid), before, 'no descriptor is left');
    close(memory);
    close(interrupt);
    fs.rmSync(directory, { recursive: true });
    // What was closed is taken off the event loop.
    await delay(0);
  });

  const logged = (told: RegExp): Promise<boolean> =>
    until(String(told), () => log.some((line) => told.test(line)), { instead: () => log.join('\n') });

  function connect(): number {
    const fd = connectUnix(socket);
    clients.push(fd);
    return fd;
  }
  function hangUp(fd: number): void {
    clients.splice(clients.indexOf(fd), 1);
    close(fd);
  }
  /** What comes next; empty when the server has closed the connection. */
  async function receive(fd: number, bytes = 1): Promise<Buffer> {
    const into = Buffer.alloc(4096);
    let length = 0;
    await until('answered', () => {
      try {
        const received = receiveDescriptors(fd, into.subarray(length), 1);
        if (received === null) return false;
        length += received.length;
        return received.length === 0 || length >= bytes;
      } catch (error) {
        // It did not read all that was sent.
        if (error instanceof SystemError && error.code === 'ECONNRESET') return true;
        throw error;
      }
    });
    return into.subarray(0, length);
  }
  const ended = async (fd: number): Promise<void> => assert.equal((await receive(fd)).length, 0, 'it ends');

  const greeting = (): Piece => ({
    bytes: composeMessage(1, VERSION, 0, composeVersion({ major: 0, minor: 1, capabilities: { max_msg_fds: 8 } })),
    fds: [],
  });
  async function greet(fd: number): Promise<void> {
    sendDescriptors(fd, greeting().bytes, []);
    assert.ok((await receive(fd)).length > HEADER_BYTES);
  }
  function write(offset: number, value: number): Buffer {
    const body = composeRegionAccess({ region: 0, offset, count: 4 }, 4);
    regionDataOf(body).writeUInt32LE(value);
    return composeMessage(9, REGION_WRITE, NO_REPLY, body);
  }
  async function read(fd: number, offset: number): Promise<number> {
    sendDescriptors(fd, composeMessage(8, REGION_READ, 0, composeRegionAccess({ region: 0, offset, count: 4 })), []);
    return (await receive(fd, HEADER_BYTES + 20)).readUInt32LE(HEADER_BYTES + 16);
  }
  /** What a client says that sets everything up. */
  const conversation = (): Piece[] => [
    greeting(),
    {
      bytes: composeMessage(
        2,
        DMA_MAP,
        0,
        composeDmaMap({ address: 4096, size: 4096, offset: 0, readable: true, writable: true }),
      ),
      fds: [memory],
    },
    {
      bytes: composeMessage(3, SET_IRQS, 0, composeIrqSet({ ...EVENTFD_TRIGGER, start: 0, count: 2 })),
      fds: [interrupt, interrupt],
    },
    { bytes: write(0x40, 7), fds: [] },
  ];

  it('serves one client at a time', async () => {
    const first = connect();
    await greet(first);
    sendDescriptors(first, write(0x40, 7), []);
    assert.equal(await read(first, 0x40), 7);
    await ended(connect());
    await logged(/warn .*card: a second client was turned away/);
    assert.equal(await read(first, 0x40), 7, 'the first goes on');
  });

  it('is as after power-on for the next client', async () => {
    const first = connect();
    for (const { bytes, fds } of conversation()) sendDescriptors(first, bytes, fds);
    await until('reached', () => server.write(4096, Buffer.from('hello')));
    assert.ok(server.write(4096, Buffer.from('hello')));
    sendDescriptors(first, write(TOY_INTERRUPT, 1), []);
    await until('interrupted', () => drainEventfd(interrupt));
    hangUp(first);
    // The next one may be there before anybody has heard that the first went.
    const second = connect();
    await greet(second);
    assert.equal(device.resets, 1);
    assert.equal(await read(second, 0x40), 0);
    assert.equal(server.write(4096, Buffer.from('hello')), false);
    server.interrupt(1);
    assert.equal(drainEventfd(interrupt), false);
    await logged(/info .*card: the machine has gone/);
  });

  it('takes the next client though nobody has heard yet that the ones before went', async () => {
    // All within one turn of the event loop: the server finds them at once.
    const { bytes: hello } = greeting();
    for (const bytes of [Buffer.alloc(0), hello.subarray(0, 5), Buffer.alloc(64, 0xa5), hello]) {
      const gone = connect();
      if (bytes.length > 0) sendDescriptors(gone, bytes, []);
      hangUp(gone);
    }
    const last = connect();
    await greet(last);
    assert.equal(device.resets, 4);
    assert.equal(await read(last, 0x40), 0);
    assert.ok(!log.some((line) => /turned away/.test(line)));
  });

  it('hears one out that wrote much before it went, and takes the next', async () => {
    const first = connect();
    await greet(first);
    sendDescriptors(first, Buffer.concat(Array.from({ length: 1000 }, (_, n) => write(0x40, n))), []);
    hangUp(first);
    const second = connect();
    await greet(second);
    assert.equal(await read(second, 0x40), 0);
    assert.ok(!log.some((line) => /turned away/.test(line)));
  });

  it('survives a client that goes after any byte, and keeps nothing of it', async function () {
    this.timeout(60_000);
    const pieces = conversation();
    const all = pieces.reduce((sum, { bytes }) => sum + bytes.length, 0);
    for (let cut = 0; cut <= all; cut++) {
      const fd = connect();
      let left = cut;
      for (const { bytes, fds } of pieces) {
        const part = bytes.subarray(0, left);
        if (part.length > 0) sendDescriptors(fd, part, fds);
        left -= part.length;
      }
      hangUp(fd);
      await until(`seen off after ${cut} bytes`, () => device.resets === cut + 1);
      assert.deepEqual(descriptorsOf(process.pid), before, `after ${cut} bytes`);
    }
    assert.ok(log.some((line) => /the machine went in the midst of a message/.test(line)));
    const last = connect();
    await greet(last);
    assert.equal(await read(last, 0x40), 0);
  });

  it('ends connections that break the protocol, says why, and goes on', async () => {
    const cases: [what: string, pieces: Piece[], told: RegExp][] = [
      [
        'garbage',
        [{ bytes: Buffer.alloc(64, 0xa5), fds: [memory] }],
        /command 42405: it says that it has 2779096485 bytes/,
      ],
      ['zeroes', [{ bytes: Buffer.alloc(64), fds: [] }], /command 0: it says that it has 0 bytes/],
      ['no greeting', [{ bytes: write(0, 1), fds: [memory] }], /REGION_WRITE comes before VERSION/],
      ['a reply', [greeting(), { bytes: composeMessage(1, 12, 1, Buffer.alloc(0)), fds: [] }], /a reply to DMA_WRITE/],
      ['many descriptors', [{ bytes: greeting().bytes, fds: Array(17).fill(memory) }], /more descriptors came/],
      [
        'a descriptor with every byte',
        Array.from(greeting().bytes.subarray(0, 16), (byte) => ({ bytes: Buffer.of(byte), fds: [memory, interrupt] })),
        /came with 18 descriptors; at most 16 are possible/,
      ],
    ];
    for (const [what, pieces, told] of cases) {
      log.length = 0;
      const fd = connect();
      for (const { bytes, fds } of pieces) {
        try {
          sendDescriptors(fd, bytes, fds);
        } catch (error) {
          assert.equal((error as SystemError).code, 'EPIPE', what);
        }
        // Pieces stay apart, also where the kernel could join them.
        await delay(2);
      }
      await logged(new RegExp(`warn .*card: the connection ends: .*${told.source}`));
      hangUp(fd);
      assert.deepEqual(descriptorsOf(process.pid), before, what);
    }
    const good = connect();
    await greet(good);
    assert.equal(await read(good, 0x40), 0);
  });

  it('puts a message together that comes in pieces', async () => {
    const fd = connect();
    for (const byte of greeting().bytes) {
      sendDescriptors(fd, Buffer.of(byte), []);
      await delay(0);
    }
    assert.ok((await receive(fd)).length > HEADER_BYTES);
  });

  it('ends a client that reads no answers', async function () {
    this.timeout(20_000);
    const fd = connect();
    await greet(fd);
    const body = composeRegionAccess({ region: 0, offset: 0, count: 4096 });
    const many = Buffer.concat(Array.from({ length: 64 }, () => composeMessage(1, REGION_READ, 0, body)));
    sendDescriptors(fd, many, []);
    await logged(/it does not read the replies that it asked for/);
    const next = connect();
    await greet(next);
  });

  it('sends its client away when it is closed, and is not there any more', async () => {
    const fd = connect();
    await greet(fd);
    server.close();
    await ended(fd);
    assert.equal(device.resets, 1);
    assert.throws(() => connectUnix(socket), { code: 'ECONNREFUSED' });
    assert.throws(() => new VfioUserServer(socket, { info: () => {}, warn: () => {} }), { code: 'EADDRINUSE' });
    fs.rmSync(socket);
    server = new VfioUserServer(socket, { info: () => {}, warn: () => {} });
    await ended(connect());
  });
});
