import assert from 'node:assert/strict';
import fs from 'node:fs';
import fc from 'fast-check';
import { drainEventfd, eventfd } from '../../../linux/eventfd.ts';
import { close, open, pread } from '../../../linux/file.ts';
import { libcFunction } from '../../../linux/libc.ts';
import { memfd } from '../../../linux/mman.ts';
import { MAX_DMA_RANGES } from '../../../nic/vfio-user/dma-table.ts';
import {
  composeDmaMap,
  composeDmaUnmap,
  composeIrqInfo,
  composeIrqSet,
  composeRegionAccess,
  composeRegionInfo,
  composeVersion,
  parseIrqInfo,
  parseVersion,
  regionDataOf,
} from '../../../nic/vfio-user/messages.ts';
import { VfioUserSession } from '../../../nic/vfio-user/session.ts';
import { descriptorsOf } from '../../helpers/descriptors.ts';
import {
  TOY_BAR0_BYTES,
  TOY_DMA_DONE,
  TOY_DMA_FAILED,
  TOY_DMA_HIGH,
  TOY_DMA_INVERT,
  TOY_DMA_RESULT,
  TOY_INTERRUPT,
  TOY_VECTORS,
  ToyDevice,
} from '../../helpers/toy-vfio-user-device.ts';

// Written down a second time, from the document.
const VERSION = 1;
const DMA_MAP = 2;
const DMA_UNMAP = 3;
const GET_INFO = 4;
const GET_REGION_INFO = 5;
const GET_IRQ_INFO = 7;
const SET_IRQS = 8;
const REGION_READ = 9;
const REGION_WRITE = 10;
const RESET = 13;
const REPLY = 0x1;
const NO_REPLY = 0x10;
const REPLY_WITH_ERROR = 0x21;
const HEADER_BYTES = 16;
const [NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER] = [1, 2, 4, 8, 16, 32] as const;
const [INTX, MSI, MSIX] = [0, 1, 2] as const;
const NOTHING = Buffer.alloc(0);
const dup = libcFunction('int dup(int fd)');

describe('a vfio-user session', () => {
  let session: VfioUserSession;
  let device: ToyDevice;
  let warnings: string[];
  let before: string[];
  const opened: number[] = [];

  beforeEach(() => {
    before = descriptorsOf(process.pid);
    warnings = [];
    device = new ToyDevice({
      read: (address, into) => session.dma.read(address, into),
      write: (address, from) => session.dma.write(address, from),
      writeWords: (address, from, last) => session.dma.writeWords(address, from, last),
      interrupt: (vector) => session.interrupt(vector),
    });
    session = new VfioUserSession(device, (message) => warnings.push(message));
  });

  afterEach(() => {
    session.close();
    for (const fd of opened.splice(0)) close(fd);
    assert.deepEqual(descriptorsOf(process.pid), before, 'no descriptor is left');
  });

  const keep = (fd: number): number => {
    opened.push(fd);
    return fd;
  };
  const signal = (): number => keep(eventfd());

  /** Header and body of the reply. Descriptors are given away, as a socket would. */
  function send(command: number, body: Buffer = NOTHING, fds: number[] = [], flags = 0) {
    const copies = fds.map((fd) => dup(fd));
    const reply = session.handle({ id: 77, command, flags, error: 0, body, fds: copies });
    if (reply === null) return null;
    assert.deepEqual(
      [reply.readUInt16LE(0), reply.readUInt16LE(2), reply.readUInt32LE(4)],
      [77, command, reply.length],
    );
    return { flags: reply.readUInt32LE(8), errno: reply.readUInt32LE(12), body: reply.subarray(HEADER_BYTES) };
  }
  function ask(command: number, body?: Buffer, fds?: number[]): Buffer {
    const reply = send(command, body, fds)!;
    assert.equal(reply.flags, REPLY, warnings.join());
    return reply.body;
  }
  function refused(errno: number, told: RegExp, command: number, body?: Buffer, fds?: number[]): void {
    const reply = send(command, body, fds)!;
    assert.deepEqual([reply.flags, reply.errno, reply.body.length], [REPLY_WITH_ERROR, errno, 0]);
    assert.match(warnings.splice(0).join('\n'), told);
  }
  const greet = (): Buffer => ask(VERSION, composeVersion({ major: 0, minor: 1, capabilities: {} }));
  const write = (region: number, offset: number, value: number): Buffer => {
    const body = composeRegionAccess({ region, offset, count: 4 }, 4);
    regionDataOf(body).writeUInt32LE(value);
    return body;
  };
  const read = (region: number, offset: number): number =>
    regionDataOf(ask(REGION_READ, composeRegionAccess({ region, offset, count: 4 }))).readUInt32LE(0);
  const irqs = (flags: number, index: number, start: number, count: number, chosen: boolean[] = []): Buffer =>
    composeIrqSet({ data: flags & 7, action: flags & ~7, index, start, count, chosen });

  it('begins with the version, and says what it can take', () => {
    const { major, minor, capabilities } = parseVersion(greet());
    assert.deepEqual([major, minor], [0, 1]);
    assert.deepEqual(capabilities, {
      max_msg_fds: 16,
      max_data_xfer_size: 2 ** 20,
      max_dma_maps: MAX_DMA_RANGES,
      pgsizes: 4096,
    });
  });

  it('speaks no newer version than its client', () => {
    assert.deepEqual(parseVersion(ask(VERSION, Buffer.alloc(4))).minor, 0);
  });

  it('refuses versions that it does not speak, and a second one', () => {
    refused(95, /VERSION is refused: version 3 is not spoken here, 0 is/, VERSION, Buffer.from([3, 0, 0, 0]));
    refused(22, /VERSION is refused: its version data is no JSON/, VERSION, Buffer.from('\0\0\0\0hello\0'));
    greet();
    refused(22, /VERSION is refused: it came before/, VERSION, Buffer.alloc(4));
  });

  it('ends with a client that begins otherwise, answers what was not asked, or sends no command', () => {
    assert.throws(() => send(RESET), /DEVICE_RESET comes before VERSION/);
    assert.throws(() => send(4711, NOTHING, [signal()]), /command 4711 comes before VERSION/);
    assert.equal(device.resets, 0);
    greet();
    assert.throws(() => send(11, NOTHING, [], REPLY), /a reply to DMA_READ, which was not asked for/);
    assert.throws(() => send(RESET, NOTHING, [signal()], 0xf), /DEVICE_RESET with flags 0xf/);
  });

  it('tells of the device: regions and interrupts', () => {
    greet();
    const info = ask(GET_INFO, Buffer.alloc(16));
    assert.deepEqual(
      [0, 4, 8, 12].map((at) => info.readUInt32LE(at)),
      [16, 3, 9, 5],
      'resettable, PCI',
    );
    const region = (index: number) => ask(GET_REGION_INFO, composeRegionInfo({ index, flags: 0, size: 0 }));
    assert.deepEqual(region(0), composeRegionInfo({ index: 0, flags: 3, size: TOY_BAR0_BYTES }));
    assert.deepEqual(region(8), composeRegionInfo({ index: 8, flags: 0, size: 0 }));
    const irq = (index: number) => parseIrqInfo(ask(GET_IRQ_INFO, composeIrqInfo({ flags: 0, index, count: 0 })));
    assert.deepEqual(irq(MSIX), { flags: 9, index: 2, count: TOY_VECTORS });
    assert.deepEqual(irq(INTX), { flags: 3, index: 0, count: 1 });
    assert.deepEqual(irq(4), { flags: 0, index: 4, count: 0 });
    const noRegion = composeRegionInfo({ index: 9, flags: 0, size: 0 });
    refused(22, /DEVICE_GET_REGION_INFO is refused: there is no region 9, 9 are/, GET_REGION_INFO, noRegion);
    const noIrqs = composeIrqInfo({ flags: 0, index: 5, count: 0 });
    refused(22, /DEVICE_GET_IRQ_INFO is refused: there are no interrupts of kind 5/, GET_IRQ_INFO, noIrqs);
    refused(22, /DEVICE_GET_INFO is refused: 15 bytes of body, at least 16/, GET_INFO, Buffer.alloc(15));
  });

  it('reads and writes regions, and nothing beside them', () => {
    greet();
    assert.deepEqual(
      ask(REGION_WRITE, write(0, 0x40, 0x12345678)),
      composeRegionAccess({ offset: 0x40, region: 0, count: 4 }),
    );
    assert.equal(read(0, 0x40), 0x12345678);
    assert.equal(read(7, 0), 0x10fb8086);
    const odd = ask(REGION_READ, composeRegionAccess({ offset: 0x41, region: 0, count: 2 }));
    assert.equal(regionDataOf(odd).toString('hex'), '5634');
    const outside: [offset: number, region: number, count: number][] = [
      [TOY_BAR0_BYTES, 0, 1],
      [TOY_BAR0_BYTES - 3, 0, 4],
      [0, 0, TOY_BAR0_BYTES + 1],
      [0, 1, 4],
      [0, 9, 4],
      [0, 0xffff_ffff, 4],
      [2 ** 53 - 1, 0, 4],
      [0, 0, 0],
    ];
    for (const [offset, region, count] of outside) {
      const told = new RegExp(`is refused: ${count} bytes at 0x${offset.toString(16)} of region ${region}, which has`);
      refused(22, told, REGION_READ, composeRegionAccess({ offset, region, count }));
      refused(22, told, REGION_WRITE, composeRegionAccess({ offset, region, count }, count));
    }
    refused(22, /4 bytes of data announced, and 2 came/, REGION_WRITE, write(0, 0, 1).subarray(0, 18));
  });

  it('does not answer where no answer is wanted, also when it refuses', () => {
    greet();
    assert.equal(send(REGION_WRITE, write(0, 0x40, 5), [], NO_REPLY), null);
    assert.equal(read(0, 0x40), 5);
    assert.equal(send(REGION_WRITE, write(0, TOY_BAR0_BYTES, 5), [], NO_REPLY), null);
    assert.match(warnings.join(), /REGION_WRITE is refused/);
  });

  it('lets the device reach the memory of the client as long as it is mapped', () => {
    greet();
    const memory = keep(memfd('client', 8192));
    const range = { address: 2 ** 32, size: 4096, offset: 4096, readable: true, writable: true };
    const invert = (): number => {
      ask(REGION_WRITE, write(0, TOY_DMA_HIGH, 1));
      ask(REGION_WRITE, write(0, TOY_DMA_INVERT, 4));
      return read(0, TOY_DMA_RESULT);
    };
    assert.equal(invert(), TOY_DMA_FAILED);
    assert.equal(ask(DMA_MAP, composeDmaMap(range), [memory]).length, 0);
    assert.equal(invert(), TOY_DMA_DONE);
    const bytes = Buffer.alloc(4);
    pread(memory, bytes, 4096);
    assert.equal(bytes.toString('hex'), 'ffffffff');
    refused(17, /DMA_MAP is refused: 4096 bytes at 0x100000000: it overlaps/, DMA_MAP, composeDmaMap(range), [memory]);
    assert.deepEqual(ask(DMA_UNMAP, composeDmaUnmap(range)), composeDmaUnmap(range));
    assert.equal(invert(), TOY_DMA_FAILED);
    ask(DMA_MAP, composeDmaMap(range));
    assert.equal(invert(), TOY_DMA_FAILED, 'no descriptor came');
    const everything = composeDmaUnmap({ address: 0, size: 0 });
    everything.writeUInt32LE(2, 4);
    ask(DMA_UNMAP, everything);
    ask(DMA_MAP, composeDmaMap(range), [memory]);
    assert.equal(invert(), TOY_DMA_DONE);
  });

  it('refuses absurd memory', () => {
    greet();
    const memory = keep(memfd('client', 4096));
    const range = { address: 0, size: 4096, offset: 0, readable: true, writable: true };
    const map = (more: object): Buffer => composeDmaMap({ ...range, ...more });
    refused(22, /DMA_MAP is refused: 0 bytes at 0x0/, DMA_MAP, map({ size: 0 }), [memory]);
    refused(22, /its file has 4096 bytes, and it needs those up to 8192/, DMA_MAP, map({ offset: 4096 }), [memory]);
    refused(22, /2 descriptors come along, at most 1 may/, DMA_MAP, map({}), [memory, memory]);
    refused(22, /is no file that can be mapped/, DMA_MAP, map({}), [signal()]);
    const wrapping = map({});
    wrapping.writeBigUInt64LE(2n ** 64n - 4096n, 16);
    refused(22, /address 0xfffffffffffff000 is out of range/, DMA_MAP, wrapping, [memory]);
    ask(DMA_MAP, map({}), [memory]);
    const part = composeDmaUnmap({ address: 0, size: 2048 });
    refused(22, /DMA_UNMAP is refused: 2048 bytes at 0x0: 4096 bytes at 0x0 lie across an end/, DMA_UNMAP, part);
  });

  it('signals MSI-X vectors through their eventfds', () => {
    greet();
    const fds = Array.from({ length: 16 }, signal);
    ask(SET_IRQS, irqs(EVENTFD | TRIGGER, MSIX, 2, 16), fds);
    const signalled = (): number[] => fds.flatMap((fd, n) => (drainEventfd(fd) ? [n + 2] : []));
    for (const vector of [2, 17, 1, 18, TOY_VECTORS, 0xffff_ffff]) ask(REGION_WRITE, write(0, TOY_INTERRUPT, vector));
    assert.deepEqual(signalled(), [2, 17], 'the others have no eventfd, or are none');
    ask(SET_IRQS, irqs(EVENTFD | TRIGGER, MSIX, 2, 8));
    ask(SET_IRQS, irqs(NONE | TRIGGER, MSIX, 2, 16));
    assert.deepEqual(signalled(), [10, 11, 12, 13, 14, 15, 16, 17], 'no descriptors: those are off');
    const chosen = Array.from({ length: 16 }, (_, n) => n >= 14);
    ask(SET_IRQS, irqs(BOOL | TRIGGER, MSIX, 2, 16, chosen));
    assert.deepEqual(signalled(), [16, 17]);
    ask(SET_IRQS, irqs(EVENTFD | TRIGGER, MSIX, 3, 1), [fds[5]!]);
    ask(REGION_WRITE, write(0, TOY_INTERRUPT, 3));
    assert.deepEqual(signalled(), [7], 'another eventfd in its place');
    ask(SET_IRQS, irqs(NONE | TRIGGER, MSIX, 0, 0));
    for (let vector = 0; vector < TOY_VECTORS; vector++) session.interrupt(vector);
    assert.deepEqual(signalled(), []);
  });

  it('keeps what comes while it is masked until it is unmasked', () => {
    greet();
    const [one, two] = [signal(), signal()];
    ask(SET_IRQS, irqs(EVENTFD | TRIGGER, MSIX, 0, 2), [one, two]);
    ask(SET_IRQS, irqs(BOOL | MASK, MSIX, 0, 2, [true, false]));
    session.interrupt(0);
    session.interrupt(0);
    session.interrupt(1);
    assert.deepEqual([drainEventfd(one), drainEventfd(two)], [false, true]);
    ask(SET_IRQS, irqs(NONE | UNMASK, MSIX, 0, 2));
    assert.deepEqual([drainEventfd(one), drainEventfd(two)], [true, false]);
    ask(SET_IRQS, irqs(NONE | UNMASK, MSIX, 0, 2));
    assert.deepEqual([drainEventfd(one), drainEventfd(two)], [false, false], 'once');
    ask(SET_IRQS, irqs(NONE | MASK, MSIX, 0, 2));
    session.interrupt(0);
    ask(SET_IRQS, irqs(NONE | TRIGGER, MSIX, 0, 0));
    ask(SET_IRQS, irqs(EVENTFD | TRIGGER, MSIX, 0, 2), [one, two]);
    assert.equal(drainEventfd(one), false, 'switched off, it forgets');
    session.interrupt(0);
    assert.equal(drainEventfd(one), true);
  });

  it('sends MSI where there is no MSI-X, and INTx where there is neither', () => {
    greet();
    const [intx, msi, msix] = [signal(), signal(), signal()];
    const all = (): boolean[] => [intx, msi, msix].map((fd) => drainEventfd(fd));
    ask(SET_IRQS, irqs(EVENTFD | TRIGGER, INTX, 0, 1), [intx]);
    session.interrupt(5);
    assert.deepEqual(all(), [true, false, false]);
    ask(SET_IRQS, irqs(NONE | MASK, INTX, 0, 1));
    session.interrupt(0);
    assert.deepEqual(all(), [false, false, false]);
    ask(SET_IRQS, irqs(NONE | UNMASK, INTX, 0, 1));
    assert.deepEqual(all(), [true, false, false]);
    ask(SET_IRQS, irqs(EVENTFD | TRIGGER, MSI, 0, 1), [msi]);
    session.interrupt(5);
    assert.deepEqual(all(), [false, true, false]);
    ask(SET_IRQS, irqs(EVENTFD | TRIGGER, MSIX, 1, 1), [msix]);
    session.interrupt(5);
    assert.deepEqual(all(), [false, false, false], 'MSI-X is on, and vector 5 is not set up');
    session.interrupt(1);
    assert.deepEqual(all(), [false, false, true]);
    ask(SET_IRQS, irqs(NONE | TRIGGER, MSIX, 0, 0));
    session.interrupt(1);
    assert.deepEqual(all(), [false, true, false], 'MSI-X is off again');
  });

  it('refuses interrupts that are none, and changes nothing then', () => {
    greet();
    const fd = signal();
    ask(SET_IRQS, irqs(EVENTFD | TRIGGER, MSIX, 0, 1), [fd]);
    const refuse = (told: RegExp, body: Buffer, fds?: number[], errno = 22): void =>
      refused(errno, told, SET_IRQS, body, fds);
    refuse(/interrupts 20 to 20 of kind 2, which has 20/, irqs(EVENTFD | TRIGGER, MSIX, 20, 1), [fd]);
    refuse(/interrupts 4294967295 to 8589934589 of kind 2/, irqs(NONE | TRIGGER, MSIX, 0xffff_ffff, 0xffff_ffff));
    refuse(/of kind 3, which has 0/, irqs(EVENTFD | TRIGGER, 3, 0, 1), [fd]);
    refuse(/there are no interrupts of kind 9/, irqs(EVENTFD | TRIGGER, 9, 0, 1), [fd]);
    refuse(/1 descriptors for 2 interrupts/, irqs(EVENTFD | TRIGGER, MSIX, 0, 2), [fd]);
    refuse(/2 descriptors for 1 interrupts/, irqs(EVENTFD | TRIGGER, MSIX, 0, 1), [fd, fd]);
    refuse(/17 descriptors come along, at most 16/, irqs(EVENTFD | TRIGGER, MSIX, 0, 17), Array(17).fill(fd));
    refuse(/1 descriptors come along, though flags say none/, irqs(NONE | TRIGGER, MSIX, 0, 1), [fd]);
    refuse(/none of the interrupts from 3 on/, irqs(NONE | TRIGGER, MSIX, 3, 0));
    refuse(/eventfds that mask or unmask are not served/, irqs(EVENTFD | UNMASK, INTX, 0, 1), [fd], 95);
    const nothing = keep(open('/dev/null', 2));
    refuse(/the descriptor is no eventfd \(\/dev\/null\)/, irqs(EVENTFD | TRIGGER, MSIX, 0, 2), [fd, nothing]);
    session.interrupt(0);
    assert.equal(drainEventfd(fd), true, 'the first is as it was');
  });

  it('never waits for an eventfd that is full', () => {
    greet();
    const EFD_CLOEXEC = 0o2000000;
    const blocking = keep(libcFunction('int eventfd(unsigned int initial, int flags)')(0, EFD_CLOEXEC));
    ask(SET_IRQS, irqs(EVENTFD | TRIGGER, MSIX, 0, 1), [blocking]);
    fs.writeSync(blocking, Buffer.from(BigUint64Array.of(2n ** 64n - 2n).buffer));
    session.interrupt(0);
    assert.ok(drainEventfd(blocking));
  });

  it('resets the device, and keeps memory and interrupts', () => {
    greet();
    const fd = signal();
    ask(SET_IRQS, irqs(EVENTFD | TRIGGER, MSIX, 0, 1), [fd]);
    ask(REGION_WRITE, write(0, 0x40, 5));
    ask(RESET);
    assert.deepEqual([device.resets, read(0, 0x40)], [1, 0]);
    session.interrupt(0);
    assert.ok(drainEventfd(fd));
    refused(22, /DEVICE_RESET is refused: 1 bytes of body, not 0/, RESET, Buffer.alloc(1));
  });

  it('refuses what it does not serve by its name, and closes what came along', () => {
    greet();
    refused(95, /REGION_WRITE_MULTI is refused: it is not served here/, 15, Buffer.alloc(32));
    refused(95, /DEVICE_FEATURE is refused/, 16, Buffer.alloc(8));
    refused(95, /command 65535 is refused/, 0xffff);
    refused(22, /DEVICE_RESET is refused: 1 descriptors come along, at most 0 may/, RESET, NOTHING, [signal()]);
  });

  it('answers whatever comes, and never with anything else than an answer', () => {
    const word = fc.oneof(fc.constantFrom(0, 1, 2, 4, 8, 16, 32, 33, 34, 36, 4096), fc.nat(0xffff_ffff));
    const body = fc.array(word, { maxLength: 10 }).map((values) => Buffer.from(Uint32Array.from(values).buffer));
    const cut = fc.tuple(body, fc.nat(3)).map(([bytes, n]) => bytes.subarray(0, Math.max(0, bytes.length - n)));
    const step = fc.tuple(fc.integer({ min: 1, max: 19 }), cut, fc.nat(2));
    const memory = keep(memfd('client', 65536));
    const fd = signal();
    greet();
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
        for (const [command, bytes, kind] of steps) {
          const reply = send(command, bytes, [[], [memory], [fd]][kind])!;
          assert.ok(reply.flags === REPLY || (reply.flags === REPLY_WITH_ERROR && reply.body.length === 0));
        }
      }),
      { numRuns: 500 },
    );
  });
});
