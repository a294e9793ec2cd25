/**
 * Flow Director (82599 datasheet §7.1.2.7, §8.2.3.21): a table of filters, by a hash of a packet's addresses, ports, protocol, VLAN
 * and two bytes of its own choice, that says which queue a flow goes to.
 *
 *     packet ──► masked fields ──► hash: a list of filters ──► signature (a second hash), or all the fields ──► queue
 *
 * Perfect filters are those of IPv4 packets; pools (VMDq), SCTP and the mask of IPv6 addresses are not known.
 */
import { IPV4_ADDRESSES, IPV6_ADDRESSES } from '../../packet/header-fields.ts';
import {
  FDIRCMD,
  FDIRCMD_ADD_FLOW,
  FDIRCMD_CLEARHT,
  FDIRCMD_CMD_MASK,
  FDIRCMD_DROP,
  FDIRCMD_FILTER_UPDATE,
  FDIRCMD_FILTER_VALID,
  FDIRCMD_FLOW_TYPE_MASK,
  FDIRCMD_FLOW_TYPE_SHIFT,
  FDIRCMD_QUERY,
  FDIRCMD_QUEUE_EN,
  FDIRCMD_REMOVE_FLOW,
  FDIRCMD_RX_QUEUE_MASK,
  FDIRCMD_RX_QUEUE_SHIFT,
  FDIRCTRL,
  FDIRCTRL_DROP_Q_MASK,
  FDIRCTRL_DROP_Q_SHIFT,
  FDIRCTRL_FLEX_OFFSET_MASK,
  FDIRCTRL_FLEX_OFFSET_SHIFT,
  FDIRCTRL_FULL_THRESH_SHIFT,
  FDIRCTRL_INIT_DONE,
  FDIRCTRL_PBALLOC_MASK,
  FDIRCTRL_PERFECT_MATCH,
  FDIRCTRL_REPORT_STATUS,
  FDIRCTRL_REPORT_STATUS_ALWAYS,
  FDIRDIP4M,
  FDIRFREE,
  FDIRFSTAT,
  FDIRHASH,
  FDIRHASH_HASH_MASK,
  FDIRHASH_SIG_SW_INDEX_MASK,
  FDIRHASH_SIG_SW_INDEX_SHIFT,
  FDIRHKEY,
  FDIRIP6M,
  FDIRIPDA,
  FDIRIPSA,
  FDIRLEN,
  FDIRM,
  FDIRM_FLEX,
  FDIRM_L4P,
  FDIRM_VLANID,
  FDIRM_VLANP,
  FDIRMATCH,
  FDIRMISS,
  FDIRPORT,
  FDIRSIP4M,
  FDIRSIPV6,
  FDIRSKEY,
  FDIRTCPM,
  FDIRUDPM,
  FDIRUSTAT,
  FDIRVLAN,
  FLOW_TYPE_IPV6,
  FLOW_TYPE_L4_MASK,
  FLOW_TYPE_L4_TCP,
  FLOW_TYPE_L4_UDP,
} from '../registers.ts';
import { NO_TAG, type PacketHeaders, word } from './packet-headers.ts';
import type { RegisterFile } from './register-file.ts';

/** Signature filters and perfect ones that there is room for, and the bits of the hash that count, by PBALLOC. */
const SIGNATURE_FILTERS = [0, 8190, 16_382, 32_766];
const SIGNATURE_HASH = [0, 0x1fff, 0x3fff, 0x7fff];
const PERFECT_FILTERS = [0, 2046, 4094, 8190];
const PERFECT_HASH = [0, 0x07ff, 0x0fff, 0x1fff];
const THRESHOLD_UNIT = 16;
const VLAN_ID_BITS = 0x0fff;
const VLAN_PRIORITY_BITS = 0xe000;
const FLEX_BITS = 0xffff0000;
const IPV6_WORDS = 8;
const UPPER = 16;
const FSTAT_REMOVE_SHIFT = 8;
const FSTAT_MASK = 0xff;
const USTAT_MASK = 0xffff;
const COUNTER_MOST = 0xffffffff;
const LENGTH_MOST = 0x3f;
const SIPV6_WORDS = 3;

interface Filter {
  /** The signature, or the driver's number of a perfect filter. */
  id: number;
  /** -1: RSS has its say. */
  queue: number;
  drops: boolean;
  /** Of a perfect one, masked: FDIRIPSA, FDIRIPDA, FDIRPORT, FDIRVLAN, and the protocol. */
  source: number;
  destination: number;
  ports: number;
  vlanFlex: number;
  flowType: number;
}

export class FlowDirector {
  /** Of the packet looked at last: whether a filter matched it, the queue (-1: RSS has its say), and whether that is to drop it. */
  matched = false;
  queue = -1;
  drops = false;
  /** Whether its descriptor tells of the filter, and what. */
  reports = false;
  report = 0;
  readonly #registers: RegisterFile;
  readonly #onFull: () => void;
  /** By hash, as far as it counts. */
  #table = new Map<number, Filter[]>();
  #count = 0;
  #toldFull = false;
  /** The packet's fields, masked. */
  #source = 0;
  #destination = 0;
  #ports = 0;
  #vlanFlex = 0;
  #flowType = 0;
  /** All words of its addresses, xor-ed. */
  #addresses = 0;

  /** `onFull` is called when as few filters are free as FDIRCTRL.FULL_THRESH says. */
  constructor(registers: RegisterFile, onFull: () => void) {
    this.#registers = registers;
    this.#onFull = onFull;
    registers.define(FDIRCTRL, {
      read: (stored) => stored | FDIRCTRL_INIT_DONE,
      write: (value) => {
        this.reset();
        return value;
      },
    });
    for (const plain of [FDIRIPSA, FDIRIPDA, FDIRPORT, FDIRVLAN, FDIRHASH, FDIRDIP4M, FDIRSIP4M, FDIRTCPM, FDIRUDPM]) {
      registers.define(plain);
    }
    for (const plain of [FDIRIP6M, FDIRM, FDIRHKEY, FDIRSKEY]) registers.define(plain);
    for (let n = 0; n < SIPV6_WORDS; n++) registers.define(FDIRSIPV6(n));
    registers.define(FDIRCMD, { write: (value) => this.#carryOut(value) });
    registers.define(FDIRFREE, { writable: 0, read: () => this.#capacity - this.#count });
    for (const counter of [FDIRLEN, FDIRUSTAT, FDIRFSTAT, FDIRMATCH, FDIRMISS]) {
      registers.define(counter, {
        writable: 0,
        read: (stored) => {
          registers.set(counter, 0);
          return stored;
        },
      });
    }
  }

  /** Forgets all filters. */
  reset(): void {
    this.#table = new Map();
    this.#count = 0;
    this.#toldFull = false;
  }

  get #control(): number {
    return this.#registers.get(FDIRCTRL);
  }

  get #isPerfect(): boolean {
    return (this.#control & FDIRCTRL_PERFECT_MATCH) !== 0;
  }

  get #capacity(): number {
    return (this.#isPerfect ? PERFECT_FILTERS : SIGNATURE_FILTERS)[this.#control & FDIRCTRL_PBALLOC_MASK]!;
  }

  get #hashMask(): number {
    return (this.#isPerfect ? PERFECT_HASH : SIGNATURE_HASH)[this.#control & FDIRCTRL_PBALLOC_MASK]!;
  }

  /** Looks at a packet whose headers were parsed. */
  look(frame: Uint8Array, headers: PacketHeaders): void {
    this.matched = false;
    this.queue = -1;
    this.drops = false;
    this.reports = false;
    const control = this.#control;
    if ((control & FDIRCTRL_PBALLOC_MASK) === 0 || !(headers.isIpv4 || headers.isIpv6)) return;
    this.#take(frame, headers);
    const hash = this.#hash(FDIRHKEY);
    const filter = this.#find(hash, this.#hash(FDIRSKEY));
    this.#add(filter === undefined ? FDIRMISS : FDIRMATCH);
    this.reports = (control & FDIRCTRL_REPORT_STATUS_ALWAYS) !== 0;
    this.report = (hash << UPPER) >>> 0;
    if (filter === undefined) return;
    this.matched = true;
    this.drops = filter.drops;
    this.queue = filter.drops ? (control >>> FDIRCTRL_DROP_Q_SHIFT) & FDIRCTRL_DROP_Q_MASK : filter.queue;
    this.reports ||= (control & FDIRCTRL_REPORT_STATUS) !== 0;
    this.report = (this.report | filter.id) >>> 0;
  }

  /** The packet's fields, without what the masks say does not count. */
  #take(frame: Uint8Array, { isIpv4, isTcp, isUdp, network, transport, vlanTag }: PacketHeaders): void {
    const registers = this.#registers;
    const masked = registers.get(FDIRM);
    const at = network + (isIpv4 ? IPV4_ADDRESSES : IPV6_ADDRESSES);
    this.#source = 0;
    this.#destination = 0;
    this.#addresses = 0;
    if (isIpv4) {
      this.#source = littleEndian(frame, at) & ~registers.get(FDIRSIP4M);
      this.#destination = littleEndian(frame, at + 4) & ~registers.get(FDIRDIP4M);
      this.#addresses = swapped(this.#source ^ this.#destination);
    } else for (let n = 0; n < IPV6_WORDS; n++) this.#addresses ^= swapped(littleEndian(frame, at + 4 * n));
    this.#ports = 0;
    if (isTcp || isUdp) {
      this.#ports =
        (word(frame, transport) | (word(frame, transport + 2) << UPPER)) &
        ~reversed(registers.get(isTcp ? FDIRTCPM : FDIRUDPM));
    }
    const l4Type = (isTcp ? FLOW_TYPE_L4_TCP : 0) | (isUdp ? FLOW_TYPE_L4_UDP : 0);
    this.#flowType = ((masked & FDIRM_L4P) === 0 ? l4Type : 0) | (isIpv4 ? 0 : FLOW_TYPE_IPV6);
    const vlan = vlanTag === NO_TAG ? 0 : vlanTag;
    const flexAt = 2 * ((this.#control >>> FDIRCTRL_FLEX_OFFSET_SHIFT) & FDIRCTRL_FLEX_OFFSET_MASK);
    const flex = flexAt + 2 <= frame.length ? frame[flexAt]! | (frame[flexAt + 1]! << 8) : 0;
    this.#vlanFlex = (vlan | (flex << UPPER)) & this.#vlanFlexBits;
  }

  /** What counts of VLAN tag and flexible bytes: of the tag never the CFI. */
  get #vlanFlexBits(): number {
    const masked = this.#registers.get(FDIRM);
    return (
      ((masked & FDIRM_VLANID) === 0 ? VLAN_ID_BITS : 0) |
      ((masked & FDIRM_VLANP) === 0 ? VLAN_PRIORITY_BITS : 0) |
      ((masked & FDIRM_FLEX) === 0 ? FLEX_BITS : 0)
    );
  }

  /**
   * Fifteen bits of hash (§7.1.2.7.4): the stream of words, xor-ed into one and the same with its halves swapped, each shifted right
   * by the places of the key's upper and lower bits. VLAN and flow type come in besides, but not under the key's lowest bit.
   */
  #hash(key: number): number {
    const bits = this.#registers.get(key);
    const flex = this.#vlanFlex >>> UPPER;
    const flow = (this.#flowType << UPPER) | (this.#vlanFlex & 0xffff);
    // The flexible bytes have the place of the source port, in the order in which they came.
    const source = (this.#ports & 0xffff) ^ (((flex & 0xff) << 8) | (flex >>> 8));
    let high = this.#addresses ^ ((source << UPPER) | (this.#ports >>> UPPER));
    let low = (high >>> UPPER) | (high << UPPER);
    high ^= flow ^ (flow >>> UPPER);
    let hash = 0;
    for (let n = 0; n < UPPER; n++) {
      if ((bits & (1 << n)) !== 0) hash ^= low >>> n;
      if ((bits & (1 << (n + UPPER))) !== 0) hash ^= high >>> n;
      if (n === 0) low ^= flow ^ (flow << UPPER);
    }
    return hash & FDIRHASH_HASH_MASK;
  }

  #find(hash: number, signature: number): Filter | undefined {
    const list = this.#table.get(hash & this.#hashMask);
    if (list === undefined) return undefined;
    return this.#isPerfect ? list.find((filter) => this.#matches(filter)) : list.find(({ id }) => id === signature);
  }

  #matches({ source, destination, ports, vlanFlex, flowType }: Filter): boolean {
    return (
      (this.#flowType & FLOW_TYPE_IPV6) === 0 &&
      source === this.#source &&
      destination === this.#destination &&
      ports === this.#ports &&
      vlanFlex === this.#vlanFlex &&
      flowType === this.#flowType
    );
  }

  /** A write of FDIRCMD. Gives what it reads as: done, and the answer to a query. */
  #carryOut(command: number): number {
    const rest = (command & ~(FDIRCMD_CMD_MASK | FDIRCMD_FILTER_VALID)) >>> 0;
    if ((command & FDIRCMD_CLEARHT) !== 0) this.reset();
    switch (command & FDIRCMD_CMD_MASK) {
      case FDIRCMD_ADD_FLOW:
        this.#addFilter(command);
        return rest;
      case FDIRCMD_REMOVE_FLOW:
        this.#removeFilter();
        return rest;
      case FDIRCMD_QUERY:
        return this.#named()[1] < 0 ? rest : rest | FDIRCMD_FILTER_VALID;
      default:
        return rest;
    }
  }

  /** The list that FDIRHASH names, and the place in it of the filter that it names, or -1. */
  #named(): [Filter[], number] {
    const hash = this.#registers.get(FDIRHASH);
    const list = this.#table.get(hash & this.#hashMask) ?? [];
    const id = (hash >>> FDIRHASH_SIG_SW_INDEX_SHIFT) & FDIRHASH_SIG_SW_INDEX_MASK;
    return [list, list.findIndex((filter) => filter.id === id)];
  }

  #addFilter(command: number): void {
    const registers = this.#registers;
    const hash = registers.get(FDIRHASH);
    const key = hash & this.#hashMask;
    const masked = registers.get(FDIRM);
    const flowType = (command >>> FDIRCMD_FLOW_TYPE_SHIFT) & FDIRCMD_FLOW_TYPE_MASK;
    const filter: Filter = {
      id: (hash >>> FDIRHASH_SIG_SW_INDEX_SHIFT) & FDIRHASH_SIG_SW_INDEX_MASK,
      queue: (command & FDIRCMD_QUEUE_EN) === 0 ? -1 : (command >>> FDIRCMD_RX_QUEUE_SHIFT) & FDIRCMD_RX_QUEUE_MASK,
      drops: (command & FDIRCMD_DROP) !== 0,
      source: registers.get(FDIRIPSA) & ~registers.get(FDIRSIP4M),
      destination: registers.get(FDIRIPDA) & ~registers.get(FDIRDIP4M),
      ports:
        registers.get(FDIRPORT) &
        ~reversed(registers.get((flowType & FLOW_TYPE_L4_MASK) === FLOW_TYPE_L4_TCP ? FDIRTCPM : FDIRUDPM)),
      vlanFlex: registers.get(FDIRVLAN) & this.#vlanFlexBits,
      flowType: (masked & FDIRM_L4P) === 0 ? flowType : flowType & ~FLOW_TYPE_L4_MASK,
    };
    const list = this.#table.get(key) ?? [];
    const old = list.findIndex((other) => (this.#isPerfect ? isSameFlow(other, filter) : other.id === filter.id));
    if (old >= 0 && (command & FDIRCMD_FILTER_UPDATE) !== 0) {
      list[old] = filter;
      return;
    }
    if (old >= 0 || this.#count >= this.#capacity) {
      this.#add(FDIRFSTAT, 0, FSTAT_MASK);
      return;
    }
    list.push(filter);
    this.#table.set(key, list);
    this.#count++;
    this.#add(FDIRUSTAT, 0, USTAT_MASK);
    if (list.length > (registers.get(FDIRLEN) & LENGTH_MOST)) {
      registers.set(FDIRLEN, Math.min(list.length, LENGTH_MOST) | (key << UPPER));
    }
    this.#checkFull();
  }

  #removeFilter(): void {
    const [list, at] = this.#named();
    if (at < 0) {
      this.#add(FDIRFSTAT, FSTAT_REMOVE_SHIFT, FSTAT_MASK);
      return;
    }
    list.splice(at, 1);
    if (list.length === 0) this.#table.delete(this.#registers.get(FDIRHASH) & this.#hashMask);
    this.#count--;
    this.#add(FDIRUSTAT, UPPER, USTAT_MASK);
    this.#checkFull();
  }

  #checkFull(): void {
    const threshold = (this.#control >>> FDIRCTRL_FULL_THRESH_SHIFT) * THRESHOLD_UNIT;
    const isFull = this.#capacity - this.#count <= threshold;
    if (isFull && !this.#toldFull) this.#onFull();
    this.#toldFull = isFull;
  }

  /** Counts in a field of a register, which sticks at its largest value. */
  #add(counter: number, shift = 0, mask = COUNTER_MOST): void {
    const stored = this.#registers.get(counter);
    if (((stored >>> shift) & mask) >>> 0 !== mask) this.#registers.set(counter, stored + 2 ** shift);
  }
}

const isSameFlow = (a: Filter, b: Filter): boolean =>
  a.source === b.source &&
  a.destination === b.destination &&
  a.ports === b.ports &&
  a.vlanFlex === b.vlanFlex &&
  a.flowType === b.flowType;

/** As FDIRIPSA and FDIRIPDA have an address: its first byte lowest. */
const littleEndian = (bytes: Uint8Array, at: number): number =>
  bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);

const swapped = (value: number): number =>
  (value << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24);

/** The masks of two ports, each with its bits in reverse. */
function reversed(masks: number): number {
  let result = 0;
  for (let n = 0; n < UPPER; n++) {
    if ((masks & (1 << n)) !== 0) result |= 1 << (UPPER - 1 - n);
    if ((masks & (1 << (n + UPPER))) !== 0) result |= 1 << (2 * UPPER - 1 - n);
  }
  return result;
}
