/** A card's queue pair against a card that the test plays: it reads and writes descriptors and buffers as the tails tell. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { close } from '../../linux/file.ts';
import { viewMemory } from '../../linux/libc.ts';
import { MAP_SHARED, memfd, mmap, munmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import type { Arena } from '../../memory/arena.ts';
import { BATCH_FRAMES, FrameBatch, HEADER_BYTES, HEADROOM } from '../../memory/frame-batch.ts';
import { SharedBuffer } from '../../memory/shared-buffer.ts';
import {
  RXD_ERR_RXE,
  RXD_ERR_TCPE,
  RXD_STAT_DD,
  RXD_STAT_EOP,
  RXD_STAT_L4I,
  TXD_CMD_EOP,
  TXD_CMD_RS,
  TXD_CMD_TSE,
  TXD_DTALEN_MASK,
  TXD_DTYP_CONTEXT,
  TXD_DTYP_MASK,
  TXD_PAYLEN_SHIFT,
  TXD_STAT_DD,
} from '../../nic/descriptors.ts';
import { BUFFER_BYTES, queueLayout } from '../../nic/driver/queue-memory.ts';
import { EIMS_EX, RDT, TDT } from '../../nic/registers.ts';
import { CardQueue } from '../../switch/card-queue.ts';
import { TX_DROP_ERROR, TX_DROP_LINK_DOWN, TX_DROP_NO_BUFFERS, TX_DROP_TOO_BIG } from '../../switch/counters.ts';
import { TRANSMITTED } from '../../switch/port.ts';
import {
  VIRTIO_NET_HDR_F_DATA_VALID,
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
} from '../../vhost/virtio.ts';
import { ARENAS } from '../helpers/arenas.ts';
import { appendTestFrame, type TestFrame } from '../helpers/fake-queue.ts';
import { frameBytes, frameOf, join } from '../helpers/frame-bytes.ts';
import { checksumsVerify, packet, withOptions } from '../helpers/plain-packet.ts';

const DESCRIPTORS = 64;
/** Frames that the card has room for, but not twice. */
const MANY = 40;
const BUS = 0x2_0000_0000;
const REGISTER_BYTES = 0x8000;
const MAX_FRAME_BYTES = 9018;
const HUGE_PAGE_BYTES = 2 ** 21;

interface Sent {
  /** What the frame's buffers hold. */
  bytes: Uint8Array;
  segmented: boolean;
  payload: number;
}

/** Memory and registers of one queue pair, and what a card does with them. */
class PlayedCard implements Disposable {
  readonly queue: CardQueue;
  readonly #layout = queueLayout(DESCRIPTORS, DESCRIPTORS);
  readonly #fd = memfd('card-queue-test', this.#layout.length);
  readonly #address: number;
  readonly #bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #registers = new SharedBuffer(REGISTER_BYTES);
  readonly #registerWords = new Uint32Array(this.#registers.bytes);
  #head = 0;
  #txHead = 0;
  contexts = 0;

  constructor(arena: Arena, interruptFd = 0) {
    const { length } = this.#layout;
    this.#address = mmap({ length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED, fd: this.#fd });
    const memory = viewMemory(this.#address, length);
    this.#bytes = new Uint8Array(memory);
    this.#words = new Uint32Array(memory);
    this.queue = new CardQueue(
      {
        fd: this.#fd,
        layout: this.#layout,
        mapping: { pageBytes: length, pages: [BUS] },
        registerAccess: { kind: 'mapped', address: this.#registers.address, length: REGISTER_BYTES },
        rxTail: RDT(0),
        txTail: TDT(0),
        vector: 3,
        interruptFd,
        maxFrameBytes: MAX_FRAME_BYTES,
      },
      arena,
    );
    this.queue.start();
  }

  register(offset: number): number {
    return this.#registerWords[offset / 4]!;
  }

  /** Receives a frame: its bytes, over as many buffers as it takes, or a write-back that lies. */
  receive(bytes: Uint8Array, status = 0, length?: number): void {
    for (let at = 0; at < bytes.length; at += BUFFER_BYTES) {
      assert.notEqual(this.#head, this.register(RDT(0)), 'the card has no descriptor');
      const word = 4 * this.#head;
      const to = this.#words[word]! + this.#words[word + 1]! * 2 ** 32 - BUS;
      const part = bytes.subarray(at, at + BUFFER_BYTES);
      this.#bytes.set(part, to);
      const last = at + part.length === bytes.length ? RXD_STAT_EOP : 0;
      this.#words.set([0, 0, (status | last | RXD_STAT_DD) >>> 0, length ?? part.length], word);
      this.#head = (this.#head + 1) % DESCRIPTORS;
    }
  }

  /** Sends what was announced, and writes back what asks for it. */
  send(): Sent[] {
    const sent: Sent[] = [];
    let parts: Uint8Array[] = [];
    let options = 0;
    for (; this.#txHead !== this.register(TDT(0)); this.#txHead = (this.#txHead + 1) % DESCRIPTORS) {
      const word = this.#layout.txRing / 4 + 4 * this.#txHead;
      const [low, high, command, status] = this.#words.subarray(word, word + 4) as unknown as [
        number,
        number,
        number,
        number,
      ];
      if ((command & TXD_DTYP_MASK) === TXD_DTYP_CONTEXT) this.contexts++;
      else {
        const from = low + high * 2 ** 32 - BUS;
        if (parts.length === 0) options = status;
        parts.push(this.#bytes.slice(from, from + (command & TXD_DTALEN_MASK)));
      }
      if ((command & TXD_CMD_EOP) !== 0) {
        const payload = options >>> TXD_PAYLEN_SHIFT;
        sent.push({ bytes: join(parts), segmented: (command & TXD_CMD_TSE) !== 0, payload });
        parts = [];
      }
      if ((command & TXD_CMD_RS) !== 0) this.#words[word + 3] = TXD_STAT_DD;
    }
    return sent;
  }

  [Symbol.dispose](): void {
    this.queue.close();
    munmap(this.#address, this.#layout.length);
    close(this.#fd);
    this.#registers.free();
  }
}

for (const { name, arena } of ARENAS) {
  describe(`CardQueue, ${name}`, () => {
    let card: PlayedCard;
    let batch: FrameBatch;

    beforeEach(() => {
      card = new PlayedCard(arena());
      batch = new FrameBatch(arena());
    });
    afterEach(() => card[Symbol.dispose]());

    /** Hands frames to the queue and flushes; gives how many it took. */
    const transmit = (...frames: (TestFrame | Uint8Array)[]): number => {
      batch.clear();
      for (const frame of frames) appendTestFrame(batch, frame instanceof Uint8Array ? { bytes: frame } : frame);
      const taken = card.queue.transmit(batch, 0, frames.length);
      card.queue.flush();
      return taken;
    };
    const receive = (): Uint8Array[] => {
      batch.clear();
      const frames = card.queue.receive(batch);
      return Array.from({ length: frames }, (_, i) => frameOf(batch, i));
    };

    it('gives the card all receive buffers but one', () => {
      assert.equal(card.register(RDT(0)), DESCRIPTORS - 1);
    });

    it('receives frames of one and of several buffers, in order, and gives their buffers back', () => {
      const frames = [60, 2048, 2049, 9018, 14, 1514].map(frameBytes);
      for (let round = 0; round < 20; round++) {
        for (const frame of frames) card.receive(frame);
        assert.deepEqual(receive(), frames);
        card.queue.release(2);
        assert.deepEqual(receive(), frames.slice(2), 'what was not released comes again');
        card.queue.release(4);
        card.queue.flush();
        assert.deepEqual(receive(), []);
      }
      assert.equal(card.queue.malformed, 0);
    });

    it('passes on that checksums were found right, and nothing when they were not', () => {
      card.receive(frameBytes(60, 1), RXD_STAT_L4I);
      card.receive(frameBytes(60, 2), RXD_STAT_L4I | RXD_ERR_TCPE);
      card.receive(frameBytes(60, 3));
      assert.equal(receive().length, 3);
      assert.deepEqual([...batch.flags.subarray(0, 3)], [VIRTIO_NET_HDR_F_DATA_VALID, 0, 0]);
    });

    it('counts what is no frame, and goes on behind it', () => {
      const good = frameBytes(100, 7);
      card.receive(frameBytes(13, 1));
      card.receive(good);
      card.receive(frameBytes(64, 1), RXD_ERR_RXE);
      card.receive(frameBytes(64, 1), 0, 0xffff);
      card.receive(good);
      const got: Uint8Array[] = [];
      for (let breath = 0; breath < 10; breath++) {
        const frames = receive();
        got.push(...frames);
        card.queue.release(frames.length);
      }
      assert.deepEqual(got, [good, good]);
      assert.equal(card.queue.malformed, 3);
    });

    it('sends plain frames with one announcement, short and long ones too', () => {
      const frames = [60, 1514, 42, 2032, 2033, 9018, 17].map(frameBytes);
      for (let round = 0; round < 30; round++) {
        assert.equal(transmit(...frames), frames.length);
        const sent = card.send();
        assert.deepEqual(
          sent.map(({ bytes }) => bytes),
          frames,
        );
        assert.deepEqual(
          sent.map(({ payload }) => payload),
          frames.map(({ length }) => length),
        );
      }
    });

    it('pads what is too short for the card', () => {
      const short = frameBytes(14, 1);
      assert.equal(transmit(short), 1);
      const [sent] = card.send();
      assert.deepEqual(sent!.bytes, join([short, new Uint8Array(3)]));
      assert.equal(sent!.payload, 17);
    });

    it('has no room while the card sends nothing, and goes on when it does', () => {
      const frames = Array.from({ length: MANY }, (_, i) => frameBytes(60, i));
      assert.equal(transmit(...frames), MANY);
      const more = transmit(...frames);
      assert.equal(more, DESCRIPTORS - 1 - MANY);
      assert.equal(card.queue.refusal, TX_DROP_NO_BUFFERS);
      assert.equal(transmit(frames[0]!), 0);
      assert.equal(card.send().length, DESCRIPTORS - 1);
      assert.equal(transmit(...frames), MANY);
      assert.equal(card.queue.refusal, TRANSMITTED);
    });

    it('takes no frame that is longer than the wire', () => {
      assert.equal(transmit(frameBytes(MAX_FRAME_BYTES + 1, 1), frameBytes(60, 1)), 0);
      assert.equal(card.queue.refusal, TX_DROP_TOO_BIG);
    });

    const tcp = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(40_000, 3) });
    const superFrame: TestFrame = {
      bytes: tcp.bytes,
      flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
      gsoType: VIRTIO_NET_HDR_GSO_TCPV4,
      gsoSize: 1448,
      hdrLen: tcp.payload,
      csumStart: tcp.transport,
      csumOffset: tcp.csumOffset,
    };

    it('leaves a super-frame to the card, with one context for all that are alike', () => {
      for (let round = 0; round < 10; round++) {
        assert.equal(transmit(superFrame, frameBytes(60, round)), 2);
        const [sent, plain] = card.send();
        assert.equal(sent!.segmented, true);
        assert.equal(sent!.payload, 40_000);
        assert.deepEqual(sent!.bytes.subarray(tcp.payload), tcp.bytes.subarray(tcp.payload));
        assert.equal(plain!.segmented, false);
        assert.deepEqual(plain!.bytes, frameBytes(60, round));
      }
      assert.equal(card.contexts, 1);
    });

    it('does in software what the card cannot: a checksum of no protocol that it knows', () => {
      const bytes = frameBytes(200, 9);
      const odd: TestFrame = { bytes, flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 20, csumOffset: 2 };
      assert.equal(transmit(odd), 1);
      const [sent] = card.send();
      assert.equal(card.contexts, 0);
      let sum = 0;
      for (let at = 20; at < 200; at += 2) sum += (sent!.bytes[at]! << 8) | sent!.bytes[at + 1]!;
      // The field's old content was part of the sum that replaced it.
      const old = (bytes[22]! << 8) | bytes[23]!;
      while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
      assert.equal((sum + old) % 0xffff, 0);
    });

    it('segments in software what the card would choke on, all of it or nothing', () => {
      const small = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(400, 3) });
      const crumbs: TestFrame = {
        ...superFrame,
        bytes: small.bytes,
        gsoSize: 40,
        hdrLen: small.payload,
        csumStart: small.transport,
        csumOffset: small.csumOffset,
      };
      assert.equal(transmit(crumbs), 1);
      const segments = card.send();
      assert.equal(segments.length, 10);
      for (const { bytes } of segments) assert.equal(checksumsVerify(bytes, small, true), true);
      assert.equal(transmit(...Array.from({ length: 30 }, (_, i) => frameBytes(60, i))), 30);
      assert.equal(transmit(...Array.from({ length: 25 }, (_, i) => frameBytes(60, i))), 25);
      assert.equal(transmit(crumbs), 0);
      assert.equal(card.queue.refusal, TX_DROP_NO_BUFFERS);
      assert.equal(card.send().length, 55);
    });

    it('asks for an interrupt before the lane sleeps, unless there is something already', () => {
      assert.equal(card.queue.enableNotification(false, false), false);
      assert.equal(card.register(EIMS_EX(0)), 1 << 3);
      card.receive(frameBytes(60, 1));
      assert.equal(card.queue.enableNotification(false, false), true);
      assert.equal(card.queue.enableNotification(true, false), false, 'its frames wait for somebody else');
    });

    it('counts a frame of several buffers that is too short for one, and goes on behind it', () => {
      const long = frameBytes(3000, 1);
      const good = frameBytes(100, 7);
      card.receive(long);
      card.receive(frameBytes(13, 1));
      card.receive(long);
      card.receive(good);
      const got: Uint8Array[] = [];
      for (let breath = 0; breath < 10; breath++) {
        const frames = receive();
        got.push(...frames);
        card.queue.release(frames.length);
      }
      assert.deepEqual(got, [long, long, good]);
      assert.equal(card.queue.malformed, 1);
    });

    it('takes no super-frame that there is no room for, and takes it when there is', () => {
      const plain = Array.from({ length: MANY }, (_, i) => frameBytes(60, i));
      assert.equal(transmit(...plain), MANY);
      assert.equal(transmit(...plain.slice(0, 12)), 12);
      assert.equal(transmit(superFrame), 0);
      assert.equal(card.queue.refusal, TX_DROP_NO_BUFFERS);
      assert.equal(card.send().length, MANY + 12);
      assert.equal(transmit(superFrame), 1);
      assert.equal(card.queue.refusal, TRANSMITTED);
      const [sent] = card.send();
      assert.deepEqual(sent!.bytes.subarray(tcp.payload), tcp.bytes.subarray(tcp.payload));
    });

    it('drops what its headers say is nonsense, and only that', () => {
      const lies: TestFrame = { bytes: frameBytes(60, 1), flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 59 };
      assert.equal(transmit(lies, frameBytes(60, 2)), 0);
      assert.equal(card.queue.refusal, TX_DROP_ERROR);
      const noTcp: TestFrame = { ...superFrame, bytes: frameBytes(4000, 1), gsoSize: 40 };
      assert.equal(transmit(noTcp), 0);
      assert.equal(card.queue.refusal, TX_DROP_ERROR);
      assert.equal(transmit(frameBytes(60, 3)), 1);
      assert.deepEqual(
        card.send().map(({ bytes }) => bytes),
        [frameBytes(60, 3)],
      );
    });

    it('takes no more crumbs than the ring could ever have room for', () => {
      const many: TestFrame = { ...superFrame, gsoSize: 60 };
      assert.equal(transmit(many), 0);
      assert.equal(card.queue.refusal, TX_DROP_TOO_BIG);
    });

    it('looks once more before the lane sleeps for want of room', () => {
      const frames = Array.from({ length: BATCH_FRAMES }, (_, i) => frameBytes(60, i));
      transmit(...frames);
      transmit(...frames);
      assert.equal(card.queue.enableNotification(false, true), false, 'nothing was sent yet');
      card.send();
      assert.equal(card.queue.enableNotification(false, true), true, 'there is room now');
      assert.equal(card.queue.enableNotification(false, true), false);
    });

    it('has an eventfd to sleep on where the card interrupts, and is polled where it cannot', () => {
      const heard: number[] = [];
      const sink = { addEventfd: (fd: number) => heard.push(fd), addReadable: () => assert.fail('it is no eventfd') };
      card.queue.addPollFds(sink);
      assert.deepEqual(heard, [0]);
      card.queue.gone = true;
      card.queue.addPollFds(sink);
      assert.equal(card.queue.enableNotification(false, false), false);
      using polled = new PlayedCard(arena(), -1);
      polled.queue.addPollFds(sink);
      assert.deepEqual(heard, [0]);
      assert.equal(polled.queue.enableNotification(false, false), true, 'its lane never sleeps');
      assert.equal(polled.register(EIMS_EX(0)), 0);
    });

    it('holds no room in the arena when its memory cannot be mapped, and may be closed twice', () => {
      const layout = queueLayout(DESCRIPTORS, DESCRIPTORS);
      const description = {
        ...{ fd: -1, layout, mapping: { pageBytes: layout.length, pages: [BUS] }, rxTail: RDT(0), txTail: TDT(0) },
        ...{ registerAccess: { kind: 'mapped' as const, address: 0, length: 0 }, vector: 0, interruptFd: -1 },
        maxFrameBytes: MAX_FRAME_BYTES,
      };
      const free = arena().reserve(layout.length, HUGE_PAGE_BYTES, 0);
      arena().free(free, layout.length);
      assert.throws(() => new CardQueue(description, arena()), { code: 'EBADF' });
      const again = arena().reserve(layout.length, HUGE_PAGE_BYTES, 0);
      arena().free(again, layout.length);
      assert.equal(again, free);
      card.queue.close();
      card.queue.close();
      assert.equal(card.queue.ready, false);
    });

    it('refuses an odd checksum on a frame that is too long for the wire', () => {
      const bytes = frameBytes(MAX_FRAME_BYTES + 500, 9);
      assert.equal(transmit({ bytes, flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 20, csumOffset: 2 }), 0);
      assert.equal(card.queue.refusal, TX_DROP_TOO_BIG);
      assert.deepEqual(card.send(), []);
    });

    it('waits for all the buffers that a frame with an odd checksum takes', () => {
      for (const count of [30, 32]) {
        assert.equal(transmit(...Array.from({ length: count }, (_, i) => frameBytes(60, i))), count);
      }
      const odd = { bytes: frameBytes(9000, 9), flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 20, csumOffset: 2 };
      assert.equal(transmit(odd), 0);
      assert.equal(card.queue.refusal, TX_DROP_NO_BUFFERS);
      assert.equal(card.send().length, 62);
      assert.equal(transmit(odd), 1);
      assert.deepEqual(
        card.send().map(({ bytes }) => bytes.length),
        [9000],
      );
    });

    it('refuses a super-frame whose segments are too long for the wire', () => {
      const tcp = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(40_000, 3) });
      const taken = transmit({
        bytes: tcp.bytes,
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        gsoType: VIRTIO_NET_HDR_GSO_TCPV4,
        gsoSize: 20_000,
        hdrLen: tcp.payload,
        csumStart: tcp.transport,
        csumOffset: tcp.csumOffset,
      });
      assert.equal(taken, 0);
      assert.equal(card.queue.refusal, TX_DROP_TOO_BIG);
      assert.deepEqual(card.send(), []);
    });

    it('measures segments by all of their headers, also where these are longer than a batch shows', () => {
      // The TCP header begins within what a batch shows of a frame, and its length stands behind.
      const shape = { ipVersion: 6, isTcp: true, payload: frameBytes(20_000, 3) } as const;
      const of = withOptions(packet(shape), shape, 64);
      assert.ok(of.transport < HEADER_BYTES && of.transport + 12 >= HEADER_BYTES);
      const ask = {
        bytes: of.bytes,
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        gsoType: VIRTIO_NET_HDR_GSO_TCPV6,
        hdrLen: of.payload,
        csumStart: of.transport,
        csumOffset: of.csumOffset,
      };
      assert.equal(transmit({ ...ask, gsoSize: MAX_FRAME_BYTES - of.payload + 1 }), 0);
      assert.equal(card.queue.refusal, TX_DROP_TOO_BIG);
      assert.equal(transmit({ ...ask, gsoSize: MAX_FRAME_BYTES - of.payload }), 1);
      const segments = card.send();
      assert.equal(segments.length, Math.ceil(20_000 / (MAX_FRAME_BYTES - of.payload)));
      assert.equal(segments[0]!.bytes.length, MAX_FRAME_BYTES);
      for (const { bytes } of segments) assert.equal(checksumsVerify(bytes, of, true), true);
    });

    it('sends in one segment what is shorter than the segments that it asks for', () => {
      const short = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(500, 3) });
      assert.equal(transmit({ ...superFrame, bytes: short.bytes, gsoSize: 20_000 }), 1);
      const [sent, ...more] = card.send();
      assert.deepEqual(more, []);
      assert.equal(sent!.bytes.length, short.bytes.length);
      assert.equal(checksumsVerify(sent!.bytes, short, true), true);
    });

    it('drops a super-frame of IP in IP, of which neither it nor the card could make right segments', () => {
      const outer = tcp.bytes.slice(tcp.ip, tcp.transport);
      outer[9] = 4;
      const bytes = join([tcp.bytes.subarray(0, tcp.ip), outer, tcp.bytes.subarray(tcp.ip)]);
      assert.equal(transmit({ ...superFrame, bytes, csumStart: tcp.transport + outer.length }), 0);
      assert.equal(card.queue.refusal, TX_DROP_ERROR);
      assert.deepEqual(card.send(), []);
    });

    it('takes a frame of several buffers whole or not at all, however full the ring is and wherever it begins', () => {
      const odd = { bytes: frameBytes(9000, 9), flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 20, csumOffset: 2 };
      // Software cuts it, for it shows too little of the headers: into segments of 8940 bytes.
      const shape = { ipVersion: 6, isTcp: true, payload: frameBytes(20_000, 3) } as const;
      const of = withOptions(packet(shape), shape, 64);
      const jumbo = {
        bytes: of.bytes,
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        gsoType: VIRTIO_NET_HDR_GSO_TCPV6,
        gsoSize: 8940 - of.payload,
        hdrLen: of.payload,
        csumStart: of.transport,
        csumOffset: of.csumOffset,
      };
      const cases: [frame: TestFrame, wire: number[]][] = [
        [odd, [9000]],
        [jumbo, [8940, 8940, of.payload + 20_000 - 2 * jumbo.gsoSize]],
      ];
      const short = frameBytes(60, 1);
      for (const [frame, wire] of cases) {
        for (let full = 0; full < DESCRIPTORS; full++) {
          for (let left = full; left > 0; ) left -= transmit(...new Array<Uint8Array>(Math.min(left, 32)).fill(short));
          const taken = transmit(frame);
          if (taken === 0) assert.equal(card.queue.refusal, TX_DROP_NO_BUFFERS);
          const sent = card.send().map(({ bytes }) => bytes.length);
          assert.deepEqual(sent, [...new Array<number>(full).fill(60), ...(taken === 1 ? wire : [])], `${full} before`);
          const room = DESCRIPTORS - 1 - full;
          if (room >= (wire.length + 1) * 5) assert.equal(taken, 1, `${room} buffers are free`);
        }
      }
    });

    it('sends every frame that it says it took, whole, and drops for good only what can never go (property)', () => {
      /** A frame, and the lengths of what shall go on the wire of it. */
      type Asked = { frame: TestFrame; wire: number[] };
      const lengths = fc.oneof(
        fc.integer({ min: 24, max: 100 }),
        fc.integer({ min: 2000, max: MAX_FRAME_BYTES + 50 }),
        fc.constantFrom(MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1),
      );
      const odd = { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 20, csumOffset: 2 };
      const frames = fc
        .tuple(lengths, fc.constantFrom({}, odd))
        .map(([length, fields]): Asked => ({ frame: { bytes: frameBytes(length, 1), ...fields }, wire: [length] }));
      const payloads = fc.integer({ min: 1, max: 20_000 });
      const gsoSizes = fc.oneof(fc.integer({ min: 20, max: 1500 }), fc.integer({ min: 8900, max: 20_000 }));
      const superFrames = fc.tuple(payloads, gsoSizes).map(([payload, gsoSize]): Asked => {
        const { bytes } = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(payload, 3) });
        const segments = Math.ceil(payload / gsoSize);
        const wire = Array.from({ length: segments }, (_, n) => tcp.payload + Math.min(gsoSize, payload - n * gsoSize));
        return { frame: { ...superFrame, bytes, gsoSize }, wire };
      });
      const waiting: Asked[] = [];
      const send = (): void => {
        const sent = card.send();
        for (const { frame, wire } of waiting.splice(0)) {
          const expected = sent[0]?.segmented ? [frame.bytes.length] : wire;
          const got = sent.splice(0, expected.length).map(({ bytes }) => bytes.length);
          assert.deepEqual(got, expected);
        }
        assert.deepEqual(sent, []);
      };
      const steps = fc.array(fc.tuple(fc.oneof(frames, superFrames), fc.boolean()), { maxLength: 40 });
      let tooBig = 0;
      fc.assert(
        fc.property(steps, (script) => {
          card.send();
          waiting.length = 0;
          for (const [asked, sends] of script) {
            const { frame, wire } = asked;
            let taken = transmit(frame);
            if (taken === 0 && card.queue.refusal === TX_DROP_NO_BUFFERS) {
              send();
              taken = transmit(frame);
            }
            const longest = Math.max(...wire);
            if (taken === 1) {
              assert.ok(longest <= MAX_FRAME_BYTES, `${longest} bytes on the wire`);
              waiting.push(asked);
            } else {
              tooBig++;
              assert.equal(card.queue.refusal, TX_DROP_TOO_BIG);
              const buffers = wire.length * Math.ceil((longest + HEADROOM) / BUFFER_BYTES);
              assert.ok(longest > MAX_FRAME_BYTES || buffers > DESCRIPTORS - 10, `${buffers} buffers would do`);
            }
            if (sends) send();
          }
          send();
        }),
        { numRuns: 100 },
      );
      assert.ok(tooBig > 10, `only ${tooBig} were too big`);
    });

    it('touches nothing of a card that has gone', () => {
      card.receive(frameBytes(60, 1));
      card.queue.gone = true;
      assert.equal(card.queue.ready, false);
      assert.deepEqual(receive(), []);
      assert.equal(transmit(frameBytes(60, 1)), 0);
      assert.equal(card.queue.refusal, TX_DROP_LINK_DOWN);
      assert.equal(card.register(TDT(0)), 0);
    });
  });
}
