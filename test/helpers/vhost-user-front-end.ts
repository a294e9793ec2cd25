/** The front-end of a vhost-user connection in a few lines: what QEMU says, or whatever a test wants it to say. */
import { eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { SystemError } from '../../linux/libc.ts';
import { POLLIN, PollSet } from '../../linux/poll.ts';
import { receiveDescriptors, sendDescriptors } from '../../linux/socket.ts';
import { acceptUnix, connectUnix } from '../../linux/unix-socket.ts';
import { DELIVERY_MS } from './tun-client.ts';
import type { GuestParts, RingClient } from './vhost-guest.ts';
import { RingGuest } from './vhost-guest.ts';

// Written down a second time, from QEMU's docs/interop/vhost-user.rst.
export const GET_FEATURES = 1;
export const SET_FEATURES = 2;
export const SET_OWNER = 3;
export const SET_MEM_TABLE = 5;
export const SET_VRING_NUM = 8;
export const SET_VRING_ADDR = 9;
export const SET_VRING_BASE = 10;
export const GET_VRING_BASE = 11;
export const SET_VRING_KICK = 12;
export const SET_VRING_CALL = 13;
export const SET_VRING_ERR = 14;
export const GET_QUEUE_NUM = 17;
export const SEND_RARP = 19;
const VERSION = 1;
const HEADER_BYTES = 12;

export const u32 = (...numbers: number[]): Buffer => Buffer.from(Uint32Array.from(numbers).buffer);
export const u64 = (...numbers: bigint[]): Buffer => Buffer.from(BigUint64Array.from(numbers).buffer);
export const frame = (request: number, payload: Uint8Array = Buffer.alloc(0)): Buffer =>
  Buffer.concat([u32(request, VERSION, payload.length), payload]);

export class VhostUserFrontEnd implements RingClient {
  readonly fds: { kick: number; call: number; err: number }[] = [];
  #socket: number;

  private constructor(socket: number) {
    this.#socket = socket;
  }

  static connect(path: string): VhostUserFrontEnd {
    return new VhostUserFrontEnd(connectUnix(path));
  }

  /** Waits for a connection on a listening socket. */
  static accept(listener: number): VhostUserFrontEnd {
    wait(listener, 'connection');
    return new VhostUserFrontEnd(acceptUnix(listener)!);
  }

  send(request: number, payload?: Uint8Array, fds: number[] = []): void {
    this.sendBytes(frame(request, payload), fds);
  }

  sendBytes(bytes: Uint8Array, fds: number[] = []): void {
    sendDescriptors(this.#socket, bytes, fds);
  }

  /** The payload of an answer. */
  ask(request: number, payload?: Uint8Array): Buffer {
    this.send(request, payload);
    wait(this.#socket, 'answer');
    const bytes = Buffer.alloc(64);
    const { length } = receiveDescriptors(this.#socket, bytes, 1)!;
    return bytes.subarray(HEADER_BYTES, length);
  }

  /** Whether the back-end ends the connection, or has. */
  get ended(): boolean {
    wait(this.#socket, 'end of the connection');
    try {
      return receiveDescriptors(this.#socket, Buffer.alloc(1), 1)?.length === 0;
    } catch (error) {
      // It did not read all that was sent.
      if (error instanceof SystemError && error.code === 'ECONNRESET') return true;
      throw error;
    }
  }

  /** Starts both rings, as a front-end without protocol features does. */
  start({ memoryBytes, memoryFd, features, rings }: GuestParts): void {
    this.send(SET_OWNER);
    this.ask(GET_FEATURES);
    this.send(SET_FEATURES, u64(features));
    this.send(SET_MEM_TABLE, Buffer.concat([u32(1, 0), u64(0n, BigInt(memoryBytes), 0n, 0n)]), [memoryFd]);
    for (const [index, { num, desc, avail, used }] of rings.entries()) {
      const fds = { kick: eventfd(), call: eventfd(), err: eventfd() };
      this.fds.push(fds);
      this.send(SET_VRING_NUM, u32(index, num));
      this.send(SET_VRING_BASE, u32(index, 0));
      this.send(SET_VRING_ADDR, u64(BigInt(index), BigInt(desc), BigInt(used), BigInt(avail), 0n));
      this.send(SET_VRING_CALL, u64(BigInt(index)), [fds.call]);
      this.send(SET_VRING_ERR, u64(BigInt(index)), [fds.err]);
      this.send(SET_VRING_KICK, u64(BigInt(index)), [fds.kick]);
    }
    this.ask(GET_QUEUE_NUM); // All of it has been carried out when this is answered.
  }

  /** Ends the connection, as a process does that dies; its eventfds stay. */
  hangUp(): void {
    if (this.#socket >= 0) close(this.#socket);
    this.#socket = -1;
  }

  close(): void {
    this.hangUp();
    for (const fds of this.fds.splice(0)) for (const fd of Object.values(fds)) close(fd);
  }
}

function wait(fd: number, what: string): void {
  const poll = new PollSet();
  poll.add(fd, POLLIN);
  if (poll.wait(DELIVERY_MS) === 0) throw new Error(`no ${what} in ${DELIVERY_MS} ms`);
}

/** A guest behind a front-end. */
export class VhostUserGuest extends RingGuest<VhostUserFrontEnd> {
  constructor(frontEnd: VhostUserFrontEnd) {
    super((parts) => {
      frontEnd.start(parts);
      return frontEnd;
    });
  }
}
