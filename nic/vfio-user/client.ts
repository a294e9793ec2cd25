/**
 * A card in another process, over vfio-user: a software card is driven as one on the bus is.
 *
 *     VfioUserClient ── requests, each waited for ──► server        lanes ── register writes, not waited for ──► server
 *
 * Synchronous, as everything about registers is. A server that is gone reads as all ones, as a card does that was pulled out.
 */

import { errnoName } from '../../linux/errno.ts';
import { close } from '../../linux/file.ts';
import { POLLIN, POLLOUT, PollSet } from '../../linux/poll.ts';
import { receiveDescriptors, sendDescriptors } from '../../linux/socket.ts';
import { connectUnix } from '../../linux/unix-socket.ts';
import type { DmaMapping, DmaSource, PciDevice, RegisterAccess, RegisterSpace } from '../pci/pci-device.ts';
import { GONE } from '../registers.ts';
import {
  COMMAND_NAMES,
  composeMessage,
  DMA_READABLE,
  DMA_WRITABLE,
  FLAG_ERROR,
  MAX_MESSAGE_FDS,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_RESET,
  VFIO_USER_DEVICE_SET_IRQS,
  VFIO_USER_DMA_MAP,
  VFIO_USER_DMA_UNMAP,
  VFIO_USER_REGION_READ,
  VFIO_USER_REGION_WRITE,
  VFIO_USER_VERSION,
  VfioUserParser,
} from './messages.ts';
import { postRegisterWrite } from './post-write.ts';

const BAR0 = 0;
const REPLY_TIMEOUT_MS = 5000;
/** Bus addresses are given out from here on, 2 MiB apart or more. */
const FIRST_BUS_ADDRESS = 2 ** 32;
const BUS_ALIGNMENT = 2 ** 21;
const COMMAND = 0x04;
const COMMAND_MEMORY = 1 << 1;
const COMMAND_BUS_MASTER = 1 << 2;

export class VfioUserClient implements PciDevice {
  readonly name: string;
  readonly vendorId: number;
  readonly deviceId: number;
  readonly interruptVectors: number;
  readonly needsHugepages = false;
  readonly registers: RegisterSpace;
  readonly registerAccess: RegisterAccess;
  /** The server does not answer any more. */
  gone = false;
  readonly #socket: number;
  readonly #parser = new VfioUserParser();
  readonly #sizes = new Map<number, number>();
  #nextId = 1;
  #nextBusAddress = FIRST_BUS_ADDRESS;
  #closed = false;

  /** Connects to a server. Throws Error that says what is wrong with the path, or with what is behind it. */
  static connect(path: string): VfioUserClient {
    let socket: number;
    try {
      socket = connectUnix(path);
    } catch (error) {
      const { code, message } = error as Error & { code?: string };
      throw new Error(
        `no card can be reached at ${path} (${code ?? message}): start one (ringswitch model), or correct the path`,
      );
    }
    try {
      return new VfioUserClient(path, socket);
    } catch (error) {
      close(socket);
      throw error;
    }
  }

  private constructor(path: string, socket: number) {
    this.name = `vfio-user:${path}`;
    this.#socket = socket;
    this.registerAccess = { kind: 'vfio-user', socket };
    const version = Buffer.concat([Buffer.from([0, 0, 1, 0]), Buffer.from('{"capabilities":{"max_msg_fds":16}}\0')]);
    this.#request(VFIO_USER_VERSION, version);
    this.vendorId = this.readConfig(0, 2);
    this.deviceId = this.readConfig(2, 2);
    const irqs = this.#request(VFIO_USER_DEVICE_GET_IRQ_INFO, words(16, 0, VFIO_PCI_MSIX_IRQ_INDEX, 0));
    this.interruptVectors = irqs.readUInt32LE(12);
    this.writeConfig(COMMAND, 2, this.readConfig(COMMAND, 2) | COMMAND_MEMORY);
    this.registers = {
      read32: (offset) => this.#read(BAR0, offset, 4),
      write32: (offset, value) => {
        if (this.#closed || this.gone) return;
        if (!postRegisterWrite(this.#socket, offset, value)) this.gone = true;
      },
    };
  }

  readConfig(offset: number, bytes: 1 | 2 | 4): number {
    return this.#read(VFIO_PCI_CONFIG_REGION_INDEX, offset, bytes);
  }

  writeConfig(offset: number, bytes: 1 | 2 | 4, value: number): void {
    const data = Buffer.alloc(4);
    data.writeUInt32LE(value >>> 0);
    this.#try(VFIO_USER_REGION_WRITE, access(VFIO_PCI_CONFIG_REGION_INDEX, offset, data.subarray(0, bytes)));
  }

  #read(region: number, offset: number, bytes: 1 | 2 | 4): number {
    const request = access(region, offset, Buffer.alloc(0));
    request.writeUInt32LE(bytes, 12);
    const reply = this.#try(VFIO_USER_REGION_READ, request);
    return reply === null ? GONE >>> (32 - 8 * bytes) : reply.readUIntLE(16, bytes);
  }

  mapDma({ fd, length }: DmaSource): DmaMapping {
    const address = this.#nextBusAddress;
    const body = Buffer.alloc(32);
    words(32, DMA_READABLE | DMA_WRITABLE).copy(body);
    body.writeBigUInt64LE(BigInt(address), 16);
    body.writeBigUInt64LE(BigInt(length), 24);
    this.#request(VFIO_USER_DMA_MAP, body, [fd]);
    this.#nextBusAddress += Math.ceil(length / BUS_ALIGNMENT) * BUS_ALIGNMENT;
    this.#sizes.set(address, length);
    return { pageBytes: length, pages: [address] };
  }

  unmapDma({ pages }: DmaMapping): void {
    for (const address of pages) {
      const size = this.#sizes.get(address);
      if (size === undefined) continue;
      this.#sizes.delete(address);
      const body = Buffer.alloc(24);
      body.writeUInt32LE(24, 0);
      body.writeBigUInt64LE(BigInt(address), 8);
      body.writeBigUInt64LE(BigInt(size), 16);
      this.#try(VFIO_USER_DMA_UNMAP, body);
    }
  }

  setInterrupts(eventfds: readonly (number | null)[]): void {
    const set = (flags: number, start: number, fds: number[]): void => {
      const count = fds.length;
      this.#request(
        VFIO_USER_DEVICE_SET_IRQS,
        words(20, flags | VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_PCI_MSIX_IRQ_INDEX, start, count),
        fds,
      );
    };
    set(VFIO_IRQ_SET_DATA_NONE, 0, []);
    for (const [vector, fd] of eventfds.entries()) if (fd !== null) set(VFIO_IRQ_SET_DATA_EVENTFD, vector, [fd]);
  }

  setBusMaster(on: boolean): void {
    const command = this.readConfig(COMMAND, 2);
    this.writeConfig(COMMAND, 2, on ? command | COMMAND_BUS_MASTER : command & ~COMMAND_BUS_MASTER);
  }

  reset(): boolean {
    return this.#try(VFIO_USER_DEVICE_RESET, Buffer.alloc(0)) !== null;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const fd of this.#parser.abandon()) close(fd);
    close(this.#socket);
  }

  /** A request, or null when the server is gone. Throws Error when it refuses. */
  #try(command: number, body: Buffer): Buffer | null {
    if (this.gone || this.#closed) return null;
    try {
      return this.#request(command, body);
    } catch (error) {
      if (this.gone) return null;
      throw error;
    }
  }

  /** Sends a request and waits for its reply's body. Throws Error; {@link gone} says when nobody will answer any more. */
  #request(command: number, body: Buffer, fds: number[] = []): Buffer {
    const id = this.#nextId;
    this.#nextId = (this.#nextId + 1) & 0xffff;
    const name = COMMAND_NAMES[command]!;
    try {
      this.#send(composeMessage(id, command, 0, body), fds);
      const reply = this.#receive();
      if (reply.id !== id || reply.command !== command) {
        throw new Error(`it answers ${COMMAND_NAMES[reply.command] ?? reply.command} where ${name} was asked`);
      }
      if ((reply.flags & FLAG_ERROR) === 0) return Buffer.from(reply.body);
      throw new Refused(`${this.name}: ${name} was refused: ${errnoName(reply.error)}`);
    } catch (error) {
      if (error instanceof Refused) throw error;
      this.gone = true;
      throw new Error(`${this.name}: ${name}: ${(error as Error).message}`);
    }
  }

  #send(message: Buffer, fds: number[]): void {
    let sent = 0;
    for (let first = true; sent < message.length; first = false) {
      this.#wait(POLLOUT);
      sent += sendDescriptors(this.#socket, message.subarray(sent), first ? fds : []);
    }
  }

  #receive() {
    for (;;) {
      this.#wait(POLLIN);
      const received = receiveDescriptors(this.#socket, this.#parser.room, MAX_MESSAGE_FDS);
      if (received === null) continue;
      if (received.length === 0) throw new Error('the server has closed the connection');
      const message = this.#parser.take(received.length, received.fds);
      if (message === null) continue;
      for (const fd of message.fds) close(fd);
      return message;
    }
  }

  #wait(events: number): void {
    const poll = new PollSet();
    poll.add(this.#socket, events);
    const deadline = performance.now() + REPLY_TIMEOUT_MS;
    while (poll.wait(Math.max(0, deadline - performance.now())) === 0) {
      if (performance.now() >= deadline) throw new Error(`the server did not answer in ${REPLY_TIMEOUT_MS} ms`);
    }
  }
}

/** The server has answered, with an error. */
class Refused extends Error {}

function words(...values: number[]): Buffer {
  const buffer = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) buffer.writeUInt32LE(value, 4 * i);
  return buffer;
}

function access(region: number, offset: number, data: Buffer): Buffer {
  const body = Buffer.alloc(16 + data.length);
  body.writeBigUInt64LE(BigInt(offset), 0);
  body.writeUInt32LE(region, 8);
  body.writeUInt32LE(data.length, 12);
  data.copy(body, 16);
  return body;
}
