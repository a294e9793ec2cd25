/**
 * What the control plane asks of the daemon: the daemon implements `Control`, the control server speaks it as HTTP and
 * JSON (docs/control-api.md), and the command line shows its rows. Rows are plain values, ready for `JSON.stringify`.
 */

import type { Impairment } from '../switch/impairment.ts';
import type { ImpairmentRequests } from './impairment-options.ts';

/** Where a daemon listens unless its configuration says otherwise. */
export const DEFAULT_SOCKET = '/run/ringswitch/control.sock';

/** What a daemon can be told to log, from little to much. */
export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Who makes the socket of a vhost-user port: we, or the peer. */
export const VHOST_USER_MODES = ['server', 'client'] as const;
export type VhostUserMode = (typeof VHOST_USER_MODES)[number];

/** A vhost-user port, as it is asked for. */
export interface VhostUserOptions {
  name: string;
  /** Of its Unix socket. */
  path: string;
  mode: VhostUserMode;
  /** Queue pairs at the most. */
  queues: number;
}

/** A port for a network card, as it is asked for. */
export interface CardOptions {
  name: string;
  /** `0000:01:00.0`, or `vfio-user:/path/of/a/socket`. */
  device: string;
  /** Queue pairs. */
  queues: number;
  /** Of each ring. */
  descriptors: number;
  /** Longest payload of a frame, in bytes. */
  mtu: number;
  /** Whether a card may be driven that no IOMMU keeps from the host's memory. */
  withoutIommu: boolean;
}

/** One port of the switch. */
export interface PortStatus {
  id: number;
  name: string;
  kind: 'guest' | 'tap' | 'vhost-user' | 'nic';
  /** The administrative state: what an operator asked for. */
  link: 'up' | 'down';
  /** The operational state: whether frames can pass. */
  carrier: 'up' | 'down';
  /** Names of the TUNSETOFFLOAD flags in force. */
  offloads: string[];
  queues: number;
  /** How frames reach the client: shared rings, rings that are copied for want of shared memory, descriptors of a network card, reads and writes of the tun file. */
  path: 'vhost' | 'vhost-copied' | 'vhost-user' | 'card' | 'file' | 'mixed' | 'none';
  /** The socket of a vhost-user port; null for others. */
  vhostUser: { path: string; mode: VhostUserMode; connected: boolean } | null;
  /** The card behind the port; null for others. */
  nic: { device: string; speedMbps: number } | null;
  /** What is done to frames that the port gets, and that it sends; null where nothing is. */
  impairment: { to: Impairment | null; from: Impairment | null };
  persistent: boolean;
  clients: { pid: number; command: string }[];
  /** Six octets in colon-hexadecimal notation. */
  mac: string | null;
  /** By the names of switch/counters.ts. */
  counters: Record<string, number>;
  error: string | null;
}

/** One learnt address of the forwarding database. */
export interface FdbRow {
  mac: string;
  port: string;
  /** Since the last frame from this address. */
  ageSeconds: number;
}

/** One virtqueue. */
export interface RingRow {
  port: string;
  queue: number;
  /** `rx`: the guest receives. */
  ring: 'rx' | 'tx';
  /** Entries in the ring (VHOST_SET_VRING_NUM). */
  num: number;
  /** The next index of the available ring to be taken; of a packed ring both its places (VHOST_GET_VRING_BASE). */
  base: number;
  /** The used ring's idx as last published; of a packed ring 15 bits of index, and the wrap counter above. */
  usedIdx: number;
  /** Bytes of virtio-net header before each frame. */
  headerBytes: number;
  /** Names of the feature bits the driver accepted. */
  features: string[];
  /** Times the driver was notified. */
  calls: number;
  /** Notifications the driver had asked not to get. */
  callsSuppressed: number;
  /** Why the ring stands still, when the driver broke it. */
  error: { code: string; index: number; value: number; message: string } | null;
}

/** One table of guest memory (VHOST_SET_MEM_TABLE). */
export interface MemoryRow {
  table: number;
  mappedBytes: number;
  /** Rings that use this table. */
  rings: number;
}

/** One lane: a thread that forwards frames. Counts are since it began. */
export interface LaneRow {
  lane: number;
  /** The processor that it is pinned to. */
  cpu: number | null;
  ports: number;
  /** Rounds over all queues, and those that moved nothing. */
  breaths: number;
  emptyBreaths: number;
  frames: number;
  /** Time in rounds that moved something: divided by frames, what a frame costs. */
  busyNs: number;
  sleeps: number;
  /** Frames handed to other lanes, and lost because those did not keep up. */
  sentToLanes: number;
  lostToLanes: number;
  /** Why frames are copied by libc and not by wasm; empty when they are not. */
  arena: string;
}

/** Which frames a capture sees: those from the port into the switch, those from the switch to the port, or both. */
export const CAPTURE_DIRECTIONS = ['in', 'out', 'both'] as const;
export type CaptureDirection = (typeof CAPTURE_DIRECTIONS)[number];

/** A capture, as it is asked for. */
export interface CaptureOptions {
  /** Bytes of a frame that are kept at the most. */
  snaplen: number;
  direction: CaptureDirection;
  /** Of the ring that each lane fills: a power of two. */
  ringBytes: number;
  /** A program of classic BPF (packet/bpf.ts); every frame without. */
  filter: [code: number, jt: number, jf: number, k: number][] | null;
}

/** What a capturing process needs: descriptors of the daemon that it duplicates (pidfd_getfd(2)), and what lies there. */
export interface CaptureStart {
  id: number;
  port: string;
  /** The process that has the descriptors. */
  pid: number;
  /** A memfd of `lanes` parts (memory/capture-ring.ts), and the eventfd that is signalled for a reader that sleeps. */
  memoryFd: number;
  wakeFd: number;
  lanes: number;
  ringBytes: number;
}

/** Why a capture ended. */
export interface CaptureEnd {
  end: 'stopped' | 'port-removed';
}

/** One capture that runs. */
export interface CaptureRow {
  id: number;
  port: string;
  direction: CaptureDirection;
  snaplen: number;
  filtered: boolean;
  /** Frames that passed; of these those that the filter took; of these those that found the ring full. */
  seen: number;
  accepted: number;
  dropped: number;
}

/** An answer that goes on until the client leaves: one line of JSON now, another one when `last` resolves. */
export class LiveAnswer {
  readonly first: object;
  readonly last: Promise<object>;
  /** To be called once, when the client has left. */
  readonly close: () => void;

  constructor(first: object, last: Promise<object>, close: () => void) {
    this.first = first;
    this.last = last;
    this.close = close;
  }
}

/** What of a port shall change. */
export interface PortChange {
  link?: 'up' | 'down';
  impairment?: ImpairmentRequests;
}

/** The daemon as a whole. */
export interface Status {
  version: string;
  pid: number;
  uptimeSeconds: number;
  mount: string;
  ports: number;
  logLevel: string;
  fdb: { aging: number; capacity: number };
}

/** What an operator can ask of a running daemon. Methods refuse with `ControlError`; any other error is a defect. */
export interface Control {
  status(): Status;
  ports(): PortStatus[];
  fdb(): Promise<FdbRow[]>;
  rings(): Promise<RingRow[]>;
  memory(): Promise<MemoryRow[]>;
  lanes(): Promise<LaneRow[]>;
  /** Creates a Linux tap, or attaches the one of that name, and makes it a port. */
  addTap(options: { name: string; persistent: boolean }): Promise<PortStatus>;
  /** Makes a port for a guest that comes over vhost-user, now or later. */
  addVhostUser(options: VhostUserOptions): Promise<PortStatus>;
  /** Takes a network card, and makes it a port. */
  addCard(options: CardOptions): Promise<PortStatus>;
  /** What a card has counted itself, by the names of nic/driver/statistics.ts. */
  cardStatistics(name: string): Record<string, number>;
  removePort(name: string): Promise<void>;
  setPort(name: string, change: PortChange): Promise<PortStatus>;
  /** Captures the frames of a port: a CaptureStart, and in the end a CaptureEnd, until the client leaves. */
  capture(port: string, options: CaptureOptions): Promise<LiveAnswer>;
  captures(): CaptureRow[];
  /** Ends a capture; whoever asked for it hears so. */
  stopCapture(id: string): Promise<void>;
  setLogLevel(level: string): void;
  setAging(seconds: number): Promise<void>;
  /** Takes over the seccomp listener that process `pid` holds as descriptor `fd` (`ringswitch exec`). */
  adoptListener(pid: number, fd: number): Promise<void>;
}

/** A request that the daemon refuses: `status` is its HTTP status, `code` a stable word for programs. */
export class ControlError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.name = 'ControlError';
    this.status = status;
    this.code = code;
  }
}
