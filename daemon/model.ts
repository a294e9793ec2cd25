/**
 * `ringswitch model 82599`: software cards on vfio-user sockets, cabled to each other or to a tap.
 *
 *     QEMU ── --socket A ── card ═══ cable ═══ card ── --socket B ── QEMU (or a daemon's nic port)
 *     QEMU ── --socket A ── card ═══ cable ═══ --tap NAME
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { cable, looseCable } from '../nic/model/cable.ts';
import { Card82599 } from '../nic/model/card.ts';
import { systemClock } from '../nic/model/system-clock.ts';
import { TapWire } from '../nic/model/tap-wire.ts';
import type { WireEnd } from '../nic/model/wire.ts';
import { CardDevice } from '../nic/vfio-user/card-device.ts';
import { VfioUserServer } from '../nic/vfio-user/server.ts';
import { createLogger } from './logger.ts';
import { freeSocketPath, makePrivately } from './socket-file.ts';

export interface ModelOptions {
  /** One socket for each card: one or two. */
  sockets: string[];
  /** The tap that a single card is cabled to, and the device file to open it by. */
  tap?: string;
  tun?: string;
  /** Address of the first card; the second has the next. */
  mac?: string;
  /** PCI device id, such as `10fb`. */
  device?: string;
}

const MAX_CARDS = 2;
/** Locally administered, unicast. */
const LOCAL_ADDRESS = 0x02;

/** Serves until a signal comes. Rejects with what is wrong about the options, or with what failed. */
export async function runModel(options: ModelOptions): Promise<void> {
  const { sockets, tap, tun } = options;
  if (sockets.length === 0 || sockets.length > MAX_CARDS) {
    throw new Error(`one or two cards can be served, not ${sockets.length}: give --socket once or twice`);
  }
  if (new Set(sockets.map((socket) => path.resolve(socket))).size < sockets.length) {
    throw new Error(`${sockets[0]} is given twice: each card has a socket of its own`);
  }
  if (sockets.length === 2 && tap !== undefined) {
    throw new Error('two cards are cabled to each other: --tap is for one');
  }
  if (tun !== undefined && tap === undefined)
    throw new Error('--tun says how to open a tap: give --tap, its name, too');
  const mac = options.mac === undefined ? randomAddress() : parseAddress(options.mac);
  const deviceId = options.device === undefined ? undefined : parseDeviceId(options.device);
  const log = createLogger({ level: 'info', format: 'auto' });
  const asked = Promise.withResolvers<string>();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => asked.resolve(signal));

  using undo = new DisposableStack();
  const wires: WireEnd[] =
    sockets.length === 2
      ? cable()
      : [tap === undefined ? looseCable() : openTap(tap, tun, undo, (message) => log.warn(message))];
  for (const [n, socket] of sockets.entries()) {
    await freePath(socket);
    const server = makePrivately(() => new VfioUserServer(socket, log));
    undo.defer(() => {
      server.close();
      fs.rmSync(socket, { force: true });
    });
    const address = new Uint8Array(mac);
    address[5] = address[5]! + n;
    const onFault = (message: string) => log.warn(`${socket}: ${message}`);
    const card = new Card82599({ bus: server, wire: wires[n]!, clock: systemClock, mac: address, deviceId, onFault });
    undo.defer(() => card.close());
    server.serve(new CardDevice(card));
    log.info(`${socket}: an 82599 with address ${formatAddress(address)}`);
  }
  log.info(`stopping: ${await asked.promise}`);
}

function openTap(
  name: string,
  device: string | undefined,
  undo: DisposableStack,
  onGone: (message: string) => void,
): WireEnd {
  try {
    const wire = undo.adopt(new TapWire(name, device), (tap) => tap.close());
    wire.onGone = onGone;
    return wire;
  } catch (error) {
    throw new Error(`tap ${name}: ${(error as Error).message}`);
  }
}

async function freePath(socket: string): Promise<void> {
  const state = await freeSocketPath(socket);
  if (state === 'no socket') throw new Error(`${socket} exists and is no socket; remove it, or give another path`);
  if (state === 'alive') throw new Error(`somebody serves ${socket} already; stop it, or give another path`);
  fs.mkdirSync(path.dirname(path.resolve(socket)), { recursive: true });
}

function randomAddress(): Uint8Array {
  const address = new Uint8Array(randomBytes(6));
  address[0] = LOCAL_ADDRESS;
  return address;
}

function parseAddress(text: string): Uint8Array {
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text)) {
    throw new Error(`${text} is no MAC address: six octets such as 02:00:00:00:00:01`);
  }
  const address = Uint8Array.from(text.split(':'), (octet) => Number.parseInt(octet, 16));
  if ((address[0]! & 1) !== 0) throw new Error(`${text} is a group address: a card has one of its own`);
  // Drivers take it for an EEPROM that nobody has written.
  if (address.every((octet) => octet === 0)) throw new Error(`${text} is nobody's address: a card has one of its own`);
  return address;
}

function parseDeviceId(text: string): number {
  if (!/^[0-9a-f]{4}$/i.test(text))
    throw new Error(`${text} is no PCI device id: four hexadecimal digits such as 10fb`);
  return Number.parseInt(text, 16);
}

function formatAddress(address: Uint8Array): string {
  return Array.from(address, (octet) => octet.toString(16).padStart(2, '0')).join(':');
}
