/** What `ringswitch show` prints for people: tables of the control API's rows. */
import type { FdbRow, LaneRow, MemoryRow, PortStatus, RingRow, Status } from './control.ts';
import { formatImpairments } from './impairment-options.ts';
import { printable } from './printable.ts';

const BINARY_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
const DROP = /^[rt]x_drop_/;
const IMPAIRED = /^[rt]x_impaired_/;
/** A place in a packed ring: 15 bits of index, then the wrap counter (virtio 1.2 §2.8.14). */
const PACKED_INDEX_MASK = 0x7fff;
const PACKED_WRAP_SHIFT = 15;

/** 1536 → `1.5 KiB`. */
export function formatBytes(bytes: number): string {
  let unit = 0;
  let value = bytes;
  while (Number(value.toFixed(1)) >= 1024 && unit < BINARY_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${BINARY_UNITS[unit]}`;
}

/** Columns as wide as their widest cell; numbers to the right. */
export function formatTable(header: string[], rows: (string | number)[][]): string {
  const cells = [header, ...rows.map((row) => row.map((cell) => printable(String(cell))))];
  const widths = header.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)));
  const right = header.map((_, column) => rows.length > 0 && rows.every((row) => typeof row[column] === 'number'));
  const line = (row: string[]): string =>
    row
      .map((cell, column) => (right[column] ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
      .join('  ')
      .trimEnd();
  return cells.map(line).join('\n');
}

export function formatStatus(status: Status): string {
  const { version, pid, uptimeSeconds, mount, ports, logLevel, fdb } = status;
  return [
    `ringswitch ${version}, process ${pid}, up ${uptimeSeconds} s`,
    `devices in ${mount}, log level ${logLevel}`,
    `${ports} ports; addresses age after ${fdb.aging} s, ${fdb.capacity} at most`,
  ].join('\n');
}

export function formatPorts(ports: PortStatus[]): string {
  if (ports.length === 0) return 'no ports';
  const header = [
    'PORT',
    'KIND',
    'LINK',
    'PATH',
    'QUEUES',
    'RX FRAMES',
    'RX',
    'TX FRAMES',
    'TX',
    'DROPS',
    'OFFLOADS',
    'CLIENT',
  ];
  const table = formatTable(
    header,
    ports.map((port) => [
      port.name,
      port.kind,
      port.link === 'up' ? (port.carrier === 'up' ? 'up' : 'no carrier') : 'down',
      port.path,
      port.queues,
      port.counters.rx_frames ?? 0,
      formatBytes(port.counters.rx_bytes ?? 0),
      port.counters.tx_frames ?? 0,
      formatBytes(port.counters.tx_bytes ?? 0),
      sumDrops(port),
      port.offloads.join(',') || '-',
      port.clients.map(({ pid, command }) => `${command} (${pid})`).join(', ') || '-',
    ]),
  );
  return [table, ...ports.flatMap(portNotes)].join('\n');
}

const drops = (port: PortStatus): [string, number][] =>
  Object.entries(port.counters).filter(([name, n]) => DROP.test(name) && n > 0);
const sumDrops = (port: PortStatus): number => drops(port).reduce((sum, [, n]) => sum + n, 0);

function portNotes(port: PortStatus): string[] {
  const notes: string[] = [];
  const dropped = drops(port).map(([name, n]) => `${n} ${name}`);
  if (dropped.length > 0) notes.push(printable(`${port.name}: dropped ${dropped.join(', ')}`));
  for (const line of formatImpairments(port.impairment)) notes.push(printable(`${port.name}: ${line}`));
  const impaired = Object.entries(port.counters).filter(([name, n]) => IMPAIRED.test(name) && n > 0);
  if (impaired.length > 0) {
    const counts = impaired.map(([name, n]) => `${n} ${name}`).join(', ');
    notes.push(printable(`${port.name}: on impaired wires ${counts}`));
  }
  if (port.vhostUser && !port.vhostUser.connected) {
    const { path, mode } = port.vhostUser;
    const what = mode === 'server' ? 'waits for a peer on' : 'tries to connect to';
    notes.push(printable(`${port.name}: not connected; ${what} ${path}`));
  }
  if (port.error !== null) notes.push(printable(`${port.name}: ${port.error}`));
  return notes;
}

export function formatFdb(rows: FdbRow[]): string {
  if (rows.length === 0) return 'no addresses learned';
  return formatTable(
    ['ADDRESS', 'PORT', 'AGE'],
    rows.map(({ mac, port, ageSeconds }) => [mac, port, `${ageSeconds} s`]),
  );
}

export function formatRings(rows: RingRow[]): string {
  if (rows.length === 0) return 'no rings';
  const table = formatTable(
    ['PORT', 'QUEUE', 'RING', 'SIZE', 'BASE', 'USED', 'HEADER', 'CALLS', 'WITHHELD', 'STATE', 'FEATURES'],
    rows.map((row) => [
      row.port,
      row.queue,
      row.ring,
      row.num,
      place(row, row.base),
      place(row, row.usedIdx),
      row.headerBytes,
      row.calls,
      row.callsSuppressed,
      row.error === null ? 'running' : 'BROKEN',
      row.features.join(','),
    ]),
  );
  const broken = rows.filter((row) => row.error !== null);
  return [
    table,
    ...broken.map(({ port, queue, ring, error }) =>
      printable(`${port} queue ${queue} ${ring}: ${error!.code}: ${error!.message}`),
    ),
  ].join('\n');
}

/** An index; of a packed ring with its wrap counter, such as `17/1`. */
function place({ features }: RingRow, value: number): string | number {
  if (!features.includes('RING_PACKED')) return value;
  return `${value & PACKED_INDEX_MASK}/${(value >>> PACKED_WRAP_SHIFT) & 1}`;
}

export function formatMemory(rows: MemoryRow[]): string {
  if (rows.length === 0) return 'no guest memory mapped';
  return formatTable(
    ['TABLE', 'MAPPED', 'RINGS'],
    rows.map(({ table, mappedBytes, rings }) => [table, formatBytes(mappedBytes), rings]),
  );
}

export function formatLanes(rows: LaneRow[]): string {
  const header = [
    'LANE',
    'CPU',
    'PORTS',
    'FRAMES',
    'NS/FRAME',
    'ROUNDS',
    'EMPTY',
    'SLEEPS',
    'TO LANES',
    'LOST',
    'COPIES',
  ];
  return formatTable(
    header,
    rows.map((row) => [
      row.lane,
      row.cpu ?? '-',
      row.ports,
      row.frames,
      row.frames === 0 ? '-' : Math.round(row.busyNs / row.frames),
      row.breaths,
      row.emptyBreaths,
      row.sleeps,
      row.sentToLanes,
      row.lostToLanes,
      row.arena === '' ? 'wasm' : `libc: ${row.arena}`,
    ]),
  );
}
