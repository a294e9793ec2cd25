/**
 * Segments that follow each other in a batch of received packets become one, as if the device had put them together (GRO):
 * TCP looks at one segment with much data, and the program is called once.
 *
 *     TCP packet ─► take() ─┬─ goes on where a train ends ──► copied behind it, nothing else happens
 *                       ├─ may begin a train ──────────► stays where it is, until the next one comes
 *                       └─ anything else ──────────────► false: TCP sees it at once, behind the train of its flow
 *
 *     train = header of the first segment | data | data | …          flush(): a packet with gsoSize, as of a super-frame
 *
 * Only what a super-frame stands for is merged: plain ACKs with data, all alike but for number and length, whose checksums
 * are right; a short one, or PSH, is the last. So nothing is lost by it: a train can be cut into the very same segments
 * again. Flows have a train each, as long as no two fall into one place; the order within a flow is kept.
 *
 * What stays where it is must do so until {@link SegmentMerger.flush}, before the batch is released. Hot: the views
 * for the copies of a segment's bytes are all that it allocates.
 */
import type { Sum } from '../../packet/checksum.ts';
import {
  IPV4_MIN_HEADER_LENGTH,
  IPV6_HEADER_LENGTH,
  TCP_ACK,
  TCP_DATA_OFFSET,
  TCP_FLAGS,
  TCP_MIN_HEADER_LENGTH,
  TCP_PSH,
  TCP_SEQUENCE,
} from '../../packet/header-fields.ts';
import { wordAt } from '../ip/address-table.ts';
import { isIntact, NOT_LOCAL, newPacket, type Packet } from '../packet.ts';

/** Flows that have a train at one time. */
const TRAINS = 8;
const MAX_IP_BYTES = 65_535;
/** Where ports, acknowledgment number and window stand (RFC 9293 §3.1). */
const TCP_ACKNOWLEDGMENT = 8;
const TCP_WINDOW = 14;
const SOURCE_PORT_LOW = 1;
const DESTINATION_PORT_LOW = 3;

class Train {
  /** The first packet; or, from the second segment on, all of them in {@link buffer}. */
  readonly packet = newPacket();
  readonly buffer = new Uint8Array(2 ** 16);
  /** Segments in it; 0: there is none. */
  segments = 0;
  /** Data of the first segment, and where the next one begins. */
  mss = 0;
  next = 0;
  /** MAC address that the first came from. */
  senderHigh = 0;
  senderLow = 0;
}

export class SegmentMerger {
  readonly #sum: Sum;
  readonly #deliver: (packet: Packet, senderHigh: number, senderLow: number) => void;
  readonly #trains = Array.from({ length: TRAINS }, () => new Train());
  /** Trains that wait. */
  #open = 0;

  /** @param deliver gets the trains; the packet is valid during the call only */
  constructor(sum: Sum, deliver: (packet: Packet, senderHigh: number, senderLow: number) => void) {
    this.#sum = sum;
    this.#deliver = deliver;
  }

  /** A whole packet of TCP's. True: it is part of a train now. False: it is the caller's to deliver, at once. */
  take(packet: Packet, senderHigh: number, senderLow: number): boolean {
    const { bytes, at, end } = packet;
    const header = end - at < TCP_MIN_HEADER_LENGTH ? 0 : (bytes[at + TCP_DATA_OFFSET]! >> 4) << 2;
    const length = end - at - header;
    // A segment without data is nothing to merge, and passes quickly where nobody waits; one that is none, anyhow.
    if (header === 0 || (this.#open === 0 && length <= 0)) return false;
    const train = this.#trains[(bytes[at + SOURCE_PORT_LOW]! ^ bytes[at + DESTINATION_PORT_LOW]!) % TRAINS]!;
    const mayBe = isPlain(packet, header, length);
    const flags = mayBe ? bytes[at + TCP_FLAGS]! : 0;
    if (train.segments > 0) {
      if (mayBe && this.#goesOn(train, packet, header, length) && this.#isIntact(packet)) {
        append(train, bytes, at + header, end, flags);
        const isLast = length < train.mss || (flags & TCP_PSH) !== 0;
        if (isLast || train.packet.end - train.packet.ipAt + train.mss > MAX_IP_BYTES) this.#send(train);
        return true;
      }
      this.#send(train);
    }
    if (!mayBe || (flags & TCP_PSH) !== 0 || !this.#isIntact(packet)) return false;
    copyPacket(packet, train.packet);
    train.segments = 1;
    train.mss = length;
    train.next = (wordAt(bytes, at + TCP_SEQUENCE) + length) | 0;
    train.senderHigh = senderHigh;
    train.senderLow = senderLow;
    this.#open++;
    return true;
  }

  /** Delivers all trains: the batch is over. */
  flush(): void {
    if (this.#open === 0) return;
    for (const train of this.#trains) if (train.segments > 0) this.#send(train);
  }

  #send(train: Train): void {
    train.packet.gsoSize = train.segments > 1 ? train.mss : 0;
    train.segments = 0;
    this.#open--;
    this.#deliver(train.packet, train.senderHigh, train.senderLow);
  }

  /** Whether it is what the train's sender would have sent next in the same super-frame. */
  #goesOn(train: Train, packet: Packet, header: number, length: number): boolean {
    const first = train.packet;
    const { bytes, at } = packet;
    const a = first.bytes;
    const b = first.at;
    if (wordAt(bytes, at + TCP_SEQUENCE) !== train.next || length > train.mss) return false;
    if (packet.local !== first.local || packet.family !== first.family) return false;
    if (packet.trafficClass !== first.trafficClass || packet.hopLimit !== first.hopLimit) return false;
    if (wordAt(bytes, at) !== wordAt(a, b)) return false;
    if (wordAt(bytes, at + TCP_ACKNOWLEDGMENT) !== wordAt(a, b + TCP_ACKNOWLEDGMENT)) return false;
    if (bytes[at + TCP_DATA_OFFSET] !== a[b + TCP_DATA_OFFSET]) return false;
    if (bytes[at + TCP_WINDOW] !== a[b + TCP_WINDOW] || bytes[at + TCP_WINDOW + 1] !== a[b + TCP_WINDOW + 1])
      return false;
    for (let i = TCP_MIN_HEADER_LENGTH; i < header; i += 4) {
      if (wordAt(bytes, at + i) !== wordAt(a, b + i)) return false;
    }
    const addressBytes = packet.family === 4 ? 4 : 16;
    for (let i = 0; i < addressBytes; i += 4) {
      if (wordAt(bytes, packet.source + i) !== wordAt(a, first.source + i)) return false;
    }
    return true;
  }

  /** A right checksum is not looked at again; a wrong one is TCP's to count. */
  #isIntact(packet: Packet): boolean {
    if (packet.verified) return true;
    packet.verified = isIntact(packet, packet.end, this.#sum);
    return packet.verified;
  }
}

/** ACK, with or without PSH, and data, to one address of ours; without IP options, and no super-frame yet. */
function isPlain(packet: Packet, header: number, length: number): boolean {
  const { bytes, at } = packet;
  if (header < TCP_MIN_HEADER_LENGTH || length <= 0) return false;
  if ((bytes[at + TCP_FLAGS]! & ~TCP_PSH) !== TCP_ACK || (bytes[at + TCP_DATA_OFFSET]! & 15) !== 0) return false;
  const ipHeader = packet.family === 4 ? IPV4_MIN_HEADER_LENGTH : IPV6_HEADER_LENGTH;
  return packet.gsoSize === 0 && packet.local !== NOT_LOCAL && at - packet.ipAt === ipHeader;
}

/** Puts data behind a train's, whose first segment moves into its buffer with the second. */
function append(train: Train, bytes: Uint8Array, from: number, end: number, flags: number): void {
  const { packet, buffer } = train;
  if (train.segments === 1) {
    const { ipAt } = packet;
    buffer.set(packet.bytes.subarray(ipAt, packet.end));
    packet.bytes = buffer;
    packet.at -= ipAt;
    packet.end -= ipAt;
    packet.source -= ipAt;
    packet.destination -= ipAt;
    packet.ipAt = 0;
  }
  buffer.set(bytes.subarray(from, end), packet.end);
  packet.end += end - from;
  buffer[packet.at + TCP_FLAGS] = buffer[packet.at + TCP_FLAGS]! | flags;
  train.next = (train.next + end - from) | 0;
  train.segments++;
}

function copyPacket(from: Packet, to: Packet): void {
  to.bytes = from.bytes;
  to.at = from.at;
  to.end = from.end;
  to.ipAt = from.ipAt;
  to.family = from.family;
  to.source = from.source;
  to.destination = from.destination;
  to.local = from.local;
  to.protocol = from.protocol;
  to.hopLimit = from.hopLimit;
  to.trafficClass = from.trafficClass;
  to.verified = from.verified;
  to.gsoSize = from.gsoSize;
}
