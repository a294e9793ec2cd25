import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { NetworkNamespace } from '../../../lab/namespace.ts';
import { close, tryRead, tryWrite } from '../../../linux/file.ts';
import { TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 } from '../../../linux/if-tun.ts';
import { POLLIN, PollSet } from '../../../linux/poll.ts';
import { MAX_FRAME_BYTES } from '../../../memory/frame-batch.ts';
import { openTapDevice } from '../../../tcpip/devices/open-tap.ts';
import { TapDevice, type TapDeviceOptions } from '../../../tcpip/devices/tap-device.ts';
import {
  RECEIVE_BATCH,
  RECEIVE_CHECKSUM,
  RECEIVE_TSO4,
  RECEIVE_TSO6,
  TRANSMIT_CHECKSUM,
  TRANSMIT_TSO4,
  TRANSMIT_TSO6,
} from '../../../tcpip/frame-device.ts';
import { messagePair } from '../../helpers/message-pair.ts';

const ADDRESS = Uint8Array.of(0x52, 0x54, 0, 1, 2, 3);
/** A virtio-net header (virtio 1.2 §5.1.6) with every field different; num_buffers is 0. */
const FIELDS = [1, 4, 0x1236, 0x05b4, 0x0122, 0x0210] as const;
const HEADER = Uint8Array.of(0x01, 0x04, 0x36, 0x12, 0xb4, 0x05, 0x22, 0x01, 0x10, 0x02, 0, 0);
const DELIVERY_MS = 3000;

describe('a tap as a frame device', () => {
  const opened: (() => void)[] = [];
  afterEach(() => {
    for (const undo of opened.splice(0).reverse()) undo();
  });

  /** A device, and the descriptor at its far end. */
  function pair(options: Partial<TapDeviceOptions> = {}): { device: TapDevice; far: number } {
    const [here, far] = messagePair();
    const device = new TapDevice({ name: 'tap9', fd: here, address: ADDRESS, ...options });
    opened.push(
      () => device.close(),
      () => close(far),
    );
    return { device, far };
  }

  const frame = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => (i * 7) & 0xff);

  it('receives frames with the fields of their headers', () => {
    const { device, far } = pair();
    assert.equal(device.receive(), 0);
    tryWrite(far, Buffer.concat([HEADER, frame(60)]));
    tryWrite(far, Buffer.concat([new Uint8Array(12), frame(MAX_FRAME_BYTES)]));
    assert.equal(device.receive(), 2);
    const [flags, gsoType, , gsoSize, csumStart, csumOffset] = FIELDS;
    assert.deepEqual(
      [device.rxFlags[0], device.rxGsoType[0], device.rxGsoSize[0], device.rxCsumStart[0], device.rxCsumOffset[0]],
      [flags, gsoType, gsoSize, csumStart, csumOffset],
    );
    for (const [i, length] of [60, MAX_FRAME_BYTES].entries()) {
      const at = device.rxOffset[i]!;
      assert.equal(device.rxLength[i], length);
      assert.deepEqual(device.rx.slice(at, at + length), frame(length));
    }
    assert.equal(device.rxFlags[1], 0);
    device.release();
    assert.equal(device.receive(), 0);
  });

  it('gives a batch at a time', () => {
    const [here, far] = messagePair();
    const device = new TapDevice({ name: 'tap9', fd: here, address: ADDRESS });
    opened.push(
      () => device.close(),
      () => close(far),
    );
    let sent = 0;
    let received = 0;
    // A socket holds fewer messages than a batch has frames.
    while (received < RECEIVE_BATCH + 5) {
      while (tryWrite(far, Buffer.concat([HEADER, frame(60)])) > 0) sent++;
      const count = device.receive();
      assert.ok(count > 0 && count <= RECEIVE_BATCH);
      received += count;
      device.release();
    }
    while (received < sent) received += device.receive();
    assert.equal(received, sent);
  });

  it('drops and counts what is no frame', () => {
    const { device, far } = pair();
    for (const length of [0, 5, 13, MAX_FRAME_BYTES + 1]) tryWrite(far, Buffer.concat([HEADER, frame(length)]));
    tryWrite(far, Buffer.concat([HEADER, frame(14)]));
    assert.equal(device.receive(), 1);
    assert.equal(device.rxLength[0], 14);
    assert.equal(device.malformed, 4);
  });

  it('sends a frame with its header', () => {
    const { device, far } = pair();
    const at = device.reserve(100);
    assert.equal(device.reserve(100), at);
    device.tx.set(frame(90), at);
    device.send(90, ...FIELDS);
    device.flush();
    const got = Buffer.alloc(200);
    assert.equal(tryRead(far, got), 102);
    assert.deepEqual(new Uint8Array(got.subarray(0, 102)), Uint8Array.from([...HEADER, ...frame(90)]));
  });

  it('drops and counts what the other side does not take', () => {
    const { device } = pair();
    for (let i = 0; i < 1000 && device.txDropped === 0; i++) {
      device.reserve(60);
      device.send(60, 0, 0, 0, 0, 0, 0);
    }
    assert.equal(device.txDropped, 1);
    device.close();
    assert.deepEqual(device.fds, []);
    device.send(60, 0, 0, 0, 0, 0, 0);
    assert.equal(device.txDropped, 2);
    assert.equal(device.receive(), 0);
  });

  it('says which offloads there are', () => {
    const transmit = TRANSMIT_CHECKSUM | TRANSMIT_TSO4 | TRANSMIT_TSO6;
    assert.equal(pair().device.offloads, transmit);
    assert.equal(pair({ transmitOffloads: false }).device.offloads, 0);
    const all = transmit | RECEIVE_CHECKSUM | RECEIVE_TSO4 | RECEIVE_TSO6;
    assert.equal(pair({ offloads: TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 }).device.offloads, all);
    assert.equal(pair({ offloads: TUN_F_CSUM, transmitOffloads: false }).device.offloads, RECEIVE_CHECKSUM);
  });

  it('refuses what cannot be', () => {
    const { device } = pair();
    assert.throws(() => device.reserve(MAX_FRAME_BYTES + 1), /^RangeError: tap9: a frame of 65551 bytes; the longest/);
    const make = (options: Partial<TapDeviceOptions>) => () =>
      new TapDevice({ name: 'tap9', fd: -1, address: ADDRESS, ...options });
    assert.throws(make({ mtu: 60 }), /^RangeError: tap9: an MTU of 60; give a whole number from 68 to 65536$/);
    assert.throws(make({ mtu: 65_537 }), /an MTU of 65537/);
    assert.throws(make({ address: ADDRESS.subarray(0, 5) }), /"52:54:00:01:02" has 5 bytes, not 6$/);
    assert.throws(make({ address: Uint8Array.of(1, 0, 0, 0, 0, 1) }), /01:00:00:00:00:01 is no address of a station/);
    assert.throws(make({ address: new Uint8Array(6) }), /no address of a station/);
    assert.throws(() => openTapDevice({ name: 'a/b' }), /^RangeError: "a\/b" is no interface name/);
    assert.throws(() => openTapDevice({ name: 'tap9', path: '/dev/null' }), /^SystemError: TUNSETIFF tap9.* ENOTTY$/);
  });

  for (const offloads of [true, false]) {
    it(`talks with Linux ${offloads ? 'with' : 'without'} offloads`, async () => {
      const name = `rs${randomBytes(4).toString('hex')}`;
      const device = openTapDevice({ name, address: ADDRESS, offloads });
      opened.push(() => device.close());
      await using host = await NetworkNamespace.create('tapdev');
      await host.moveIn(name);
      await host.address(name, '10.9.0.1/24');
      const at = device.reserve(42);
      const request = [...Array(6).fill(0xff), ...ADDRESS, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
      request.push(...ADDRESS, 10, 9, 0, 2, 0, 0, 0, 0, 0, 0, 10, 9, 0, 1);
      device.tx.set(request, at);
      device.send(request.length, 0, 0, 0, 0, 0, 0);
      device.flush();
      const reply = waitFor(device, (bytes) => bytes[12] === 8 && bytes[13] === 6 && bytes[21] === 2);
      assert.deepEqual([...reply.subarray(0, 6)], [...ADDRESS]);
      assert.deepEqual([...reply.subarray(28, 32)], [10, 9, 0, 1]);
    });
  }
});

/** The first frame of the kind, waited for on the device's descriptor. */
function waitFor(device: TapDevice, is: (frame: Uint8Array) => boolean): Uint8Array {
  const poll = new PollSet();
  for (const fd of device.fds) poll.add(fd, POLLIN);
  for (const deadline = performance.now() + DELIVERY_MS; performance.now() < deadline; ) {
    const count = device.receive();
    for (let i = 0; i < count; i++) {
      const bytes = device.rx.slice(device.rxOffset[i]!, device.rxOffset[i]! + device.rxLength[i]!);
      if (is(bytes)) return bytes;
    }
    device.release();
    if (count === 0) poll.wait(100);
  }
  throw new Error(`no such frame in ${DELIVERY_MS} ms`);
}
