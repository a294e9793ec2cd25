/**
 * A vfio-user client that maps memory without a file: the server asks it for each access. Synchronous; the server is in another
 * thread or process.
 */
import { close } from '../../linux/file.ts';
import { POLLIN, PollSet } from '../../linux/poll.ts';
import { receiveDescriptors, sendDescriptors } from '../../linux/socket.ts';
import { connectUnix } from '../../linux/unix-socket.ts';
import {
  composeDmaMap,
  composeMessage,
  composeRegionAccess,
  composeVersion,
  regionDataOf,
  VfioUserParser,
} from '../../nic/vfio-user/messages.ts';

// Written down a second time, from the document.
const VERSION = 1;
const DMA_MAP = 2;
const REGION_READ = 9;
const REGION_WRITE = 10;
const DMA_READ = 11;
const DMA_WRITE = 12;
const REPLY = 1;
const REPLY_WITH_ERROR = 0x21;
const NO_REPLY = 0x10;
const TYPE_MASK = 0xf;
const ERROR_BIT = 0x20;
const EFAULT = 14;
const BODY_AT = 16;
const TIMEOUT_MS = 10_000;

export interface Access {
  isWrite: boolean;
  address: number;
  count: number;
}

export class FilelessClient implements Disposable {
  readonly base: number;
  readonly memory: Buffer;
  readonly view: DataView;
  /** What the server has asked for. */
  readonly accesses: Access[] = [];
  /** May change a reply that is about to be sent; null: none goes. */
  spoil: (reply: Buffer, access: Access) => Buffer | null = (reply) => reply;
  /** Whether {@link spoil} sees the access of no bytes, too. */
  spoilsTrial = false;
  /** Called before each reply. */
  onAccess: (access: Access) => void = () => {};
  readonly #socket: number;
  readonly #parser = new VfioUserParser();
  #nextId = 100;

  constructor(path: string, { base = 2 ** 32, bytes = 2 ** 20, maxTransfer = 2 ** 20, readable = true } = {}) {
    this.base = base;
    this.memory = Buffer.alloc(bytes);
    this.view = new DataView(this.memory.buffer, this.memory.byteOffset, bytes);
    this.#socket = connectUnix(path);
    try {
      this.request(VERSION, composeVersion({ major: 0, minor: 1, capabilities: { max_data_xfer_size: maxTransfer } }));
      this.request(DMA_MAP, composeDmaMap({ address: base, size: bytes, offset: 0, readable, writable: true }));
    } catch (error) {
      close(this.#socket);
      throw error;
    }
  }

  /** Gives the reply's body. Throws Error when the server refuses, closes, or does not answer. */
  request(command: number, body: Uint8Array): Buffer {
    const id = this.post(command, body, 0);
    for (;;) {
      const message = this.#receive();
      if ((message.flags & TYPE_MASK) !== REPLY) {
        this.#serve(message.id, message.command, message.body);
        continue;
      }
      if (message.id !== id || message.command !== command) throw new Error(`a reply to ${message.command}`);
      if ((message.flags & ERROR_BIT) !== 0) throw new Error(`${command} was refused: ${message.error}`);
      return Buffer.from(message.body);
    }
  }

  /** Sends a request, and does not wait. Gives its id. */
  post(command: number, body: Uint8Array, flags = NO_REPLY): number {
    const id = this.#nextId++;
    sendDescriptors(this.#socket, composeMessage(id, command, flags, body), []);
    return id;
  }

  /** Waits for the server's next request, and answers it. */
  serveOne(): void {
    const { id, command, body } = this.#receive();
    this.#serve(id, command, body);
  }

  #receive() {
    const poll = new PollSet();
    poll.add(this.#socket, POLLIN);
    for (;;) {
      if (poll.wait(TIMEOUT_MS) === 0) throw new Error('the server says nothing');
      const received = receiveDescriptors(this.#socket, this.#parser.room, 1);
      if (received === null) continue;
      if (received.length === 0) throw new Error('the server has closed the connection');
      const message = this.#parser.take(received.length, received.fds);
      if (message !== null) return message;
    }
  }

  #serve(id: number, command: number, body: Buffer): void {
    if (command !== DMA_READ && command !== DMA_WRITE) throw new Error(`the server asks for ${command}`);
    const access = {
      isWrite: command === DMA_WRITE,
      address: Number(body.readBigUInt64LE(0)),
      count: Number(body.readBigUInt64LE(8)),
    };
    const { isWrite, address, count } = access;
    if (body.length !== BODY_AT + (isWrite ? count : 0)) throw new Error(`a body of ${body.length} bytes`);
    // One of no bytes finds out what kind of client this is.
    if (count > 0) this.accesses.push(access);
    const at = address - this.base;
    let reply: Buffer;
    if (at < 0 || at + count > this.memory.length) {
      reply = composeMessage(id, command, REPLY_WITH_ERROR, Buffer.alloc(0), EFAULT);
    } else if (isWrite) {
      body.copy(this.memory, at, BODY_AT);
      reply = composeMessage(id, command, REPLY, body.subarray(0, 12));
    } else {
      reply = composeMessage(id, command, REPLY, Buffer.concat([body, this.memory.subarray(at, at + count)]));
    }
    this.onAccess(access);
    const spoilt = count > 0 || this.spoilsTrial ? this.spoil(reply, access) : reply;
    if (spoilt !== null) sendDescriptors(this.#socket, spoilt, []);
  }

  /** A register of BAR 0, or 32 bits of another region. */
  read32(offset: number, region = 0): number {
    return regionDataOf(this.request(REGION_READ, composeRegionAccess({ region, offset, count: 4 }))).readUInt32LE(0);
  }

  write32(offset: number, value: number, region = 0): void {
    this.request(REGION_WRITE, this.writeBody(offset, value, region));
  }

  writeBody(offset: number, value: number, region = 0): Buffer {
    const body = composeRegionAccess({ region, offset, count: 4 }, 4);
    regionDataOf(body).writeUInt32LE(value >>> 0);
    return body;
  }

  /** As a client does that crashes. */
  [Symbol.dispose](): void {
    close(this.#socket);
  }
}
