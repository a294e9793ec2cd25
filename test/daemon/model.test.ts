/** `ringswitch model 82599`: software cards as their users reach them, through sockets. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { RINGSWITCH } from '../../lab/daemon.ts';
import { CardModel } from '../../lab/model.ts';
import { NetworkNamespace } from '../../lab/namespace.ts';
import { Program } from '../../lab/program.ts';
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { connectUnix } from '../../linux/unix-socket.ts';
import {
  CTRL,
  CTRL_RST,
  EICS,
  EIMS,
  GPIE,
  GPIE_MSIX_MODE,
  HLREG0_LPBK,
  LINKS,
  LINKS_UP,
  RAH,
  RAH_AV,
  RAL,
  STATUS,
  STATUS_PCIE_MASTER_ENABLE,
  TDBAH,
  TDT,
} from '../../nic/registers.ts';
import { VfioUserClient } from '../../nic/vfio-user/client.ts';
import { frameBytes } from '../helpers/frame-bytes.ts';
import { RingCard } from '../helpers/ring-card.ts';
import { broadcastFrame } from '../helpers/tun-client.ts';
import { until } from '../helpers/until.ts';

const MAC = '02:00:00:00:0a:ff';
const STOP_MS = 5000;
const SETTLE_MS = 5000;
const ETHERTYPE_AT = 12;

describe('ringswitch model', function () {
  this.timeout(30_000);
  let directory: string;
  let socket: string;
  const opened: (() => void)[] = [];

  beforeEach(() => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-model-test-'));
    socket = path.join(directory, 'card');
  });

  afterEach(() => {
    for (const undo of opened.splice(0).reverse()) undo();
    fs.rmSync(directory, { recursive: true });
  });

  function connect(to: string): VfioUserClient {
    const client = VfioUserClient.connect(to);
    opened.push(() => client.close());
    return client;
  }
  function addressOf(client: VfioUserClient): string {
    const bytes = Buffer.alloc(8);
    bytes.writeUInt32LE(client.registers.read32(RAL(0)), 0);
    bytes.writeUInt32LE((client.registers.read32(RAH(0)) & ~RAH_AV) >>> 0, 4);
    return bytes.toString('hex', 0, 6).replace(/..(?=.)/g, '$&:');
  }

  it('serves a card: configuration space, registers, its address', async () => {
    await using model = await CardModel.start({ mac: MAC });
    assert.equal(fs.statSync(model.sockets[0]!).mode & 0o777, 0o600);
    const client = connect(model.sockets[0]!);
    assert.deepEqual([client.vendorId, client.deviceId, client.interruptVectors], [0x8086, 0x10fb, 64]);
    client.registers.write32(CTRL, CTRL_RST);
    assert.equal(client.registers.read32(CTRL) & CTRL_RST, 0);
    assert.notEqual(client.registers.read32(STATUS) & STATUS_PCIE_MASTER_ENABLE, 0);
    assert.equal(addressOf(client), MAC);
    assert.equal(client.registers.read32(LINKS) & LINKS_UP, 0, 'its cable is loose');
  });

  it('signals an MSI-X vector for a cause that software sets', async () => {
    await using model = await CardModel.start();
    const client = connect(model.sockets[0]!);
    const fds = Array.from({ length: 4 }, () => eventfd());
    opened.push(() => fds.forEach(close));
    client.setInterrupts(fds);
    client.setBusMaster(true);
    client.registers.write32(GPIE, GPIE_MSIX_MODE);
    client.registers.write32(EIMS, 1 << 3);
    client.registers.write32(EICS, 1 << 3);
    await until('interrupted', () => drainEventfd(fds[3]!));
    assert.deepEqual(fds.map(drainEventfd), [false, false, false, false]);
  });

  it('moves a frame from the transmit ring to the receive ring in loopback', async () => {
    await using model = await CardModel.start();
    using card = new RingCard(model.sockets[0]!, HLREG0_LPBK);
    for (const length of [60, 61, 1514]) {
      const frame = broadcastFrame(length);
      await card.send(frame);
      assert.deepEqual(await card.receive(), frame);
    }
  });

  it('cables two cards, the second with the next address', async () => {
    await using model = await CardModel.start({ cards: 2, mac: MAC });
    using a = new RingCard(model.sockets[0]!);
    assert.equal(a.linkUp, false, 'the other side is dark yet');
    using b = new RingCard(model.sockets[1]!);
    await until('linked', () => a.linkUp && b.linkUp);
    assert.deepEqual([addressOf(a.client), addressOf(b.client)], [MAC, '02:00:00:00:0a:00']);
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const frame = Buffer.from(broadcastFrame(1000));
      frame.set(frameBytes(900, 7), 100);
      await from.send(frame);
      assert.deepEqual(await to.receive(), frame);
    }
    // Whoever comes next finds a dark card; the other one sees the light go.
    b.client.close();
    await until('dark', () => !a.linkUp);
    const next = connect(model.sockets[1]!);
    assert.equal(next.registers.read32(LINKS) & LINKS_UP, 0);
  });

  it('goes on when a client dies, talks nonsense or maps absurd memory', async () => {
    await using model = await CardModel.start({ cards: 2 });
    using good = new RingCard(model.sockets[0]!, HLREG0_LPBK);
    for (let round = 0; round < 3; round++) {
      const fd = connectUnix(model.sockets[1]!);
      fs.writeSync(fd, Buffer.alloc(64, 0xa5));
      close(fd);
    }
    const absurd = connect(model.sockets[1]!);
    const memory = eventfd();
    opened.push(() => close(memory));
    assert.throws(() => absurd.mapDma({ fd: memory, address: 0, length: 4096 }), /DMA_MAP was refused: EINVAL/);
    const frame = broadcastFrame(60);
    await good.send(frame);
    assert.deepEqual(await good.receive(), frame);
    assert.ok(model.running);
    // Its words come by a pipe, later perhaps than what it did.
    for (const told of [
      /card1: the connection ends: command 42405: it says that it has 2779096485 bytes/,
      /card1: DMA_MAP is refused: 4096 bytes at 0x100000000: its descriptor is no file/,
    ]) {
      await until(`told ${told}`, () => told.test(model.log));
    }
  });

  it('tells of descriptors in memory that it was not given, and goes on', async () => {
    await using model = await CardModel.start();
    using card = new RingCard(model.sockets[0]!, HLREG0_LPBK);
    const { registers } = card.client;
    registers.write32(TDBAH(0), 0xffff_0000);
    registers.write32(TDT(0), 1);
    const told = /card0: transmit queue 0 stops: no memory at 0xffff0000[0-9a-f]{8}, descriptor 0/;
    await until('told', () => told.test(model.log));
    assert.ok(model.running);
    assert.notEqual(card.read(STATUS), 0xffff_ffff);
  });

  it('cables a card to a tap, which it creates', async () => {
    await using host = await NetworkNamespace.create('model');
    await using model = host.spawn([RINGSWITCH, 'model', '82599', '--socket', socket, '--tap', 'wire0']);
    await model.waitFor('served', SETTLE_MS, () => model.stderr.includes('an 82599 with address'));
    await host.exec(['sysctl', '-qw', 'net.ipv6.conf.wire0.disable_ipv6=1']);
    await host.address('wire0', '10.99.0.1/24');
    using card = new RingCard(socket);
    await until('linked', () => card.linkUp);
    const request = 'ffffffffffff' + '020000000001' + '0806' + '0001080006040001' + '020000000001' + '0a630002';
    await card.send(Buffer.from(`${request}${'000000000000'}0a630001`, 'hex'));
    const answer = await card.receive();
    assert.equal(answer.readUInt16BE(ETHERTYPE_AT), 0x0806, 'ARP');
    assert.equal(answer.toString('hex', 0, 6), '020000000001');
    await host.exec(['ip', 'link', 'del', 'wire0']);
    await until('dark', () => !card.linkUp);
    assert.match(model.stderr, /the tap wire0 is gone \(EBADFD\)/);
    model.signal('SIGTERM');
    assert.equal(await model.ended, 'exited with status 0');
  });

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    it(`ends at ${signal}, sends its clients away and removes its sockets`, async () => {
      const sockets = [socket, path.join(directory, 'deep', 'card')];
      const words = sockets.flatMap((one) => ['--socket', one]);
      await using model = new Program([RINGSWITCH, 'model', '82599', ...words]);
      const served = () => model.stderr.split('an 82599 with address').length > 2;
      await model.waitFor('served', SETTLE_MS, served);
      using card = new RingCard(sockets[0]!);
      const client = connect(sockets[1]!);
      model.signal(signal);
      const end = await Promise.race([model.ended, delay(STOP_MS, 'it runs on')]);
      assert.equal(end, 'exited with status 0', model.stderr);
      assert.ok(!sockets.some((one) => fs.existsSync(one)));
      assert.equal(card.read(STATUS), 0xffff_ffff);
      assert.equal(client.registers.read32(STATUS), 0xffff_ffff);
      assert.match(model.stderr, new RegExp(`stopping: ${signal}`));
    });
  }

  it('replaces the socket of one that was killed, and no other', async () => {
    await using first = new Program([RINGSWITCH, 'model', '82599', '--socket', socket]);
    await first.waitFor('served', SETTLE_MS, () => first.stderr.includes('an 82599'));
    await using second = new Program([RINGSWITCH, 'model', '82599', '--socket', socket]);
    assert.equal(await second.ended, 'exited with status 1');
    assert.match(second.stderr, /^ringswitch: somebody serves .*card already; stop it, or give another path$/m);
    assert.ok(connect(socket).registers.read32(STATUS) !== 0xffff_ffff);
    await first.stop();
    assert.ok(fs.existsSync(socket));
    await using third = new Program([RINGSWITCH, 'model', '82599', '--socket', socket]);
    await third.waitFor('served', SETTLE_MS, () => third.stderr.includes('an 82599'));
    connect(socket);
  });

  it('is the card that it is told to be', async () => {
    await using model = new Program([RINGSWITCH, 'model', '82599', '--socket', socket, '--device', '10F8']);
    await model.waitFor('served', SETTLE_MS, () => model.stderr.includes('an 82599'));
    assert.equal(connect(socket).deviceId, 0x10f8);
  });

  const refused: [words: string[], status: number, told: RegExp][] = [
    [['82599'], 2, /required option '--socket <path>' not specified/],
    [['82598', '--socket', '/tmp/x'], 2, /'82598' is invalid.*Allowed choices are 82599/],
    [['82599', '--socket', 'a', '--socket', 'b', '--socket', 'c'], 1, /one or two cards can be served, not 3/],
    [['82599', '--socket', 'a', '--socket', './a'], 1, /a is given twice: each card has a socket of its own/],
    [
      ['82599', '--socket', 'a', '--socket', 'b', '--tap', 't'],
      1,
      /two cards are cabled to each other: --tap is for one/,
    ],
    [['82599', '--socket', 'a', '--tun', '/dev/net/tun'], 1, /--tun says how to open a tap: give --tap/],
    [['82599', '--socket', 'a', '--mac', '02:00:00:00:00'], 1, /02:00:00:00:00 is no MAC address: six octets/],
    [['82599', '--socket', 'a', '--mac', '01:00:00:00:00:01'], 1, /is a group address: a card has one of its own/],
    [['82599', '--socket', 'a', '--mac', '00:00:00:00:00:00'], 1, /00:00:00:00:00:00 is nobody's address: a card has/],
    [['82599', '--socket', 'a', '--device', 'x520'], 1, /x520 is no PCI device id: four hexadecimal digits/],
    [['82599', '--socket', 'a', '--tap', 'a-name-that-is-too-long'], 1, /tap a-name.*: a tap's name has 1 to 15 bytes/],
    [['82599', '--socket', 'a', '--tap', 't', '--tun', '/nowhere'], 1, /tap t: open\(path="\/nowhere".*ENOENT/],
    [['82599', '--socket', 'x'.repeat(120)], 1, /is no path of a socket: 1 to 107 bytes/],
  ];
  for (const [words, status, told] of refused) {
    it(`refuses ${words.slice(1).join(' ').slice(0, 60)}${words[0] === '82599' ? '' : ` (${words[0]})`}`, async () => {
      await using program = new Program([RINGSWITCH, 'model', ...words], { cwd: directory });
      assert.equal(await program.ended, `exited with status ${status}`);
      assert.match(program.stderr, told);
      assert.doesNotMatch(program.stderr, /^\s+at /m, 'no stack');
      assert.deepEqual(fs.readdirSync(directory), [], 'no socket is left');
    });
  }

  it('refuses a path where there is something else', async () => {
    fs.writeFileSync(socket, 'precious');
    await using program = new Program([RINGSWITCH, 'model', '82599', '--socket', socket]);
    assert.equal(await program.ended, 'exited with status 1');
    assert.match(program.stderr, /card exists and is no socket; remove it, or give another path/);
    assert.equal(fs.readFileSync(socket, 'utf8'), 'precious');
  });
});
