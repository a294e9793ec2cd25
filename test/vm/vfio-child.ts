/**
 * Runs in a guest: opens the card at the address given, which is bound to vfio-pci, by VFIO, tries all that a driver needs
 * of it, closes it, opens it once more, and prints what it saw as a {@link VfioReport}.
 */
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { MAP_SHARED, memfd, mmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import { openPciDevice } from '../../nic/pci/open.ts';
import { STATUS } from '../../nic/registers.ts';

export interface VfioReport {
  name: string;
  vendorId: number;
  deviceId: number;
  /** Configuration space at 0, 4 bytes. */
  idWord: number;
  /** The Command register after the card was opened, as a bus master, and not any more. */
  commands: number[];
  /** STATUS, before and after a reset. */
  status: number[];
  reset: boolean;
  registerBytes: number;
  interruptVectors: number;
  /** Where two mappings went, and the first again after it was unmapped. */
  busAddresses: number[];
  pageBytes: number[];
  /** Messages of what has to be refused. */
  errors: string[];
  /** Whether an eventfd that nothing signalled was signalled. */
  interrupted: boolean;
}

const SMALL_BYTES = 3 * 4096;
const LARGE_BYTES = 2 ** 22;

function failure(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return (error as Error).message;
  }
  return 'no error';
}

const command = (): number => device.readConfig(4, 2);

const address = process.argv[2];
if (address === undefined) throw new Error('usage: vfio-child.ts ADDRESS');
openPciDevice(address).close();
const device = openPciDevice(address);
const commands = [command()];
const status = [device.registers.read32(STATUS)];
device.setBusMaster(true);
commands.push(command());

const fd = memfd('vfio-child', LARGE_BYTES);
const memory = mmap({ fd, length: LARGE_BYTES, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED });
const small = device.mapDma({ fd, address: memory, length: SMALL_BYTES });
const large = device.mapDma({ fd, address: memory, length: LARGE_BYTES });
device.unmapDma(small);
const again = device.mapDma({ fd, address: memory, length: SMALL_BYTES });

const vectors = Array.from({ length: Math.min(3, device.interruptVectors) }, () => eventfd());
device.setInterrupts(vectors.slice(0, 1));
device.setInterrupts(vectors.map((vector, i) => (i === 1 ? null : vector)));
const interrupted = vectors.some(drainEventfd);

const errors = [
  failure(() => device.unmapDma({ pageBytes: 4096, pages: [4096] })),
  failure(() => device.mapDma({ fd, address: 0, length: 4096 })),
  failure(() => device.setInterrupts(Array(device.interruptVectors + 1).fill(null))),
  failure(() => device.readConfig(2 ** 20, 4)),
  failure(() => openPciDevice(address)),
];
const reset = device.reset();
status.push(device.registers.read32(STATUS));
device.setBusMaster(false);
commands.push(command());
const report: VfioReport = {
  name: device.name,
  vendorId: device.vendorId,
  deviceId: device.deviceId,
  idWord: device.readConfig(0, 4),
  commands,
  status,
  reset,
  registerBytes: device.registerAccess.kind === 'mapped' ? device.registerAccess.length : 0,
  interruptVectors: device.interruptVectors,
  busAddresses: [small, large, again].flatMap(({ pages }) => pages),
  pageBytes: [small, large, again].map(({ pageBytes }) => pageBytes),
  errors,
  interrupted,
};
device.close();
for (const vector of [fd, ...vectors]) close(vector);
console.log(JSON.stringify(report));
