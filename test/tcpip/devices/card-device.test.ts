/** A stack's end of an 82599: software cards in another process, cabled together. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { RINGSWITCH } from '../../../lab/daemon.ts';
import { Program } from '../../../lab/program.ts';
import { POLLIN, PollSet } from '../../../linux/poll.ts';
import type { CardDevice } from '../../../tcpip/devices/card-device.ts';
import { openCardDevice } from '../../../tcpip/devices/open-card.ts';
import { NO_ROOM, TRANSMIT_CHECKSUM, TRANSMIT_TSO4, TRANSMIT_TSO6 } from '../../../tcpip/frame-device.ts';
import { VIRTIO_NET_HDR_F_DATA_VALID } from '../../../vhost/virtio.ts';
import { descriptorsOf } from '../../helpers/descriptors.ts';
import { checksumsVerify, packet } from '../../helpers/plain-packet.ts';
import { until } from '../../helpers/until.ts';

const DELIVERY_MS = 5000;
const DESCRIPTORS = 128;

describe('an 82599 as a frame device', function () {
  this.timeout(30_000);
  let directory: string;
  let model: Program;
  let a: CardDevice;
  let b: CardDevice;
  const links: Record<string, string[]> = { a: [], b: [] };
  before(async () => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-'));
    const [first, second] = ['a', 'b'].map((name) => path.join(directory, `${name}.sock`)) as [string, string];
    model = new Program([RINGSWITCH, 'model', '82599', '--socket', first, '--socket', second]);
    await until('served', () => fs.existsSync(first) && fs.existsSync(second));
    const onLink = (name: string) => (up: boolean, reason: string) =>
      void links[name]!.push(`${up ? 'up' : 'down'} ${reason}`);
    a = openCardDevice({ device: `vfio-user:${first}`, descriptors: DESCRIPTORS, onLink: onLink('a') });
    b = openCardDevice({ device: `vfio-user:${second}`, descriptors: DESCRIPTORS, onLink: onLink('b') });
    await until('up', () => links.a!.length > 0 && links.b!.length > 0);
  });
  after(async () => {
    a?.close();
    b?.close();
    await model?.stop();
    fs.rmSync(directory, { recursive: true });
  });

  function send(device: CardDevice, bytes: Uint8Array, ...fields: number[]): void {
    const at = device.reserve(bytes.length);
    assert.notEqual(at, NO_ROOM);
    assert.equal(device.reserve(bytes.length), at);
    device.tx.set(bytes, at);
    const [flags = 0, gsoType = 0, hdrLen = 0, gsoSize = 0, csumStart = 0, csumOffset = 0] = fields;
    device.send(bytes.length, flags, gsoType, hdrLen, gsoSize, csumStart, csumOffset);
  }
  /** So many frames, with their flags. */
  async function receive(device: CardDevice, count: number): Promise<{ frame: Uint8Array; flags: number }[]> {
    const got: { frame: Uint8Array; flags: number }[] = [];
    await until(`${count} frames`, () => {
      const some = device.receive();
      for (let i = 0; i < some; i++) {
        const at = device.rxOffset[i]!;
        got.push({ frame: device.rx.slice(at, at + device.rxLength[i]!), flags: device.rxFlags[i]! });
      }
      device.release();
      return got.length >= count;
    });
    return got;
  }
  const plain = (length: number, to: CardDevice, seed = 7): Uint8Array => {
    const bytes = Uint8Array.from({ length }, (_, i) => (i * seed) & 0xff);
    bytes.set([...to.address, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    return bytes;
  };

  it('has the card’s address and its offloads', () => {
    assert.equal(a.offloads, TRANSMIT_CHECKSUM | TRANSMIT_TSO4 | TRANSMIT_TSO6);
    assert.notDeepEqual(a.address, b.address);
    assert.deepEqual([a.address[0]! & 1, links.a, links.b], [0, ['up '], ['up ']]);
  });

  it('sends and receives frames of every length, round its rings', async () => {
    for (let round = 0; round < 4; round++) {
      const sent = Array.from({ length: 50 }, (_, i) => plain(60 + 29 * i, b, round + 3));
      for (const bytes of sent) send(a, bytes);
      a.flush();
      const got = await receive(b, sent.length);
      assert.deepEqual(
        got.map(({ frame }) => Buffer.from(frame).toString('hex')),
        sent.map((bytes) => Buffer.from(bytes).toString('hex')),
      );
    }
    send(b, plain(14, a));
    b.flush();
    assert.equal((await receive(a, 1))[0]!.frame.length, 60, 'padded');
  });

  for (const ipVersion of [4, 6] as const) {
    it(`has the card cut super-frames and add sums (IPv${ipVersion})`, async () => {
      for (let round = 0; round < 12; round++) {
        const payload = Uint8Array.from({ length: 30_000 + round }, (_, i) => (i * 13 + round) & 0xff);
        const shape = packet({ ipVersion, isTcp: true, payload, macs: { from: a.address, to: b.address } });
        const { bytes, transport, payload: data, csumOffset } = shape;
        send(a, bytes, 1, ipVersion === 4 ? 1 : 4, data, 1400, transport, csumOffset);
        a.flush();
        const got = await receive(b, Math.ceil(payload.length / 1400));
        for (const { frame, flags } of got) {
          assert.ok(checksumsVerify(frame, shape, true));
          assert.equal(flags, VIRTIO_NET_HDR_F_DATA_VALID, 'the card has checked it');
        }
        assert.ok(Buffer.concat(got.map(({ frame }) => frame.subarray(data))).equals(payload));
      }
    });
  }

  it('adds a sum to a frame that fits', async () => {
    const payload = Uint8Array.of(1, 2, 3);
    const shape = packet({ ipVersion: 4, isTcp: false, payload, macs: { from: a.address, to: b.address } });
    send(a, shape.bytes, 1, 0, 0, 0, shape.transport, shape.csumOffset);
    a.flush();
    const [first] = await receive(b, 1);
    assert.ok(checksumsVerify(first!.frame.subarray(0, shape.bytes.length), shape, false));
  });

  it('has no room when all is under way, and does not sleep then', async () => {
    let sent = 0;
    while (a.reserve(1514) !== NO_ROOM) {
      send(a, plain(1514, b));
      sent++;
    }
    assert.ok(sent > 100 && sent < DESCRIPTORS);
    assert.equal(a.enableNotification(), true);
    a.disableNotification();
    a.flush();
    // What the other side has no descriptors for, the card keeps for a while.
    await receive(b, sent);
    await until('room', () => a.reserve(1514) !== NO_ROOM);
  });

  it('is woken by frames', async () => {
    while (b.receive() > 0) b.release();
    const poll = new PollSet();
    for (const fd of b.fds) poll.add(fd, POLLIN);
    assert.equal(poll.size, 1);
    // What came before the interrupt was asked for may still be told.
    do {
      b.disableNotification();
      assert.equal(b.enableNotification(), false);
    } while (poll.wait(20) > 0);
    send(a, plain(60, b));
    a.flush();
    assert.equal(poll.wait(DELIVERY_MS), 1);
    b.disableNotification();
    assert.equal(poll.wait(0), 0, 'taken back');
    assert.equal((await receive(b, 1)).length, 1);
  });

  it('drops what the card cannot do', () => {
    send(a, plain(60, b), 1, 0, 0, 0, 14, 2);
    assert.equal(a.txDropped, 1);
    assert.throws(() => a.reserve(70_000), /a frame of 70000 bytes; the longest has 65550$/);
    assert.throws(() => a.send(60, 0, 0, 0, 0, 0, 0), /a frame was sent that was not reserved$/);
  });

  it('refuses what cannot be, and leaves nothing open', async () => {
    const socket = path.join(directory, 'c.sock');
    const other = new Program([RINGSWITCH, 'model', '82599', '--socket', socket]);
    try {
      await until('served', () => fs.existsSync(socket));
      const before = descriptorsOf(process.pid);
      const device = `vfio-user:${socket}`;
      assert.throws(
        () => openCardDevice({ device, mtu: 9000 }),
        /an MTU of 9000; a frame must fit one of the card's buffers/,
      );
      assert.throws(() => openCardDevice({ device, descriptors: 64 }), /64 transmit descriptors are too few/);
      assert.throws(() => openCardDevice({ device, address: new Uint8Array(6) }), /no address of a station/);
      openCardDevice({ device }).close();
      assert.deepEqual(descriptorsOf(process.pid), before);
      const card = openCardDevice({ device });
      card.close();
      card.close();
      assert.deepEqual(
        [card.receive(), card.reserve(60), card.fds.length, card.enableNotification()],
        [0, NO_ROOM, 0, false],
      );
    } finally {
      await other.stop();
    }
  });

  it('notices that its card has gone', async () => {
    await model.stop();
    await until('gone', () => a.gone && b.gone);
    assert.match(links.a!.at(-1)!, /^down /);
    assert.deepEqual([a.receive(), a.reserve(60)], [0, NO_ROOM]);
    a.send(60, 0, 0, 0, 0, 0, 0);
    assert.equal(a.txDropped, 2);
  });
});
