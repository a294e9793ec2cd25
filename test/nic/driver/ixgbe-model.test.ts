/** The driver on the software card, in one process: two of them on a cable. */
import assert from 'node:assert/strict';
import { drainEventfd, eventfd } from '../../../linux/eventfd.ts';
import { close } from '../../../linux/file.ts';
import { RXD_STAT_L4I, RXD_STAT_VP } from '../../../nic/descriptors.ts';
import { Ixgbe, type IxgbeOptions } from '../../../nic/driver/ixgbe.ts';
import { CTRL_EXT, CTRL_EXT_DRV_LOAD, EIMS_EX, RXDCTL, RXDCTL_ENABLE } from '../../../nic/registers.ts';
import { CardQueueRings } from '../../helpers/card-queue-rings.ts';
import { FakeClock, wirePair } from '../../helpers/fake-card-host.ts';
import { frameBytes } from '../../helpers/frame-bytes.ts';
import { ModelPciDevice } from '../../helpers/model-pci-device.ts';
import { packet } from '../../helpers/plain-packet.ts';

const A = Uint8Array.of(2, 0, 0, 0, 0, 0xa);
const B = Uint8Array.of(2, 0, 0, 0, 0, 0xb);
const BROADCAST = new Uint8Array(6).fill(0xff);
const GROUP = Uint8Array.of(1, 0, 0x5e, 0, 0, 0xfb);

const frame = (to: Uint8Array, length = 100): Uint8Array =>
  Uint8Array.from([...to, ...A, 0x88, 0xb5, ...frameBytes(length - 14, length)]);

/** `frame` with a VLAN tag. */
const tagged = (bytes: Uint8Array, tag: number): Uint8Array =>
  Uint8Array.from([...bytes.subarray(0, 12), 0x81, 0, tag >>> 8, tag & 0xff, ...bytes.subarray(12)]);

describe('Ixgbe on the software card', () => {
  let devices: ModelPciDevice[];
  let cards: Ixgbe[];
  let rings: CardQueueRings[];
  let time: FakeClock;
  /** The driver's waiting moves the cards' time. */
  const clock = { now: () => time.now() / 1000, sleep: (ms: number) => time.advance(ms * 1000) };
  let a: Ixgbe;
  let b: Ixgbe;

  /** The rings of a card, started. */
  function run(n: number, queues = 1): CardQueueRings[] {
    const own = Array.from(
      { length: queues },
      (_, queue) => new CardQueueRings(cards[n]!.queue(queue), devices[n]!.registers),
    );
    rings.push(...own);
    for (const [queue, pair] of own.entries()) {
      cards[n]!.startQueue(queue);
      pair.start();
    }
    cards[n]!.start();
    return own;
  }

  function make(options: Partial<IxgbeOptions> = {}): void {
    const wires = wirePair();
    time = new FakeClock();
    rings = [];
    devices = [A, B].map((mac, n) => new ModelPciDevice({ name: `card ${n}`, mac, wire: wires[n]!, clock: time }));
    cards = devices.map((device) => Ixgbe.open(device, { queues: 1, clock, ...options }));
    [a, b] = cards as [Ixgbe, Ixgbe];
  }

  afterEach(() => {
    for (const pair of rings) pair[Symbol.dispose]();
    for (const card of cards) card.close();
    for (const device of devices) {
      device.dispose();
      assert.deepEqual(device.faults, []);
    }
  });

  it('initializes it, and knows its address', () => {
    make();
    assert.deepEqual(a.macAddress, A);
    assert.deepEqual(b.macAddress, B);
    assert.equal(devices[0]!.busMaster, true);
    assert.equal(devices[0]!.mapped, 1);
  });

  it('sees the link come up over a cable, go and come with the other side', () => {
    make();
    assert.deepEqual(a.link(), { up: true, speedMbps: 10_000 });
    assert.deepEqual(b.link(), { up: true, speedMbps: 10_000 });
    run(0);
    a.handleInterrupt();
    b.setLink(false);
    assert.deepEqual(a.link(), { up: false, speedMbps: 0 });
    assert.deepEqual(a.handleInterrupt(), { linkChanged: true, fault: null });
    assert.deepEqual(a.handleInterrupt(), { linkChanged: false, fault: null });
    b.setLink(true);
    assert.equal(a.link().up, true);
    b.close();
    assert.equal(a.link().up, false);
  });

  it('carries frames, and counts them', () => {
    make();
    const [tx] = run(0);
    const [rx] = run(1);
    const frames = [60, 100, 1000, 1514].map((length) => frame(B, length));
    for (const bytes of frames) tx!.send(bytes);
    assert.deepEqual(
      rx!.receive().map(({ bytes }) => bytes),
      frames,
    );
    tx!.send(frame(BROADCAST));
    const sent = a.statistics();
    const received = b.statistics();
    const bytes = 60 + 100 + 1000 + 1514 + 100 + 5 * 4;
    assert.equal(sent.tx_packets, 5);
    assert.equal(sent.tx_bytes, bytes);
    assert.equal(sent.tx_queue_0_packets, 5);
    assert.equal(received.rx_packets, 5);
    assert.equal(received.rx_bytes, bytes);
    assert.equal(received.rx_broadcast, 1);
    assert.equal(received.rx_64, 1);
    assert.equal(received.rx_queue_0_packets, 5);
    assert.equal(b.statistics().rx_packets, 5, 'nothing is counted twice');
    assert.equal(received.tx_packets, 0);
  });

  it('carries jumbo frames in several buffers, and none that are longer than allowed', () => {
    make({ maxFrameBytes: 9018 });
    const [tx] = run(0);
    const [rx] = run(1);
    tx!.send(frame(B, 9018));
    tx!.send(frame(B, 9019));
    const received = rx!.receive();
    assert.equal(received.length, 1);
    assert.deepEqual(received[0]!.bytes, frame(B, 9018));
    assert.equal(b.statistics().rx_oversize, 1);
  });

  it('takes what is for it, until it is told otherwise', () => {
    make();
    const [tx] = run(0);
    const [rx] = run(1);
    const other = Uint8Array.of(2, 9, 9, 9, 9, 9);
    const taken = (to: Uint8Array): boolean => {
      tx!.send(frame(to));
      return rx!.receive().length === 1;
    };
    assert.deepEqual([B, BROADCAST, other, GROUP].map(taken), [true, true, false, false]);
    b.filters.setMulticast([GROUP]);
    assert.deepEqual([GROUP, Uint8Array.of(1, 0, 0x5e, 0, 0, 1), other].map(taken), [true, false, false]);
    b.filters.setMulticast([]);
    assert.equal(taken(GROUP), false);
    b.filters.setAllMulticast(true);
    assert.deepEqual([GROUP, other].map(taken), [true, false]);
    b.filters.setAllMulticast(false);
    b.filters.addAddress(other);
    assert.deepEqual([GROUP, other].map(taken), [false, true]);
    b.filters.removeAddress(other);
    assert.equal(taken(other), false);
    for (let n = 0; n < 130; n++) b.filters.addAddress(Uint8Array.of(2, 1, 1, 1, 1, n));
    assert.deepEqual(
      [Uint8Array.of(2, 1, 1, 1, 1, 129), GROUP].map(taken),
      [true, false],
      'more than there are entries',
    );
    b.filters.setPromiscuous(true);
    assert.deepEqual([other, GROUP].map(taken), [true, true]);
  });

  it('filters and strips VLANs', () => {
    make();
    const [tx] = run(0);
    const [rx] = run(1);
    const plain = frame(B);
    const send = (tag: number) => {
      tx!.send(tagged(plain, tag));
      return rx!.receive();
    };
    assert.deepEqual(send(0x2005)[0]!.bytes, tagged(plain, 0x2005), 'tags stay where they are');
    b.filters.setVlanFilter(true);
    assert.equal(send(5).length, 0);
    b.filters.addVlan(5);
    assert.equal(send(5).length, 1);
    assert.equal(send(6).length, 0);
    tx!.send(plain);
    assert.equal(rx!.receive().length, 1, 'untagged frames pass');
    b.filters.setVlanStrip(0, true);
    const [stripped] = send(0x2005);
    assert.deepEqual(stripped!.bytes, plain);
    assert.equal(stripped!.vlanTag, 0x2005);
    assert.equal(stripped!.status & RXD_STAT_VP, RXD_STAT_VP);
    b.filters.removeVlan(5);
    assert.equal(send(5).length, 0);
    b.filters.setVlanFilter(false);
    b.filters.setVlanStrip(0, false);
    assert.deepEqual(send(5)[0]!.bytes, tagged(plain, 5));
  });

  it('spreads flows over the queues, both directions of one to the same', () => {
    make({ queues: 4 });
    const [tx] = run(0);
    const queues = run(1, 4);
    const used = new Set<number>();
    for (let port = 1000; port < 1100; port++) {
      const addresses = { from: [10, 0, 0, 1], to: [10, 0, 0, 2] };
      const of = (there: boolean) =>
        packet({
          ipVersion: 4,
          isTcp: true,
          payload: frameBytes(10, port),
          macs: { from: A, to: B },
          addresses: there ? addresses : { from: addresses.to, to: addresses.from },
          ports: there ? { from: port, to: 80 } : { from: 80, to: port },
        }).bytes;
      const came = [true, false].map((there) => {
        tx!.send(of(there));
        return queues.map((queue) => queue.receive().length).indexOf(1);
      });
      assert.ok(came[0]! >= 0 && came[0] === came[1], `${port}: ${came}`);
      used.add(came[0]!);
    }
    assert.equal(used.size, 4);
    const statistics = b.statistics();
    for (let n = 0; n < 4; n++) assert.ok(statistics[`rx_queue_${n}_packets`]! > 0, `queue ${n}`);
  });

  it('drops for a queue without buffers, where there are others', () => {
    make({ queues: 2 });
    const [tx] = run(0);
    b.startQueue(0);
    b.startQueue(1);
    b.start();
    tx!.send(frame(B));
    assert.equal(b.statistics().rx_no_dma_resources, 1);
  });

  it('interrupts by the vector of the queue, and by the last for the link', () => {
    make({ queues: 2 });
    const fds = [eventfd(), eventfd(), eventfd()];
    try {
      devices[1]!.setInterrupts(fds);
      const [tx] = run(0);
      const [rx] = run(1, 2);
      const fired = () => fds.map((fd) => drainEventfd(fd));
      fired();
      devices[1]!.registers.write32(EIMS_EX(0), 1);
      tx!.send(frame(B));
      assert.deepEqual(fired(), [true, false, false]);
      tx!.send(frame(B));
      assert.deepEqual(fired(), [false, false, false], 'it has masked itself');
      assert.equal(rx!.receive().length, 2);
      a.setLink(false);
      assert.deepEqual(fired(), [false, false, true]);
      assert.equal(b.handleInterrupt().linkChanged, true);
    } finally {
      for (const fd of fds) close(fd);
    }
  });

  it('stops, and goes on with empty rings', () => {
    make();
    const [tx] = run(0);
    const [rx] = run(1);
    tx!.send(frame(B));
    assert.equal(rx!.receive().length, 1);
    assert.equal(b.stop(), null);
    assert.equal(devices[1]!.registers.read32(RXDCTL(0)) & RXDCTL_ENABLE, 0);
    assert.equal(a.link().up, false);
    tx!.send(frame(B));
    const [again] = run(1);
    tx!.send(frame(B, 200));
    assert.deepEqual(
      again!.receive().map(({ bytes }) => bytes),
      [frame(B, 200)],
    );
  });

  it('gives the card back as it was, and takes it again', () => {
    make();
    run(1);
    b.close();
    assert.equal(devices[1]!.busMaster, false);
    assert.equal(devices[1]!.mapped, 0);
    assert.equal(devices[1]!.registers.read32(CTRL_EXT) & CTRL_EXT_DRV_LOAD, 0);
    b = Ixgbe.open(devices[1]!, { queues: 1, clock });
    cards[1] = b;
    const [tx] = run(0);
    const [rx] = run(1);
    tx!.send(frame(B));
    assert.equal(rx!.receive().length, 1);
    assert.equal(b.statistics().rx_packets, 1);
  });

  it('survives that the card is pulled out', () => {
    make();
    run(1);
    devices[1]!.unplugged = true;
    assert.throws(() => b.statistics(), { name: 'CardGoneError', message: /^card 1: the card no longer answers/ });
    assert.equal(b.gone, true);
    b.close();
    assert.equal(devices[1]!.mapped, 0);
    assert.equal(devices[1]!.busMaster, false);
  });

  it('is told of checksums that the card has looked at', () => {
    make();
    const [tx] = run(0);
    const [rx] = run(1);
    tx!.send(packet({ ipVersion: 4, isTcp: false, payload: frameBytes(50, 1), macs: { from: A, to: B } }).bytes);
    tx!.send(frame(B));
    const [udp, other] = rx!.receive();
    assert.equal(udp!.status & RXD_STAT_L4I, RXD_STAT_L4I);
    assert.equal(other!.status & RXD_STAT_L4I, 0);
  });
});
