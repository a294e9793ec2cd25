/** `ringswitch nic`: which cards there are, which driver has them, and what a daemon knows of one that it drives itself. */
import { wholeName } from '../nic/pci/address.ts';
import type { BindingOptions, BindingResult, BindOptions } from '../nic/pci/binding.ts';
import { bindFunction, groupNotes, NO_DRIVER, unbindFunction, uses, vfioHolders } from '../nic/pci/binding.ts';
import { cardName } from '../nic/pci/known-cards.ts';
import { type NetworkState, readNetworkState } from '../nic/pci/network-state.ts';
import { isNetwork, type PciFunction, type PciResource, SysfsTree } from '../nic/pci/sysfs-tree.ts';
import type { PortStatus } from './control.ts';
import type { ControlClient } from './control-client.ts';
import { printable } from './printable.ts';
import { formatBytes, formatTable } from './show.ts';

/** A network card, as `nic list --json` prints it. */
export interface NicRow {
  /** `0000:01:00.0` */
  address: string;
  /** `8086:10fb` */
  id: string;
  /** What it is called, if it is a card that the driver knows. */
  name: string | null;
  driver: string | null;
  iommuGroup: number | null;
  interfaces: string[];
  /** What the machine's own network has on it, in words; binding it needs --force then. Null where that is not known. */
  uses: string[] | null;
}

/** More of one card, as `nic show --json` prints it. */
export interface NicDetails extends NicRow {
  /** Six digits: base class, sub class, programming interface. */
  class: string;
  driverOverride: string | null;
  numaNode: number | null;
  resources: PciResource[];
  /** The other functions in its IOMMU group. */
  groupMembers: { address: string; id: string; driver: string | null }[];
  /** Processes that have its VFIO group open. */
  holders: string[];
  /** What stands between it and this switch. */
  notes: string[];
  /** What the daemon's own driver says; null when no daemon has the card. See {@link askDaemon}. */
  port: NicPort | null;
}

/** A card as the daemon drives it. */
export interface NicPort {
  /** Of the switch. */
  name: string;
  /** Queue pairs. */
  queues: number;
  link: 'up' | 'down';
  /** 0 while the link is down. */
  speedMbps: number;
  /** What has become of a card that is lost. */
  error: string | null;
  /** What the card has counted, by the names of nic/driver/statistics.ts; null of a card that is lost. */
  statistics: Record<string, number> | null;
}

export interface NicOptions {
  tree?: SysfsTree;
  network?: () => NetworkState;
}

/** Every network card of the machine, by address. */
export function listNics({ tree = new SysfsTree(), network = readNetworkState }: NicOptions = {}): NicRow[] {
  const state = stateOf(network);
  return tree
    .functions()
    .filter(isNetwork)
    .map((fn) => row(tree, fn, state));
}

/** One card. Throws Error when there is none at that address, or it is no network card. */
export function showNic(
  address: string,
  { tree = new SysfsTree(), network = readNetworkState }: NicOptions = {},
): NicDetails {
  const fn = tree.function(address);
  const { classCode, driverOverride, iommuGroup, numaNode, resources } = fn;
  if (!isNetwork(fn)) throw new Error(`${fn.address}: it is no network card (class ${hex(classCode, 6)})`);
  const members = iommuGroup === null ? [] : tree.groupMembers(iommuGroup);
  return {
    ...row(tree, fn, stateOf(network)),
    class: hex(classCode, 6),
    driverOverride,
    numaNode,
    resources,
    groupMembers: members
      .filter((member) => member.address !== fn.address)
      .map((member) => ({ address: member.address, id: idOf(member), driver: member.driver })),
    holders: vfioHolders(tree, fn),
    notes: groupNotes(tree, fn),
    port: null,
  };
}

/**
 * The card with what a running daemon knows of it. Never rejects: where no daemon answers, a note says so, for the rest is worth
 * printing.
 */
export async function askDaemon(nic: NicDetails, daemon: Pick<ControlClient, 'get'>): Promise<NicDetails> {
  try {
    const ports = (await daemon.get('/v1/ports')) as PortStatus[];
    const status = ports.find((port) => port.nic !== null && wholeName(port.nic.device) === nic.address);
    return status === undefined ? nic : { ...nic, port: await nicPort(status, daemon) };
  } catch (error) {
    return { ...nic, notes: [...nic.notes, (error as Error).message] };
  }
}

async function nicPort(status: PortStatus, daemon: Pick<ControlClient, 'get'>): Promise<NicPort> {
  const { name, queues, error, nic } = status;
  const counted = error === null ? await daemon.get(`/v1/ports/${encodeURIComponent(name)}/nic`) : null;
  const { speedMbps } = nic!;
  return {
    name,
    queues,
    // The port may have been set down, which leaves the card's link as it is.
    link: speedMbps > 0 ? 'up' : 'down',
    speedMbps,
    error,
    statistics: counted as Record<string, number> | null,
  };
}

export function formatNics(rows: NicRow[]): string {
  if (rows.length === 0) return 'no network cards on this machine';
  return formatTable(
    ['ADDRESS', 'ID', 'NAME', 'DRIVER', 'GROUP', 'INTERFACES', 'IN USE'],
    rows.map((nic) => [
      nic.address,
      nic.id,
      nic.name ?? '-',
      nic.driver ?? '-',
      nic.iommuGroup ?? '-',
      nic.interfaces.join(',') || '-',
      formatUses(nic),
    ]),
  );
}

export function formatNic(nic: NicDetails): string {
  const lines: [string, string][] = [
    ['address', nic.address],
    ['id', `${nic.id}${nic.name === null ? '' : ` ${nic.name}`}, class ${nic.class}`],
    ['driver', `${nic.driver ?? '-'}${nic.driverOverride === null ? '' : ` (only ${nic.driverOverride} may take it)`}`],
    ['interfaces', nic.interfaces.join(', ') || '-'],
    ['in use', formatUses(nic)],
    ['numa node', String(nic.numaNode ?? '-')],
    ['iommu group', String(nic.iommuGroup ?? '-')],
    ...nic.groupMembers.map(({ address, id, driver }): [string, string] => [
      '  with',
      `${address} ${id}, driver ${driver ?? '-'}`,
    ]),
    ...nic.resources.map(({ index, kind, start, length }): [string, string] => [
      index < 6 ? `bar ${index}` : 'rom',
      `${formatBytes(length)} of ${kind} at 0x${start.toString(16)}`,
    ]),
    ...nic.holders.map((holder): [string, string] => ['opened by', holder]),
    ...portLines(nic.port),
    ...nic.notes.map((note): [string, string] => ['note', note]),
  ];
  const width = Math.max(...lines.map(([name]) => name.length));
  return lines.map(([name, value]) => printable(`${name.padEnd(width)}  ${value}`)).join('\n');
}

/** Counters that are 0 are left out. */
function portLines(port: NicPort | null): [string, string][] {
  if (port === null) return [];
  const { name, queues, link, speedMbps, error, statistics } = port;
  const counted = Object.entries(statistics ?? {}).filter(([, count]) => count !== 0);
  return [
    ['port', `${name}, queue pairs: ${queues}`],
    ['link', link === 'up' ? `up at ${speedMbps} Mb/s` : 'down'],
    ...(error === null ? [] : [['error', error] as [string, string]]),
    ...counted.map(([counter, count]): [string, string] => [`  ${counter}`, String(count)]),
  ];
}

/** `nic bind`: a line for what was done, and one for each note. */
export function bindNic(address: string, options: BindOptions = {}): string {
  return formatBinding(bindFunction(address, options));
}

/** `nic unbind`. */
export function unbindNic(address: string, options: BindingOptions = {}): string {
  return formatBinding(unbindFunction(address, options));
}

function formatBinding({ function: fn, changed, notes }: BindingResult): string {
  const { address, driver, interfaces } = fn;
  const whose = driver === null ? `has no driver (${NO_DRIVER})` : `bound to ${driver}`;
  const names = interfaces.length > 0 ? `, interfaces ${interfaces.join(', ')}` : '';
  return [`${address}: ${changed ? '' : 'already '}${whose}${names}`, ...notes.map((note) => `note: ${note}`)]
    .map(printable)
    .join('\n');
}

function row(tree: SysfsTree, fn: PciFunction, state: NetworkState | null): NicRow {
  const { address, vendorId, deviceId, driver, iommuGroup, interfaces } = fn;
  return {
    address,
    id: idOf(fn),
    name: cardName(vendorId, deviceId),
    driver,
    iommuGroup,
    interfaces,
    uses: state === null ? null : uses(tree, fn, state),
  };
}

/** Null where it cannot be had: a list is worth printing without. */
function stateOf(network: () => NetworkState): NetworkState | null {
  try {
    return network();
  } catch {
    return null;
  }
}

function formatUses({ uses: carried }: NicRow): string {
  if (carried === null) return 'unknown';
  return carried.join('; ') || '-';
}

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
const idOf = ({ vendorId, deviceId }: PciFunction): string => `${hex(vendorId, 4)}:${hex(deviceId, 4)}`;
