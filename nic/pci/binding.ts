/**
 * Which driver has a card: taken from the kernel for this switch, and given back, as dpdk-devbind.py does it.
 *
 *     bind:    driver_override = vfio-pci ─► driver/unbind ─► drivers_probe ─► look
 *     unbind:  driver_override = (none)   ─► driver/unbind ─► drivers_probe ─► look
 *
 * Nothing is believed until sysfs shows it. All that changes anything goes through {@link SysfsWriter}.
 */
import fs from 'node:fs';
import path from 'node:path';
import { holdersOf } from './holders.ts';
import { cardName } from './known-cards.ts';
import { carriedBy, type NetworkState, readNetworkState } from './network-state.ts';
import { isNetwork, type PciFunction, SysfsTree } from './sysfs-tree.ts';
import { keepsGroup } from './vfio-container.ts';

export const VFIO_PCI = 'vfio-pci';
/** No driver at all: for a card that is to be opened without an IOMMU. */
export const NO_DRIVER = 'none';
/** Drivers that keep a card for a program in user space. */
const USER_SPACE_DRIVERS = [VFIO_PCI, 'uio_pci_generic', 'igb_uio', 'pci-stub'];

/** Writes to sysfs. */
export interface SysfsWriter {
  /** Throws Error with a `code`, as the kernel refuses it. */
  write(file: string, text: string): void;
}

const linuxWriter: SysfsWriter = { write: (file, text) => fs.writeFileSync(file, text) };

export interface BindingOptions {
  tree?: SysfsTree;
  writer?: SysfsWriter;
  /** What the machine's interfaces carry. */
  network?: () => NetworkState;
  /** Where device files are. Default `/dev`. */
  dev?: string;
}

export interface BindOptions extends BindingOptions {
  /** `vfio-pci` unless told; `none` for no driver. */
  driver?: string;
  /** Take a card away although the machine's own addresses or routes go with it. */
  force?: boolean;
}

export interface BindingResult {
  /** As it is now. */
  function: PciFunction;
  /** Whether anything was done. */
  changed: boolean;
  /** What the user should know or do next. */
  notes: string[];
}

/**
 * Gives a card to `driver`. Does nothing when that has it already.
 *
 * Throws Error for what is no network card, for a card that the machine's own addresses or routes need (unless forced), and
 * when the kernel refuses; the card has its former driver again then, as far as the kernel lets it.
 */
export function bindFunction(address: string, options: BindOptions = {}): BindingResult {
  const { driver = VFIO_PCI, force = false, network = readNetworkState } = options;
  const { tree, writer, dev } = withDefaults(options);
  const fn = networkFunction(tree, address);
  if (!/^[\w-]+$/.test(driver)) throw new Error(`${JSON.stringify(driver)} is no name of a driver`);
  const wanted = driver === NO_DRIVER ? null : driver;
  // Without its mark, a card that has no driver goes to the next one that is loaded.
  if (fn.driver === wanted && (wanted !== null || fn.driverOverride === NO_DRIVER)) {
    return { function: fn, changed: false, notes: groupNotes(tree, fn) };
  }
  if (!force) checkSpare(tree, fn, network);
  if (wanted !== null && !tree.hasDriver(wanted)) {
    throw new Error(`${fn.address}: the kernel has no driver ${wanted} now: modprobe ${wanted}`);
  }
  if (wanted === VFIO_PCI && fn.iommuGroup === null) {
    throw new Error(
      `${fn.address}: vfio-pci needs an IOMMU, and the card is in no IOMMU group: switch VT-d or AMD-Vi on in the firmware, ` +
        'and on Intel machines start the kernel with intel_iommu=on. Without an IOMMU: --driver none, and see docs/nic.md ' +
        'for what that risks',
    );
  }
  checkNotHeld(tree, fn, dev);
  try {
    release(tree, writer, fn, driver);
    if (wanted !== null) probe(tree, writer, fn.address);
    verify(tree, fn.address, wanted);
  } catch (error) {
    throw new Error(`${(error as Error).message}; ${restore(tree, writer, fn)}`);
  }
  const now = tree.function(fn.address);
  return { function: now, changed: true, notes: groupNotes(tree, now) };
}

/**
 * Gives a card back to whichever driver of the kernel knows it. Does nothing when one has it already.
 *
 * Throws Error for what is no network card, for one that a program has open, and when no driver takes it.
 */
export function unbindFunction(address: string, options: BindingOptions = {}): BindingResult {
  const { tree, writer, dev } = withDefaults(options);
  const fn = networkFunction(tree, address);
  const kernels = fn.driver !== null && !USER_SPACE_DRIVERS.includes(fn.driver);
  if (kernels && fn.driverOverride === null) return { function: fn, changed: false, notes: [] };
  if (kernels) {
    // Only the mark is left, of a binding that was undone by other means.
    clearOverride(tree, writer, fn.address);
    return { function: tree.function(fn.address), changed: true, notes: [] };
  }
  checkNotHeld(tree, fn, dev);
  release(tree, writer, fn, null);
  probe(tree, writer, fn.address);
  const now = tree.function(fn.address);
  if (now.driver === null || USER_SPACE_DRIVERS.includes(now.driver)) {
    const name = cardName(fn.vendorId, fn.deviceId) === null ? `-a ${tree.modalias(fn.address) ?? 'DRIVER'}` : 'ixgbe';
    throw new Error(
      `${fn.address}: no driver of the kernel took it: it has ${now.driver ?? 'none'} now. Load its driver (modprobe ${name}), ` +
        'which takes it then',
    );
  }
  return { function: now, changed: true, notes: [] };
}

/** What each interface of a function, or one that stands on it, carries: `eth0: 192.0.2.2/24, the default route via …`. */
export function uses(tree: SysfsTree, fn: PciFunction, state: NetworkState): string[] {
  return fn.interfaces.flatMap((name) =>
    tree.withUppers(name).flatMap((upper) => {
      const carried = carriedBy(state, upper);
      if (carried.length === 0) return [];
      return [`${upper}${upper === name ? '' : ` (on ${name})`}: ${carried.join(', ')}`];
    }),
  );
}

/** Who else must leave the kernel's drivers before VFIO gives this function away. */
export function groupNotes(tree: SysfsTree, fn: PciFunction): string[] {
  if (fn.driver !== VFIO_PCI || fn.iommuGroup === null) return [];
  return tree
    .groupMembers(fn.iommuGroup)
    .filter((member) => member.address !== fn.address && keepsGroup(member))
    .map(
      ({ address, driver }) =>
        `${address} (driver ${driver}) shares IOMMU group ${fn.iommuGroup} with it: bind that too before ${fn.address} can be used`,
    );
}

/** The processes that have a card of vfio-pci open, by its group or by its own file (iommufd). */
export function vfioHolders(tree: SysfsTree, fn: PciFunction, dev = '/dev'): string[] {
  if (fn.driver !== VFIO_PCI || fn.iommuGroup === null) return [];
  const files = [String(fn.iommuGroup), ...tree.vfioNames(fn.address).map((name) => path.join('devices', name))];
  return [...new Set(files.flatMap((file) => holdersOf(path.join(dev, 'vfio', file))))];
}

function withDefaults({ tree = new SysfsTree(), writer = linuxWriter, dev = '/dev' }: BindingOptions) {
  return { tree, writer, dev };
}

function networkFunction(tree: SysfsTree, address: string): PciFunction {
  const fn = tree.function(address);
  if (isNetwork(fn)) return fn;
  const classCode = fn.classCode.toString(16).padStart(6, '0');
  throw new Error(`${fn.address}: it is no network card (class ${classCode}): its driver is not changed`);
}

function checkSpare(tree: SysfsTree, fn: PciFunction, network: () => NetworkState): void {
  if (fn.interfaces.length === 0) return;
  let state: NetworkState;
  try {
    state = network();
  } catch (error) {
    throw new Error(`${fn.address}: refused: ${(error as Error).message} (--force binds it all the same)`);
  }
  const carried = uses(tree, fn, state);
  if (carried.length === 0) return;
  throw new Error(
    `${fn.address}: refused: the machine itself uses it: ${carried.join('; ')}. Move these to another interface first ` +
      '(--force takes the card all the same, and with it whatever goes over it)',
  );
}

/** To take a card from under its program would wait in the kernel for that to end. */
function checkNotHeld(tree: SysfsTree, fn: PciFunction, dev: string): void {
  const holders = vfioHolders(tree, fn, dev);
  if (holders.length > 0) {
    throw new Error(`${fn.address}: in use by ${holders.join(', ')}: stop that, or remove its port, first`);
  }
}

/** Says who may take it (null: whoever knows it), and takes it from whoever has it. */
function release(tree: SysfsTree, writer: SysfsWriter, fn: PciFunction, override: string | null): void {
  if (override === null) clearOverride(tree, writer, fn.address);
  else write(writer, fn.address, path.join(tree.folder(fn.address), 'driver_override'), override);
  if (fn.driver !== null) write(writer, fn.address, path.join(tree.folder(fn.address), 'driver/unbind'), fn.address);
}

/** A line without a word is the kernel's way to say none. */
function clearOverride(tree: SysfsTree, writer: SysfsWriter, address: string): void {
  write(writer, address, path.join(tree.folder(address), 'driver_override'), '\n');
}

function probe(tree: SysfsTree, writer: SysfsWriter, address: string): void {
  write(writer, address, path.join(tree.root, 'bus/pci/drivers_probe'), address);
}

function write(writer: SysfsWriter, address: string, file: string, text: string): void {
  try {
    writer.write(file, text);
  } catch (error) {
    const { code = 'an error', message } = error as NodeJS.ErrnoException;
    const advice: Record<string, string> = {
      EACCES: ': run as root',
      EPERM: ': run as root',
      EROFS: ': sysfs is read-only here, as in a container: run it on the host',
    };
    const why = `${code}${advice[code] ?? ` (${message})`}`;
    throw new Error(`${address}: writing ${JSON.stringify(text)} to ${file} failed: ${why}`);
  }
}

function verify(tree: SysfsTree, address: string, wanted: string | null): void {
  const { driver } = tree.function(address);
  if (driver === wanted) return;
  throw new Error(
    `${address}: it should have ${wanted ?? 'no driver'} now, but has ${driver ?? 'none'}: the kernel's log (dmesg) says why`,
  );
}

/** Undoes half a binding; what to tell of it. */
function restore(tree: SysfsTree, writer: SysfsWriter, before: PciFunction): string {
  try {
    const now = tree.function(before.address);
    if (now.driver === before.driver && before.driverOverride === now.driverOverride) return 'nothing was changed';
    release(tree, writer, now.driver === before.driver ? { ...now, driver: null } : now, before.driverOverride);
    if (before.driver !== null) probe(tree, writer, before.address);
    const { driver } = tree.function(before.address);
    if (driver === before.driver) return `it has ${driver ?? 'no driver'} again`;
    return `it had ${before.driver ?? 'no driver'}, and has ${driver ?? 'none'} now`;
  } catch (error) {
    return `and it could not be given back to ${before.driver ?? 'no driver'}: ${(error as Error).message}`;
  }
}
