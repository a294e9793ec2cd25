/** Receive-side scaling (82599 datasheet §7.1.2.8): the Toeplitz hash of a packet, and the queue that RETA gives for it. */
import { IPV4_ADDRESSES, IPV6_ADDRESSES } from '../../packet/header-fields.ts';
import {
  RSS_TYPE_IPV4,
  RSS_TYPE_IPV4_TCP,
  RSS_TYPE_IPV4_UDP,
  RSS_TYPE_IPV6,
  RSS_TYPE_IPV6_TCP,
  RSS_TYPE_IPV6_UDP,
  RSS_TYPE_NONE,
} from '../descriptors.ts';
import {
  MRQC,
  MRQC_LEGACY,
  MRQC_MRQE_MASK,
  MRQC_MRQE_RSS,
  MRQC_RSS_FIELD_IPV4,
  MRQC_RSS_FIELD_IPV4_TCP,
  MRQC_RSS_FIELD_IPV4_UDP,
  MRQC_RSS_FIELD_IPV6,
  MRQC_RSS_FIELD_IPV6_TCP,
  MRQC_RSS_FIELD_IPV6_UDP,
  RETA,
  RETA_LEGACY,
  RETA_WORDS,
  RSSRK,
  RSSRK_LEGACY,
  RSSRK_WORDS,
} from '../registers.ts';
import { RSS_KEY_BYTES, Toeplitz } from '../toeplitz.ts';
import type { PacketHeaders } from './packet-headers.ts';
import type { RegisterFile } from './register-file.ts';

const IPV4_ADDRESSES_BYTES = 8;
const IPV6_ADDRESSES_BYTES = 32;
const PORTS_BYTES = 4;
/** RETA has 128 entries of eight bits, of which four say the queue. */
const RETA_INDEX_MASK = 0x7f;
const RETA_QUEUE_MASK = 0xf;

export class ReceiveSideScaling {
  /** Of the packet looked at last: RSS_TYPE_…, the hash, and the queue; type NONE, 0 and queue 0 where RSS has no say. */
  type = RSS_TYPE_NONE;
  hash = 0;
  queue = 0;
  readonly #registers: RegisterFile;
  readonly #input = new Uint8Array(IPV6_ADDRESSES_BYTES + PORTS_BYTES);
  /** The hash under the key in RSSRK; null when that was written since. */
  #toeplitz: Toeplitz | null = null;

  constructor(registers: RegisterFile) {
    this.#registers = registers;
    registers.define(MRQC);
    registers.alias(MRQC_LEGACY, MRQC);
    for (let n = 0; n < RETA_WORDS; n++) {
      registers.define(RETA(n));
      registers.alias(RETA_LEGACY(n), RETA(n));
    }
    const write = (value: number): number => {
      this.#toeplitz = null;
      return value;
    };
    for (let n = 0; n < RSSRK_WORDS; n++) {
      registers.define(RSSRK(n), { write });
      registers.alias(RSSRK_LEGACY(n), RSSRK(n));
    }
  }

  /** The key is what RSSRK holds after a reset. */
  reset(): void {
    this.#toeplitz = null;
  }

  /** Looks at a packet. */
  look(frame: Uint8Array, headers: PacketHeaders): void {
    this.type = RSS_TYPE_NONE;
    this.hash = 0;
    this.queue = 0;
    const control = this.#registers.get(MRQC);
    if ((control & MRQC_MRQE_MASK) !== MRQC_MRQE_RSS) return;
    const { isIpv4, isIpv6, isTcp, isUdp } = headers;
    const has = (field: number): boolean => (control & field) !== 0;
    if (isIpv4) {
      if (isTcp && has(MRQC_RSS_FIELD_IPV4_TCP)) this.type = RSS_TYPE_IPV4_TCP;
      else if (isUdp && has(MRQC_RSS_FIELD_IPV4_UDP)) this.type = RSS_TYPE_IPV4_UDP;
      else if (has(MRQC_RSS_FIELD_IPV4)) this.type = RSS_TYPE_IPV4;
    } else if (isIpv6) {
      if (isTcp && has(MRQC_RSS_FIELD_IPV6_TCP)) this.type = RSS_TYPE_IPV6_TCP;
      else if (isUdp && has(MRQC_RSS_FIELD_IPV6_UDP)) this.type = RSS_TYPE_IPV6_UDP;
      else if (has(MRQC_RSS_FIELD_IPV6)) this.type = RSS_TYPE_IPV6;
    }
    if (this.type === RSS_TYPE_NONE) return;
    const withPorts = this.type !== RSS_TYPE_IPV4 && this.type !== RSS_TYPE_IPV6;
    this.hash = this.#hashOf(frame, headers, withPorts);
    const index = this.hash & RETA_INDEX_MASK;
    this.queue = (this.#registers.get(RETA(index >>> 2)) >>> (8 * (index & 3))) & RETA_QUEUE_MASK;
  }

  #hashOf(frame: Uint8Array, { isIpv4, network, transport }: PacketHeaders, withPorts: boolean): number {
    const bytes = isIpv4 ? IPV4_ADDRESSES_BYTES : IPV6_ADDRESSES_BYTES;
    const from = network + (isIpv4 ? IPV4_ADDRESSES : IPV6_ADDRESSES);
    const input = this.#input;
    for (let i = 0; i < bytes; i++) input[i] = frame[from + i]!;
    if (!withPorts) return this.#key().hash(input, 0, bytes);
    for (let i = 0; i < PORTS_BYTES; i++) input[bytes + i] = frame[transport + i]!;
    return this.#key().hash(input, 0, bytes + PORTS_BYTES);
  }

  #key(): Toeplitz {
    if (this.#toeplitz !== null) return this.#toeplitz;
    const key = new Uint8Array(RSS_KEY_BYTES);
    const view = new DataView(key.buffer);
    for (let n = 0; n < RSSRK_WORDS; n++) view.setUint32(4 * n, this.#registers.get(RSSRK(n)), true);
    this.#toeplitz = new Toeplitz(key);
    return this.#toeplitz;
  }
}
