/** The steps of cases for /dev/vhost-net: each method makes one, for a file that is opened when a step first names it. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { signalEventfd } from '../../linux/eventfd.ts';
import { tryRead, tryWrite } from '../../linux/file.ts';
import { tryIoctl } from '../../linux/ioctl.ts';
import { POLLERR, POLLIN, POLLOUT, PollSet } from '../../linux/poll.ts';
import {
  VHOST_FILE_UNBIND,
  VHOST_IOCTL_NAMES,
  VHOST_MEMORY_BYTES,
  VHOST_MEMORY_REGION_BYTES,
  VHOST_NET_SET_BACKEND,
  VHOST_SET_MEM_TABLE,
  VHOST_SET_VRING_ADDR,
  VHOST_VRING_ADDR_BYTES,
  VHOST_VRING_FILE_BYTES,
  VHOST_VRING_STATE_BYTES,
} from '../../linux/vhost.ts';
import { ringSizes } from '../../vhost/split-ring.ts';
import {
  VIRTQ_AVAIL_HEADER_BYTES,
  VIRTQ_DESC_BYTES,
  VIRTQ_USED_ENTRY_BYTES,
  VIRTQ_USED_HEADER_BYTES,
} from '../../vhost/virtio.ts';
import { answer, type Bench, MEMORY_BYTES, type Place, privately, shared } from './bench.ts';
import type { Step } from './case.ts';
import { NOWHERE } from './tun-steps.ts';

/** A number, or a place that has an address only when the case runs. */
export type CaseAddress = bigint | number | Place;

/** One region of a memory table. */
export interface Region {
  gpa: bigint | number;
  size: bigint | number;
  user: CaseAddress;
}

/** The parts of struct vhost_vring_addr; what is left out is 0. */
export interface RingParts {
  flags?: number;
  desc?: CaseAddress;
  used?: CaseAddress;
  avail?: CaseAddress;
  log?: CaseAddress;
}

/** What stands in for a descriptor: a number as it is, or something that the case opens. `tun a` is the tun file a. */
export type CaseFd = number | `${'eventfd' | 'null' | 'socket' | 'tun' | 'vhost'} ${string}`;

/** Entries of the rings of a legal set-up. */
export const RING_ENTRIES = 256;
const RING_STRIDE = 0x4000;
/** Where frames stand in the shared memory, behind both rings. */
export const BUFFERS = 2 * RING_STRIDE;
/** How long a ring may take to use a buffer, in milliseconds. */
const USE_MS = 2000;
const CHILD_MS = 30_000;

/** The parts of ring `index` in the shared or the private memory of a case. */
export function ringParts(
  index: number,
  place: (offset: number) => Place = shared,
): Required<Omit<RingParts, 'flags' | 'log'>> {
  const start = index * RING_STRIDE;
  const { desc, avail } = ringSizes(RING_ENTRIES, true);
  // The used ring starts on the next page (legacy layout, virtio 1.2 §2.7.2).
  return { desc: place(start), avail: place(start + desc), used: place(start + ((desc + avail + 0xfff) & ~0xfff)) };
}

/** A table of one region: the whole shared memory at guest address 0. */
export const ALL_SHARED: Region = { gpa: 0, size: MEMORY_BYTES, user: shared(0) };

const requests = new Map([...VHOST_IOCTL_NAMES].map(([request, name]) => [name, request]));

function requestOf(name: string): number {
  const request = requests.get(name);
  if (request === undefined) throw new Error(`There is no ioctl ${name} of vhost-net files.`);
  return request;
}

function text(address: CaseAddress): string {
  return typeof address === 'object'
    ? `${address.memory}+0x${address.offset.toString(16)}`
    : `0x${address.toString(16)}`;
}

function resolve(bench: Bench, address: CaseAddress): bigint {
  return BigInt(typeof address === 'object' ? bench.address(address) : address);
}

function descriptor(bench: Bench, fd: CaseFd): number {
  if (typeof fd === 'number') return fd;
  const [kind, name] = fd.split(' ') as ['eventfd' | 'null' | 'socket' | 'tun' | 'vhost', string];
  return kind === 'tun' || kind === 'vhost' ? bench.file(kind, name) : bench.other(kind, name);
}

/** struct vhost_vring_state and struct vhost_vring_file: two ints. */
function pair(index: number, value: number): Buffer {
  const bytes = Buffer.alloc(Math.max(VHOST_VRING_STATE_BYTES, VHOST_VRING_FILE_BYTES));
  bytes.writeUInt32LE(index >>> 0, 0);
  bytes.writeUInt32LE(value >>> 0, 4);
  return bytes;
}

function tableBytes(bench: Bench, regions: Region[], count: number, padding: number): Buffer {
  const bytes = Buffer.alloc(VHOST_MEMORY_BYTES + regions.length * VHOST_MEMORY_REGION_BYTES);
  bytes.writeUInt32LE(count, 0);
  bytes.writeUInt32LE(padding, 4);
  regions.forEach(({ gpa, size, user }, i) => {
    const at = VHOST_MEMORY_BYTES + i * VHOST_MEMORY_REGION_BYTES;
    bytes.writeBigUInt64LE(BigInt(gpa), at);
    bytes.writeBigUInt64LE(BigInt(size), at + 8);
    bytes.writeBigUInt64LE(resolve(bench, user), at + 16);
  });
  return bytes;
}

/** An open vhost-net file of a case. */
export class VhostFile {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  #step(label: string, run: (fd: number, bench: Bench) => string): Step {
    return { label: `${this.name} ${label}`, run: (bench) => run(bench.file('vhost', this.name), bench) };
  }

  /** An ioctl without an argument: VHOST_SET_OWNER, VHOST_RESET_OWNER. */
  plain(request: string): Step {
    return this.#step(request, (fd) => answer(tryIoctl(fd, requestOf(request), 0)));
  }

  /** An ioctl that gives a 64-bit word, in hexadecimal. */
  get64(request: string): Step {
    return this.#step(request, (fd) => {
      const word = Buffer.alloc(8);
      const result = tryIoctl(fd, requestOf(request), word);
      return result === 0 ? `0x${word.readBigUInt64LE().toString(16)}` : answer(result);
    });
  }

  /** An ioctl that takes the address of a 64-bit word. */
  set64(request: string, word: bigint): Step {
    return this.#step(`${request} 0x${word.toString(16)}`, (fd) => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(word);
      return answer(tryIoctl(fd, requestOf(request), bytes));
    });
  }

  /** An ioctl with struct vhost_vring_state. */
  setState(request: string, index: number, num: number): Step {
    return this.#step(`${request} ${index} ${num}`, (fd) => answer(tryIoctl(fd, requestOf(request), pair(index, num))));
  }

  /** An ioctl that gives `num` of struct vhost_vring_state. */
  getState(request: string, index: number): Step {
    return this.#step(`${request} ${index}`, (fd) => {
      const state = pair(index, 0xdead);
      const result = tryIoctl(fd, requestOf(request), state);
      return result === 0 ? `${state.readUInt32LE(0)} ${state.readUInt32LE(4)}` : answer(result);
    });
  }

  /** An ioctl with struct vhost_vring_file. */
  setFile(request: string, index: number, file: CaseFd): Step {
    return this.#step(`${request} ${index} ${file}`, (fd, bench) =>
      answer(tryIoctl(fd, requestOf(request), pair(index, descriptor(bench, file)))),
    );
  }

  /** VHOST_NET_SET_BACKEND. */
  setBackend(index: number, file: CaseFd): Step {
    return this.#step(`VHOST_NET_SET_BACKEND ${index} ${file}`, (fd, bench) =>
      answer(tryIoctl(fd, VHOST_NET_SET_BACKEND, pair(index, descriptor(bench, file)))),
    );
  }

  /** VHOST_NET_SET_BACKEND with VHOST_FILE_UNBIND. */
  stop(index: number): Step {
    return this.setBackend(index, VHOST_FILE_UNBIND);
  }

  /** VHOST_SET_VRING_ADDR. */
  setAddr(index: number, parts: RingParts): Step {
    const { flags = 0, desc = 0, used = 0, avail = 0, log = 0 } = parts;
    const words = `flags ${flags} desc ${text(desc)} used ${text(used)} avail ${text(avail)} log ${text(log)}`;
    return this.#step(`VHOST_SET_VRING_ADDR ${index} ${words}`, (fd, bench) => {
      const bytes = Buffer.alloc(VHOST_VRING_ADDR_BYTES);
      bytes.writeUInt32LE(index, 0);
      bytes.writeUInt32LE(flags, 4);
      [desc, used, avail, log].forEach((part, i) => {
        bytes.writeBigUInt64LE(resolve(bench, part), 8 + 8 * i);
      });
      return answer(tryIoctl(fd, VHOST_SET_VRING_ADDR, bytes));
    });
  }

  /** VHOST_SET_MEM_TABLE. `count` and `padding` are what the header says. */
  setMemTable(regions: Region[], { count = regions.length, padding = 0 } = {}): Step {
    const shown = regions.slice(0, 2).map(({ gpa, size, user }) => `${text(gpa)}+${text(size)}=${text(user)}`);
    if (regions.length > shown.length) shown.push('...');
    const header = padding === 0 ? `${count} regions` : `${count} regions, padding ${padding}`;
    return this.#step(`VHOST_SET_MEM_TABLE ${header} ${shown.join(' ')}`, (fd, bench) =>
      answer(tryIoctl(fd, VHOST_SET_MEM_TABLE, tableBytes(bench, regions, count, padding))),
    );
  }

  /** VHOST_SET_MEM_TABLE whose header is readable, and whose regions are not. */
  setUnreadableMemTable(count: number): Step {
    return this.#step(`VHOST_SET_MEM_TABLE ${count} regions at nowhere`, (fd, bench) => {
      const place = privately(MEMORY_BYTES - VHOST_MEMORY_BYTES);
      bench.view(place, VHOST_MEMORY_BYTES).setUint32(0, count, true);
      return answer(tryIoctl(fd, VHOST_SET_MEM_TABLE, bench.address(place)));
    });
  }

  /** An ioctl with an address where nothing is. */
  withNowhere(request: string): Step {
    return this.#step(`${request} at nowhere`, (fd) => answer(tryIoctl(fd, requestOf(request), NOWHERE)));
  }

  /** An ioctl with the address of zeros: ring 0, where there is a ring. */
  withZeros(request: string): Step {
    return this.#step(`${request} of zeros`, (fd) => answer(tryIoctl(fd, requestOf(request), Buffer.alloc(64))));
  }

  /** An ioctl that vhost-net files do not have, with the address of an int. */
  unknown(request: number, int: number): Step {
    return this.#step(`ioctl 0x${request.toString(16)} &${int}`, (fd) => {
      const bytes = Buffer.alloc(64);
      bytes.writeUInt32LE(int);
      return answer(tryIoctl(fd, request, bytes));
    });
  }

  /** An ioctl that vhost-net files do not have, with an address where nothing is. */
  unknownAtNowhere(request: number): Step {
    return this.#step(`ioctl 0x${request.toString(16)} at nowhere`, (fd) => answer(tryIoctl(fd, request, NOWHERE)));
  }

  /** The same file in another process, which makes these calls with zeros: the answers, in their order. */
  inOtherProcess(...names: string[]): Step {
    return this.#step(`in another process: ${names.join(' ')}`, (fd) => {
      const program = path.join(import.meta.dirname, 'inherited.ts');
      const child = spawnSync(process.execPath, [program, ...names.map((name) => String(requestOf(name)))], {
        stdio: ['ignore', 'pipe', 'inherit', fd],
        encoding: 'utf8',
        timeout: CHILD_MS,
        killSignal: 'SIGKILL',
      });
      if (child.status !== 0) return `the child ended with ${child.status ?? child.signal}`;
      return child.stdout.trim();
    });
  }

  /** read(2) of 64 bytes. */
  read(): Step {
    return this.#step('read 64', (fd) => answer(tryRead(fd, Buffer.alloc(64))));
  }

  /** write(2) of zeros. */
  write(count: number): Step {
    return this.#step(`write ${count} zeros`, (fd) => answer(tryWrite(fd, Buffer.alloc(count))));
  }

  /** poll(2) for reading and writing, without waiting. */
  poll(): Step {
    return this.#step('poll', (fd) => {
      const poll = new PollSet();
      poll.add(fd, POLLIN | POLLOUT);
      poll.wait(0);
      const revents = poll.revents(0);
      const names: [number, string][] = [
        [POLLIN, 'IN'],
        [POLLOUT, 'OUT'],
        [POLLERR, 'ERR'],
      ];
      return (
        names
          .filter(([flag]) => revents & flag)
          .map(([, name]) => name)
          .join('|') || 'nothing'
      );
    });
  }

  /** close(2), before the end of the case. */
  close(): Step {
    return this.#step('close', (_fd, bench) => {
      bench.closeFile('vhost', this.name);
      return '0';
    });
  }
}

/** Fills descriptor 0 of a ring with a buffer at BUFFERS, puts it into the available ring as its first, and kicks. */
export function offerBuffer(
  index: number,
  kick: `eventfd ${string}`,
  bytes: Uint8Array,
  flags: number,
  length = bytes.length,
): Step {
  return {
    label: `ring ${index}: a buffer of ${length} bytes is available`,
    run: (bench) => {
      const { desc, avail } = ringParts(index) as Record<string, Place>;
      const at = BUFFERS + index * RING_STRIDE;
      const buffer = bench.view(shared(at), length);
      bytes.forEach((byte, i) => {
        buffer.setUint8(i, byte);
      });
      const descriptorView = bench.view(desc!, VIRTQ_DESC_BYTES);
      descriptorView.setBigUint64(0, BigInt(at), true);
      descriptorView.setUint32(8, length, true);
      descriptorView.setUint16(12, flags, true);
      const ring = bench.view(avail!, VIRTQ_AVAIL_HEADER_BYTES + 2 * RING_ENTRIES);
      ring.setUint16(VIRTQ_AVAIL_HEADER_BYTES, 0, true);
      Atomics.store(new Uint16Array(ring.buffer), 1, 1);
      signalEventfd(descriptor(bench, kick));
      return '0';
    },
  };
}

/** Waits until ring `index` has used its first buffer: used.idx, and id and len of the first entry. */
export function awaitUsed(index: number): Step {
  return {
    label: `ring ${index}: used`,
    run: (bench) => {
      const { used } = ringParts(index) as Record<string, Place>;
      const ring = bench.view(used!, VIRTQ_USED_HEADER_BYTES + VIRTQ_USED_ENTRY_BYTES);
      const until = Date.now() + USE_MS;
      const nothing = new PollSet();
      while (Atomics.load(new Uint16Array(ring.buffer), 1) === 0) {
        if (Date.now() > until) return 'nothing';
        nothing.wait(1);
      }
      const entry = VIRTQ_USED_HEADER_BYTES;
      return `idx ${ring.getUint16(2, true)} id ${ring.getUint32(entry, true)} len ${ring.getUint32(entry + 4, true)}`;
    },
  };
}

/** The first bytes of the buffer that {@link offerBuffer} gave to ring `index`, in hexadecimal. */
export function bufferOf(index: number, length: number): Step {
  return {
    label: `ring ${index}: the buffer`,
    run: (bench) => {
      const bytes = bench.view(shared(BUFFERS + index * RING_STRIDE), length);
      return Buffer.from(bytes.buffer, 0, length).toString('hex');
    },
  };
}
