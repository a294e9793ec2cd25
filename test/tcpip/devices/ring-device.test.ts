import assert from 'node:assert/strict';
import { drainEventfd, eventfd, signalEventfd } from '../../../linux/eventfd.ts';
import { close } from '../../../linux/file.ts';
import { MAX_FRAME_BYTES } from '../../../memory/frame-batch.ts';
import { type DriverRings, RingDevice } from '../../../tcpip/devices/ring-device.ts';
import {
  NO_ROOM,
  RECEIVE_BATCH,
  RECEIVE_CHECKSUM,
  RECEIVE_TSO4,
  TRANSMIT_CHECKSUM,
  TRANSMIT_TSO6,
} from '../../../tcpip/frame-device.ts';
import { DriverFrames } from '../../../vhost/driver-frames.ts';
import { DriverMemory } from '../../../vhost/driver-memory.ts';
import { DriverVirtqueue } from '../../../vhost/driver-virtqueue.ts';
import {
  featureSet,
  VIRTIO_F_VERSION_1,
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_RING_F_EVENT_IDX,
} from '../../../vhost/virtio.ts';
import { RawDevice } from '../../helpers/raw-device.ts';

const ADDRESS = Uint8Array.of(0x52, 0x54, 0, 1, 2, 3);
const FEATURES = featureSet(VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX);
const HEADER_BYTES = 12;
const NUM = 8;
const HEADER = Uint8Array.of(0x01, 0x04, 0x36, 0x12, 0xb4, 0x05, 0x22, 0x01, 0x10, 0x02, 0, 0);

/** Rings whose other side the test plays. */
class FakeRings implements DriverRings {
  readonly features: bigint;
  readonly memory: DriverMemory;
  readonly rx: DriverVirtqueue;
  readonly tx: DriverVirtqueue;
  readonly frames: DriverFrames;
  readonly rxCall = eventfd();
  readonly txCall = eventfd();
  readonly rxSide: RawDevice;
  readonly txSide: RawDevice;
  running = true;
  recoveries = 0;
  onRestart = (): void => {};
  recover: (() => Promise<void>) | undefined = async () => void this.recoveries++;
  closed = false;

  constructor(features = FEATURES, num = NUM, slotBytes = HEADER_BYTES + MAX_FRAME_BYTES) {
    this.features = features;
    const rx = { num, slotBytes, writable: true, features };
    const tx = { num, slotBytes, writable: false, features };
    this.memory = new DriverMemory(DriverVirtqueue.bytes(rx) + DriverVirtqueue.bytes(tx));
    this.rx = new DriverVirtqueue(this.memory, rx);
    this.tx = new DriverVirtqueue(this.memory, tx);
    this.frames = new DriverFrames(this.rx, this.memory, features);
    this.rx.kick = eventfd();
    this.tx.kick = eventfd();
    this.rxSide = new RawDevice(this.memory, this.rx);
    this.txSide = new RawDevice(this.memory, this.tx);
    this.frames.restart();
  }

  /** Gives a frame with its header, in the next receive buffer. */
  deliver(...parts: Uint8Array[]): void {
    const bytes = Buffer.concat(parts);
    const slot = this.rxSide.head(this.rxSide.usedIdx);
    new Uint8Array(this.memory.view(this.rx.slotAddress(slot), bytes.length)).set(bytes);
    this.rxSide.use(slot, bytes.length);
  }

  /** What was sent and not yet taken, with headers; marks it used. */
  take(): Uint8Array[] {
    const { txSide } = this;
    const taken: Uint8Array[] = [];
    while (txSide.usedIdx !== txSide.availIdx) {
      const slot = txSide.head(txSide.usedIdx);
      const { addr, len } = txSide.descriptor(slot);
      taken.push(new Uint8Array(this.memory.view(Number(addr), len)).slice());
      txSide.use(slot);
    }
    return taken;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    for (const fd of [this.rxCall, this.txCall, this.rx.kick, this.tx.kick]) close(fd);
    this.memory.close();
  }
}

describe('rings as a frame device', () => {
  let rings: FakeRings;
  let device: RingDevice;
  beforeEach(() => {
    rings = new FakeRings();
    device = new RingDevice({ name: 'ring9', rings, address: ADDRESS });
  });
  afterEach(() => device.close());

  const frame = (length: number, seed = 7): Uint8Array => Uint8Array.from({ length }, (_, i) => (i * seed) & 0xff);
  function send(bytes: Uint8Array, ...fields: number[]): boolean {
    const at = device.reserve(bytes.length);
    if (at === NO_ROOM) return false;
    device.tx.set(bytes, at);
    const [flags = 0, gsoType = 0, hdrLen = 0, gsoSize = 0, csumStart = 0, csumOffset = 0] = fields;
    device.send(bytes.length, flags, gsoType, hdrLen, gsoSize, csumStart, csumOffset);
    return true;
  }

  it('receives frames where they lie, with the fields of their headers', () => {
    assert.equal(device.receive(), 0);
    rings.deliver(HEADER, frame(60));
    rings.deliver(new Uint8Array(HEADER_BYTES), frame(MAX_FRAME_BYTES, 3));
    assert.equal(device.receive(), 2);
    assert.deepEqual(
      [device.rxFlags[0], device.rxGsoType[0], device.rxGsoSize[0], device.rxCsumStart[0], device.rxCsumOffset[0]],
      [1, 4, 0x05b4, 0x0122, 0x0210],
    );
    const bytes = (i: number) => device.rx.slice(device.rxOffset[i], device.rxOffset[i]! + device.rxLength[i]!);
    assert.deepEqual(bytes(0), frame(60));
    assert.deepEqual(bytes(1), frame(MAX_FRAME_BYTES, 3));
    assert.deepEqual([device.rxFlags[1], device.rxGsoType[1]], [0, 0]);
    const offered = rings.rxSide.availIdx;
    device.release();
    assert.equal(rings.rxSide.availIdx, offered + 2);
    assert.equal(device.receive(), 0);
  });

  it('gives its buffers back again and again', () => {
    for (let i = 0; i < 5 * NUM; i++) {
      rings.deliver(HEADER, frame(60 + i));
      assert.equal(device.receive(), 1);
      assert.equal(device.rxLength[0], 60 + i);
      device.release();
    }
  });

  it('drops and counts what is no frame', () => {
    rings.deliver(HEADER, frame(13));
    rings.deliver(HEADER, frame(60));
    rings.deliver(HEADER.subarray(0, 5));
    assert.equal(device.receive(), 1);
    assert.equal(device.rxLength[0], 60);
    device.release();
    assert.equal(device.malformed, 2);
    assert.equal(rings.rx.offered, NUM, 'all buffers are the device’s again');
  });

  it('receives a batch at the most', () => {
    device.close();
    rings = new FakeRings(FEATURES, 2 * RECEIVE_BATCH, 2048);
    device = new RingDevice({ name: 'ring9', rings, address: ADDRESS });
    for (let i = 0; i < RECEIVE_BATCH + 3; i++) rings.deliver(HEADER, frame(60 + i));
    assert.equal(device.receive(), RECEIVE_BATCH);
    device.release();
    assert.equal(device.receive(), 3);
    assert.equal(device.rxLength[2], 60 + RECEIVE_BATCH + 2);
  });

  it('sends frames with their headers, and kicks once a flush', () => {
    assert.ok(send(frame(60), 1, 4, 0x1236, 0x05b4, 0x0122, 0x0210));
    assert.ok(send(frame(90)));
    assert.equal(rings.txSide.availIdx, 0, 'not before the flush');
    device.flush();
    assert.ok(drainEventfd(rings.tx.kick));
    assert.equal(rings.tx.kicks, 1);
    assert.deepEqual(rings.take(), [
      Uint8Array.from([...HEADER, ...frame(60)]),
      Uint8Array.from([...new Uint8Array(HEADER_BYTES), ...frame(90)]),
    ]);
    device.flush();
    assert.equal(rings.tx.freeSlots, NUM);
  });

  it('reserves the same room until it is sent, and has no room when all is under way', () => {
    assert.equal(device.reserve(60), device.reserve(1000));
    for (let i = 0; i < NUM; i++) assert.ok(send(frame(60)));
    device.flush();
    assert.equal(device.reserve(60), NO_ROOM);
    rings.take();
    assert.notEqual(device.reserve(60), NO_ROOM);
  });

  it('asks for calls before it sleeps, and not while it polls', () => {
    rings.deliver(HEADER, frame(60));
    assert.equal(device.enableNotification(), true, 'something came meanwhile');
    device.disableNotification();
    assert.equal(device.receive(), 1);
    device.release();
    assert.equal(device.enableNotification(), false);
    assert.equal(rings.rxSide.usedEvent, 1, 'a call with the next frame');
    assert.deepEqual(device.fds, [rings.rxCall, rings.txCall]);
    signalEventfd(rings.rxCall);
    device.disableNotification();
    assert.equal(drainEventfd(rings.rxCall), false, 'taken back');
    rings.deliver(HEADER, frame(60));
    device.receive();
    device.release();
    assert.equal(rings.rxSide.usedEvent, 1, 'not moved');
  });

  it('asks for a call with room where there was none', () => {
    for (let i = 0; i < NUM; i++) send(frame(60));
    device.flush();
    assert.equal(rings.txSide.usedEvent, 0);
    rings.take();
    for (let i = 0; i < NUM; i++) send(frame(60));
    device.flush();
    assert.equal(device.enableNotification(), false);
    assert.equal(rings.txSide.usedEvent, 0, 'nobody waits for room');
    assert.equal(device.reserve(60), NO_ROOM);
    assert.equal(device.enableNotification(), false);
    assert.equal(rings.txSide.usedEvent, NUM);
    assert.equal(device.reserve(60), NO_ROOM);
    rings.take();
    assert.equal(device.enableNotification(), true, 'room came meanwhile');
  });

  it('drops frames while the other side is away', () => {
    rings.running = false;
    for (let i = 0; i < 3 * NUM; i++) assert.ok(send(frame(60)));
    device.flush();
    assert.equal(device.txDropped, 3 * NUM);
    assert.equal(rings.txSide.availIdx, 0);
  });

  it('begins anew with its rings', () => {
    device.reserve(60);
    send(frame(60));
    device.reserve(60);
    rings.deliver(HEADER, frame(60));
    device.receive();
    rings.rx.reset();
    rings.tx.reset();
    rings.onRestart();
    rings.frames.restart();
    device.release();
    assert.equal(rings.rx.offered, NUM);
    for (let i = 0; i < NUM; i++) assert.ok(send(frame(61)));
    device.flush();
    assert.equal(rings.take().length, NUM);
  });

  it('has broken rings begin anew, where that can be', () => {
    rings.rxSide.use(NUM, 60);
    assert.equal(device.receive(), 0);
    assert.equal(device.receive(), 0);
    assert.equal(rings.recoveries, 1);
    send(frame(60));
    assert.equal(device.txDropped, 1);
    rings.recover = undefined;
    rings.rx.reset();
    rings.onRestart();
    rings.frames.restart();
    const broken: string[] = [];
    device.onBroken = ({ code }) => broken.push(code);
    rings.txSide.usedIdx = 5;
    send(frame(60));
    device.flush();
    assert.deepEqual(broken, ['USED_IDX_JUMPED']);
  });

  it('says which offloads there are', () => {
    const features =
      FEATURES |
      featureSet(VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4);
    const other = new FakeRings(features);
    const made = new RingDevice({ name: 'ring9', rings: other, address: ADDRESS });
    assert.equal(made.offloads, TRANSMIT_CHECKSUM | TRANSMIT_TSO6 | RECEIVE_CHECKSUM | RECEIVE_TSO4);
    made.close();
    assert.equal(device.offloads, 0);
  });

  it('refuses what cannot be', () => {
    assert.throws(() => device.reserve(MAX_FRAME_BYTES + 1), /^RangeError: ring9: a frame of 65551 bytes; the longest/);
    assert.throws(
      () => device.send(60, 0, 0, 0, 0, 0, 0),
      /^RangeError: ring9: a frame was sent that was not reserved$/,
    );
    const refused = new FakeRings(FEATURES | featureSet(VIRTIO_NET_F_MRG_RXBUF));
    assert.throws(
      () => new RingDevice({ name: 'ring9', rings: refused, address: ADDRESS }),
      /^RangeError: ring9: rings with MRG_RXBUF, EVENT_IDX, VERSION_1; a frame device needs VERSION_1, and no MRG_RXBUF$/,
    );
    refused.close();
  });

  it('touches nothing after its end', () => {
    device.reserve(60);
    device.close();
    assert.ok(rings.closed);
    device.send(60, 0, 0, 0, 0, 0, 0);
    device.flush();
    device.release();
    device.disableNotification();
    assert.deepEqual(
      [device.receive(), device.reserve(60), device.enableNotification(), device.fds.length],
      [0, NO_ROOM, false, 0],
    );
  });
});
