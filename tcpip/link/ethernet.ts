/**
 * Ethernet II over a frame device (IEEE 802.3 §3.1.1), and one VLAN of it, if told so (IEEE 802.1Q): frames out, and what
 * is for us of the frames in.
 *
 * MAC addresses are two numbers: the first two bytes, and the other four (signed), as they go into a DataView. Hot:
 * allocates nothing.
 */
import {
  ETHERNET_HEADER_LENGTH,
  ETHERNET_SOURCE,
  ETHERNET_TYPE,
  ETHERTYPE_CTAG,
  VLAN_TAG_LENGTH,
} from '../../packet/header-fields.ts';
import { type FrameDevice, NO_ROOM } from '../frame-device.ts';

export const BROADCAST_HIGH = 0xffff;
export const BROADCAST_LOW = -1;

/** IEEE 802.1Q §9.6: VIDs that a VLAN can have. */
const MIN_VID = 1;
const MAX_VID = 4094;
const VID_MASK = 0x0fff;
/** In an address's first two bytes: it is a group's, or everybody's. */
const GROUP = 0x0100;

export interface LinkCounters {
  inFrames: number;
  outFrames: number;
  /** Shorter than a header. */
  inTooShort: number;
  /** For another station. */
  inOtherHost: number;
  /** Of another VLAN. */
  inOtherVlan: number;
  /** Our own address as source: a loop, or somebody has it too. */
  inOwnAddress: number;
  /** Of a protocol that we do not speak. */
  inUnknownProtos: number;
}

export class EthernetLink {
  readonly device: FrameDevice;
  /** Bytes before the IP packet: 14, on a VLAN 18. */
  readonly headerBytes: number;
  /** VID, or 0. */
  readonly vlan: number;
  readonly macHigh: number;
  readonly macLow: number;
  readonly counters: LinkCounters = {
    inFrames: 0,
    outFrames: 0,
    inTooShort: 0,
    inOtherHost: 0,
    inOtherVlan: 0,
    inOwnAddress: 0,
    inUnknownProtos: 0,
  };
  /** The device's memory to write to and to read from, for whole words. */
  view: DataView;
  rxView: DataView;
  #tx: Uint8Array;
  #rx: Uint8Array;
  /** Where the reserved frame begins. */
  frameAt = 0;
  // Of the frame that accept() let in:
  /** EtherType. */
  type = 0;
  /** It was for everybody, or a group. */
  isGroup = false;
  senderHigh = 0;
  senderLow = 0;
  readonly #tagged: number;

  /** Throws RangeError for a VLAN that cannot be. */
  constructor(device: FrameDevice, vlan = 0) {
    if (vlan !== 0 && !(Number.isInteger(vlan) && vlan >= MIN_VID && vlan <= MAX_VID)) {
      throw new RangeError(`${device.name}: VLAN ${vlan}; give a VID from ${MIN_VID} to ${MAX_VID}, or none`);
    }
    this.device = device;
    this.vlan = vlan;
    this.headerBytes = ETHERNET_HEADER_LENGTH + (vlan === 0 ? 0 : VLAN_TAG_LENGTH);
    this.#tagged = (ETHERTYPE_CTAG << 16) | vlan;
    const { address } = device;
    this.macHigh = (address[0]! << 8) | address[1]!;
    this.macLow = (address[2]! << 24) | (address[3]! << 16) | (address[4]! << 8) | address[5]!;
    this.#tx = device.tx;
    this.#rx = device.rx;
    this.view = viewOf(device.tx);
    this.rxView = viewOf(device.rx);
  }

  /** Bytes of an IP packet at the most. */
  get mtu(): number {
    return this.device.mtu;
  }

  /** Once a poll: a device may have got other memory. */
  refresh(): void {
    const { tx, rx } = this.device;
    if (tx !== this.#tx) {
      this.#tx = tx;
      this.view = viewOf(tx);
    }
    if (rx !== this.#rx) {
      this.#rx = rx;
      this.rxView = viewOf(rx);
    }
  }

  /**
   * Looks at the frame at `at` in the device's `rx`. Gives where its payload begins, with {@link type}, {@link isGroup} and the
   * sender set; or -1, counted, when it is not for us.
   */
  accept(at: number, length: number): number {
    const { counters, rxView } = this;
    counters.inFrames++;
    if (length < ETHERNET_HEADER_LENGTH) {
      counters.inTooShort++;
      return -1;
    }
    const high = rxView.getUint16(at);
    this.isGroup = (high & GROUP) !== 0;
    if (!this.isGroup && (rxView.getInt32(at + 2) !== this.macLow || high !== this.macHigh)) {
      counters.inOtherHost++;
      return -1;
    }
    this.senderHigh = rxView.getUint16(at + ETHERNET_SOURCE);
    this.senderLow = rxView.getInt32(at + ETHERNET_SOURCE + 2);
    if (this.senderLow === this.macLow && this.senderHigh === this.macHigh) {
      counters.inOwnAddress++;
      return -1;
    }
    let type = rxView.getUint16(at + ETHERNET_TYPE);
    let payload = at + ETHERNET_HEADER_LENGTH;
    let vid = 0;
    if (type === ETHERTYPE_CTAG) {
      if (length < ETHERNET_HEADER_LENGTH + VLAN_TAG_LENGTH) {
        counters.inTooShort++;
        return -1;
      }
      vid = rxView.getUint16(payload) & VID_MASK;
      type = rxView.getUint16(payload + 2);
      payload += VLAN_TAG_LENGTH;
    }
    // A tag with VID 0 tells a priority and no VLAN (IEEE 802.1Q §9.6).
    if (vid !== this.vlan) {
      counters.inOtherVlan++;
      return -1;
    }
    this.type = type;
    return payload;
  }

  /** Whole words of memory that is the device's `rx`, or of other memory, at the cost of a view. */
  viewOf(bytes: Uint8Array): DataView {
    return bytes === this.#rx ? this.rxView : viewOf(bytes);
  }

  /** Begins a frame with room for `length` bytes of payload: gives where they go in the device's `tx`, or NO_ROOM. */
  begin(macHigh: number, macLow: number, type: number, length: number): number {
    const at = this.device.reserve(this.headerBytes + length);
    if (at === NO_ROOM) return NO_ROOM;
    this.frameAt = at;
    const { view } = this;
    view.setUint16(at, macHigh);
    view.setInt32(at + 2, macLow);
    view.setUint16(at + 6, this.macHigh);
    view.setInt32(at + 8, this.macLow);
    if (this.vlan === 0) {
      view.setUint16(at + ETHERNET_TYPE, type);
      return at + ETHERNET_HEADER_LENGTH;
    }
    view.setInt32(at + ETHERNET_TYPE, this.#tagged);
    view.setUint16(at + ETHERNET_HEADER_LENGTH + VLAN_TAG_LENGTH - 2, type);
    return at + ETHERNET_HEADER_LENGTH + VLAN_TAG_LENGTH;
  }

  /** Ends the frame: `length` bytes of payload were written; the rest is as FrameDevice.send wants it. */
  send(length: number, flags = 0, gsoType = 0, hdrLen = 0, gsoSize = 0, csumStart = 0, csumOffset = 0): void {
    this.counters.outFrames++;
    this.device.send(this.headerBytes + length, flags, gsoType, hdrLen, gsoSize, csumStart, csumOffset);
  }

  /** Writes the header of a frame in other memory, `headerBytes` long. */
  writeHeader(bytes: Uint8Array, at: number, macHigh: number, macLow: number, type: number): void {
    writeMac(bytes, at, macHigh, macLow);
    writeMac(bytes, at + ETHERNET_SOURCE, this.macHigh, this.macLow);
    let typeAt = at + ETHERNET_TYPE;
    if (this.vlan !== 0) {
      bytes[typeAt] = ETHERTYPE_CTAG >>> 8;
      bytes[typeAt + 1] = ETHERTYPE_CTAG & 0xff;
      bytes[typeAt + 2] = this.vlan >>> 8;
      bytes[typeAt + 3] = this.vlan;
      typeAt += VLAN_TAG_LENGTH;
    }
    bytes[typeAt] = type >>> 8;
    bytes[typeAt + 1] = type;
  }
}

/** Writes a MAC address's 6 bytes. */
export function writeMac(bytes: Uint8Array, at: number, macHigh: number, macLow: number): void {
  bytes[at] = macHigh >>> 8;
  bytes[at + 1] = macHigh;
  bytes[at + 2] = macLow >>> 24;
  bytes[at + 3] = macLow >>> 16;
  bytes[at + 4] = macLow >>> 8;
  bytes[at + 5] = macLow;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
