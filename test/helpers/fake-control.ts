/** A daemon without a switch: what it answers is made up (docs/control-api.md shows it), what it is asked is noted. */
import {
  type CaptureEnd,
  type CaptureOptions,
  type CaptureRow,
  type CardOptions,
  type Control,
  ControlError,
  type FdbRow,
  type LaneRow,
  LiveAnswer,
  type MemoryRow,
  type PortChange,
  type PortStatus,
  type RingRow,
  type Status,
  type VhostUserOptions,
} from '../../daemon/control.ts';
import type { ImpairmentRequest } from '../../daemon/impairment-options.ts';
import { newCounters, RX_BYTES, RX_FRAMES, readCounters, TX_DROP_NO_BUFFERS } from '../../switch/counters.ts';
import type { Impairment } from '../../switch/impairment.ts';

export class FakeControl implements Control {
  /** What was asked, in order: the method and its arguments. */
  readonly asked: unknown[][] = [];
  /** Of the capture that was asked for last: its end, and how often its client has left. */
  captureEnd = Promise.withResolvers<CaptureEnd>();
  capturesLeft = 0;
  /** When set, the next call throws it. */
  fault: Error | undefined;

  status(): Status {
    this.#note('status');
    return {
      version: '0.1.0',
      pid: 1042,
      uptimeSeconds: 61,
      mount: '/run/ringswitch/dev',
      ports: 1,
      logLevel: 'info',
      fdb: { aging: 300, capacity: 16384 },
    };
  }

  ports(): PortStatus[] {
    this.#note('ports');
    return [guestPort()];
  }

  async fdb(): Promise<FdbRow[]> {
    this.#note('fdb');
    return [{ mac: '52:54:00:12:34:56', port: 'web1', ageSeconds: 3 }];
  }

  async rings(): Promise<RingRow[]> {
    this.#note('rings');
    return [goodRing()];
  }

  async lanes(): Promise<LaneRow[]> {
    this.#note('lanes');
    return [
      {
        lane: 0,
        cpu: 1,
        ports: 2,
        breaths: 500,
        emptyBreaths: 100,
        frames: 4000,
        busyNs: 400_000,
        sleeps: 7,
        sentToLanes: 30,
        lostToLanes: 2,
        arena: '',
      },
    ];
  }

  async memory(): Promise<MemoryRow[]> {
    this.#note('memory');
    return [{ table: 1, mappedBytes: 1073741824, rings: 2 }];
  }

  async addTap(options: { name: string; persistent: boolean }): Promise<PortStatus> {
    this.#note('addTap', options);
    if (options.name === 'web1') throw new ControlError(409, 'EEXIST', 'there is a port web1 already');
    return tapPort(options.name, options.persistent);
  }

  async addCard(options: CardOptions): Promise<PortStatus> {
    this.#note('addCard', options);
    return cardPort(options);
  }

  cardStatistics(name: string): Record<string, number> {
    this.#note('cardStatistics', name);
    return { rx_packets: 3, rx_bytes: 192, rx_missed: 0 };
  }

  async addVhostUser(options: VhostUserOptions): Promise<PortStatus> {
    this.#note('addVhostUser', options);
    return vhostUserPort(options);
  }

  async removePort(name: string): Promise<void> {
    this.#note('removePort', name);
  }

  async setPort(name: string, change: PortChange): Promise<PortStatus> {
    this.#note('setPort', name, change);
    const { link = 'up', impairment = {} } = change;
    const drawn = (request: ImpairmentRequest | null | undefined): Impairment | null =>
      request ? { ...request, seed: request.seed ?? 7 } : null;
    return { ...guestPort(), link, impairment: { to: drawn(impairment.to), from: drawn(impairment.from) } };
  }

  async capture(port: string, options: CaptureOptions): Promise<LiveAnswer> {
    this.#note('capture', port, options);
    this.captureEnd = Promise.withResolvers();
    const first = { id: 1, port, pid: 1042, memoryFd: 31, wakeFd: 32, lanes: 1, ringBytes: options.ringBytes };
    return new LiveAnswer(first, this.captureEnd.promise, () => {
      this.capturesLeft++;
    });
  }

  captures(): CaptureRow[] {
    this.#note('captures');
    return [captureRow()];
  }

  async stopCapture(id: string): Promise<void> {
    this.#note('stopCapture', id);
  }

  setLogLevel(level: string): void {
    this.#note('setLogLevel', level);
  }

  async setAging(seconds: number): Promise<void> {
    this.#note('setAging', seconds);
  }

  async adoptListener(pid: number, fd: number): Promise<void> {
    this.#note('adoptListener', pid, fd);
  }

  #note(...call: unknown[]): void {
    this.asked.push(call);
    const { fault } = this;
    this.fault = undefined;
    if (fault) throw fault;
  }
}

export function captureRow(): CaptureRow {
  return { id: 1, port: 'web1', direction: 'both', snaplen: 128, filtered: true, seen: 900, accepted: 30, dropped: 0 };
}

export function guestPort(): PortStatus {
  const counters = newCounters();
  counters[RX_FRAMES] = 12;
  counters[RX_BYTES] = 1536;
  counters[TX_DROP_NO_BUFFERS] = 2;
  return {
    id: 1,
    name: 'web1',
    kind: 'guest',
    link: 'up',
    carrier: 'up',
    offloads: ['csum', 'tso4'],
    queues: 1,
    path: 'vhost',
    vhostUser: null,
    nic: null,
    impairment: { to: null, from: null },
    persistent: false,
    clients: [{ pid: 2077, command: 'qemu-system-x86' }],
    mac: '6e:21:0c:9a:44:f3',
    counters: readCounters(counters),
    error: null,
  };
}

export function tapPort(name: string, persistent: boolean): PortStatus {
  return {
    ...guestPort(),
    id: 2,
    name,
    kind: 'tap',
    offloads: ['csum', 'tso4', 'tso6', 'tso-ecn'],
    path: 'file',
    persistent,
    clients: [],
    mac: null,
    counters: readCounters(newCounters()),
  };
}

/** One that waits for its guest. */
export function vhostUserPort({ name, path, mode, queues }: VhostUserOptions): PortStatus {
  return {
    ...guestPort(),
    id: 3,
    name,
    kind: 'vhost-user',
    carrier: 'down',
    offloads: [],
    queues,
    path: 'none',
    vhostUser: { path, mode, connected: false },
    clients: [],
    mac: null,
    counters: readCounters(newCounters()),
  };
}

export function goodRing(): RingRow {
  return {
    port: 'web1',
    queue: 0,
    ring: 'rx',
    num: 256,
    base: 40,
    usedIdx: 12,
    headerBytes: 12,
    features: ['MRG_RXBUF', 'EVENT_IDX', 'VERSION_1'],
    calls: 9,
    callsSuppressed: 3,
    error: null,
  };
}

export function cardPort({ name, device, queues }: CardOptions): PortStatus {
  return {
    ...tapPort(name, false),
    id: 4,
    kind: 'nic',
    carrier: 'down',
    offloads: ['csum', 'tso4', 'tso6', 'tso-ecn', 'uso4', 'uso6'],
    queues,
    path: 'card',
    nic: { device, speedMbps: 0 },
  };
}
