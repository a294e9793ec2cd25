/** The client against the server, and against servers that go or talk nonsense at any point. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { drainEventfd, eventfd } from '../../../linux/eventfd.ts';
import { close, pread, pwrite, setNonBlocking } from '../../../linux/file.ts';
import { memfd } from '../../../linux/mman.ts';
import { receiveDescriptors, socketPair } from '../../../linux/socket.ts';
import { bindUnix } from '../../../linux/unix-socket.ts';
import { GONE } from '../../../nic/registers.ts';
import { VfioUserClient } from '../../../nic/vfio-user/client.ts';
import { postRegisterWrite } from '../../../nic/vfio-user/post-write.ts';
import { descriptorsOf } from '../../helpers/descriptors.ts';
import {
  TOY_DEVICE,
  TOY_DMA_DONE,
  TOY_DMA_FAILED,
  TOY_DMA_HIGH,
  TOY_DMA_INVERT,
  TOY_DMA_LOW,
  TOY_DMA_RESULT,
  TOY_INTERRUPT,
  TOY_VECTORS,
  TOY_VENDOR,
} from '../../helpers/toy-vfio-user-device.ts';
import { until } from '../../helpers/until.ts';
import { type Fault, startServerThread, UNASKED } from '../../helpers/vfio-user-server-thread.ts';

const MIB = 2 ** 20;
/** For servers that are waited for in vain, and for those that answer: these have time, whatever else the machine does. */
const MUTE_TIMEOUT_MS = 500;
const TIMEOUT_MS = 10_000;
const isMute = (fault: Fault): boolean => fault === 'silent' || fault.startsWith('half');
/** VERSION, vendor, device, interrupts, and the Command register read and written. */
const CONNECT_REQUESTS = 6;

describe('a vfio-user client', function () {
  this.timeout(30_000);
  let directory: string;
  let socket: string;
  let stop: (() => Promise<void>) | null = null;
  let client: VfioUserClient | null = null;
  let before: string[];
  const opened: number[] = [];

  beforeEach(() => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-vfio-user-'));
    socket = path.join(directory, 'card');
  });

  afterEach(async () => {
    client?.close();
    client = null;
    await stop?.();
    stop = null;
    for (const fd of opened.splice(0)) close(fd);
    fs.rmSync(directory, { recursive: true });
  });

  const keep = (fd: number): number => {
    opened.push(fd);
    return fd;
  };
  async function connect(): Promise<VfioUserClient> {
    ({ stop } = await startServerThread({ path: socket }));
    client = VfioUserClient.connect(socket);
    return client;
  }
  async function connectToBad(fault: Fault, after: number): Promise<VfioUserClient> {
    const timeoutMs = isMute(fault) ? MUTE_TIMEOUT_MS : TIMEOUT_MS;
    await stop?.();
    client?.close();
    fs.rmSync(socket, { force: true });
    ({ stop } = await startServerThread({ path: socket, fault, after }));
    client = VfioUserClient.connect(socket, { timeoutMs });
    return client;
  }
  const interrupted = (fd: number): Promise<boolean> => until('an interrupt', () => drainEventfd(fd));

  it('finds out who is there', async () => {
    const card = await connect();
    assert.deepEqual(
      [card.name, card.vendorId, card.deviceId, card.interruptVectors, card.needsHugepages],
      [`vfio-user:${socket}`, TOY_VENDOR, TOY_DEVICE, TOY_VECTORS, false],
    );
    assert.equal(card.readConfig(0, 4), 0x10fb8086);
    assert.equal(card.readConfig(4, 2), 0x2, 'it decodes its memory');
    card.setBusMaster(true);
    assert.equal(card.readConfig(4, 2), 0x6);
    card.setBusMaster(false);
    assert.equal(card.readConfig(4, 2), 0x2);
    card.writeConfig(0x40, 1, 0x1ff);
    card.writeConfig(0x42, 2, 0xabcd);
    assert.equal(card.readConfig(0x40, 4), 0xabcd00ff);
  });

  it('reads and writes registers, in order', async () => {
    const { registers } = await connect();
    registers.write32(0x40, 0xfedcba98);
    assert.equal(registers.read32(0x40), 0xfedcba98);
    // More than the socket holds at once: writes wait for the server.
    for (let i = 0; i < 5000; i++) registers.write32(0x44, i);
    assert.equal(registers.read32(0x44), 4999);
  });

  it('has registers that another thread may write with the socket alone', async () => {
    const card = await connect();
    assert.ok(card.registerAccess.kind === 'vfio-user');
    assert.ok(postRegisterWrite(card.registerAccess.socket, 0x48, 0xffff_ffff));
    assert.equal(card.registers.read32(0x48), 0xffff_ffff);
  });

  it('gives the card memory, at bus addresses of its own', async () => {
    const card = await connect();
    const fds = [keep(memfd('dma', 3 * MIB)), keep(memfd('dma', MIB))];
    pwrite(fds[1]!, Buffer.from('0123456789'), MIB - 10);
    const [first, second] = [
      card.mapDma({ fd: fds[0]!, address: 0, length: 3 * MIB }),
      card.mapDma({ fd: fds[1]!, address: 0, length: MIB }),
    ];
    assert.deepEqual(first, { pageBytes: 3 * MIB, pages: [2 ** 32] });
    assert.deepEqual(second, { pageBytes: MIB, pages: [2 ** 32 + 4 * MIB] });
    const invert = (address: number, length: number): number => {
      card.registers.write32(TOY_DMA_LOW, address % 2 ** 32);
      card.registers.write32(TOY_DMA_HIGH, Math.floor(address / 2 ** 32));
      card.registers.write32(TOY_DMA_INVERT, length);
      return card.registers.read32(TOY_DMA_RESULT);
    };
    const at = second.pages[0]! + MIB - 10;
    assert.equal(invert(at, 10), TOY_DMA_DONE);
    const bytes = Buffer.alloc(10);
    pread(fds[1]!, bytes, MIB - 10);
    assert.deepEqual(
      bytes,
      Buffer.from('0123456789').map((byte) => ~byte),
    );
    assert.equal(invert(at, 11), TOY_DMA_FAILED);
    card.unmapDma(second);
    assert.equal(invert(at, 10), TOY_DMA_FAILED);
    card.unmapDma(second);
    assert.throws(
      () => card.mapDma({ fd: fds[1]!, address: 0, length: 2 * MIB }),
      /vfio-user:.*card: DMA_MAP was refused: EINVAL/,
    );
    assert.equal(card.gone, false);
  });

  it('hears the interrupts that it asked for', async () => {
    const card = await connect();
    const [one, two] = [keep(eventfd()), keep(eventfd())];
    card.setInterrupts([one, null, two]);
    for (const vector of [0, 1]) card.registers.write32(TOY_INTERRUPT, vector);
    assert.ok(await interrupted(one));
    card.registers.write32(TOY_INTERRUPT, 2);
    assert.ok(await interrupted(two));
    card.setInterrupts([null, two]);
    for (const vector of [0, 2, 1]) card.registers.write32(TOY_INTERRUPT, vector);
    assert.ok(await interrupted(two));
    assert.deepEqual([drainEventfd(one), drainEventfd(two)], [false, false]);
    assert.throws(() => card.setInterrupts(Array(21).fill(one)), /21 interrupts asked for, but it has 20 vectors/);
  });

  it('resets the card, and is reset by going', async () => {
    let card = await connect();
    card.registers.write32(0x40, 1);
    assert.equal(card.reset(), true);
    assert.equal(card.registers.read32(0x40), 0);
    card.registers.write32(0x40, 1);
    card.close();
    card.close();
    card = VfioUserClient.connect(socket);
    client = card;
    assert.equal(card.registers.read32(0x40), 0);
  });

  it('touches nothing when it is closed', async () => {
    const card = await connect();
    card.close();
    // Its number is another file's now.
    const other = keep(memfd('other', 0));
    assert.ok(card.registerAccess.kind === 'vfio-user');
    assert.equal(other, card.registerAccess.socket);
    card.registers.write32(0x40, 1);
    assert.equal(card.registers.read32(0x40), GONE);
    assert.equal(card.readConfig(0, 2), 0xffff);
    card.writeConfig(4, 2, 0);
    card.setBusMaster(true);
    assert.equal(card.reset(), false);
    assert.throws(() => card.mapDma({ fd: other, address: 0, length: MIB }), /the card is closed/);
    assert.throws(() => card.setInterrupts([]), /the card is closed/);
    assert.equal(fs.fstatSync(other).size, 0);
  });

  it('says what is wrong with a path', () => {
    assert.throws(
      () => VfioUserClient.connect(socket),
      /no card can be reached at .*card \(ENOENT\): start one \(ringswitch model\), or correct the path/,
    );
    close(bindUnix(socket));
    assert.throws(() => VfioUserClient.connect(socket), /no card can be reached at .* \(ECONNREFUSED\)/);
    assert.throws(() => VfioUserClient.connect(''), /is no path of a socket/);
  });

  it('says what is wrong with a server that it cannot make sense of', async () => {
    before = descriptorsOf(process.pid);
    const cases: [fault: Fault, after: number, told: RegExp][] = [
      ['closes', 0, /VERSION: the server has closed the connection/],
      ['silent', 0, /VERSION: the server did not answer in 500 ms/],
      ['garbage', 0, /VERSION: command 42405: it says that it has 2779096485 bytes/],
      ['wrong id', 0, /VERSION: the server sent a reply to VERSION \(id 0\) in place of a reply/],
      ['command', 0, /VERSION: the server sent VERSION \(id 1\) in place of a reply/],
      ['half', 0, /VERSION: the server did not answer in 500 ms/],
      ['short', 0, /VERSION: 0 bytes of body, at least 4/],
      ['wrong data', 0, /VERSION: its version data does not end/],
      ['refuses', 0, /VERSION was refused: EINVAL/],
      ['newer', 0, /it speaks version 1 of vfio-user, not 0/],
      ['closes', 1, /DEVICE_GET_IRQ_INFO: the server is gone/],
      ['wrong data', 3, /it says that it has 4294967295 MSI-X vectors; 2048 are possible/],
      ['short', 3, /DEVICE_GET_IRQ_INFO: 0 bytes of body, at least 16/],
      ['closes', CONNECT_REQUESTS - 1, /the server went while it was asked who it is/],
    ];
    for (const [fault, after, told] of cases) {
      await assert.rejects(connectToBad(fault, after), told, `${fault} after ${after}`);
      await stop!();
      stop = null;
      assert.deepEqual(descriptorsOf(process.pid), before, `${fault} after ${after}`);
    }
  });

  for (const fault of [
    ...(['closes', 'silent', 'garbage', 'wrong id', 'command', 'half'] as const),
    ...(['short', 'wrong data', 'less data'] as const),
  ]) {
    it(`reads all ones from a server that ${fault === 'closes' ? 'dies' : `answers with: ${fault}`}, and does no harm`, async () => {
      const card = await connectToBad(fault, CONNECT_REQUESTS);
      const fd = keep(memfd('dma', MIB));
      assert.equal(card.registers.read32(8), GONE);
      assert.equal(card.gone, true);
      card.registers.write32(8, 1);
      assert.equal(card.readConfig(0, 1), 0xff);
      assert.equal(card.readConfig(0, 2), 0xffff);
      assert.equal(card.readConfig(0, 4), GONE);
      card.writeConfig(0, 4, 1);
      card.setBusMaster(false);
      card.setInterrupts([keep(eventfd()), null]);
      assert.equal(card.reset(), false);
      assert.throws(() => card.mapDma({ fd, address: 0, length: MIB }), /DMA_MAP: the server is gone/);
      card.unmapDma({ pageBytes: MIB, pages: [2 ** 32] });
      card.close();
    });
  }

  it('notices a server that dies while registers are written', async () => {
    const card = await connect();
    await stop!();
    stop = null;
    card.registers.write32(0x40, 1);
    assert.equal(card.gone, true);
    assert.ok(card.registerAccess.kind === 'vfio-user');
    assert.equal(postRegisterWrite(card.registerAccess.socket, 0x40, 1), false);
    assert.equal(card.registers.read32(0x40), GONE);
  });

  it('gives up a server that does not read', () => {
    const [ours, theirs] = socketPair();
    keep(ours);
    keep(theirs);
    setNonBlocking(ours);
    let posted = 0;
    while (postRegisterWrite(ours, 0x40, posted)) posted++;
    assert.ok(posted > 10, `${posted} fitted`);
    const message = Buffer.alloc(36);
    assert.equal(receiveDescriptors(theirs, message, 0)!.length, 36);
    assert.equal(
      message.toString('hex'),
      '00000a00' + '24000000' + '10000000' + '00000000' + '4000000000000000' + '00000000' + '04000000' + '00000000',
    );
  });

  it('keeps no descriptor that a server sends, whatever comes of its message', async () => {
    const unasked = (): string[] => descriptorsOf(process.pid).filter((target) => target.includes(UNASKED));
    for (const [fault, value] of [
      ['descriptors', 0],
      ['half with descriptors', GONE],
    ] as const) {
      const card = await connectToBad(fault, CONNECT_REQUESTS);
      for (let n = 0; n < 3; n++) assert.equal(card.registers.read32(0), value);
      card.close();
      await stop!();
      stop = null;
      assert.deepEqual(unasked(), [], fault);
    }
  });

  it('tells of requests that are refused, and goes on', async () => {
    const card = await connectToBad('refuses', CONNECT_REQUESTS);
    assert.throws(
      () => card.mapDma({ fd: keep(memfd('dma', MIB)), address: 0, length: MIB }),
      /DMA_MAP was refused: EINVAL/,
    );
    assert.throws(() => card.setInterrupts([]), /DEVICE_SET_IRQS was refused: EINVAL/);
    assert.equal(card.registers.read32(0), GONE, 'as where nobody answers on a bus');
    card.writeConfig(0x40, 4, 1);
    assert.equal(card.reset(), false);
    assert.equal(card.gone, false);
  });
});
