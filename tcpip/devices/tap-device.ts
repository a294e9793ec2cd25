/**
 * A Linux tap as a frame device: one system call a frame.
 *
 *     stack ── TapDevice ── read(2), write(2) ── /dev/net/tun ── interface of the kernel
 *
 * The descriptor has IFF_TAP, IFF_NO_PI and IFF_VNET_HDR, is non-blocking, and its header has 12 bytes
 * (TUNSETVNETHDRSZ): see open-tap.ts. Hot: allocates nothing.
 */
import { EBADFD } from '../../linux/errno.ts';
import { close, readAddress, writeAddress } from '../../linux/file.ts';
import { TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 } from '../../linux/if-tun.ts';
import { type Address, addressOf } from '../../linux/libc.ts';
import type { Arena } from '../../memory/arena.ts';
import { MAX_FRAME_BYTES, MIN_FRAME_BYTES } from '../../memory/frame-batch.ts';
import type { Sum } from '../../packet/checksum.ts';
import { VIRTIO_NET_HDR_MRG_RXBUF_BYTES } from '../../vhost/virtio.ts';
import {
  RECEIVE_BATCH,
  RECEIVE_CHECKSUM,
  RECEIVE_TSO4,
  RECEIVE_TSO6,
  TRANSMIT_CHECKSUM,
  TRANSMIT_TSO4,
  TRANSMIT_TSO6,
} from '../frame-device.ts';
import { DeviceMemory, sumIn } from './device-arena.ts';
import { checkMacAddress, checkMtu, DEFAULT_MTU } from './device-options.ts';
import type { WaitableDevice } from './waitable-device.ts';

/** TUNSETVNETHDRSZ of the tap. */
export const TAP_HEADER_BYTES = VIRTIO_NET_HDR_MRG_RXBUF_BYTES;
/** Of one received frame with its header: room for the longest, in whole cache lines. */
const SLOT_BYTES = 65_600;
const TRANSMIT_OFFLOADS = TRANSMIT_CHECKSUM | TRANSMIT_TSO4 | TRANSMIT_TSO6;

export interface TapDeviceOptions {
  /** For messages. */
  name: string;
  /** The tap, which becomes this device's to close. */
  fd: number;
  /** Of our side: another one than the kernel's interface has. */
  address: Uint8Array;
  /** Default 1500. */
  mtu?: number;
  /** TUN_F_… of TUNSETOFFLOAD: what the kernel may give us. 0: plain frames only. */
  offloads?: number;
  /** Whether the kernel shall do checksums and segmentation for us, which it always can. Default true. */
  transmitOffloads?: boolean;
  /** Where its frames shall lie, for {@link TapDevice.sum}. */
  arena?: Arena;
}

export class TapDevice implements WaitableDevice {
  readonly name: string;
  readonly address: Uint8Array;
  readonly mtu: number;
  readonly offloads: number;
  readonly rx: Uint8Array;
  readonly tx: Uint8Array;
  readonly sum: Sum | undefined;
  readonly rxOffset = new Uint32Array(RECEIVE_BATCH);
  readonly rxLength = new Uint32Array(RECEIVE_BATCH);
  readonly rxFlags = new Uint8Array(RECEIVE_BATCH);
  readonly rxGsoType = new Uint8Array(RECEIVE_BATCH);
  readonly rxGsoSize = new Uint16Array(RECEIVE_BATCH);
  readonly rxCsumStart = new Uint16Array(RECEIVE_BATCH);
  readonly rxCsumOffset = new Uint16Array(RECEIVE_BATCH);
  /** Received frames too short or too long to be any. */
  malformed = 0;
  /** Frames that the kernel did not take: its queue is full, or the interface is down. */
  txDropped = 0;
  /** The interface was deleted under us. */
  gone = false;
  readonly #fd: number;
  readonly #fds: readonly number[];
  readonly #rxAddress: Address;
  readonly #txAddress: Address;
  readonly #memory: DeviceMemory | null;
  #open = true;

  constructor(options: TapDeviceOptions) {
    const { name, fd, address, mtu = DEFAULT_MTU, offloads = 0, transmitOffloads = true, arena } = options;
    this.name = name;
    this.#fd = fd;
    this.#fds = [fd];
    this.address = checkMacAddress(address, name);
    this.mtu = checkMtu(mtu, name);
    this.offloads =
      (transmitOffloads ? TRANSMIT_OFFLOADS : 0) |
      ((offloads & TUN_F_CSUM) !== 0 ? RECEIVE_CHECKSUM : 0) |
      ((offloads & TUN_F_TSO4) !== 0 ? RECEIVE_TSO4 : 0) |
      ((offloads & TUN_F_TSO6) !== 0 ? RECEIVE_TSO6 : 0);
    const rxBytes = RECEIVE_BATCH * SLOT_BYTES;
    this.#memory = arena === undefined ? null : new DeviceMemory(arena, rxBytes + SLOT_BYTES);
    const bytes = this.#memory?.bytes ?? new Uint8Array(rxBytes + SLOT_BYTES);
    this.rx = bytes.subarray(0, rxBytes);
    this.tx = bytes.subarray(rxBytes);
    this.#rxAddress = this.#memory?.address ?? addressOf(bytes);
    this.#txAddress = this.#rxAddress + rxBytes;
    this.sum = arena && sumIn(arena, this.rx, this.#rxAddress, this.tx, this.#txAddress);
  }

  receive(): number {
    if (!this.#open || this.gone) return 0;
    const bytes = this.rx;
    let count = 0;
    while (count < RECEIVE_BATCH) {
      const at = count * SLOT_BYTES;
      const length = readAddress(this.#fd, this.#rxAddress + at, SLOT_BYTES);
      if (length < 0) {
        if (length === -EBADFD) this.gone = true;
        break;
      }
      if (length < TAP_HEADER_BYTES + MIN_FRAME_BYTES || length > TAP_HEADER_BYTES + MAX_FRAME_BYTES) {
        this.malformed++;
        continue;
      }
      this.rxOffset[count] = at + TAP_HEADER_BYTES;
      this.rxLength[count] = length - TAP_HEADER_BYTES;
      this.rxFlags[count] = bytes[at]!;
      this.rxGsoType[count] = bytes[at + 1]!;
      this.rxGsoSize[count] = bytes[at + 4]! | (bytes[at + 5]! << 8);
      this.rxCsumStart[count] = bytes[at + 6]! | (bytes[at + 7]! << 8);
      this.rxCsumOffset[count] = bytes[at + 8]! | (bytes[at + 9]! << 8);
      count++;
    }
    return count;
  }

  release(): void {}

  reserve(length: number): number {
    if (length > MAX_FRAME_BYTES) {
      throw new RangeError(`${this.name}: a frame of ${length} bytes; the longest has ${MAX_FRAME_BYTES}`);
    }
    return TAP_HEADER_BYTES;
  }

  send(
    length: number,
    flags: number,
    gsoType: number,
    hdrLen: number,
    gsoSize: number,
    csumStart: number,
    csumOffset: number,
  ): void {
    if (!this.#open || this.gone) {
      this.txDropped++;
      return;
    }
    const bytes = this.tx;
    bytes[0] = flags;
    bytes[1] = gsoType;
    bytes[2] = hdrLen;
    bytes[3] = hdrLen >> 8;
    bytes[4] = gsoSize;
    bytes[5] = gsoSize >> 8;
    bytes[6] = csumStart;
    bytes[7] = csumStart >> 8;
    bytes[8] = csumOffset;
    bytes[9] = csumOffset >> 8;
    // bytes 10 and 11 are num_buffers: 0 in what a driver sends (§5.1.6.2).
    if (writeAddress(this.#fd, this.#txAddress, TAP_HEADER_BYTES + length) < 0) this.txDropped++;
  }

  flush(): void {}

  get fds(): readonly number[] {
    return this.#open && !this.gone ? this.#fds : NO_FDS;
  }

  /** The descriptor itself tells. */
  enableNotification(): boolean {
    return false;
  }

  disableNotification(): void {}

  /** Closes the descriptor too. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    close(this.#fd);
    this.#memory?.close();
  }
}

const NO_FDS: readonly number[] = [];
