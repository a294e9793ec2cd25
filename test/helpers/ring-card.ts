/**
 * A card over vfio-user with one receive and one transmit ring, and no more driver than that: registers and descriptors as the
 * datasheet has them (§4.6.7, §4.6.8), for tests of what serves the card.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { close, pread, pwrite } from '../../linux/file.ts';
import { memfd } from '../../linux/mman.ts';
import {
  RXD_STAT_DD,
  RXD_STAT_EOP,
  TXD_CMD_DEXT,
  TXD_CMD_EOP,
  TXD_CMD_IFCS,
  TXD_CMD_RS,
  TXD_DTYP_DATA,
  TXD_PAYLEN_SHIFT,
  TXD_STAT_DD,
} from '../../nic/descriptors.ts';
import {
  CTRL,
  CTRL_RST,
  DMATXCTL,
  DMATXCTL_TE,
  FCTRL,
  FCTRL_BAM,
  FCTRL_UPE,
  HLREG0,
  HLREG0_RXCRCSTRP,
  HLREG0_TXCRCEN,
  HLREG0_TXPADEN,
  LINKS,
  LINKS_UP,
  RDBAH,
  RDBAL,
  RDLEN,
  RDT,
  RXCTRL,
  RXCTRL_RXEN,
  RXDCTL,
  RXDCTL_ENABLE,
  SRRCTL,
  SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER,
  TDBAH,
  TDBAL,
  TDLEN,
  TDT,
  TXDCTL,
  TXDCTL_ENABLE,
} from '../../nic/registers.ts';
import { VfioUserClient } from '../../nic/vfio-user/client.ts';

const MEMORY_BYTES = 2 ** 20;
const DESCRIPTORS = 64;
const DESCRIPTOR_BYTES = 16;
/** Where things are in the memory. */
const RECEIVE_RING = 0;
const TRANSMIT_RING = 0x1000;
const BUFFERS = 0x10000;
const BUFFER_BYTES = 2048;
const TRANSMIT_BUFFER = 0x80000;
const WAIT_MS = 5000;
const BUFFER_KIB = 2;

export class RingCard implements Disposable {
  readonly client: VfioUserClient;
  readonly #memory = memfd('ring-card', MEMORY_BYTES);
  #bus = 0;
  #head = 0;
  #tail = 0;

  /** Connects, resets the card and starts its rings. `hlreg0`: more bits of HLREG0. */
  constructor(socket: string, hlreg0 = 0) {
    this.client = VfioUserClient.connect(socket);
    const { registers } = this.client;
    const write = (offset: number, value: number): void => registers.write32(offset, value);
    registers.write32(CTRL, CTRL_RST);
    this.client.setBusMaster(true);
    this.#bus = this.client.mapDma({ fd: this.#memory, address: 0, length: MEMORY_BYTES }).pages[0]!;
    write(HLREG0, HLREG0_TXCRCEN | HLREG0_RXCRCSTRP | HLREG0_TXPADEN | hlreg0);
    write(FCTRL, FCTRL_BAM | FCTRL_UPE);
    const high = Math.floor(this.#bus / 2 ** 32);
    write(RDBAL(0), (this.#bus + RECEIVE_RING) % 2 ** 32);
    write(RDBAH(0), high);
    write(RDLEN(0), DESCRIPTORS * DESCRIPTOR_BYTES);
    write(SRRCTL(0), BUFFER_KIB | SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER);
    write(RXDCTL(0), RXDCTL_ENABLE);
    for (let n = 0; n < DESCRIPTORS; n++) this.#offer(n);
    write(RXCTRL, RXCTRL_RXEN);
    write(RDT(0), DESCRIPTORS - 1);
    write(TDBAL(0), (this.#bus + TRANSMIT_RING) % 2 ** 32);
    write(TDBAH(0), high);
    write(TDLEN(0), DESCRIPTORS * DESCRIPTOR_BYTES);
    write(DMATXCTL, DMATXCTL_TE);
    write(TXDCTL(0), TXDCTL_ENABLE);
  }

  read(offset: number): number {
    return this.client.registers.read32(offset);
  }

  get linkUp(): boolean {
    return (this.read(LINKS) & LINKS_UP) !== 0;
  }

  #offer(n: number): void {
    const descriptor = Buffer.alloc(DESCRIPTOR_BYTES);
    descriptor.writeBigUInt64LE(BigInt(this.#bus + BUFFERS + n * BUFFER_BYTES), 0);
    pwrite(this.#memory, descriptor, RECEIVE_RING + n * DESCRIPTOR_BYTES);
  }

  /** Sends a frame, and waits until the card has written its descriptor back. */
  async send(frame: Uint8Array): Promise<void> {
    const at = TRANSMIT_RING + this.#tail * DESCRIPTOR_BYTES;
    pwrite(this.#memory, frame, TRANSMIT_BUFFER);
    const descriptor = Buffer.alloc(DESCRIPTOR_BYTES);
    descriptor.writeBigUInt64LE(BigInt(this.#bus + TRANSMIT_BUFFER), 0);
    const command = TXD_DTYP_DATA | TXD_CMD_DEXT | TXD_CMD_EOP | TXD_CMD_IFCS | TXD_CMD_RS;
    descriptor.writeUInt32LE((command | frame.length) >>> 0, 8);
    descriptor.writeUInt32LE(frame.length << TXD_PAYLEN_SHIFT, 12);
    pwrite(this.#memory, descriptor, at);
    this.#tail = (this.#tail + 1) % DESCRIPTORS;
    this.client.registers.write32(TDT(0), this.#tail);
    await this.#until('sent', () => (this.#word(at + 12) & TXD_STAT_DD) !== 0);
  }

  /** The next frame that comes. */
  async receive(): Promise<Buffer> {
    const n = this.#head;
    const at = RECEIVE_RING + n * DESCRIPTOR_BYTES;
    const whole = RXD_STAT_DD | RXD_STAT_EOP;
    await this.#until('received', () => (this.#word(at + 8) & whole) === whole);
    const frame = Buffer.alloc(this.#word(at + 12) & 0xffff);
    pread(this.#memory, frame, BUFFERS + n * BUFFER_BYTES);
    this.#offer(n);
    this.client.registers.write32(RDT(0), n);
    this.#head = (n + 1) % DESCRIPTORS;
    return frame;
  }

  #word(at: number): number {
    const word = Buffer.alloc(4);
    pread(this.#memory, word, at);
    return word.readUInt32LE();
  }

  async #until(what: string, is: () => boolean): Promise<void> {
    for (const deadline = Date.now() + WAIT_MS; !is(); await delay(2)) {
      if (Date.now() > deadline) throw new Error(`not ${what} within ${WAIT_MS} ms`);
    }
  }

  [Symbol.dispose](): void {
    this.client.close();
    close(this.#memory);
  }
}
