/** A tree of files and links that looks like sysfs, and a kernel that reacts when it is written to. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { SysfsWriter } from '../../nic/pci/binding.ts';
import { SysfsTree } from '../../nic/pci/sysfs-tree.ts';

export interface FakeFunction {
  address: string;
  vendor?: number;
  device?: number;
  class?: number;
  driver?: string;
  override?: string;
  group?: number;
  numaNode?: number;
  /** Names of its network interfaces; they come and go with its own driver. */
  interfaces?: string[];
  /** Folder under the root complex, where it stands behind a bridge: `0000:00:1c.0`. */
  behind?: string;
  resource?: string;
}

/** BAR 0 of 512 KiB, BAR 2 of 32 ports, BAR 4 of 16 KiB, as an X520 has them. */
export const X520_RESOURCE = [
  '0x00000000df800000 0x00000000df87ffff 0x000000000014220c',
  '0x0000000000000000 0x0000000000000000 0x0000000000000000',
  '0x000000000000ecc0 0x000000000000ecdf 0x0000000000040101',
  '0x0000000000000000 0x0000000000000000 0x0000000000000000',
  '0x00000000dfa00000 0x00000000dfa03fff 0x000000000014220c',
  '0x0000000000000000 0x0000000000000000 0x0000000000000000',
  '0x0000000000000000 0x0000000000000000 0x0000000000000000',
].join('\n');

export class FakeSysfs implements Disposable {
  readonly root: string;
  readonly tree: SysfsTree;

  constructor() {
    this.root = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-sysfs-'));
    for (const folder of ['bus/pci/devices', 'bus/pci/drivers', 'class/net', 'kernel/iommu_groups', 'dev/vfio']) {
      fs.mkdirSync(path.join(this.root, folder), { recursive: true });
    }
    fs.writeFileSync(this.path('bus/pci/drivers_probe'), '');
    this.tree = new SysfsTree(this.root);
  }

  /** Where device files are to be. */
  get dev(): string {
    return this.path('dev');
  }

  path(...parts: string[]): string {
    return path.join(this.root, ...parts);
  }

  driver(...names: string[]): this {
    for (const name of names) fs.mkdirSync(this.path('bus/pci/drivers', name), { recursive: true });
    return this;
  }

  add(fn: FakeFunction): this {
    const { address, vendor = 0x8086, device = 0x10fb, group, numaNode = -1, override, behind = '' } = fn;
    const folder = this.path('devices/pci0000:00', behind, address);
    fs.mkdirSync(folder, { recursive: true });
    fs.symlinkSync(folder, this.path('bus/pci/devices', address));
    const files = {
      vendor: hex(vendor, 4),
      device: hex(device, 4),
      class: hex(fn.class ?? 0x020000, 6),
      numa_node: String(numaNode),
      driver_override: override ?? '(null)',
      resource: fn.resource ?? X520_RESOURCE,
      modalias: `pci:v${vendor}d${device}`,
    };
    for (const [name, text] of Object.entries(files)) fs.writeFileSync(path.join(folder, name), `${text}\n`);
    if (group !== undefined) {
      const members = this.path('kernel/iommu_groups', String(group), 'devices');
      fs.mkdirSync(members, { recursive: true });
      fs.symlinkSync(folder, path.join(members, address));
      fs.symlinkSync(path.dirname(members), path.join(folder, 'iommu_group'));
    }
    if (fn.driver !== undefined) this.setDriver(address, fn.driver);
    for (const name of fn.interfaces ?? []) this.addInterface(address, name);
    return this;
  }

  setDriver(address: string, name: string): void {
    this.driver(name);
    fs.symlinkSync(this.path('bus/pci/drivers', name), this.path('bus/pci/devices', address, 'driver'));
  }

  addInterface(address: string, name: string): void {
    const folder = fs.realpathSync(this.path('bus/pci/devices', address));
    fs.mkdirSync(path.join(folder, 'net', name), { recursive: true });
    fs.symlinkSync(path.join(folder, 'net', name), this.path('class/net', name));
  }

  /** An interface without a card, standing on others. */
  addUpper(name: string, ...lowers: string[]): this {
    const folder = this.path('devices/virtual/net', name);
    fs.mkdirSync(folder, { recursive: true });
    fs.symlinkSync(folder, this.path('class/net', name));
    for (const lower of lowers) fs.symlinkSync(folder, this.path('class/net', lower, `upper_${name}`));
    return this;
  }

  [Symbol.dispose](): void {
    fs.rmSync(this.root, { recursive: true });
  }
}

/** Does to the tree what Linux does on these writes. */
export class FakeKernel implements SysfsWriter {
  readonly writes: string[] = [];
  /** The errno name with which a write fails, by the last part of the file's name. */
  readonly refuse: Record<string, string> = {};
  /** Drivers whose probe fails. */
  readonly failing: string[] = [];
  readonly #sysfs: FakeSysfs;
  readonly #native: { driver: string; interfaces: string[] };

  /** `native`: the driver that knows the cards, and the interfaces that it makes. */
  constructor(sysfs: FakeSysfs, native: { driver: string; interfaces: string[] }) {
    this.#sysfs = sysfs;
    this.#native = native;
  }

  write(file: string, text: string): void {
    const name = path.basename(file);
    this.writes.push(`${path.relative(this.#sysfs.root, file)} = ${text.trim()}`);
    const code = this.refuse[name];
    if (code !== undefined) throw Object.assign(new Error(`${code}: refused`), { code });
    if (name === 'driver_override') fs.writeFileSync(file, text.trim() === '' ? '(null)\n' : text);
    else if (name === 'unbind') this.#unbind(text);
    else if (name === 'drivers_probe') this.#probe(text);
    else throw new Error(`nobody writes to ${file}`);
  }

  #unbind(address: string): void {
    const folder = fs.realpathSync(this.#sysfs.path('bus/pci/devices', address));
    fs.rmSync(path.join(folder, 'driver'));
    if (!fs.existsSync(path.join(folder, 'net'))) return;
    for (const name of fs.readdirSync(path.join(folder, 'net'))) fs.rmSync(this.#sysfs.path('class/net', name));
    fs.rmSync(path.join(folder, 'net'), { recursive: true });
  }

  #probe(address: string): void {
    const { driver, driverOverride } = this.#sysfs.tree.function(address);
    const { driver: native, interfaces } = this.#native;
    const taker = driverOverride ?? native;
    if (driver !== null || !this.#sysfs.tree.hasDriver(taker) || this.failing.includes(taker)) return;
    this.#sysfs.setDriver(address, taker);
    if (taker === native) for (const name of interfaces) this.#sysfs.addInterface(address, name);
  }
}

const hex = (value: number, digits: number): string => `0x${value.toString(16).padStart(digits, '0')}`;
