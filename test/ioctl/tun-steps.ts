/** The steps of cases for /dev/net/tun: each method makes one, for a file that is opened when a step first names it. */
import { EEXIST } from '../../linux/errno.ts';
import { tryRead, tryWrite } from '../../linux/file.ts';
import {
  ARPHRD_ETHER,
  IFF_ATTACH_QUEUE,
  IFF_DETACH_QUEUE,
  IFF_MULTI_QUEUE,
  IFF_NAPI,
  IFF_NAPI_FRAGS,
  IFF_NO_PI,
  IFF_ONE_QUEUE,
  IFF_PERSIST,
  IFF_TAP,
  IFF_TUN,
  IFF_TUN_EXCL,
  IFF_UP,
  IFF_VNET_HDR,
  IFNAMSIZ,
  IFR_DATA_OFFSET,
  ifreq,
  ifreqName,
  SIOCGIFHWADDR,
  SIOCSIFFLAGS,
  SIOCSIFHWADDR,
  TUN_IOCTL_NAMES,
  TUNGETFEATURES,
  TUNGETIFF,
  TUNSETIFF,
  TUNSETQUEUE,
  TUNSETTXFILTER,
} from '../../linux/if-tun.ts';
import { tryIoctl } from '../../linux/ioctl.ts';
import { POLLERR, POLLHUP, POLLIN, POLLOUT, PollSet } from '../../linux/poll.ts';
import { answer, type Bench, SIOCGIFINDEX } from './bench.ts';
import type { Step } from './case.ts';

/** <linux/if_tun.h>: the interface comes up without carrier. */
export const IFF_NO_CARRIER = 0x0040;
/** <asm-generic/ioctls.h>: what isatty(3) asks. */
export const TCGETS = 0x5401;
/** An address at which no process has memory. */
export const NOWHERE = 0x2000;
/** How long a frame may take from one port to another, in milliseconds. */
const DELIVERY_MS = 2000;
const BUFFER_BYTES = 2048;
/** What read buffers are full of, so that bytes that a read skips show. */
const UNTOUCHED = 0xee;
const OWN_PORT = 'sender';

const FLAG_NAMES: [number, string][] = [
  [IFF_TUN, 'TUN'],
  [IFF_TAP, 'TAP'],
  [IFF_NAPI, 'NAPI'],
  [IFF_NAPI_FRAGS, 'NAPI_FRAGS'],
  [IFF_NO_CARRIER, 'NO_CARRIER'],
  [IFF_MULTI_QUEUE, 'MULTI_QUEUE'],
  [IFF_ATTACH_QUEUE, 'ATTACH_QUEUE'],
  [IFF_DETACH_QUEUE, 'DETACH_QUEUE'],
  [IFF_PERSIST, 'PERSIST'],
  [IFF_NO_PI, 'NO_PI'],
  [IFF_ONE_QUEUE, 'ONE_QUEUE'],
  [IFF_VNET_HDR, 'VNET_HDR'],
  [IFF_TUN_EXCL, 'TUN_EXCL'],
];

function flagNames(flags: number): string {
  const known = FLAG_NAMES.filter(([flag]) => flags & flag);
  const rest = known.reduce((left, [flag]) => left & ~flag, flags);
  const names = known.map(([, name]) => name);
  if (rest !== 0 || names.length === 0) names.push(`0x${rest.toString(16)}`);
  return names.join('|');
}

const requests = new Map([...TUN_IOCTL_NAMES].map(([request, name]) => [name, request]));

function requestOf(name: string): number {
  const request = requests.get(name);
  if (request === undefined) throw new Error(`There is no ioctl ${name} of tun files.`);
  return request;
}

const macText = (bytes: Uint8Array): string => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
const macBytes = (text: string): number[] => text.split(':').map((byte) => Number.parseInt(byte, 16));

/** An open tun file of a case. */
export class TunFile {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  #step(label: string, run: (fd: number, bench: Bench) => string): Step {
    return { label: `${this.name} ${label}`, run: (bench) => run(bench.file('tun', this.name), bench) };
  }

  /** TUNSETIFF: the interface's name comes back. `name` may fill all 16 bytes, or more than it should. */
  setIff(name: string, flags: number): Step {
    return this.#step(`TUNSETIFF ${JSON.stringify(name)} ${flagNames(flags)}`, (fd) => {
      const argument = ifreq(name, flags);
      const result = tryIoctl(fd, TUNSETIFF, argument);
      return result === 0 ? ifreqName(argument) : answer(result);
    });
  }

  /** TUNGETIFF: name and flags. */
  getIff(): Step {
    return this.#step('TUNGETIFF', (fd) => {
      const argument = ifreq('');
      const result = tryIoctl(fd, TUNGETIFF, argument);
      return result === 0
        ? `${ifreqName(argument)} ${flagNames(argument.readUInt16LE(IFR_DATA_OFFSET))}`
        : answer(result);
    });
  }

  /** TUNGETFEATURES: flags. */
  getFeatures(): Step {
    return this.#step('TUNGETFEATURES', (fd) => {
      const value = Buffer.alloc(4);
      const result = tryIoctl(fd, TUNGETFEATURES, value);
      return result === 0 ? flagNames(value.readUInt32LE()) : answer(result);
    });
  }

  /** TUNSETQUEUE. */
  setQueue(flags: number): Step {
    return this.#step(`TUNSETQUEUE ${flagNames(flags)}`, (fd) => answer(tryIoctl(fd, TUNSETQUEUE, ifreq('', flags))));
  }

  /** An ioctl that gives an int: the int. */
  getInt(request: string): Step {
    return this.#step(request, (fd) => {
      const value = Buffer.alloc(4);
      const result = tryIoctl(fd, requestOf(request), value);
      return result === 0 ? String(value.readInt32LE()) : answer(result);
    });
  }

  /** An ioctl that takes the address of an int. */
  setInt(request: string, int: number): Step {
    return this.#step(`${request} &${int}`, (fd) => {
      const value = Buffer.alloc(4);
      value.writeInt32LE(int | 0);
      return answer(tryIoctl(fd, requestOf(request), value));
    });
  }

  /** An ioctl that takes a value itself. */
  setValue(request: string, value: number): Step {
    return this.#step(`${request} ${value}`, (fd) => answer(tryIoctl(fd, requestOf(request), value)));
  }

  /** An ioctl with the address of zeros: for structures of which it is enough that they are there. */
  withZeros(request: string): Step {
    return this.#step(`${request} of zeros`, (fd) => answer(tryIoctl(fd, requestOf(request), Buffer.alloc(64))));
  }

  /** An ioctl that gives a descriptor: `a descriptor`, which is closed. */
  getDescriptor(request: string): Step {
    return this.#step(request, (fd, bench) => {
      const result = tryIoctl(fd, requestOf(request), Buffer.alloc(64));
      if (result <= 0) return answer(result);
      bench.dispose(result);
      return 'a descriptor';
    });
  }

  /** An ioctl with an address where nothing is. */
  withNowhere(request: string): Step {
    return this.#step(`${request} at nowhere`, (fd) => answer(tryIoctl(fd, requestOf(request), NOWHERE)));
  }

  /** An ioctl that tun files do not have. */
  unknown(request: number): Step {
    return this.#step(`ioctl 0x${request.toString(16)}`, (fd) => answer(tryIoctl(fd, request, Buffer.alloc(64))));
  }

  /** SIOCGIFHWADDR: family and address, and the name, which stays as it was given. */
  getHwaddr(name = ''): Step {
    return this.#step(`SIOCGIFHWADDR ${JSON.stringify(name)}`, (fd) => {
      const argument = ifreq(name);
      const result = tryIoctl(fd, SIOCGIFHWADDR, argument);
      if (result !== 0) return answer(result);
      const mac = argument.subarray(IFR_DATA_OFFSET + 2, IFR_DATA_OFFSET + 8);
      return `${JSON.stringify(ifreqName(argument))} family ${argument.readUInt16LE(IFR_DATA_OFFSET)} ${macText(mac)}`;
    });
  }

  /** SIOCGIFHWADDR of an interface whose address was chosen at random: what kind of address. */
  getRandomHwaddr(): Step {
    return this.#step('SIOCGIFHWADDR (random)', (fd) => {
      const argument = ifreq('');
      const result = tryIoctl(fd, SIOCGIFHWADDR, argument);
      if (result !== 0) return answer(result);
      const first = argument.readUInt8(IFR_DATA_OFFSET + 2);
      const scope = first & 2 ? 'local' : 'universal';
      return `family ${argument.readUInt16LE(IFR_DATA_OFFSET)} ${scope} ${first & 1 ? 'group' : 'unicast'}`;
    });
  }

  /** SIOCSIFHWADDR. */
  setHwaddr(mac: string, family = ARPHRD_ETHER): Step {
    return this.#step(`SIOCSIFHWADDR family ${family} ${mac}`, (fd) => {
      const argument = ifreq('', family);
      argument.set(macBytes(mac), IFR_DATA_OFFSET + 2);
      return answer(tryIoctl(fd, SIOCSIFHWADDR, argument));
    });
  }

  /** TUNSETTXFILTER with struct tun_filter { __u16 flags, count; __u8 addr[][6]; }. */
  setTxFilter(flags: number, macs: string[], count = macs.length): Step {
    return this.#step(`TUNSETTXFILTER flags ${flags} count ${count} ${macs.join(' ')}`, (fd) => {
      const argument = Buffer.alloc(64);
      argument.writeUInt16LE(flags, 0);
      argument.writeUInt16LE(count, 2);
      argument.set(macs.flatMap(macBytes), 4);
      return answer(tryIoctl(fd, TUNSETTXFILTER, argument));
    });
  }

  /** TUNSETIFINDEX to the index of another interface. */
  setIfindexOf(name: string): Step {
    return this.#step(`TUNSETIFINDEX of ${name}`, (fd, bench) => {
      const argument = ifreq(name);
      // Interfaces of the clones are none of the kernel's: there is no index to ask for.
      if (bench.target === 'kernel') bench.socketIoctl(SIOCGIFINDEX, argument);
      else argument.writeInt32LE(1, IFR_DATA_OFFSET);
      const index = argument.subarray(IFR_DATA_OFFSET, IFR_DATA_OFFSET + 4);
      return answer(tryIoctl(fd, requestOf('TUNSETIFINDEX'), index));
    });
  }

  /** The interface's index, as the system tells it. */
  ifindexOf(name: string): Step {
    return this.#step(`index of ${name}`, (_fd, bench) => {
      const argument = ifreq(name);
      const result = bench.socketIoctl(SIOCGIFINDEX, argument);
      return result === 0 ? String(argument.readInt32LE(IFR_DATA_OFFSET)) : answer(result);
    });
  }

  /** write(2) of bytes. */
  write(what: string, bytes: Uint8Array): Step {
    return this.#step(`write ${what} (${bytes.length} bytes)`, (fd) => answer(tryWrite(fd, Buffer.from(bytes))));
  }

  /** read(2), which must have nothing to give: its answer. */
  read(count = BUFFER_BYTES): Step {
    return this.#step(`read ${count}`, (fd) => answer(tryRead(fd, Buffer.alloc(BUFFER_BYTES), count)));
  }

  /** Waits for a frame and reads it into `count` bytes: the result and the bytes read, in hexadecimal. */
  readFrame(count = BUFFER_BYTES): Step {
    return this.#step(`read a frame into ${count}`, (fd) => {
      const poll = new PollSet();
      poll.add(fd, POLLIN);
      if (poll.wait(DELIVERY_MS) !== 1) return 'no frame';
      const buffer = Buffer.alloc(BUFFER_BYTES, UNTOUCHED);
      const result = tryRead(fd, buffer, count);
      return result < 0 ? answer(result) : `${result} ${buffer.subarray(0, Math.min(count, result)).toString('hex')}`;
    });
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
        [POLLHUP, 'HUP'],
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
      bench.closeFile('tun', this.name);
      return '0';
    });
  }
}

/** Brings an interface up or down, where it has such states: ports of the clones are always up. */
export function setUp(name: string, up: boolean): Step {
  return {
    label: `${name} goes ${up ? 'up' : 'down'}`,
    run: (bench) =>
      bench.target === 'kernel' ? answer(bench.socketIoctl(SIOCSIFFLAGS, ifreq(name, up ? IFF_UP : 0))) : '0',
  };
}

/** Sends a frame out of the interface `name`, so that its tun file can read it: from the host, or from another port. */
export function send(name: string, frame: Uint8Array): Step {
  return {
    label: `a frame of ${frame.length} bytes leaves by ${name}`,
    run: (bench) => {
      if (bench.target === 'kernel') return answer(bench.sendPacket(name, frame));
      const fd = bench.file('tun', OWN_PORT);
      const attached = tryIoctl(fd, TUNSETIFF, ifreq('cfsender', IFF_TAP | IFF_NO_PI));
      // EEXIST: it has sent before.
      if (attached < 0 && attached !== -EEXIST) return answer(attached);
      return answer(tryWrite(fd, Buffer.from(frame)));
    },
  };
}

/** A name that fills all of ifr_name, with no 0 behind. */
export const UNTERMINATED_NAME = 'cf0123456789abcd'.slice(0, IFNAMSIZ);
