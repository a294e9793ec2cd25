/**
 * What the steps of one case share: open files by name, and memory for rings. All of it goes with {@link Bench.clear}.
 */
import fs from 'node:fs';
import { EAGAIN, errnoName } from '../../linux/errno.ts';
import { eventfd } from '../../linux/eventfd.ts';
import { close, O_NONBLOCK, O_RDWR, open } from '../../linux/file.ts';
import { IFR_DATA_OFFSET, ifreq } from '../../linux/if-tun.ts';
import { tryIoctl } from '../../linux/ioctl.ts';
import { type Address, check, lastErrno, libcFunction, viewMemory } from '../../linux/libc.ts';
import {
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  MAP_SHARED,
  memfd,
  mmap,
  munmap,
  PAGE_SIZE,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
} from '../../linux/mman.ts';
import type { Target } from './case.ts';

const AF_INET = 2;
const AF_PACKET = 17;
const SOCK_DGRAM = 2;
const SOCK_RAW = 3;
/** struct sockaddr_ll: unsigned short family; __be16 protocol; int ifindex; ... */
const SOCKADDR_LL_BYTES = 20;
const SLL_IFINDEX_OFFSET = 4;
/** <linux/sockios.h> */
export const SIOCGIFINDEX = 0x8933;
/** Bytes of the shared and of the private memory of a case. */
export const MEMORY_BYTES = 0x10000;
const MAPPED_BYTES = MEMORY_BYTES + PAGE_SIZE;

const c = {
  socket: libcFunction('int socket(int domain, int type, int protocol)'),
  sendto: libcFunction(
    'int64_t sendto(int fd, const void *bytes, size_t length, int flags, const void *address, unsigned int address_length)',
  ),
};

/** What a call gave, as transcripts write it: the result, or the name of the errno. */
export function answer(result: number): string {
  if (result >= 0) return String(result);
  // EWOULDBLOCK is the same number.
  return result === -EAGAIN ? 'EAGAIN' : errnoName(-result);
}

/** A place in the memory of a case, whose address is known only when it runs. */
export type Place = { memory: 'shared' | 'private'; offset: number };

/** A place in memory that is shared (memfd, MAP_SHARED), as a client's should be for the clones. */
export const shared = (offset: number): Place => ({ memory: 'shared', offset });
/** A place in memory that is private to the process. */
export const privately = (offset: number): Place => ({ memory: 'private', offset });

/** Devices under test, and what a case has opened. */
export class Bench {
  readonly target: Target;
  readonly #paths: { tun: string; vhost?: string };
  #open = new Map<string, number>();
  #others = new Map<string, number>();
  #memory = new Map<Place['memory'], Address>();

  constructor(target: Target, paths: { tun: string; vhost?: string }) {
    this.target = target;
    this.#paths = paths;
  }

  /** The descriptor of a device file; opened, non-blocking, when the case names it for the first time. */
  file(kind: 'tun' | 'vhost', name: string): number {
    const path = this.#paths[kind];
    if (path === undefined) throw new Error(`The case opens a ${kind} file, and the probe was given no --${kind}.`);
    let fd = this.#open.get(`${kind} ${name}`);
    if (fd === undefined) {
      fd = open(path, O_RDWR | O_NONBLOCK);
      this.#open.set(`${kind} ${name}`, fd);
    }
    return fd;
  }

  /** Closes a device file before the end of the case. */
  closeFile(kind: 'tun' | 'vhost', name: string): void {
    const fd = this.file(kind, name);
    this.#open.delete(`${kind} ${name}`);
    close(fd);
  }

  /** A descriptor that is not of the devices; made when the case names it for the first time. */
  other(kind: 'eventfd' | 'null' | 'socket', name: string): number {
    let fd = this.#others.get(`${kind} ${name}`);
    if (fd === undefined) {
      fd = { eventfd, null: () => open('/dev/null', O_RDWR), socket: datagramSocket }[kind]();
      this.#others.set(`${kind} ${name}`, fd);
    }
    return fd;
  }

  /** Closes a descriptor that an ioctl gave. */
  dispose(fd: number): void {
    close(fd);
  }

  /** The address of a place in the memory of this case, which is all 0 at first. */
  address({ memory, offset }: Place): Address {
    let start = this.#memory.get(memory);
    if (start === undefined) {
      start = memory === 'shared' ? mapShared() : mapPrivate();
      this.#memory.set(memory, start);
    }
    return start + offset;
  }

  /** The bytes at a place. */
  view(place: Place, length: number): DataView {
    return new DataView(viewMemory(this.address(place), length));
  }

  /** ioctl(2) of a socket, which stands for the network configuration: the result, or the negative errno. */
  socketIoctl(request: number, argument: Buffer): number {
    const fd = datagramSocket();
    const result = tryIoctl(fd, request, argument);
    close(fd);
    return result;
  }

  /** Sends an Ethernet frame out of an interface: the bytes sent, or the negative errno. */
  sendPacket(name: string, frame: Uint8Array): number {
    const fd = check(c.socket(AF_PACKET, SOCK_RAW, 0), 'socket', { domain: 'AF_PACKET' });
    const index = ifreq(name);
    this.socketIoctl(SIOCGIFINDEX, index);
    // struct sockaddr_ll: only sll_family and sll_ifindex matter to SOCK_RAW (packet(7)).
    const address = Buffer.alloc(SOCKADDR_LL_BYTES);
    address.writeUInt16LE(AF_PACKET, 0);
    address.writeInt32LE(index.readInt32LE(IFR_DATA_OFFSET), SLL_IFINDEX_OFFSET);
    const result = c.sendto(fd, frame, frame.length, 0, address, address.length);
    const sent = result < 0 ? -lastErrno() : result;
    close(fd);
    return sent;
  }

  /** Ends the case: closes and unmaps everything. */
  clear(): void {
    for (const fd of [...this.#open.values(), ...this.#others.values()]) close(fd);
    for (const address of this.#memory.values()) munmap(address, MAPPED_BYTES);
    this.#open.clear();
    this.#others.clear();
    this.#memory.clear();
  }
}

function datagramSocket(): number {
  return check(c.socket(AF_INET, SOCK_DGRAM, 0), 'socket', {});
}

function mapShared(): Address {
  const fd = memfd('ioctl-case', MAPPED_BYTES);
  const address = mmap({ length: MAPPED_BYTES, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED, fd });
  close(fd);
  return address;
}

/** Nothing can be read behind it: a page without permissions follows. */
function mapPrivate(): Address {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS;
  const address = mmap({ length: MAPPED_BYTES, prot: PROT_READ | PROT_WRITE, flags });
  mmap({ address: address + MEMORY_BYTES, length: PAGE_SIZE, prot: PROT_NONE, flags: flags | MAP_FIXED });
  return address;
}

/** Turns IPv6 off in this thread's network namespace, so that interfaces that come up send nothing by themselves. */
export function silenceIpv6(): void {
  const file = '/proc/sys/net/ipv6/conf/default/disable_ipv6';
  if (fs.existsSync(file)) fs.writeFileSync(file, '1');
}
