/**
 * A card in another process, over vfio-user: a software card is driven as one on the bus is.
 *
 *     VfioUserClient ── requests, each waited for ──► server        lanes ── register writes, not waited for ──► server
 *
 * Synchronous, as everything about registers is. A server that is gone reads as all ones, as a card does that was pulled out.
 */
import { EAGAIN, errnoName } from '../../linux/errno.ts';
import { close } from '../../linux/file.ts';
import { SystemError } from '../../linux/libc.ts';
import { POLLIN, POLLOUT, PollSet } from '../../linux/poll.ts';
import { receiveDescriptors, sendDescriptors } from '../../linux/socket.ts';
import { connectUnix } from '../../linux/unix-socket.ts';
import type { DmaMapping, DmaSource, PciDevice, RegisterAccess, RegisterSpace } from '../pci/pci-device.ts';
import { GONE } from '../registers.ts';
import {
  commandName,
  composeDmaMap,
  composeDmaUnmap,
  composeIrqInfo,
  composeIrqSet,
  composeMessage,
  composeRegionAccess,
  composeVersion,
  FLAG_ERROR,
  FLAG_REPLY,
  FLAG_TYPE_MASK,
  MAX_MESSAGE_FDS,
  parseIrqInfo,
  parseRegionData,
  parseVersion,
  regionDataOf,
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

const MAJOR = 0;
const MINOR = 1;
const BAR0 = 0;
const REPLY_TIMEOUT_MS = 5000;

export interface VfioUserClientOptions {
  /** How long a reply may take, in ms, before the server counts as gone. Default 5000. */
  timeoutMs?: number;
}

/** Bus addresses are given out from here on, 2 MiB apart or more. */
const FIRST_BUS_ADDRESS = 2 ** 32;
const BUS_ALIGNMENT = 2 ** 21;
const COMMAND = 0x04;
const COMMAND_MEMORY = 1 << 1;
const COMMAND_BUS_MASTER = 1 << 2;
/** As many as the MSI-X capability's eleven bits can say (PCI 3.0 §6.8.2.3). */
const MAX_MSIX_VECTORS = 2048;

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

  readonly #timeoutMs: number;

  /** Connects to a server. Throws Error that says what is wrong with the path, or with what is behind it. */
  static connect(path: string, { timeoutMs = REPLY_TIMEOUT_MS }: VfioUserClientOptions = {}): VfioUserClient {
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
      return new VfioUserClient(path, socket, timeoutMs);
    } catch (error) {
      close(socket);
      throw error;
    }
  }

  private constructor(path: string, socket: number, timeoutMs: number) {
    this.name = `vfio-user:${path}`;
    this.#socket = socket;
    this.#timeoutMs = timeoutMs;
    this.registerAccess = { kind: 'vfio-user', socket };
    const capabilities = { max_msg_fds: MAX_MESSAGE_FDS };
    const version = this.#request(VFIO_USER_VERSION, composeVersion({ major: MAJOR, minor: MINOR, capabilities }));
    const { major } = this.#parsed(VFIO_USER_VERSION, () => parseVersion(version));
    if (major !== MAJOR) throw new Error(`${this.name}: it speaks version ${major} of vfio-user, not ${MAJOR}`);
    this.vendorId = this.readConfig(0, 2);
    this.deviceId = this.readConfig(2, 2);
    const irqs = this.#request(
      VFIO_USER_DEVICE_GET_IRQ_INFO,
      composeIrqInfo({ flags: 0, index: VFIO_PCI_MSIX_IRQ_INDEX, count: 0 }),
    );
    const { count } = this.#parsed(VFIO_USER_DEVICE_GET_IRQ_INFO, () => parseIrqInfo(irqs));
    if (count > MAX_MSIX_VECTORS) {
      throw new Error(`${this.name}: it says that it has ${count} MSI-X vectors; ${MAX_MSIX_VECTORS} are possible`);
    }
    this.interruptVectors = count;
    this.writeConfig(COMMAND, 2, this.readConfig(COMMAND, 2) | COMMAND_MEMORY);
    if (this.gone) throw new Error(`${this.name}: the server went while it was asked who it is`);
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
    const body = composeRegionAccess({ region: VFIO_PCI_CONFIG_REGION_INDEX, offset, count: bytes }, bytes);
    const data = regionDataOf(body);
    for (let i = 0; i < bytes; i++) data[i] = value >>> (8 * i);
    this.#access(VFIO_USER_REGION_WRITE, body);
  }

  #read(region: number, offset: number, bytes: 1 | 2 | 4): number {
    const reply = this.#access(VFIO_USER_REGION_READ, composeRegionAccess({ region, offset, count: bytes }));
    try {
      if (reply !== null) return this.#parsed(VFIO_USER_REGION_READ, () => parseData(reply, bytes));
    } catch {
      // What it says is not to be believed any more.
    }
    return GONE >>> (32 - 8 * bytes);
  }

  /** What the server refuses is as on a bus where nobody answers: null. */
  #access(command: number, body: Buffer): Buffer | null {
    try {
      return this.#try(command, body);
    } catch (error) {
      if (error instanceof Refused) return null;
      throw error;
    }
  }

  mapDma({ fd, length }: DmaSource): DmaMapping {
    this.#checkOpen();
    const address = this.#nextBusAddress;
    const range = { address, size: length, offset: 0, readable: true, writable: true };
    this.#request(VFIO_USER_DMA_MAP, composeDmaMap(range), [fd]);
    this.#nextBusAddress += Math.ceil(length / BUS_ALIGNMENT) * BUS_ALIGNMENT;
    this.#sizes.set(address, length);
    return { pageBytes: length, pages: [address] };
  }

  unmapDma({ pages }: DmaMapping): void {
    for (const address of pages) {
      const size = this.#sizes.get(address);
      if (size === undefined) continue;
      this.#sizes.delete(address);
      this.#access(VFIO_USER_DMA_UNMAP, composeDmaUnmap({ address, size }));
    }
  }

  setInterrupts(eventfds: readonly (number | null)[]): void {
    this.#checkOpen();
    if (eventfds.length > this.interruptVectors) {
      throw new Error(
        `${this.name}: ${eventfds.length} interrupts asked for, but it has ${this.interruptVectors} vectors`,
      );
    }
    const set = (data: number, start: number, fds: number[]): void => {
      const index = VFIO_PCI_MSIX_IRQ_INDEX;
      const body = composeIrqSet({ data, action: VFIO_IRQ_SET_ACTION_TRIGGER, index, start, count: fds.length });
      this.#try(VFIO_USER_DEVICE_SET_IRQS, body, fds);
    };
    set(VFIO_IRQ_SET_DATA_NONE, 0, []);
    for (const [vector, fd] of eventfds.entries()) if (fd !== null) set(VFIO_IRQ_SET_DATA_EVENTFD, vector, [fd]);
  }

  setBusMaster(on: boolean): void {
    const command = this.readConfig(COMMAND, 2);
    this.writeConfig(COMMAND, 2, on ? command | COMMAND_BUS_MASTER : command & ~COMMAND_BUS_MASTER);
  }

  reset(): boolean {
    return this.#access(VFIO_USER_DEVICE_RESET, Buffer.alloc(0)) !== null;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    close(this.#socket);
  }

  #checkOpen(): void {
    if (this.#closed) throw new Error(`${this.name}: the card is closed`);
  }

  /** A request, or null when the server is gone. Throws Error when it refuses. */
  #try(command: number, body: Buffer, fds: number[] = []): Buffer | null {
    if (this.gone || this.#closed) return null;
    try {
      return this.#request(command, body, fds);
    } catch (error) {
      if (this.gone) return null;
      throw error;
    }
  }

  /** Sends a request and waits for its reply's body. Throws Error; {@link gone} says when nobody will answer any more. */
  #request(command: number, body: Buffer, fds: number[] = []): Buffer {
    if (this.gone) throw new Error(`${this.name}: ${commandName(command)}: the server is gone`);
    const id = this.#nextId;
    this.#nextId = (this.#nextId + 1) & 0xffff;
    const {
      flags,
      error,
      body: reply,
    } = this.#parsed(command, () => {
      const deadline = performance.now() + this.#timeoutMs;
      this.#send(composeMessage(id, command, 0, body), fds, deadline);
      const message = this.#receive(deadline);
      if ((message.flags & FLAG_TYPE_MASK) !== FLAG_REPLY || message.id !== id || message.command !== command) {
        const kind = (message.flags & FLAG_TYPE_MASK) === FLAG_REPLY ? 'a reply to ' : '';
        throw new Error(
          `the server sent ${kind}${commandName(message.command)} (id ${message.id}) in place of a reply`,
        );
      }
      return message;
    });
    if ((flags & FLAG_ERROR) !== 0) {
      throw new Refused(`${this.name}: ${commandName(command)} was refused: ${errnoName(error)}`);
    }
    return Buffer.from(reply);
  }

  /** What the server says about `command`: when it makes no sense, nothing that it says does. Throws Error then. */
  #parsed<T>(command: number, parse: () => T): T {
    try {
      return parse();
    } catch (error) {
      this.gone = true;
      for (const fd of this.#parser.abandon()) close(fd);
      throw new Error(`${this.name}: ${commandName(command)}: ${(error as Error).message}`);
    }
  }

  #send(message: Buffer, fds: number[], deadline: number): void {
    let sent = 0;
    for (let first = true; sent < message.length; first = false) {
      this.#wait(POLLOUT, deadline);
      try {
        sent += sendDescriptors(this.#socket, message.subarray(sent), first ? fds : []);
      } catch (error) {
        // Another thread's register writes have filled it since.
        if (!(error instanceof SystemError && error.errno === EAGAIN)) throw error;
      }
    }
  }

  #receive(deadline: number) {
    for (;;) {
      this.#wait(POLLIN, deadline);
      const received = receiveDescriptors(this.#socket, this.#parser.room, MAX_MESSAGE_FDS);
      if (received === null) continue;
      if (received.length === 0) throw new Error('the server has closed the connection');
      const message = this.#parser.take(received.length, received.fds);
      if (message === null) continue;
      for (const fd of message.fds.splice(0)) close(fd);
      return message;
    }
  }

  #wait(events: number, deadline: number): void {
    const poll = new PollSet();
    poll.add(this.#socket, events);
    for (;;) {
      const left = Math.ceil(deadline - performance.now());
      if (left <= 0) throw new Error(`the server did not answer in ${this.#timeoutMs} ms`);
      if (poll.wait(left) > 0) return;
    }
  }
}

/** The server has answered, with an error. */
class Refused extends Error {}

function parseData(reply: Buffer, bytes: 1 | 2 | 4): number {
  const { data } = parseRegionData(reply);
  if (data.length !== bytes) throw new Error(`${data.length} bytes where ${bytes} were asked for`);
  return data.readUIntLE(0, bytes);
}
