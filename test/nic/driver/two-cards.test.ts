/**
 * Two drivers of this process on two software cards of another, whose cable carries numbered frames: so card and driver touch
 * descriptors at the same time, on two processors, as they do on a bus.
 */
import assert from 'node:assert/strict';
import { CardModel } from '../../../lab/model.ts';
import { viewMemory } from '../../../linux/libc.ts';
import { MAP_SHARED, mmap, munmap, PROT_READ, PROT_WRITE } from '../../../linux/mman.ts';
import { DESCRIPTOR_BYTES } from '../../../nic/descriptors.ts';
import { BufferTable } from '../../../nic/driver/buffer-table.ts';
import { Ixgbe } from '../../../nic/driver/ixgbe.ts';
import { BUFFER_BYTES, busAddress } from '../../../nic/driver/queue-memory.ts';
import { ReceiveRing } from '../../../nic/driver/receive-ring.ts';
import { registerWriter } from '../../../nic/driver/register-writer.ts';
import { TransmitRing } from '../../../nic/driver/transmit-ring.ts';
import { openPciDevice } from '../../../nic/pci/open.ts';

const FRAMES = 60_000;
const FRAME_BYTES = 1000;
/** Frames on the way at the most: fewer than either ring has descriptors, so none may be lost. */
const WINDOW = 400;
const BATCH = 32;
/** IEEE 802: for experiments. */
const ETHERTYPE = 0x88b5;
const NUMBER_AT = 20;
const STALL_MS = 10_000;
/** More than both packet buffers and all rings hold; and how often the receiver asks for a pause before it takes any. */
const SLOW_FRAMES = 10_000;
const PAUSES = 5;

function wait(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** A card with one queue pair, which this thread runs. */
class Side implements Disposable {
  readonly card: Ixgbe;
  readonly rx: ReceiveRing;
  readonly tx: TransmitRing;
  readonly table: BufferTable;
  readonly #received: DataView;
  readonly #toSend: DataView;
  readonly #address: number;
  readonly #length: number;

  constructor(socket: string) {
    const clock = { now: () => performance.now(), sleep: wait };
    this.card = Ixgbe.open(openPciDevice(`vfio-user:${socket}`), { queues: 1, promiscuous: true, clock });
    const { fd, layout, mapping, registerAccess, rxTail, txTail } = this.card.queue(0);
    this.#length = layout.length;
    this.#address = mmap({ length: layout.length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED, fd });
    const part = (offset: number, bytes: number) => viewMemory(this.#address + offset, bytes);
    const writer = registerWriter(registerAccess);
    const buffers = (first: number, count: number) =>
      new BufferTable(count, (i) => busAddress(mapping, first + i * BUFFER_BYTES));
    this.rx = new ReceiveRing({
      descriptors: part(layout.rxRing, layout.rxDescriptors * DESCRIPTOR_BYTES),
      buffers: buffers(layout.rxBuffers, layout.rxDescriptors),
      bufferBytes: BUFFER_BYTES,
      writer,
      tail: rxTail,
    });
    this.tx = new TransmitRing({
      descriptors: part(layout.txRing, layout.txDescriptors * DESCRIPTOR_BYTES),
      writer,
      tail: txTail,
    });
    this.table = buffers(layout.txBuffers, layout.txDescriptors);
    this.table.lengths.fill(FRAME_BYTES);
    this.#received = new DataView(part(layout.rxBuffers, layout.rxDescriptors * BUFFER_BYTES));
    this.#toSend = new DataView(part(layout.txBuffers, layout.txDescriptors * BUFFER_BYTES));
    this.card.startQueue(0);
    this.rx.publish();
    this.card.start();
  }

  /** Posts broadcast frames `first`, `first` + 1, … */
  send(first: number, count: number): void {
    const view = this.#toSend;
    for (let n = first; n < first + count; n++) {
      const at = (n % this.table.count) * BUFFER_BYTES;
      view.setUint16(at, 0xffff);
      view.setUint32(at + 2, 0xffffffff);
      view.setUint16(at + 12, ETHERTYPE);
      view.setUint32(at + NUMBER_AT, n);
    }
    this.tx.postBuffers(this.table, first % this.table.count, count, first);
    this.tx.publish();
  }

  /** The number of the `f`-th frame that waits. */
  number(f: number): number {
    return this.#received.getUint32(this.rx.index(f) * BUFFER_BYTES + NUMBER_AT);
  }

  [Symbol.dispose](): void {
    this.card.close();
    munmap(this.#address, this.#length);
  }
}

describe('two cards on a cable', function () {
  this.timeout(90_000);

  it('carry every frame once and in order, while both sides run', async () => {
    await using model = await CardModel.start({ cards: 2 });
    using a = new Side(model.sockets[0]!);
    using b = new Side(model.sockets[1]!);
    while (!(a.card.link().up && b.card.link().up)) wait(10);
    let sent = 0;
    let seen = 0;
    for (let last = performance.now(); seen < FRAMES; ) {
      a.tx.reclaim();
      const some = Math.min(a.tx.free, a.table.count - (sent - a.tx.done), 8, WINDOW - (sent - seen), FRAMES - sent);
      if (some > 0) a.send(sent, some);
      sent += Math.max(0, some);
      const waiting = b.rx.poll(BATCH);
      for (let f = 0; f < waiting; f++) assert.equal(b.number(f), seen++, model.log);
      b.rx.release(waiting);
      b.rx.publish();
      if (waiting > 0) last = performance.now();
      else assert.ok(performance.now() - last < STALL_MS, `${seen} of ${sent} frames came\n${model.log}`);
    }
    assert.equal(b.rx.errors, 0);
    const { rx_packets, rx_queue_0_packets, rx_missed } = b.card.statistics();
    assert.deepEqual(
      { rx_packets, rx_queue_0_packets, rx_missed },
      { rx_packets: FRAMES, rx_queue_0_packets: FRAMES, rx_missed: 0 },
    );
    assert.equal(a.card.statistics().tx_packets, FRAMES);
  });

  it('lose nothing to a slow receiver: it asks for pauses, and the sender obeys', async () => {
    await using model = await CardModel.start({ cards: 2 });
    using a = new Side(model.sockets[0]!);
    using b = new Side(model.sockets[1]!);
    while (!(a.card.link().up && b.card.link().up)) wait(10);
    let sent = 0;
    const sendSome = (): void => {
      a.tx.reclaim();
      const some = Math.min(a.tx.free, a.table.count - (sent - a.tx.done), BATCH, SLOW_FRAMES - sent);
      if (some > 0) a.send(sent, some);
      sent += Math.max(0, some);
    };
    // Nobody takes frames here, until a pause was asked for again and again.
    let pauses = 0;
    for (const start = performance.now(); pauses < PAUSES; ) {
      sendSome();
      pauses = b.card.statistics().tx_flow_control_xoff!;
      assert.ok(performance.now() - start < STALL_MS, `${pauses} pauses, ${sent} frames sent\n${model.log}`);
    }
    assert.ok(sent < SLOW_FRAMES, 'it was stopped');
    // Then somebody does, a frame or two at a time.
    let seen = 0;
    for (let last = performance.now(); seen < SLOW_FRAMES; ) {
      sendSome();
      const waiting = b.rx.poll(2);
      for (let f = 0; f < waiting; f++) assert.equal(b.number(f), seen++, model.log);
      b.rx.release(waiting);
      b.rx.publish();
      if (waiting > 0) last = performance.now();
      else assert.ok(performance.now() - last < STALL_MS, `${seen} of ${sent} frames came\n${model.log}`);
    }
    const received = b.card.statistics();
    assert.deepEqual([received.rx_packets, received.rx_missed, received.rx_no_dma_resources], [SLOW_FRAMES, 0, 0]);
    assert.equal(received.tx_packets, 0, 'pause frames are none of it');
    assert.ok(received.tx_flow_control_xon! > 0);
    const { tx_packets, rx_packets, rx_flow_control_xoff } = a.card.statistics();
    assert.deepEqual([tx_packets, rx_packets], [SLOW_FRAMES, 0]);
    assert.equal(rx_flow_control_xoff, received.tx_flow_control_xoff);
  });
});
