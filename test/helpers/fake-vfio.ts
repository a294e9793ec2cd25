/** A kernel with VFIO and one card, as far as system calls show: it keeps the rules of who comes before whom. */
import { EBUSY, EEXIST, EINVAL, ENODEV, ENOENT } from '../../linux/errno.ts';
import { type Address, SystemError } from '../../linux/libc.ts';
import { MAP_ANONYMOUS, MAP_SHARED, mmap, munmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import * as vfio from '../../linux/vfio.ts';
import type { VfioSystem } from '../../nic/pci/vfio-system.ts';

const CONTAINER = 100;
const GROUP = 101;
const DEVICE = 102;
const CONFIG_OFFSET = 7 * 2 ** 40;
const BAR_BYTES = 2 ** 19;

export class FakeVfio implements VfioSystem {
  /** What was done, in order: `open /dev/vfio/7`, `MAP_DMA 0x100000000 4096`, ... */
  readonly log: string[] = [];
  readonly open_ = new Set<number>();
  /** The errno with which a request fails, by its number. */
  readonly refuse = new Map<number, number>();
  /** The errno with which a file fails to open, by its path. */
  readonly refuseOpen = new Map<string, number>();
  readonly config = Buffer.alloc(4096);
  readonly mappings = new Map<bigint, { vaddr: bigint; size: bigint }>();
  /** Eventfds of the vectors; null: off. */
  interrupts: number[] | null = null;
  resets = 0;
  version = 0;
  extensions = [vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU];
  viable = true;
  deviceFlags = vfio.VFIO_DEVICE_FLAGS_PCI | vfio.VFIO_DEVICE_FLAGS_RESET;
  barFlags = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE | vfio.VFIO_REGION_INFO_FLAG_MMAP;
  barBytes = BAR_BYTES;
  vectors = 64;
  /** Null: a kernel that does not tell. */
  ranges: [start: bigint, end: bigint][] | null = [
    [0n, 0xfedfffffn],
    [0xfef00000n, 2n ** 39n - 1n],
  ];
  /** The card has gone. */
  gone = false;
  mapped = 0;
  iommu = 0;
  readonly #dev: string;

  constructor(dev = '/dev') {
    this.#dev = dev;
    this.config.writeUInt16LE(0x8086, 0);
    this.config.writeUInt16LE(0x10fb, 2);
  }

  open(path: string): number {
    this.log.push(`open ${path.slice(this.#dev.length)}`);
    const errno = this.refuseOpen.get(path.slice(this.#dev.length));
    const fd = { [`${this.#dev}/vfio/vfio`]: CONTAINER, [`${this.#dev}/vfio/7`]: GROUP }[path];
    if (errno !== undefined || fd === undefined) throw new SystemError('open', errno ?? ENOENT, { path });
    this.open_.add(fd);
    return fd;
  }

  close(fd: number): void {
    if (!this.open_.delete(fd)) throw new SystemError('close', 9, { fd });
    this.log.push(`close ${{ [CONTAINER]: 'container', [GROUP]: 'group', [DEVICE]: 'device' }[fd]}`);
    if (fd === CONTAINER) this.mappings.clear();
    if (fd === DEVICE) this.interrupts = null;
  }

  ioctl(fd: number, request: number, argument: Uint8Array | number): number {
    const refused = this.refuse.get(request);
    if (refused !== undefined) return -refused;
    if (!this.open_.has(fd)) return -9;
    const value = typeof argument === 'number' ? argument : 0;
    const bytes = typeof argument === 'number' ? new Uint8Array() : argument;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    switch (request) {
      case vfio.VFIO_GET_API_VERSION:
        return this.version;
      case vfio.VFIO_CHECK_EXTENSION:
        return this.extensions.includes(value) ? 1 : 0;
      case vfio.VFIO_GROUP_GET_STATUS:
        if (view.getUint32(0, true) < vfio.VFIO_GROUP_STATUS_BYTES) return -EINVAL;
        view.setUint32(4, this.viable ? vfio.VFIO_GROUP_FLAGS_VIABLE : 0, true);
        return 0;
      case vfio.VFIO_GROUP_SET_CONTAINER:
        this.log.push('SET_CONTAINER');
        return fd === GROUP && view.getInt32(0, true) === CONTAINER ? 0 : -EINVAL;
      case vfio.VFIO_SET_IOMMU:
        this.iommu = value;
        this.log.push(`SET_IOMMU ${value}`);
        return 0;
      case vfio.VFIO_GROUP_GET_DEVICE_FD:
        if (this.iommu === 0) return -EINVAL;
        if (Buffer.from(bytes).toString('latin1') !== '0000:01:00.0\0') return -ENODEV;
        this.log.push('GET_DEVICE_FD');
        this.open_.add(DEVICE);
        return DEVICE;
      case vfio.VFIO_IOMMU_GET_INFO:
        return this.#iommuInfo(view);
      case vfio.VFIO_IOMMU_MAP_DMA:
        return this.#mapDma(view);
      case vfio.VFIO_IOMMU_UNMAP_DMA: {
        const iova = view.getBigUint64(8, true);
        const known = this.mappings.get(iova);
        if (view.getUint32(0, true) !== 24 || known?.size !== view.getBigUint64(16, true)) return -EINVAL;
        this.mappings.delete(iova);
        return 0;
      }
      case vfio.VFIO_DEVICE_GET_INFO:
        view.setUint32(4, this.deviceFlags, true);
        return view.getUint32(0, true) >= 20 ? 0 : -EINVAL;
      case vfio.VFIO_DEVICE_GET_REGION_INFO:
        return this.#regionInfo(view);
      case vfio.VFIO_DEVICE_GET_IRQ_INFO:
        if (view.getUint32(8, true) !== vfio.VFIO_PCI_MSIX_IRQ_INDEX) return -EINVAL;
        view.setUint32(4, this.vectors > 0 ? vfio.VFIO_IRQ_INFO_EVENTFD : 0, true);
        view.setUint32(12, this.vectors, true);
        return 0;
      case vfio.VFIO_DEVICE_SET_IRQS:
        return this.#setIrqs(view);
      case vfio.VFIO_DEVICE_RESET:
        this.resets++;
        return 0;
      default:
        return -25;
    }
  }

  #iommuInfo(view: DataView): number {
    view.setUint32(4, vfio.VFIO_IOMMU_INFO_PGSIZES, true);
    if (this.ranges === null) return 0;
    // A capability of another kind first, so that the chain is followed.
    const needed = 24 + 16 + 16 + 16 * this.ranges.length;
    view.setUint32(4, vfio.VFIO_IOMMU_INFO_PGSIZES | vfio.VFIO_IOMMU_INFO_CAPS, true);
    const room = view.getUint32(0, true);
    view.setUint32(0, needed, true);
    if (room < needed) return 0;
    view.setUint32(16, 24, true);
    view.setUint16(24, 3, true);
    view.setUint32(28, 40, true);
    view.setUint16(40, vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, true);
    view.setUint32(48, this.ranges.length, true);
    for (const [i, [start, end]] of this.ranges.entries()) {
      view.setBigUint64(56 + 16 * i, start, true);
      view.setBigUint64(64 + 16 * i, end, true);
    }
    return 0;
  }

  #mapDma(view: DataView): number {
    const [vaddr, iova, size] = [8, 16, 24].map((at) => view.getBigUint64(at, true)) as [bigint, bigint, bigint];
    if (view.getUint32(0, true) !== 32 || view.getUint32(4, true) !== 3) return -EINVAL;
    for (const [start, { size: taken }] of this.mappings) {
      if (iova < start + taken && start < iova + size) return -EEXIST;
    }
    if (this.ranges !== null && !this.ranges.some(([start, end]) => start <= iova && iova + size - 1n <= end))
      return -EINVAL;
    this.mappings.set(iova, { vaddr, size });
    return 0;
  }

  #regionInfo(view: DataView): number {
    const index = view.getUint32(8, true);
    if (index === vfio.VFIO_PCI_BAR0_REGION_INDEX) {
      view.setUint32(4, this.barFlags, true);
      view.setBigUint64(16, BigInt(this.barBytes), true);
      view.setBigUint64(24, 0n, true);
    } else if (index === vfio.VFIO_PCI_CONFIG_REGION_INDEX) {
      view.setBigUint64(16, BigInt(this.config.length), true);
      view.setBigUint64(24, BigInt(CONFIG_OFFSET), true);
    } else return -EINVAL;
    return 0;
  }

  #setIrqs(view: DataView): number {
    const [argsz, flags, index, start, count] = [0, 4, 8, 12, 16].map((at) => view.getUint32(at, true)) as number[];
    if (index !== vfio.VFIO_PCI_MSIX_IRQ_INDEX || start !== 0 || argsz !== view.byteLength) return -EINVAL;
    if (flags === (vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER) && count === 0) {
      this.log.push('interrupts off');
      this.interrupts = null;
      return 0;
    }
    if (flags !== (vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER)) return -EINVAL;
    if (count! > this.vectors || argsz !== 20 + 4 * count!) return -EINVAL;
    // As many vectors as were asked for first, until they are off again.
    if (this.interrupts !== null && count! > this.interrupts.length) return -EINVAL;
    this.interrupts = Array.from({ length: count! }, (_, i) => view.getInt32(20 + 4 * i, true));
    this.log.push(`interrupts ${this.interrupts.join(' ')}`);
    return 0;
  }

  pread(fd: number, buffer: Uint8Array, offset: number): number {
    const at = this.#configOffset(fd, offset);
    if (this.gone) buffer.fill(0xff);
    else buffer.set(this.config.subarray(at, at + buffer.byteLength));
    return buffer.byteLength;
  }

  pwrite(fd: number, buffer: Uint8Array, offset: number): number {
    const at = this.#configOffset(fd, offset);
    if (!this.gone) this.config.set(buffer, at);
    this.log.push(`config ${at} = ${Buffer.from(buffer).readUIntLE(0, buffer.byteLength)}`);
    return buffer.byteLength;
  }

  #configOffset(fd: number, offset: number): number {
    if (fd !== DEVICE || !this.open_.has(fd)) throw new SystemError('pread', EBUSY, { fd });
    return offset - CONFIG_OFFSET;
  }

  map(fd: number, length: number, offset: number): Address {
    if (fd !== DEVICE || offset !== 0) throw new SystemError('mmap', EINVAL, { fd, offset });
    if ((this.config.readUInt16LE(4) & 2) === 0) throw new Error('BAR 0 is touched while the card does not decode it');
    this.mapped++;
    return mmap({ length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED | MAP_ANONYMOUS });
  }

  unmap(address: Address, length: number): void {
    this.mapped--;
    this.log.push('unmap');
    munmap(address, length);
  }
}
