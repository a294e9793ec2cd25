/**
 * Two TCPs and the path between them, in virtual time: delay, rate, queue, loss, duplicates, reordering, all seeded.
 */
import type { Time } from '../../tcpip/network.ts';
import type { TcpOptions } from '../../tcpip/tcp/core.ts';
import { Tcp } from '../../tcpip/tcp/tcp.ts';
import { FakeNetwork, packetOf, type Sent, seeded } from './tcpip-fake-network.ts';

export interface PathOptions {
  /** One way, in µs. */
  delay?: number;
  /** Shares, 0 to 1. */
  loss?: number;
  duplicate?: number;
  /** This share of packets takes `reorderBy` µs longer. */
  reorder?: number;
  reorderBy?: number;
  /** Bytes per second; unlimited when not given. */
  rate?: number;
  /** Bytes that wait for the rate at the most. */
  queue?: number;
  /** Decides over a packet alone: false drops it. */
  passes?: (sent: Sent, from: Host, now: Time) => boolean;
  mtu?: number;
  seed?: number;
  segments?: boolean;
  tcp?: Partial<TcpOptions>;
}

export class Host {
  readonly name: string;
  readonly network: FakeNetwork;
  readonly tcp: Tcp;
  readonly address: Uint8Array;
  /** Everything that it sent. */
  sent = 0;

  constructor(name: string, address: Uint8Array, options: PathOptions, seed: number, clock: () => Time) {
    this.name = name;
    this.address = address;
    this.network = new FakeNetwork([address]);
    this.network.destinations.mtu = options.mtu ?? 1500;
    this.network.segments = options.segments ?? false;
    this.tcp = new Tcp(this.network, seeded(seed), { ...options.tcp, clock });
    this.tcp.onError = (error) => {
      throw error;
    };
  }
}

interface Flying {
  at: Time;
  order: number;
  to: Host;
  sent: Sent;
}

export class TwoHosts {
  now: Time = 1_000_000;
  readonly a: Host;
  readonly b: Host;
  readonly options: PathOptions;
  readonly #random: () => number;
  /** A heap: what arrives next is first. */
  readonly #flying: Flying[] = [];
  #order = 0;
  /** When the line to a host is free again. */
  readonly #free = new Map<Host, Time>();
  dropped = 0;
  /** Sees everything that is sent. */
  watch: (sent: Sent, from: Host, now: Time) => void = () => {};

  constructor(options: PathOptions = {}) {
    this.options = options;
    this.#random = seeded(options.seed ?? 1);
    this.a = new Host('a', Uint8Array.of(10, 0, 0, 1), options, 11, () => this.now);
    this.b = new Host('b', Uint8Array.of(10, 0, 0, 2), options, 12, () => this.now);
    this.a.network.onSent = (sent) => this.#send(this.a, this.b, sent);
    this.b.network.onSent = (sent) => this.#send(this.b, this.a, sent);
  }

  #chance(share: number | undefined): boolean {
    return share !== undefined && share > 0 && this.#random() / 2 ** 32 < share;
  }

  #send(from: Host, to: Host, sent: Sent): void {
    from.sent++;
    this.watch(sent, from, this.now);
    for (const one of cut(sent)) this.#sendOne(from, to, one);
  }

  #sendOne(from: Host, to: Host, sent: Sent): void {
    const { options } = this;
    if (options.passes?.(sent, from, this.now) === false || this.#chance(options.loss)) {
      this.dropped++;
      return;
    }
    let at = this.now;
    if (options.rate !== undefined) {
      const free = Math.max(this.now, this.#free.get(to) ?? 0);
      if (((free - this.now) * options.rate) / 1e6 > (options.queue ?? 100_000)) {
        this.dropped++;
        return;
      }
      at = free + Math.ceil(((sent.bytes.length + 40) * 1e6) / options.rate);
      this.#free.set(to, at);
    }
    at += options.delay ?? 100;
    if (this.#chance(options.reorder)) at += options.reorderBy ?? 1000;
    this.#fly({ at, order: this.#order++, to, sent });
    if (this.#chance(options.duplicate)) this.#fly({ at: at + 10, order: this.#order++, to, sent });
  }

  /** What is to be done now is done: called by itself after every event; by tests after calls of their own. */
  settle(): void {
    for (const host of [this.a, this.b]) host.tcp.settle(this.now);
  }

  /** Time goes on until `until` or until nothing more is to come. Gives the number of events. */
  run(until: Time = Number.POSITIVE_INFINITY): number {
    let events = 0;
    this.settle();
    for (;;) {
      const next = this.#flying[0] ?? null;
      const due = Math.min(next?.at ?? Number.POSITIVE_INFINITY, this.a.tcp.deadline, this.b.tcp.deadline);
      if (due > until || due === Number.POSITIVE_INFINITY) break;
      this.now = Math.max(this.now, due);
      if (next !== null && next.at <= this.now) {
        this.#land();
        next.to.tcp.input(packetOf(next.sent, next.to.network), this.now);
        next.to.tcp.settle(this.now);
      } else {
        for (const host of [this.a, this.b]) {
          if (host.tcp.deadline > this.now) continue;
          host.tcp.tick(this.now);
          host.tcp.settle(this.now);
        }
      }
      if (++events > 5_000_000) throw new Error('it does not come to an end');
    }
    if (until !== Number.POSITIVE_INFINITY) this.now = Math.max(this.now, until);
    return events;
  }

  runFor(microseconds: Time): number {
    return this.run(this.now + microseconds);
  }

  #fly(one: Flying): void {
    const heap = this.#flying;
    let i = heap.push(one) - 1;
    while (i > 0 && isBefore(one, heap[(i - 1) >> 1]!)) {
      heap[i] = heap[(i - 1) >> 1]!;
      i = (i - 1) >> 1;
    }
    heap[i] = one;
  }

  #land(): void {
    const heap = this.#flying;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++;
      if (child >= heap.length || !isBefore(heap[child]!, last)) break;
      heap[i] = heap[child]!;
      i = child;
    }
    heap[i] = last;
  }
}

function isBefore(one: Flying, other: Flying): boolean {
  return one.at < other.at || (one.at === other.at && one.order < other.order);
}

/** What a device makes of a super-frame. */
function cut(sent: Sent): Sent[] {
  if (sent.gsoSize === 0) return [sent];
  const header = sent.headerLength;
  const parts: Sent[] = [];
  const view = new DataView(sent.bytes.buffer, sent.bytes.byteOffset);
  const seq = view.getUint32(4);
  for (let at = header; at < sent.bytes.length; at += sent.gsoSize) {
    const data = sent.bytes.subarray(at, Math.min(at + sent.gsoSize, sent.bytes.length));
    const bytes = new Uint8Array(header + data.length);
    bytes.set(sent.bytes.subarray(0, header));
    bytes.set(data, header);
    const isLast = at + sent.gsoSize >= sent.bytes.length;
    new DataView(bytes.buffer).setUint32(4, seq + at - header);
    // FIN and PSH on the last, CWR on the first only.
    if (!isLast) bytes[13] = bytes[13]! & ~0x09;
    if (at > header) bytes[13] = bytes[13]! & ~0x80;
    parts.push({ ...sent, bytes: withChecksum(bytes, sent), gsoSize: 0 });
  }
  return parts;
}

function withChecksum(bytes: Uint8Array, { source, destination }: Sent): Uint8Array {
  bytes[16] = 0;
  bytes[17] = 0;
  let total = 6 + bytes.length;
  for (const part of [source, destination, bytes]) {
    for (let i = 0; i < part.length; i += 2) total += (part[i]! << 8) | (part[i + 1] ?? 0);
  }
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000);
  bytes[16] = (~total >> 8) & 0xff;
  bytes[17] = ~total & 0xff;
  return bytes;
}
