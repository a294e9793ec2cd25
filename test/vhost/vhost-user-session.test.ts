import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { eventfd } from '../../linux/eventfd.ts';
import { close, O_RDWR, open } from '../../linux/file.ts';
import { TUN_F_CSUM, TUN_F_TSO4 } from '../../linux/if-tun.ts';
import { libcFunction } from '../../linux/libc.ts';
import { memfd } from '../../linux/mman.ts';
import { SUPPORTED_FEATURES } from '../../vhost/vhost-device.ts';
import {
  encodeMessage,
  VHOST_USER_NEED_REPLY,
  VhostUserError,
  VhostUserParser,
} from '../../vhost/vhost-user-messages.ts';
import {
  OFFERED_FEATURES,
  OFFERED_PROTOCOL_FEATURES,
  VhostUserSession,
  type VhostUserTarget,
} from '../../vhost/vhost-user-session.ts';
import { RingUnmappedError } from '../../vhost/virtqueue.ts';
import { FakeRingBackend } from '../helpers/fake-ring-backend.ts';

// Message types, written down a second time from the document.
const GET_FEATURES = 1;
const SET_FEATURES = 2;
const SET_OWNER = 3;
const RESET_OWNER = 4;
const SET_MEM_TABLE = 5;
const SET_LOG_BASE = 6;
const SET_VRING_NUM = 8;
const SET_VRING_ADDR = 9;
const SET_VRING_BASE = 10;
const GET_VRING_BASE = 11;
const SET_VRING_KICK = 12;
const SET_VRING_CALL = 13;
const SET_VRING_ERR = 14;
const GET_PROTOCOL_FEATURES = 15;
const SET_PROTOCOL_FEATURES = 16;
const GET_QUEUE_NUM = 17;
const SET_VRING_ENABLE = 18;
const SEND_RARP = 19;
const NET_SET_MTU = 20;
const RESET_DEVICE = 34;
const GET_MAX_MEM_SLOTS = 36;
const ADD_MEM_REG = 37;
const REM_MEM_REG = 38;
const SET_STATUS = 39;
const GET_STATUS = 40;
const F_PROTOCOL_FEATURES = 1n << 30n;
const VERSION_1 = 1n << 32n;
const REPLY_ACK = 1n << 3n;
const INVALID_FD = 0x100n;

const MIB = 1n << 20n;
const PAIRS = 2;
/** Where the front-end has its memory, and the parts of a ring of 256 entries in it. */
const USER = 0x7f12_3400_0000n;
const DESC = 0n;
const AVAIL = 0x1000n;
const USED = 0x2000n;

const u32 = (...numbers: number[]): Buffer => Buffer.from(Uint32Array.from(numbers).buffer);
const u64 = (...numbers: bigint[]): Buffer => Buffer.from(BigUint64Array.from(numbers).buffer);
const memfdCreate = libcFunction('int memfd_create(const char *name, unsigned int flags)');
const MFD_ALLOW_SEALING = 2;
const openDescriptors = (): number => fs.readdirSync('/proc/self/fd').length;

describe('a vhost-user session', () => {
  let descriptorsBefore: number;
  let queues: FakeRingBackend[];
  let told: string[];
  let logged: string[];
  let session: VhostUserSession;

  beforeEach(() => {
    descriptorsBefore = openDescriptors();
    queues = Array.from({ length: PAIRS }, () => new FakeRingBackend());
    told = [];
    logged = [];
    const target: VhostUserTarget = {
      queues,
      setOffloads: async (offloads) => void told.push(`offloads ${offloads}`),
      announce: (mac) => void told.push(`announce ${Buffer.from(mac).toString('hex')}`),
    };
    const note = (message: string): void => void logged.push(message);
    session = new VhostUserSession(target, 4711, { debug: () => {}, warn: note });
  });

  afterEach(async () => {
    await session.close();
    assert.equal(openDescriptors(), descriptorsBefore, 'descriptors stay open');
  });

  /** Sends a message; gives the whole answer. */
  async function ask(request: number, payload: Buffer = u32(), fds: number[] = [], flags = 0): Promise<Buffer | null> {
    const bytes = encodeMessage(request, payload, flags);
    const parser = new VhostUserParser();
    bytes.copy(parser.room);
    let message = parser.take(12, fds);
    if (!message) {
      payload.copy(parser.room);
      message = parser.take(payload.length);
    }
    return await session.handle(message!);
  }

  /** An answer's number. */
  async function value(request: number, payload?: Buffer, fds?: number[], flags?: number): Promise<bigint> {
    const answer = await ask(request, payload, fds, flags);
    assert.ok(answer, 'there is an answer');
    assert.deepEqual(answer.subarray(0, 12), u32(request, 1 | 4, 8));
    return answer.readBigUInt64LE(12);
  }

  async function refuses(reason: RegExp, request: number, payload?: Buffer, fds?: number[]): Promise<void> {
    await assert.rejects(ask(request, payload, fds), (error) => {
      assert.ok(error instanceof VhostUserError, String(error));
      assert.match(error.message, reason);
      return true;
    });
  }

  const region = (at = 0n, size = MIB, user = USER, offset = 0n): bigint[] => [at, size, user, offset];
  const memory = (bytes = Number(MIB)): number => memfd('guest', bytes);
  const sealable = (bytes: number): number => {
    const fd = memfdCreate('guest', MFD_ALLOW_SEALING);
    fs.ftruncateSync(fd, bytes);
    return fd;
  };
  const table = (...regions: bigint[][]): Buffer => Buffer.concat([u32(regions.length, 0), u64(...regions.flat())]);
  const addresses = (index: number, at = USER): Buffer => u64(BigInt(index), at + DESC, at + USED, at + AVAIL, 0n);

  async function negotiate(features = VERSION_1 | F_PROTOCOL_FEATURES): Promise<void> {
    await ask(SET_OWNER);
    await ask(SET_PROTOCOL_FEATURES, u64(REPLY_ACK));
    await ask(SET_FEATURES, u64(features));
  }

  async function setUp(index: number): Promise<void> {
    await ask(SET_VRING_NUM, u32(index, 256));
    await ask(SET_VRING_BASE, u32(index, 7));
    await ask(SET_VRING_ADDR, addresses(index));
    await ask(SET_VRING_CALL, u64(BigInt(index)), [eventfd()]);
    await ask(SET_VRING_KICK, u64(BigInt(index)), [eventfd()]);
  }

  const ran = (): string[][] => queues.map(({ calls }) => calls.splice(0));

  it('offers what it has', async () => {
    assert.equal(await value(GET_FEATURES), OFFERED_FEATURES);
    assert.equal(OFFERED_FEATURES & SUPPORTED_FEATURES, SUPPORTED_FEATURES);
    assert.notEqual(OFFERED_FEATURES & F_PROTOCOL_FEATURES, 0n);
    assert.equal(OFFERED_FEATURES & (1n << 26n), 0n, 'no dirty log');
    assert.equal(await value(GET_PROTOCOL_FEATURES), OFFERED_PROTOCOL_FEATURES);
    // MQ, RARP, REPLY_ACK, MTU, RESET_DEVICE, CONFIGURE_MEM_SLOTS, STATUS
    assert.equal(OFFERED_PROTOCOL_FEATURES, 0b1_1010_0000_0001_1101n);
    assert.equal(await value(GET_QUEUE_NUM), BigInt(PAIRS));
    assert.equal(await value(GET_MAX_MEM_SLOTS), 509n);
  });

  it('runs a ring that is set up, kicked and enabled', async () => {
    await negotiate();
    assert.equal(await ask(SET_MEM_TABLE, table(region(1n << 32n)), [memory()]), null);
    await setUp(3);
    assert.deepEqual(ran(), [[], []], 'it is not enabled');
    await ask(SET_VRING_ENABLE, u32(3, 1));
    assert.deepEqual(ran(), [[], ['start 1']], 'ring 3 is the transmit ring of pair 1');
    const { addresses, num, base, features } = queues[1]!.started.get(1)!;
    assert.deepEqual({ num, base, features }, { num: 256, base: 7, features: VERSION_1 });
    assert.equal(addresses.used, Number(USER + USED));
    const { regions, areas } = queues[1]!.memory!;
    assert.deepEqual(regions, [{ guestAddress: 2 ** 32, size: Number(MIB), userAddress: Number(USER) }]);
    assert.deepEqual(areas[0]!.length, Number(MIB));
  });

  it('enables rings before they are started, and all of them without VHOST_USER_F_PROTOCOL_FEATURES', async () => {
    await ask(SET_VRING_ENABLE, u32(0, 1));
    await negotiate();
    await ask(SET_MEM_TABLE, table(region()), [memory()]);
    await setUp(0);
    await setUp(1);
    assert.deepEqual(ran(), [['start 0'], []]);
    await ask(SET_FEATURES, u64(VERSION_1));
    assert.deepEqual(ran(), [['start 1'], []]);
    await ask(SET_FEATURES, u64(VERSION_1 | F_PROTOCOL_FEATURES));
    assert.deepEqual(ran(), [[], []], 'SET_FEATURES never disables');
  });

  it('stops a ring with GET_VRING_BASE, and goes on from there with the next kick', async () => {
    await negotiate(VERSION_1);
    await ask(SET_MEM_TABLE, table(region()), [memory()]);
    await setUp(0);
    queues[0]!.base = 99;
    const answer = await ask(GET_VRING_BASE, u32(0, 0));
    assert.deepEqual(answer, Buffer.concat([u32(GET_VRING_BASE, 1 | 4, 8), u32(0, 99)]));
    assert.deepEqual(ran(), [['start 0', 'stop 0'], []]);
    assert.deepEqual((await ask(GET_VRING_BASE, u32(0, 0)))!.subarray(12), u32(0, 99), 'asked again');
    await ask(SET_VRING_ENABLE, u32(0, 1));
    assert.deepEqual(ran(), [[], []], 'it waits for its kick');
    await ask(SET_VRING_KICK, u64(0n), [eventfd()]);
    assert.deepEqual(ran(), [['start 0'], []]);
    assert.equal(queues[0]!.started.get(0)!.base, 99);
  });

  it('lets a disabled ring stand still', async () => {
    await negotiate(VERSION_1);
    await ask(SET_MEM_TABLE, table(region()), [memory()]);
    await setUp(1);
    queues[0]!.base = 20;
    await ask(SET_VRING_ENABLE, u32(1, 0));
    await ask(SET_VRING_ENABLE, u32(1, 0));
    assert.deepEqual(ran(), [['start 1', 'stop 1'], []]);
    await ask(SET_VRING_ENABLE, u32(1, 1));
    assert.equal(queues[0]!.started.get(1)!.base, 20);
  });

  it('exchanges the eventfds of a running ring, and takes them away', async () => {
    await negotiate(VERSION_1);
    await ask(SET_MEM_TABLE, table(region()), [memory()]);
    await setUp(0);
    ran();
    await ask(SET_VRING_CALL, u64(INVALID_FD));
    assert.match(ran()[0]![0]!, /^fds 0 \d+ -1 -1$/);
    await ask(SET_VRING_ERR, u64(0n), [eventfd()]);
    assert.match(ran()[0]![0]!, /^fds 0 \d+ -1 \d+$/);
    await ask(SET_VRING_KICK, u64(INVALID_FD));
    assert.match(ran()[0]![0]!, /^fds 0 -1 -1 \d+$/);
    assert.match(logged[0]!, /SET_VRING_KICK: ring 0 has no kick/);
  });

  it('takes what the guest takes to be the offloads of the port', async () => {
    const GUEST_CSUM_AND_TSO4 = (1n << 1n) | (1n << 7n);
    await ask(SET_FEATURES, u64(VERSION_1 | GUEST_CSUM_AND_TSO4 | F_PROTOCOL_FEATURES));
    await ask(SET_FEATURES, u64(OFFERED_FEATURES));
    await ask(SET_FEATURES, u64(F_PROTOCOL_FEATURES));
    // csum, tso4, tso6, tso-ecn, uso4, uso6
    assert.deepEqual(told, [`offloads ${TUN_F_CSUM | TUN_F_TSO4}`, `offloads ${0x6f}`, 'offloads 0']);
  });

  it('announces a guest, and takes its MTU', async () => {
    await ask(SEND_RARP, Buffer.from('5254000102030000', 'hex'));
    assert.deepEqual(told, ['announce 525400010203']);
    await ask(NET_SET_MTU, u64(9000n));
    await refuses(/NET_SET_MTU: 67 is not from 68 to 65532 \(EINVAL\)/, NET_SET_MTU, u64(67n));
    await refuses(/NET_SET_MTU: 65533 is not/, NET_SET_MTU, u64(65533n));
  });

  describe('resets', () => {
    beforeEach(async () => {
      await negotiate(VERSION_1);
      await ask(SET_MEM_TABLE, table(region()), [memory()]);
      await setUp(0);
      await setUp(3);
      ran();
    });

    it('with status 0, after which another start needs its kicks alone', async () => {
      await ask(SET_STATUS, u64(15n));
      assert.equal(await value(GET_STATUS), 15n);
      assert.deepEqual(ran(), [[], []]);
      await ask(SET_STATUS, u64(0n));
      assert.equal(await value(GET_STATUS), 0n);
      assert.deepEqual(ran(), [['stop 0'], ['stop 1']]);
      await ask(SET_VRING_KICK, u64(0n), [eventfd()]);
      assert.deepEqual(ran(), [['start 0'], []]);
      assert.equal(queues[0]!.started.get(0)!.base, 0);
    });

    it('with RESET_DEVICE, after which rings are disabled', async () => {
      await ask(RESET_DEVICE);
      assert.deepEqual(ran(), [['stop 0'], ['stop 1']]);
      await ask(SET_VRING_KICK, u64(0n), [eventfd()]);
      assert.deepEqual(ran(), [[], []]);
      await ask(SET_VRING_ENABLE, u32(0, 1));
      assert.deepEqual(ran(), [['start 0'], []]);
    });

    it('not with RESET_OWNER, which old front-ends send by mistake', async () => {
      await ask(RESET_OWNER);
      assert.deepEqual(ran(), [[], []]);
    });

    it('when it is closed', async () => {
      await session.close();
      assert.deepEqual(ran(), [['stop 0'], ['stop 1']]);
    });
  });

  describe('acknowledges', () => {
    const flags = VHOST_USER_NEED_REPLY;

    it('what it is asked to, when that was negotiated', async () => {
      assert.equal(await ask(SET_OWNER, undefined, [], flags), null, 'not negotiated yet');
      await negotiate();
      assert.equal(await ask(SET_OWNER), null, 'not asked to');
      assert.equal(await value(SET_OWNER, undefined, [], flags), 0n);
      assert.equal(await value(GET_QUEUE_NUM, undefined, [], flags), BigInt(PAIRS), 'an answer is no acknowledgement');
    });

    it('what it cannot do with 1, and goes on', async () => {
      await negotiate();
      assert.equal(await value(SET_VRING_NUM, u32(0, 3), [], flags), 1n);
      assert.match(
        logged[0]!,
        /^VHOST_USER_SET_VRING_NUM: ring 0 of 3 entries: not a power of two up to 32768 \(EINVAL\); the/,
      );
      assert.equal(await value(SET_LOG_BASE, u64(0n, 0n), [memory()], flags), 1n);
      assert.equal(await value(SET_VRING_NUM, u32(0, 256), [], flags), 0n);
    });
  });

  describe('refuses', () => {
    beforeEach(() => negotiate(VERSION_1));

    it('features that were not offered', async () => {
      await refuses(
        /SET_FEATURES: not offered: LOG_ALL, ACCESS_PLATFORM \(EOPNOTSUPP\)/,
        SET_FEATURES,
        u64((1n << 26n) | (1n << 33n)),
      );
      await refuses(/SET_PROTOCOL_FEATURES: not offered: bits 0x1002/, SET_PROTOCOL_FEATURES, u64(0x1003n));
      await refuses(/VHOST_USER_SET_LOG_BASE: is not served/, SET_LOG_BASE, u64(0n, 0n), [memory()]);
      await refuses(/vhost-user message 4000: is not served/, 4000);
    });

    it('rings that are not there', async () => {
      const requests: [number, Buffer][] = [
        [SET_VRING_NUM, u32(4, 256)],
        [SET_VRING_BASE, u32(0xffff_ffff, 0)],
        [GET_VRING_BASE, u32(4, 0)],
        [SET_VRING_ADDR, addresses(4)],
        [SET_VRING_ENABLE, u32(4, 1)],
        [SET_VRING_KICK, u64(INVALID_FD | 4n)],
      ];
      for (const [request, payload] of requests) await refuses(/: ring \d+ of 4 \(ENOBUFS\)/, request, payload);
      for (const request of [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR]) {
        await refuses(/: ring 255 of 4/, request, u64(255n), [eventfd()]);
      }
    });

    it('what is neither on nor off', async () => {
      await refuses(/SET_VRING_ENABLE: ring 0: 2 is neither 0 nor 1/, SET_VRING_ENABLE, u32(0, 2));
    });

    it('kicks and calls that are no eventfds', async () => {
      for (const request of [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR]) {
        await refuses(/ring 1: the descriptor is no eventfd \(\/memfd:guest/, request, u64(1n), [memory()]);
      }
    });

    it('to start before there is memory, or outside of it, and can be asked again', async () => {
      await ask(SET_VRING_ADDR, addresses(0));
      await refuses(/SET_VRING_KICK: ring 0: a memory table comes first/, SET_VRING_KICK, u64(0n), [eventfd()]);
      await ask(SET_MEM_TABLE, table(region()), [memory()]);
      await ask(SET_VRING_ADDR, addresses(0, USER + MIB - 0x2000n));
      await ask(SET_VRING_NUM, u32(0, 256));
      await refuses(/SET_VRING_KICK: the used part of ring 0 at 0x7f1234100000/, SET_VRING_KICK, u64(0n), [eventfd()]);
      queues[0]!.failure = new RingUnmappedError('not mapped');
      await ask(SET_VRING_ADDR, addresses(0));
      await refuses(/SET_VRING_KICK: ring 0: not mapped \(EFAULT\)/, SET_VRING_KICK, u64(0n), [eventfd()]);
      await ask(SET_VRING_KICK, u64(0n), [eventfd()]);
      assert.deepEqual(ran()[0], ['start 0', 'start 0']);
    });

    it('to change a ring that runs', async () => {
      await ask(SET_MEM_TABLE, table(region()), [memory()]);
      await setUp(0);
      await refuses(/SET_VRING_NUM: ring 0 is running \(EBUSY\)/, SET_VRING_NUM, u32(0, 128));
      await refuses(/SET_VRING_BASE: ring 0 is running \(EBUSY\)/, SET_VRING_BASE, u32(0, 0));
      await refuses(/ring 0 is running and cannot move/, SET_VRING_ADDR, addresses(0, USER + 0x4000n));
    });

    it('what the lane fails with, as it is', async () => {
      await ask(SET_MEM_TABLE, table(region()), [memory()]);
      queues[0]!.failure = new Error('mmap() failed: ENOMEM');
      await assert.rejects(setUp(0), /^Error: mmap\(\) failed: ENOMEM/);
    });
  });

  describe('memory', () => {
    beforeEach(() => negotiate(VERSION_1));

    const cases: [what: string, region: bigint[], reason: RegExp][] = [
      [
        'an empty region',
        region(0n, 0n),
        /the region of 0 bytes at 0x0 \(in the front-end 0x7f1234000000\): it is empty/,
      ],
      ['one beyond its file', region(0n, 2n * MIB), /its file has 1048576 bytes, and it needs those up to 2097152/],
      [
        'one whose offset is',
        region(0n, MIB, USER, 4096n),
        /its file has 1048576 bytes, and it needs those up to 1052672/,
      ],
      ['an offset that wraps', region(0n, MIB, USER, (1n << 64n) - MIB), /it needs those up to 18446744073709551616/],
      ['one outside of user space', region(0n, MIB, 1n << 47n), /it lies outside of user space/],
      ['addresses that wrap', region(0n, MIB, (1n << 64n) - 4096n), /it lies outside of user space/],
      ['one where no guest has memory', region(1n << 63n), /no guest has memory there/],
      [
        'one that cannot be mapped',
        region(0n, 4096n, USER + 1n),
        /do not stand at the same place in a page of 4096 bytes/,
      ],
    ];
    for (const [what, raw, reason] of cases) {
      it(`refuses ${what}`, async () => {
        await refuses(reason, SET_MEM_TABLE, table(raw), [memory()]);
        await refuses(reason, ADD_MEM_REG, u64(0n, ...raw), [memory()]);
      });
    }

    it('refuses what is no file', async () => {
      await refuses(/its descriptor is no file that can be mapped/, SET_MEM_TABLE, table(region()), [eventfd()]);
    });

    it('refuses regions that overlap, in the guest or in the front-end', async () => {
      const far = USER + 16n * MIB;
      const overlapping: [bigint[], RegExp][] = [
        [region(MIB / 2n, MIB, far), /its guest addresses overlap the one of 1048576 bytes at 0x0/],
        [
          region(4n * MIB, MIB, USER - MIB / 2n),
          /its user addresses overlap the one of 1048576 bytes at 0x7f1234000000/,
        ],
      ];
      for (const [second, reason] of overlapping) {
        await refuses(reason, SET_MEM_TABLE, table(region(), second), [memory(), memory()]);
      }
      await ask(SET_MEM_TABLE, table(region(), region(MIB, MIB, USER + MIB)), [memory(), memory()]);
    });

    it('is taken from files that cannot be sealed', async () => {
      const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-memory-'));
      try {
        const file = path.join(directory, 'memory');
        fs.writeFileSync(file, Buffer.alloc(Number(MIB)));
        await ask(SET_MEM_TABLE, table(region()), [open(file, O_RDWR)]);
      } finally {
        fs.rmSync(directory, { recursive: true });
      }
    });

    it('is sealed against shrinking where that can be', async () => {
      const fd = sealable(Number(MIB));
      const file = `/proc/self/fd/${fd}`;
      await ask(SET_MEM_TABLE, table(region()), [fd]);
      assert.throws(() => fs.truncateSync(file, 4096), { code: 'EPERM' });
      fs.truncateSync(file, 2 * Number(MIB));
    });

    it('is sealed before it is measured, so that it cannot shrink in between', async () => {
      const fd = sealable(Number(MIB));
      const other = open(`/proc/self/fd/${fd}`, O_RDWR);
      try {
        await refuses(/its file has 1048576 bytes/, SET_MEM_TABLE, table(region(0n, 2n * MIB)), [fd]);
        assert.throws(() => fs.ftruncateSync(other, 4096), { code: 'EPERM' });
      } finally {
        close(other);
      }
    });

    it('comes and goes by the region, under rings that run', async () => {
      await ask(ADD_MEM_REG, u64(0n, ...region()), [memory()]);
      await setUp(0);
      const second = region(4n * MIB, MIB, USER + 16n * MIB);
      await ask(ADD_MEM_REG, u64(0n, ...second), [memory()]);
      assert.deepEqual(ran()[0], ['start 0', 'memory']);
      assert.equal(queues[0]!.memory!.areas.length, 2);
      await refuses(/ADD_MEM_REG: .* overlap the one/, ADD_MEM_REG, u64(0n, ...second.with(1, 4096n)), [memory()]);
      await refuses(
        /REM_MEM_REG: the region of 4096 bytes .* is not in the table \(ENOENT\)/,
        REM_MEM_REG,
        u64(0n, ...region(0n, 4096n)),
      );
      await ask(REM_MEM_REG, u64(0n, ...second), [memory()]);
      assert.equal(queues[0]!.memory!.areas.length, 1, 'with a descriptor, which some send by mistake');
      queues[0]!.failure = new RingUnmappedError('ring 0 would lose its memory');
      await refuses(/REM_MEM_REG: ring 0 would lose its memory \(EFAULT\)/, REM_MEM_REG, u64(0n, ...region()));
      assert.equal(queues[0]!.memory!.areas.length, 1);
      await ask(GET_VRING_BASE, u32(0, 0));
      await ask(REM_MEM_REG, u64(0n, ...region()));
    });

    it('takes a region as often as it comes, and keeps it until it is removed as often', async () => {
      for (let i = 0; i < PAIRS; i++) await ask(ADD_MEM_REG, u64(0n, ...region()), [memory()]);
      await setUp(0);
      assert.equal(queues[0]!.memory!.areas.length, 1);
      await ask(REM_MEM_REG, u64(0n, ...region()));
      assert.deepEqual(ran()[0], ['start 0'], 'it is still there');
      await ask(GET_VRING_BASE, u32(0, 0));
      await ask(REM_MEM_REG, u64(0n, ...region()));
      await refuses(/is not in the table/, REM_MEM_REG, u64(0n, ...region()));
      await refuses(/it has one region twice/, SET_MEM_TABLE, table(region(), region()), [memory(), memory()]);
    });

    it('has 509 slots', async () => {
      for (let i = 0n; i < 509n; i++) {
        const at = i * 8192n;
        await ask(ADD_MEM_REG, u64(0n, ...region(at, 4096n, USER + at)), [memory(4096)]);
      }
      await refuses(/all 509 memory slots are taken \(ENOSPC\)/, ADD_MEM_REG, u64(0n, ...region(1n << 40n)), [
        memory(),
      ]);
    });

    it('mapped from the midst of a page of its file begins where the page does', async () => {
      await ask(SET_MEM_TABLE, table(region(0n, 0x3000n, USER + 0x200n, 0x1200n)), [memory()]);
      await ask(SET_VRING_NUM, u32(0, 2));
      await ask(SET_VRING_ADDR, addresses(0, USER + 0x200n));
      await ask(SET_VRING_KICK, u64(0n), [eventfd()]);
      const { areas } = queues[0]!.memory!;
      assert.deepEqual({ ...areas[0]!, fd: 0 }, { userAddress: Number(USER), length: 0x4000, offset: 0x1000, fd: 0 });
    });
  });
});
