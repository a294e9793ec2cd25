/**
 * One client's conversation with a device over vfio-user: messages in, replies out. Sockets and time stay outside.
 *
 *     VERSION ──► anything else, in any order ──► close()
 *
 * A request that cannot be carried out is answered with an error; a client that breaks the protocol ends with an Error.
 */
import { EOPNOTSUPP } from '../../linux/errno.ts';
import { close } from '../../linux/file.ts';
import { DmaTable, MAX_DMA_RANGES } from './dma-table.ts';
import { InterruptLines } from './interrupt-lines.ts';
import {
  checkDeviceInfoRequest,
  checkResetRequest,
  commandName,
  composeDeviceInfo,
  composeIrqInfo,
  composeMessage,
  composeRegionAccess,
  composeRegionInfo,
  composeVersion,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  FLAG_REPLY,
  FLAG_TYPE_MASK,
  MAX_DATA_BYTES,
  MAX_MESSAGE_FDS,
  parseDmaMap,
  parseDmaUnmap,
  parseIrqInfo,
  parseIrqSet,
  parseRegionData,
  parseRegionInfoRequest,
  parseRegionRead,
  parseVersion,
  type RegionAccess,
  regionDataOf,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_INFO_NORESIZE,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO,
  VFIO_USER_DEVICE_RESET,
  VFIO_USER_DEVICE_SET_IRQS,
  VFIO_USER_DMA_MAP,
  VFIO_USER_DMA_UNMAP,
  VFIO_USER_REGION_READ,
  VFIO_USER_REGION_WRITE,
  VFIO_USER_VERSION,
  VfioUserError,
  type VfioUserMessage,
} from './messages.ts';
import { type AskClient, askNobody, RemoteMemory } from './remote-memory.ts';

const MAJOR = 0;
const MINOR = 1;
const PAGE_SIZES = 4096;
const NOTHING = Buffer.alloc(0);
/** Descriptors that may come along; with other commands none. */
const FDS_OF: Record<number, number> = { [VFIO_USER_DMA_MAP]: 1, [VFIO_USER_DEVICE_SET_IRQS]: MAX_MESSAGE_FDS };

/** What a session drives. */
export interface VfioUserDevice {
  /** Bytes of each region by its index; 0 or nothing where there is none. */
  readonly regions: readonly number[];
  /** Interrupts of each kind by its index. */
  readonly interrupts: readonly number[];
  /** Fills `into` from a region; the range lies inside. */
  read(region: number, offset: number, into: Buffer): void;
  write(region: number, offset: number, from: Buffer): void;
  reset(): void;
}

export class VfioUserSession {
  /** The client's memory. */
  readonly dma: DmaTable;
  readonly #remote: RemoteMemory;
  readonly #device: VfioUserDevice;
  readonly #warn: (message: string) => void;
  readonly #interrupts: InterruptLines[];
  #greeted = false;

  /** `ask` reaches the client, for memory that it maps without a file. */
  constructor(device: VfioUserDevice, warn: (message: string) => void, ask: AskClient = askNobody) {
    this.#remote = new RemoteMemory(ask, warn);
    this.dma = new DmaTable(this.#remote);
    this.#device = device;
    this.#warn = warn;
    this.#interrupts = Array.from(
      { length: VFIO_PCI_NUM_IRQS },
      (_, index) => new InterruptLines(device.interrupts[index] ?? 0),
    );
  }

  /**
   * Carries a message out. Gives the reply, or null where none is wanted. Its descriptors are taken over. Throws Error when
   * the client breaks the protocol: it is to be disconnected.
   */
  handle(message: VfioUserMessage): Buffer | null {
    const { id, command, flags, fds } = message;
    const name = commandName(command);
    let reply: Buffer = NOTHING;
    let error = 0;
    try {
      if ((flags & FLAG_TYPE_MASK) === FLAG_REPLY) throw new Error(`a reply to ${name}, which was not asked for`);
      if ((flags & FLAG_TYPE_MASK) !== 0) throw new Error(`${name} with flags 0x${flags.toString(16)}`);
      if (!this.#greeted && command !== VFIO_USER_VERSION) throw new Error(`${name} comes before VERSION`);
      const most = FDS_OF[command] ?? 0;
      if (fds.length > most) throw new VfioUserError(`${fds.length} descriptors come along, at most ${most} may`);
      reply = this.#carryOut(message);
    } catch (cause) {
      if (!(cause instanceof VfioUserError)) throw cause;
      error = cause.errno;
      this.#warn(`${name} is refused: ${cause.message}`);
    } finally {
      // Those that are kept were taken out.
      for (const fd of fds.splice(0)) close(fd);
    }
    if ((flags & FLAG_NO_REPLY) !== 0) return null;
    if (error !== 0) return composeMessage(id, command, FLAG_REPLY | FLAG_ERROR, NOTHING, error);
    return composeMessage(id, command, FLAG_REPLY, reply);
  }

  #carryOut(message: VfioUserMessage): Buffer {
    const { command, body, fds } = message;
    switch (command) {
      case VFIO_USER_VERSION:
        return this.#version(body);
      case VFIO_USER_DMA_MAP:
        this.dma.map(parseDmaMap(body), fds[0] ?? null);
        return NOTHING;
      case VFIO_USER_DMA_UNMAP:
        return this.#dmaUnmap(body);
      case VFIO_USER_DEVICE_GET_INFO:
        checkDeviceInfoRequest(body);
        return composeDeviceInfo();
      case VFIO_USER_DEVICE_GET_REGION_INFO:
        return this.#regionInfo(parseRegionInfoRequest(body));
      case VFIO_USER_DEVICE_GET_IRQ_INFO:
        return this.#irqInfo(parseIrqInfo(body).index);
      case VFIO_USER_DEVICE_SET_IRQS:
        this.#setIrqs(body, fds);
        return NOTHING;
      case VFIO_USER_REGION_READ:
        return this.#read(body);
      case VFIO_USER_REGION_WRITE:
        return this.#write(body);
      case VFIO_USER_DEVICE_RESET:
        checkResetRequest(body);
        this.#device.reset();
        return NOTHING;
      default:
        throw new VfioUserError('it is not served here', EOPNOTSUPP);
    }
  }

  #version(body: Buffer): Buffer {
    if (this.#greeted) throw new VfioUserError('it came before');
    const { major, minor, capabilities: theirs } = parseVersion(body);
    if (major !== MAJOR) throw new VfioUserError(`version ${major} is not spoken here, ${MAJOR} is`, EOPNOTSUPP);
    this.#greeted = true;
    this.#remote.maxBytes = theirs.max_data_xfer_size;
    const capabilities = {
      max_msg_fds: MAX_MESSAGE_FDS,
      max_data_xfer_size: MAX_DATA_BYTES,
      max_dma_maps: MAX_DMA_RANGES,
      pgsizes: PAGE_SIZES,
    };
    return composeVersion({ major: MAJOR, minor: Math.min(MINOR, minor), capabilities });
  }

  #dmaUnmap(body: Buffer): Buffer {
    const range = parseDmaUnmap(body);
    if (range === null) this.dma.clear();
    else this.dma.unmap(range.address, range.size);
    return Buffer.from(body);
  }

  #regionInfo(index: number): Buffer {
    if (index >= VFIO_PCI_NUM_REGIONS) {
      throw new VfioUserError(`there is no region ${index}, ${VFIO_PCI_NUM_REGIONS} are`);
    }
    const size = this.#device.regions[index] ?? 0;
    const flags = size > 0 ? VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE : 0;
    return composeRegionInfo({ index, flags, size });
  }

  #irqInfo(index: number): Buffer {
    const count = this.#lines(index).count;
    // As the kernel's vfio-pci: INTx can be masked; the others change as a set.
    const more = index === VFIO_PCI_INTX_IRQ_INDEX ? VFIO_IRQ_INFO_MASKABLE : VFIO_IRQ_INFO_NORESIZE;
    return composeIrqInfo({ flags: count > 0 ? VFIO_IRQ_INFO_EVENTFD | more : 0, index, count });
  }

  #lines(index: number): InterruptLines {
    const lines = this.#interrupts[index];
    if (lines === undefined) {
      throw new VfioUserError(`there are no interrupts of kind ${index}, ${VFIO_PCI_NUM_IRQS} kinds are`);
    }
    return lines;
  }

  #setIrqs(body: Buffer, fds: number[]): void {
    const set = parseIrqSet(body);
    this.#lines(set.index).set(set, fds);
  }

  #read(body: Buffer): Buffer {
    const access = parseRegionRead(body);
    this.#check(access);
    const reply = composeRegionAccess(access, access.count);
    this.#device.read(access.region, access.offset, regionDataOf(reply));
    return reply;
  }

  #write(body: Buffer): Buffer {
    const access = parseRegionData(body);
    this.#check(access);
    this.#device.write(access.region, access.offset, access.data);
    return composeRegionAccess(access);
  }

  #check({ region, offset, count }: RegionAccess): void {
    const size = this.#device.regions[region] ?? 0;
    if (count === 0 || offset + count > size) {
      throw new VfioUserError(`${count} bytes at 0x${offset.toString(16)} of region ${region}, which has ${size}`);
    }
  }

  /** The device sends MSI-X message `vector`; where the client has only MSI or INTx, its first and only. */
  interrupt(vector: number): void {
    const msix = this.#interrupts[VFIO_PCI_MSIX_IRQ_INDEX]!;
    if (msix.inUse) {
      msix.raise(vector);
      return;
    }
    const msi = this.#interrupts[VFIO_PCI_MSI_IRQ_INDEX]!;
    (msi.inUse ? msi : this.#interrupts[VFIO_PCI_INTX_IRQ_INDEX]!).raise(0);
  }

  /** Lets go of the client's memory and descriptors. */
  close(): void {
    this.dma.clear();
    for (const lines of this.#interrupts) lines.clear();
  }
}
