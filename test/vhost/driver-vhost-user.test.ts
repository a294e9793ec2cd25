/** Our front-end of vhost-user: against a back-end that the test plays, and against a daemon. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { DaemonProcess } from '../../lab/daemon.ts';
import { RingDevice } from '../../tcpip/devices/ring-device.ts';
import { NO_ROOM } from '../../tcpip/frame-device.ts';
import {
  DriverVhostUser,
  type DriverVhostUserOptions,
  VHOST_USER_DRIVER_FEATURES,
} from '../../vhost/driver-vhost-user.ts';
import {
  encodeMessage,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_GET_FEATURES,
  VHOST_USER_GET_PROTOCOL_FEATURES,
  VHOST_USER_GET_QUEUE_NUM,
  VHOST_USER_PROTOCOL_F_MQ,
  VHOST_USER_PROTOCOL_F_REPLY_ACK,
  VHOST_USER_REPLY,
  VHOST_USER_SET_MEM_TABLE,
  VHOST_USER_SET_OWNER,
  type VhostUserMessage,
} from '../../vhost/vhost-user-messages.ts';
import {
  featureSet,
  hasFeature,
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_HOST_TSO4,
} from '../../vhost/virtio.ts';
import { descriptorsOf } from '../helpers/descriptors.ts';
import { until } from '../helpers/until.ts';
import { type Answer, VhostUserBackEnd } from '../helpers/vhost-user-back-end.ts';

const OFFERED = VHOST_USER_DRIVER_FEATURES | featureSet(VHOST_USER_F_PROTOCOL_FEATURES, 15, 28);
const PROTOCOL = featureSet(VHOST_USER_PROTOCOL_F_MQ, VHOST_USER_PROTOCOL_F_REPLY_ACK, 2);

describe('a card over vhost-user', () => {
  let directory: string;
  let socket: string;
  const opened: (() => void)[] = [];
  beforeEach(() => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-'));
    socket = path.join(directory, 'vm.sock');
  });
  afterEach(() => {
    for (const undo of opened.splice(0).reverse()) undo();
    fs.rmSync(directory, { recursive: true });
  });

  function backEnd(answers: (message: VhostUserMessage) => Answer | undefined = () => undefined): VhostUserBackEnd {
    const made = new VhostUserBackEnd(socket, (message) => {
      const answer = answers(message);
      if (answer !== undefined) return answer;
      if (message.request === VHOST_USER_GET_FEATURES) return OFFERED;
      if (message.request === VHOST_USER_GET_PROTOCOL_FEATURES) return PROTOCOL;
      if (message.request === VHOST_USER_GET_QUEUE_NUM) return 1n;
      return undefined;
    });
    opened.push(() => made[Symbol.dispose]());
    return made;
  }
  async function connect(options: Partial<DriverVhostUserOptions> = {}): Promise<DriverVhostUser> {
    const driver = await DriverVhostUser.connect({ path: socket, rxNum: 8, txNum: 8, reconnectMs: 20, ...options });
    opened.push(() => driver.close());
    return driver;
  }

  it('says what QEMU says, and has each of it acknowledged', async () => {
    const other = backEnd();
    const driver = await connect();
    assert.equal(driver.features, VHOST_USER_DRIVER_FEATURES);
    assert.ok(driver.running);
    const ring = ['SET_VRING_NUM', 'SET_VRING_BASE', 'SET_VRING_ADDR', 'SET_VRING_CALL', 'SET_VRING_KICK'];
    assert.deepEqual(other.names, [
      'GET_FEATURES',
      'GET_PROTOCOL_FEATURES',
      'SET_PROTOCOL_FEATURES',
      'GET_QUEUE_NUM',
      'SET_OWNER',
      'SET_FEATURES',
      'SET_MEM_TABLE',
      ...ring,
      ...ring,
      'SET_VRING_ENABLE',
      'SET_VRING_ENABLE',
    ]);
    // What comes before the protocol features, and what has an answer, is not acknowledged.
    const asked = other.messages.filter(({ needReply }) => needReply).map(({ name }) => name);
    assert.equal(asked.length, other.messages.length - 4);
    const table = other.messages.find(({ request }) => request === VHOST_USER_SET_MEM_TABLE)!.payload;
    assert.deepEqual(
      [0, 8, 16, 24, 32].map((at) => table.readBigUInt64LE(at)),
      [1n, BigInt(driver.memory.address), BigInt(driver.memory.length), BigInt(driver.memory.address), 0n],
    );
  });

  it('shares memory that cannot be shrunk', async () => {
    backEnd();
    const driver = await connect();
    assert.throws(() => fs.ftruncateSync(driver.memory.fd, 4096), { code: 'EPERM' });
  });

  it('takes no feature without the one that it needs', async () => {
    backEnd(({ request }) =>
      request === VHOST_USER_GET_FEATURES ? OFFERED & ~featureSet(VIRTIO_NET_F_CSUM) : undefined,
    );
    const { features } = await connect();
    assert.ok(!hasFeature(features, VIRTIO_NET_F_HOST_TSO4));
    assert.ok(hasFeature(features, VIRTIO_NET_F_GUEST_TSO4));
  });

  it('does without acknowledgements', async () => {
    const other = backEnd(({ request }) => (request === VHOST_USER_GET_PROTOCOL_FEATURES ? 0n : undefined));
    assert.ok((await connect()).running);
    assert.deepEqual(
      other.messages.filter(({ needReply }) => needReply),
      [],
    );
    assert.equal(other.names.at(-1), 'GET_FEATURES', 'waits until all was carried out');
  });

  it('comes back when the back-end does, with rings as new', async () => {
    const other = backEnd();
    const driver = await connect();
    const seen: string[] = [];
    driver.onLink = (up, reason) => seen.push(`${up ? 'up' : 'down'} ${reason}`);
    driver.onRestart = () => seen.push('restart');
    driver.tx.offer(driver.tx.take(), 100);
    driver.tx.publish();
    other.hangUp();
    await until('down', () => !driver.running);
    await until('up', () => driver.running);
    assert.deepEqual(seen, ['down vhost-user: the back-end has closed the connection', 'restart', 'up ']);
    assert.equal(driver.connections, 2);
    assert.equal(driver.tx.freeSlots, 8);
    assert.equal(driver.rx.offered, 8);
  });

  it('goes on trying while nobody is there, or somebody with fewer features', async () => {
    let features = OFFERED;
    const answers = ({ request }: VhostUserMessage) => (request === VHOST_USER_GET_FEATURES ? features : undefined);
    const other = backEnd(answers);
    const driver = await connect();
    const reasons = new Set<string>();
    driver.onLink = (_, reason) => reasons.add(reason.replace(/"[^"]*"/, 'PATH').replace(socket, 'PATH'));
    opened.splice(0, 1);
    other[Symbol.dispose]();
    await until('refused', () => reasons.has('connect(path=PATH) failed: ECONNREFUSED'));
    fs.rmSync(socket);
    await until('nobody there', () => reasons.has('connect(path=PATH) failed: ENOENT'));
    features = OFFERED & ~featureSet(VIRTIO_NET_F_HOST_TSO4);
    backEnd(answers);
    await until('refused', () => reasons.has('vhost-user:PATH: the back-end came back without HOST_TSO4'));
    assert.ok(!driver.running);
    features = OFFERED;
    await until('up', () => driver.running);
  });

  it('stops its rings and begins anew when one is broken', async () => {
    const state = (request: number, payload: Buffer) => encodeMessage(request, payload, VHOST_USER_REPLY);
    const other = backEnd(({ name, request, payload }) =>
      name === 'VHOST_USER_GET_VRING_BASE' ? state(request, payload) : undefined,
    );
    const driver = await connect();
    driver.rx.fail('USED_LENGTH', 1, 2);
    await driver.recover();
    assert.deepEqual(other.names.slice(-2), ['GET_VRING_BASE', 'GET_VRING_BASE']);
    await until('up', () => driver.running);
    assert.equal(driver.rx.error, null);
  });

  describe('refuses', () => {
    const rejects = async (pattern: RegExp, answers: (message: VhostUserMessage) => Answer | undefined) => {
      const before = descriptorsOf(process.pid);
      const other = backEnd(answers);
      await assert.rejects(connect(), (error: Error) => {
        assert.match(`${error.name}: ${error.message}`, pattern);
        return true;
      });
      await until('hung up', () => other.connections === 0);
      opened.splice(0);
      other[Symbol.dispose]();
      fs.rmSync(socket);
      assert.deepEqual(descriptorsOf(process.pid), before, 'nothing stays behind');
    };
    const on = (request: number, answer: Answer) => (message: VhostUserMessage) =>
      message.request === request ? answer : undefined;

    it('a place where nobody listens', async () => {
      await assert.rejects(connect(), /^SystemError: connect\(path=".*vm\.sock"\) failed: ENOENT$/);
    });

    it('a back-end without protocol features, VERSION_1 or queues', async () => {
      await rejects(/the back-end has no protocol features/, on(VHOST_USER_GET_FEATURES, 0n));
      const old = on(VHOST_USER_GET_FEATURES, featureSet(VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_NET_F_CSUM));
      await rejects(/VERSION_1 is needed; wanted: .*VERSION_1; offered: CSUM, PROTOCOL_FEATURES$/, old);
      await rejects(/has no queue pair/, on(VHOST_USER_GET_QUEUE_NUM, 0n));
    });

    it('to go on when a request is refused', async () => {
      await rejects(
        /^VhostUserError: VHOST_USER_SET_MEM_TABLE: the back-end refuses it \(1\)$/,
        on(VHOST_USER_SET_MEM_TABLE, 1n),
      );
    });

    it('a back-end that hangs up, or says something else', async () => {
      const answer = (request: number, bytes: number, flags = VHOST_USER_REPLY) =>
        encodeMessage(request, Buffer.alloc(bytes), flags);
      const cases: [RegExp, Answer][] = [
        [/^VhostUserError: vhost-user: the back-end has closed the connection$/, 'hang up'],
        [/^VhostUserError: VHOST_USER_SET_OWNER: acknowledged with 4 bytes$/, answer(VHOST_USER_SET_OWNER, 4)],
        [/^VhostUserError: VHOST_USER_SET_OWNER: no answer: flags 0x1$/, answer(VHOST_USER_SET_OWNER, 8, 0)],
        [/: VHOST_USER_GET_FEATURES: an answer, though VHOST_USER_SET_OWNER was/, answer(VHOST_USER_GET_FEATURES, 8)],
        [/: VHOST_USER_SET_OWNER: an answer of 5000 bytes, at most 4096$/, answer(VHOST_USER_SET_OWNER, 5000)],
      ];
      for (const [pattern, said] of cases) await rejects(pattern, on(VHOST_USER_SET_OWNER, said));
      await rejects(/GET_FEATURES: an answer of 9 bytes, not 8$/, on(VHOST_USER_GET_FEATURES, answer(1, 9)));
      const twice = Buffer.concat([answer(VHOST_USER_SET_OWNER, 8), answer(VHOST_USER_SET_OWNER, 8)]);
      await rejects(
        /SET_OWNER: an answer, though (nothing|VHOST_USER_SET_FEATURES) was/,
        on(VHOST_USER_SET_OWNER, twice),
      );
    });
  });

  describe('of a daemon', function () {
    this.timeout(30_000);

    it('exchanges frames with another, offloads and all, also after the daemon was started again', async () => {
      await using daemon = await DaemonProcess.start({
        config: {
          ports: ['a', 'b'].map((name) => ({ name, vhostUser: { path: path.join(directory, `${name}.sock`) } })),
        },
      });
      const devices: RingDevice[] = [];
      const drivers: DriverVhostUser[] = [];
      for (const [i, name] of ['a', 'b'].entries()) {
        const rings = await connect({ path: path.join(directory, `${name}.sock`), reconnectMs: 50 });
        drivers.push(rings);
        devices.push(new RingDevice({ name, rings, address: Uint8Array.of(0x52, 0x54, 0, 0, 0, i) }));
      }
      const [a, b] = devices as [RingDevice, RingDevice];
      for (let round = 0; round < 2; round++) {
        for (const length of [60, 1514, 65_550]) {
          await pass(a, b, length);
          await pass(b, a, length);
        }
        assert.equal((await daemon.port('a')).path, 'vhost-user');
        if (round > 0) break;
        await daemon.stop();
        await until('down', () => drivers.every(({ running }) => !running));
        assert.notEqual(a.reserve(60), NO_ROOM);
        a.send(60, 0, 0, 0, 0, 0, 0);
        assert.equal(a.txDropped, 1);
        await daemon.restart();
        await until('up', () => drivers.every(({ running }) => running));
      }
    });

    /** A frame with a partial checksum and of several segments where it is long, which must arrive as it was. */
    async function pass(from: RingDevice, to: RingDevice, length: number): Promise<void> {
      const bytes = new Uint8Array(length).map((_, i) => i * 7);
      bytes.set([...to.address, ...from.address, 0x08, 0x00, 0x45, 0, length >> 8, length, 0, 0, 0, 0, 64, 6]);
      // TCP with a header of 20 bytes.
      bytes[14 + 20 + 12] = 0x50;
      const gso = length > 1514;
      const at = from.reserve(length);
      from.tx.set(bytes, at);
      from.send(length, 1, gso ? 1 : 0, gso ? 54 : 0, gso ? 1448 : 0, 34, 16);
      from.flush();
      let count = 0;
      await until('delivered', () => {
        count = to.receive();
        return count > 0;
      });
      assert.equal(count, 1);
      assert.deepEqual(
        [to.rxLength[0], to.rxFlags[0], to.rxGsoType[0], to.rxGsoSize[0], to.rxCsumStart[0], to.rxCsumOffset[0]],
        [length, 1, gso ? 1 : 0, gso ? 1448 : 0, 34, 16],
      );
      const got = to.rx.slice(to.rxOffset[0], to.rxOffset[0]! + length);
      assert.ok(Buffer.from(got).equals(bytes), 'as it was sent');
      to.release();
    }
  });
});
