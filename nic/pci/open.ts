/** A card by its name, however it is to be reached. */
import { VfioUserClient } from '../vfio-user/client.ts';
import { VFIO_USER_PREFIX } from './address.ts';
import { VFIO_PCI } from './binding.ts';
import type { PciDevice } from './pci-device.ts';
import { SysfsDevice } from './sysfs-device.ts';
import { SysfsTree } from './sysfs-tree.ts';
import { VfioDevice, type VfioDeviceOptions } from './vfio-device.ts';

export interface OpenOptions extends VfioDeviceOptions {
  /** Open it without an IOMMU where it is not bound to vfio-pci: a bug or a hostile card reaches all memory of the host. */
  withoutIommu?: boolean;
}

/**
 * Opens `0000:01:00.0` (or `01:00.0`): by VFIO when it is bound to vfio-pci, else by sysfs where `withoutIommu` allows that;
 * and `vfio-user:/path/of/a/socket`: the software card that a process serves there.
 *
 * Throws Error that says what to do, such as the `ringswitch nic bind` to run.
 */
export function openPciDevice(name: string, options: OpenOptions = {}): PciDevice {
  if (name.startsWith(VFIO_USER_PREFIX)) return VfioUserClient.connect(name.slice(VFIO_USER_PREFIX.length));
  const { tree = new SysfsTree(), withoutIommu = false } = options;
  const fn = tree.function(name);
  if (fn.driver === VFIO_PCI) return VfioDevice.open(fn.address, { ...options, tree });
  if (withoutIommu) return SysfsDevice.open(fn.address, { withoutIommu, tree });
  throw new Error(
    `${fn.address}: bound to ${fn.driver ?? 'no driver'}: bind it to vfio-pci (ringswitch nic bind ${fn.address}), or, where ` +
      'there is no IOMMU, see docs/nic.md for withoutIommu and what it risks',
  );
}
