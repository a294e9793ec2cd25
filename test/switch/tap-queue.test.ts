import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import { openTap } from '../../daemon/tap.ts';
import { NetworkNamespace } from '../../lab/namespace.ts';
import type { Program } from '../../lab/program.ts';
import { close, tryRead, tryWrite } from '../../linux/file.ts';
import { addressOf, check, libcFunction } from '../../linux/libc.ts';
import { BATCH_FRAMES, type FrameBatch, MAX_FRAME_BYTES } from '../../memory/frame-batch.ts';
import { TX_DROP_ERROR, TX_DROP_LINK_DOWN, TX_DROP_NO_BUFFERS } from '../../switch/counters.ts';
import { TRANSMITTED } from '../../switch/port.ts';
import { TAP_HEADER_BYTES, TapQueue } from '../../switch/tap-queue.ts';
import { VIRTIO_NET_HDR_F_NEEDS_CSUM } from '../../vhost/virtio.ts';
import { emptyBatch, wasmArena } from '../helpers/arenas.ts';
import { appendTestFrame, ethernet, type TestFrame, testFrameOf } from '../helpers/fake-queue.ts';
import { appendFrame, cut, frameBytes, join } from '../helpers/frame-bytes.ts';
import { transmitOne } from '../helpers/one-frame.ts';
import { checksumsVerify, onesSum, type Packet, packet } from '../helpers/plain-packet.ts';

// <sys/socket.h>
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const socketpairCall = libcFunction('int socketpair(int domain, int type, int protocol, uintptr_t pair)');

/** Two ends that keep messages apart, as a tun file does. */
function socketpair(): [here: number, there: number] {
  const pair = new Int32Array(2);
  const type = SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
  check(socketpairCall(AF_UNIX, type, 0, addressOf(pair)), 'socketpair', { type });
  return [pair[0]!, pair[1]!];
}

const EMPTY_HEADER = new Uint8Array(TAP_HEADER_BYTES);
/** A virtio-net header (virtio 1.2 §5.1.6) with every field different; num_buffers is 0. */
const FIELDS = { flags: 1, gsoType: 4, hdrLen: 0x1236, gsoSize: 0x05b4, csumStart: 0x0122, csumOffset: 0x0210 };
const NET_HEADER = Uint8Array.of(0x01, 0x04, 0x36, 0x12, 0xb4, 0x05, 0x22, 0x01, 0x10, 0x02, 0, 0);

function receiveAll(queue: TapQueue, batch: FrameBatch): Required<TestFrame>[] {
  batch.clear();
  const count = queue.receive(batch);
  assert.equal(count, batch.count);
  return Array.from({ length: count }, (_, i) => testFrameOf(batch, i));
}

function transmit(queue: TapQueue, frame: TestFrame): number {
  const one = emptyBatch(wasmArena(), 1);
  appendTestFrame(one, frame);
  return transmitOne(queue, one);
}

describe('TapQueue on a pair of sockets', () => {
  let here: number;
  let there: number;
  let queue: TapQueue;
  let batch: FrameBatch;

  beforeEach(() => {
    [here, there] = socketpair();
    queue = new TapQueue(here);
    batch = emptyBatch();
  });
  afterEach(() => {
    queue.close();
    close(here);
    if (there >= 0) close(there);
  });

  const write = (frame: Uint8Array, header = EMPTY_HEADER): void => {
    const message = join([header, frame]);
    assert.equal(tryWrite(there, message), message.length);
  };
  const read = (): Uint8Array => {
    const message = new Uint8Array(TAP_HEADER_BYTES + MAX_FRAME_BYTES + 1);
    return message.subarray(0, Math.max(0, tryRead(there, message)));
  };
  const frames = (): Uint8Array[] => receiveAll(queue, batch).map(({ bytes }) => bytes);

  it('receives frames of every length with the fields of their headers', () => {
    const sent = [14, 60, 116, 117, 128, 129, 1514, MAX_FRAME_BYTES].map((length) => frameBytes(length, length));
    for (const frame of sent) {
      write(frame, NET_HEADER);
      assert.deepEqual(receiveAll(queue, batch), [{ bytes: frame, ...FIELDS }]);
      queue.release(1);
    }
    assert.deepEqual(frames(), []);
  });

  it('transmits header and frame as one message, wherever the pieces of the frame lie', () => {
    const bytes = frameBytes(5000, 1);
    for (const lengths of [[], [14], [127, 1], [1, 1, 1, 1000, 7], new Array<number>(900).fill(3)]) {
      batch.clear();
      appendFrame(batch, cut(bytes, lengths));
      for (const [name, value] of Object.entries(FIELDS))
        (batch[name as keyof typeof FIELDS] as Uint16Array)[0] = value;
      assert.equal(transmitOne(queue, batch), TRANSMITTED);
      assert.deepEqual(read(), join([NET_HEADER, bytes]));
    }
  });

  it('counts messages that hold no frame as malformed, and goes on', () => {
    write(frameBytes(13, 1));
    assert.equal(tryWrite(there, new Uint8Array(5)), 5);
    write(frameBytes(60, 2));
    write(frameBytes(MAX_FRAME_BYTES + 1, 3));
    write(frameBytes(61, 4));
    assert.deepEqual(frames(), [frameBytes(60, 2), frameBytes(61, 4)]);
    assert.equal(queue.malformed, 3);
  });

  it('gives frames again until they are released, with newer ones behind them', () => {
    write(frameBytes(60, 1), NET_HEADER);
    write(frameBytes(61, 2));
    assert.deepEqual(frames(), [frameBytes(60, 1), frameBytes(61, 2)]);
    queue.release(0);
    write(frameBytes(62, 3));
    assert.deepEqual(receiveAll(queue, batch)[0], { bytes: frameBytes(60, 1), ...FIELDS });
    assert.equal(batch.count, 3);
    queue.release(1);
    assert.deepEqual(frames(), [frameBytes(61, 2), frameBytes(62, 3)]);
    queue.release(2);
    assert.deepEqual(frames(), []);
  });

  it('does what a plain model does: frames in order, each released once', () => {
    const step = fc.oneof(
      fc.record({ write: fc.integer({ min: 14, max: 2000 }) }),
      fc.record({ release: fc.nat(BATCH_FRAMES) }),
    );
    const property = fc.property(fc.array(step, { maxLength: 200, size: 'max' }), (steps) => {
      const [near, far] = socketpair();
      const subject = new TapQueue(near);
      const waiting: Uint8Array[] = [];
      try {
        for (const [seed, each] of steps.entries()) {
          if ('write' in each) {
            const frame = frameBytes(each.write, seed);
            if (tryWrite(far, join([EMPTY_HEADER, frame])) > 0) waiting.push(frame);
            continue;
          }
          const got = receiveAll(subject, batch).map(({ bytes }) => bytes);
          assert.deepEqual(got, waiting.slice(0, BATCH_FRAMES));
          const done = Math.min(each.release, got.length);
          subject.release(done);
          waiting.splice(0, done);
        }
      } finally {
        subject.close();
        close(near);
        close(far);
      }
    });
    fc.assert(property, { numRuns: 50 });
  });

  it('has no buffers when the other side is behind, and some when it has read', () => {
    let sent = 0;
    while (transmit(queue, { bytes: frameBytes(1514, sent) }) === TRANSMITTED) sent++;
    assert(sent > 0);
    assert.equal(transmit(queue, { bytes: frameBytes(1514, 0) }), TX_DROP_NO_BUFFERS);
    for (let i = 0; i < sent; i++) assert.deepEqual(read(), join([EMPTY_HEADER, frameBytes(1514, i)]));
    assert.equal(transmit(queue, { bytes: frameBytes(1514, 0) }), TRANSMITTED);
  });

  it('says so when the system call fails otherwise', () => {
    close(there);
    there = -1;
    assert.equal(transmit(queue, { bytes: frameBytes(60, 0) }), TX_DROP_ERROR);
  });

  it('waits for its descriptor, unless all of its slots are held', () => {
    const fds = (): number[] => {
      const found: number[] = [];
      queue.addPollFds({ addReadable: (fd) => found.push(fd), addEventfd: () => assert.fail('it is no eventfd') });
      return found;
    };
    assert.deepEqual(fds(), [here]);
    for (let i = 0; i < BATCH_FRAMES; i++) {
      write(frameBytes(60, i));
      assert.equal(frames().length, i + 1);
      queue.release(0);
      assert.deepEqual(fds(), i + 1 < BATCH_FRAMES ? [here] : []);
    }
    frames();
    queue.release(1);
    assert.deepEqual(fds(), [here]);
    assert.equal(queue.enableNotification(), false);
  });
});

/** A UDP socket at PORT: prints what arrives as a line of hex, sends each line of its input to the peer. */
const PORT = 5000;
const PEER_PORT = 6000;
const UDP_PROGRAM = `
  const socket = require('node:dgram').createSocket('udp4');
  socket.on('message', (message) => console.log('got ' + message.toString('hex')));
  require('node:readline').createInterface({ input: process.stdin }).on('line', (line) =>
    socket.send(Buffer.from(line, 'hex'), ${PEER_PORT}, '10.0.0.2'));
  socket.bind(${PORT}, '10.0.0.1', () => console.log('ready'));
`;
const TIMEOUT_MS = 4000;
const LINUX = { mac: Uint8Array.of(2, 0, 0, 0, 0, 0xa1), ip: [10, 0, 0, 1] };
const PEER = { mac: Uint8Array.of(2, 0, 0, 0, 0, 0xa2), ip: [10, 0, 0, 2] };
const macText = (mac: Uint8Array): string => [...mac].map((byte) => byte.toString(16).padStart(2, '0')).join(':');

describe('TapQueue on a tap of Linux', () => {
  const name = `rst${process.pid}`.slice(0, 15);
  let host: NetworkNamespace;
  let fd = -1;
  let queue: TapQueue;
  let udp: Program;
  const batch = emptyBatch();

  before(async () => {
    host = await NetworkNamespace.create('tap-queue');
    // No router solicitations of its own accord.
    await host.exec(['sh', '-c', 'echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6']);
  });
  beforeEach(async () => {
    fd = openTap(name, false).fd;
    queue = new TapQueue(fd);
    await host.moveIn(name);
    await host.exec(['ip', 'link', 'set', name, 'address', macText(LINUX.mac)]);
    await host.address(name, '10.0.0.1/24');
    await host.exec(['ip', 'neigh', 'add', '10.0.0.2', 'lladdr', macText(PEER.mac), 'dev', name]);
    udp = host.spawn([process.execPath, '-e', UDP_PROGRAM], { interactive: true });
    await udp.waitFor('its socket', TIMEOUT_MS, () => udp.stdout.includes('ready'));
  });
  afterEach(async () => {
    await udp?.stop();
    if (fd < 0) return;
    queue.close();
    close(fd);
    fd = -1;
  });
  after(() => host?.dispose());

  /** A UDP packet for the socket, its checksum partial. */
  const toLinux = (payload: Uint8Array): Packet =>
    packet({
      ipVersion: 4,
      isTcp: false,
      payload,
      macs: { from: PEER.mac, to: LINUX.mac },
      addresses: { from: PEER.ip, to: LINUX.ip },
      ports: { from: PEER_PORT, to: PORT },
    });
  const partial = ({ bytes, transport, csumOffset }: Packet): TestFrame => ({
    bytes,
    flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
    csumStart: transport,
    csumOffset,
  });
  const arrives = (payload: Uint8Array): Promise<true> =>
    udp.waitFor('the datagram', TIMEOUT_MS, () => udp.stdout.includes(`got ${Buffer.from(payload).toString('hex')}\n`));
  /** The next UDP frame that Linux sends. */
  const fromLinux = async (): Promise<Required<TestFrame>> => {
    for (const end = Date.now() + TIMEOUT_MS; Date.now() < end; await delay(1)) {
      const found = receiveAll(queue, batch);
      queue.release(found.length);
      const frame = found.find(({ bytes }) => bytes[12] === 8 && bytes[13] === 0 && bytes[23] === 17);
      if (frame) return frame;
    }
    throw udp.error('its datagram did not reach the tap');
  };

  it('hands Linux a datagram with a partial checksum, which it takes for right', async () => {
    const payload = frameBytes(100, 1);
    assert.equal(transmit(queue, partial(toLinux(payload))), TRANSMITTED);
    await arrives(payload);
  });

  it('hands Linux a datagram with a whole checksum, which it verifies', async () => {
    const [wrong, right] = [frameBytes(50, 1), frameBytes(51, 2)];
    assert.equal(transmit(queue, { bytes: toLinux(wrong).bytes }), TRANSMITTED);
    const whole = toLinux(right);
    const checksum = 0xffff - onesSum(whole.bytes.subarray(whole.transport));
    new DataView(whole.bytes.buffer).setUint16(whole.transport + whole.csumOffset, checksum);
    assert.equal(checksumsVerify(whole.bytes, whole, false), true);
    assert.equal(transmit(queue, { bytes: whole.bytes }), TRANSMITTED);
    await arrives(right);
    assert.doesNotMatch(udp.stdout, new RegExp(Buffer.from(wrong).toString('hex')));
  });

  it('hands Linux a long datagram out of many buffers', async () => {
    const payload = frameBytes(9000, 3);
    const frame = partial(toLinux(payload));
    batch.clear();
    appendFrame(batch, cut(frame.bytes, [14, 100, 300, 1, 1, 5000]));
    batch.flags[0] = frame.flags!;
    batch.gsoType[0] = 0;
    batch.gsoSize[0] = 0;
    batch.hdrLen[0] = 0;
    batch.csumStart[0] = frame.csumStart!;
    batch.csumOffset[0] = frame.csumOffset!;
    assert.equal(transmitOne(queue, batch), TRANSMITTED);
    await arrives(payload);
  });

  it('receives what Linux sends, its checksum still to do', async () => {
    const payload = frameBytes(77, 4);
    udp.stdin.write(`${Buffer.from(payload).toString('hex')}\n`);
    const { bytes, flags, gsoType, csumStart, csumOffset } = await fromLinux();
    assert.deepEqual(bytes.subarray(0, 6), PEER.mac);
    assert.deepEqual(bytes.subarray(6, 12), LINUX.mac);
    assert.deepEqual(bytes.subarray(42), payload);
    assert.deepEqual({ flags, gsoType, csumStart, csumOffset }, { flags: 1, gsoType: 0, csumStart: 34, csumOffset: 6 });
  });

  it('drops frames for an interface that is down, until it is up', async () => {
    await host.exec(['ip', 'link', 'set', name, 'down']);
    assert.equal(transmit(queue, { bytes: ethernet(1, 2) }), TX_DROP_LINK_DOWN);
    assert.equal(queue.ready, true);
    assert.deepEqual(receiveAll(queue, batch), []);
    await host.exec(['ip', 'link', 'set', name, 'up']);
    assert.equal(transmit(queue, { bytes: ethernet(1, 2) }), TRANSMITTED);
  });

  it('a header that Linux refuses costs that frame only', () => {
    const lie: TestFrame = { bytes: ethernet(1, 2), gsoType: 2, gsoSize: 10 };
    assert.equal(transmit(queue, lie), TX_DROP_ERROR);
    assert.equal(transmit(queue, { bytes: ethernet(1, 2) }), TRANSMITTED);
  });

  it('tells once that the interface was deleted, and is not ready any more', async () => {
    let gone = 0;
    queue.onGone = () => gone++;
    receiveAll(queue, batch);
    assert.equal(gone, 0);
    await host.exec(['ip', 'link', 'delete', name]);
    for (let i = 0; i < 3; i++) assert.equal(receiveAll(queue, batch).length, 0);
    assert.equal(gone, 1);
    assert.equal(queue.ready, false);
    assert.equal(transmit(queue, { bytes: ethernet(1, 2) }), TX_DROP_ERROR);
    queue.addPollFds({ addReadable: () => assert.fail('it would never sleep'), addEventfd: () => assert.fail() });
  });
});
