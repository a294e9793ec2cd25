/**
 * ICMPv6 messages of our own: built in memory of their own, completed with header and checksum, and sent.
 *
 *     at = output.begin(type, code) ─► write the body behind the first four bytes ─► finish(length) ─► toGroup() … toMac()
 *
 * One message at a time; the bytes are the next message's when it has been sent.
 */
import { finish, pseudoHeaderSumIpv6, sum } from '../../packet/checksum.ts';
import { IPV6_HEADER_LENGTH, IPV6_HOP_BY_HOP } from '../../packet/header-fields.ts';
import type { NetworkHost } from '../ip/network-layer.ts';
import { GROUP_MAC_HIGH, groupMacLow } from './addresses.ts';
import { ICMPV6_CHECKSUM } from './icmpv6-header.ts';
import {
  IPPROTO_ICMPV6,
  IPV6_ADDRESS_BYTES,
  IPV6_DESTINATION,
  IPV6_MAX_PAYLOAD,
  IPV6_SOURCE,
  OPTION_PADN,
  OPTION_ROUTER_ALERT,
  ROUTER_ALERT_DATA_BYTES,
  ROUTER_ALERT_MLD,
  writeIpv6Header,
  writeUint16,
} from './ipv6-header.ts';

/** A hop-by-hop header with a router alert, padded to one unit (RFC 3810 §5). */
const ROUTER_ALERT_HEADER = Uint8Array.of(
  IPPROTO_ICMPV6,
  0,
  OPTION_ROUTER_ALERT,
  ROUTER_ALERT_DATA_BYTES,
  ROUTER_ALERT_MLD >> 8,
  ROUTER_ALERT_MLD & 0xff,
  OPTION_PADN,
  0,
);
const INITIAL_BYTES = 2048;

export class Icmpv6Output {
  bytes: Uint8Array = new Uint8Array(INITIAL_BYTES);
  /** Whole packet: [0, end). */
  end = 0;
  readonly counters = { outMsgs: 0, outErrors: 0 };
  readonly #host: NetworkHost;
  #at = IPV6_HEADER_LENGTH;

  constructor(host: NetworkHost) {
    this.#host = host;
  }

  /** Makes sure that a message of so many bytes has room. */
  reserve(length: number): void {
    const needed = IPV6_HEADER_LENGTH + length;
    if (this.bytes.length < needed) this.bytes = new Uint8Array(needed);
  }

  /** Begins a message; gives where its ICMPv6 header is. */
  begin(type: number, code: number, hasRouterAlert = false): number {
    this.#at = IPV6_HEADER_LENGTH;
    if (hasRouterAlert) {
      this.bytes.set(ROUTER_ALERT_HEADER, IPV6_HEADER_LENGTH);
      this.#at += ROUTER_ALERT_HEADER.length;
    }
    const { bytes } = this;
    bytes[this.#at] = type;
    bytes[this.#at + 1] = code;
    bytes.fill(0, this.#at + 2, this.#at + 8);
    return this.#at;
  }

  /** Completes it: `length` bytes from the ICMPv6 header on. */
  finish(
    source: Uint8Array,
    sourceAt: number,
    destination: Uint8Array,
    destinationAt: number,
    hopLimit: number,
    length: number,
  ): void {
    const { bytes } = this;
    const payload = this.#at + length - IPV6_HEADER_LENGTH;
    if (payload > IPV6_MAX_PAYLOAD) throw new RangeError(`an ICMPv6 message of ${length} bytes; IPv6 takes 65535`);
    const hasRouterAlert = this.#at !== IPV6_HEADER_LENGTH;
    writeIpv6Header(bytes, 0, 0, 0, payload, hasRouterAlert ? IPV6_HOP_BY_HOP : IPPROTO_ICMPV6, hopLimit);
    for (let i = 0; i < IPV6_ADDRESS_BYTES; i++) {
      bytes[IPV6_SOURCE + i] = source[sourceAt + i];
      bytes[IPV6_DESTINATION + i] = destination[destinationAt + i];
    }
    writeUint16(bytes, this.#at + ICMPV6_CHECKSUM, 0);
    this.end = this.#at + length;
    const partial = pseudoHeaderSumIpv6(bytes, IPV6_SOURCE, IPPROTO_ICMPV6, length);
    writeUint16(bytes, this.#at + ICMPV6_CHECKSUM, finish(sum(bytes, this.#at, this.end, partial)));
  }

  /** Sends it to the group that it is for. False: the device has no room. */
  toGroup(): boolean {
    return this.toMac(GROUP_MAC_HIGH, groupMacLow(this.bytes, IPV6_DESTINATION));
  }

  toMac(macHigh: number, macLow: number): boolean {
    this.counters.outMsgs++;
    return this.#host.sendPacketTo(macHigh, macLow, 6, this.bytes, 0, this.end);
  }
}
