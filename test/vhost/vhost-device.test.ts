import assert from 'node:assert/strict';
import fs from 'node:fs';
import {
  E2BIG,
  EBUSY,
  EFAULT,
  EINVAL,
  ENOBUFS,
  ENOTSOCK,
  EOPNOTSUPP,
  EPERM,
  ESRCH,
  errnoName,
} from '../../linux/errno.ts';
import { eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import {
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  memfd,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
} from '../../linux/mman.ts';
import {
  type RawVringAddresses,
  type RingBackend,
  SUPPORTED_BACKEND_FEATURES,
  SUPPORTED_FEATURES,
  VhostDevice,
  VhostError,
} from '../../vhost/vhost-device.ts';
import { RingUnmappedError } from '../../vhost/virtqueue.ts';
import { FakeRingBackend } from '../helpers/fake-ring-backend.ts';

const PID = process.pid;
const MEMORY_BYTES = 0x10_0000;
/** Offsets of the ring's parts in the memory; 256 entries fit. */
const DESC = 0;
const AVAIL = 0x1000;
const USED = 0x2000;
const FAR = 2n ** 47n;
const VIRTIO_RING_F_EVENT_IDX = 1n << 29n;
const VHOST_F_LOG_ALL = 1n << 26n;
const RING_PACKED = 1n << 34n;

const openDescriptors = (): number => fs.readdirSync('/proc/self/fd').length;

/** That an act is refused with this errno, by its name in the message. */
async function refuses(errno: number, message: RegExp, act: () => unknown): Promise<void> {
  await assert.rejects(
    async () => act(),
    (error: unknown) => {
      assert(error instanceof VhostError, String(error));
      assert.equal(errnoName(error.errno), errnoName(errno));
      assert.match(error.message, message);
      assert(error.message.endsWith(`(${errnoName(errno)})`), error.message);
      return true;
    },
  );
}

describe('VhostDevice', () => {
  let device: VhostDevice;
  let backend: FakeRingBackend;
  let shared: number;
  let privateMemory: number;
  let descriptorsBefore: number;
  let memoryFd: number;

  beforeEach(() => {
    descriptorsBefore = openDescriptors();
    device = new VhostDevice();
    backend = new FakeRingBackend();
    memoryFd = memfd('guest', MEMORY_BYTES);
    const prot = PROT_READ | PROT_WRITE;
    shared = mmap({ length: MEMORY_BYTES, prot, flags: MAP_SHARED, fd: memoryFd });
    privateMemory = mmap({ length: MEMORY_BYTES, prot, flags: MAP_PRIVATE | MAP_ANONYMOUS });
  });
  afterEach(async () => {
    await device.destroy();
    munmap(shared, MEMORY_BYTES);
    munmap(privateMemory, MEMORY_BYTES);
    close(memoryFd);
    assert.equal(openDescriptors(), descriptorsBefore, 'descriptors stay open');
  });

  const region = (userAddress = shared, size = MEMORY_BYTES) => ({
    guestAddress: 0n,
    size: BigInt(size),
    userAddress: BigInt(userAddress),
  });
  const addresses = (changes: Partial<RawVringAddresses> = {}, at = shared): RawVringAddresses => ({
    flags: 0,
    desc: BigInt(at + DESC),
    avail: BigInt(at + AVAIL),
    used: BigInt(at + USED),
    log: 0n,
    ...changes,
  });
  const setUp = async (index = 0): Promise<void> => {
    await device.setMemTable(PID, [region()]);
    device.setVringNum(index, 256);
    device.setVringBase(index, 0);
    device.setVringAddr(index, addresses());
  };
  const run = async (index = 0, on: RingBackend | null = backend): Promise<void> =>
    device.setBackend(index, async () => on);

  describe('owner', () => {
    it('refuses everybody before there is one, and others after', async () => {
      await refuses(EPERM, /VHOST_GET_FEATURES: the device has no owner; VHOST_SET_OWNER/, () =>
        device.checkOwner(7, 'VHOST_GET_FEATURES'),
      );
      device.setOwner(7);
      assert.equal(device.owner, 7);
      device.checkOwner(7, 'VHOST_GET_FEATURES');
      await refuses(EPERM, /process 8 is not the owner, which is 7/, () => device.checkOwner(8, 'VHOST_GET_FEATURES'));
    });

    it('can be set once, and again after reset', async () => {
      device.setOwner(7);
      for (const pid of [7, 8]) {
        await refuses(EBUSY, /VHOST_SET_OWNER: process 7 owns the device already/, () => device.setOwner(pid));
      }
      await device.resetOwner();
      assert.equal(device.owner, 0);
      device.setOwner(8);
      assert.equal(device.owner, 8);
    });

    it('takes everything along when it is reset, as vhost_dev_cleanup of Linux', async () => {
      device.setOwner(PID);
      device.setFeatures(SUPPORTED_FEATURES);
      device.setBackendFeatures(SUPPORTED_BACKEND_FEATURES);
      await setUp();
      for (const kind of ['kick', 'call', 'err'] as const) await device.setVringFd(0, kind, eventfd());
      device.setVringBase(1, 5);
      device.setBusyloopTimeout(1, 50);
      await run();
      await device.resetOwner();
      assert.deepEqual(backend.calls, ['start 0', 'stop 0']);
      assert.equal(device.memory, null);
      assert.equal(device.features, 0n);
      assert.equal(device.backendFeatures, 0n);
      assert.equal(await device.getVringBase(1), 0);
      assert.equal(device.getBusyloopTimeout(1), 0);
      assert.deepEqual(device.describe(), {
        owner: 0,
        features: [],
        rings: [
          { num: 1, base: 0, running: false },
          { num: 1, base: 0, running: false },
        ],
      });
    });
  });

  describe('features', () => {
    it('takes what is supported, and any part of it', () => {
      for (const features of [0n, SUPPORTED_FEATURES, 1n << 32n]) {
        device.setFeatures(features);
        assert.equal(device.features, features);
      }
      device.setBackendFeatures(SUPPORTED_BACKEND_FEATURES);
      assert.equal(device.backendFeatures, SUPPORTED_BACKEND_FEATURES);
    });

    it('names the features that it refuses, and keeps the old ones', async () => {
      device.setFeatures(1n << 32n);
      await refuses(EOPNOTSUPP, /VHOST_SET_FEATURES: not supported: LOG_ALL, ACCESS_PLATFORM/, () =>
        device.setFeatures(VHOST_F_LOG_ALL | (1n << 33n) | (1n << 32n)),
      );
      await refuses(EOPNOTSUPP, /not supported: bit 63/, () => device.setFeatures(1n << 63n));
      assert.equal(device.features, 1n << 32n);
      await refuses(EOPNOTSUPP, /VHOST_SET_BACKEND_FEATURES: unknown bits 0x4/, () => device.setBackendFeatures(4n));
      assert.equal(device.backendFeatures, 0n);
    });

    it('supports no dirty log and no IOTLB', () => {
      for (const bit of [26n, 33n]) assert.equal((SUPPORTED_FEATURES >> bit) & 1n, 0n, `bit ${bit}`);
    });
  });

  describe('ring numbers', () => {
    it('are 0 and 1; everything else is ENOBUFS, from every request', async () => {
      const requests: Record<string, (index: number) => unknown> = {
        VHOST_SET_VRING_NUM: (index) => device.setVringNum(index, 0),
        VHOST_SET_VRING_BASE: (index) => device.setVringBase(index, 0x10000),
        VHOST_GET_VRING_BASE: (index) => device.getVringBase(index),
        VHOST_SET_VRING_ADDR: (index) => device.setVringAddr(index, addresses({ flags: 2 })),
        VHOST_SET_VRING_KICK: (index) => device.setVringFd(index, 'kick', -1),
        VHOST_SET_VRING_CALL: (index) => device.setVringFd(index, 'call', -1),
        VHOST_SET_VRING_ERR: (index) => device.setVringFd(index, 'err', -1),
        VHOST_SET_VRING_BUSYLOOP_TIMEOUT: (index) => device.setBusyloopTimeout(index, 1),
        VHOST_GET_VRING_BUSYLOOP_TIMEOUT: (index) => device.getBusyloopTimeout(index),
        VHOST_NET_SET_BACKEND: (index) => run(index),
        VHOST_SET_VRING_ENDIAN: (index) => device.checkIndex(index, 'VHOST_SET_VRING_ENDIAN'),
      };
      for (const [name, request] of Object.entries(requests)) {
        for (const index of [2, 0xffff_ffff]) {
          await refuses(ENOBUFS, new RegExp(`^${name}: ring ${index} of 2`), () => request(index));
        }
      }
      device.checkIndex(0, 'x');
      device.checkIndex(1, 'x');
    });
  });

  describe('VHOST_SET_VRING_NUM', () => {
    it('takes powers of two up to 32768 alone', async () => {
      for (let num = 1; num <= 32_768; num *= 2) device.setVringNum(0, num);
      assert.equal(device.describe().rings[0]!.num, 32_768);
      for (const num of [0, 3, 255, 257, 65_535, 65_536, 0x8000_0000]) {
        await refuses(EINVAL, new RegExp(`ring 1 of ${num} entries: not a power of two`), () =>
          device.setVringNum(1, num),
        );
      }
    });

    it('takes any number up to 32768 with RING_PACKED', async () => {
      device.setFeatures(RING_PACKED);
      for (const num of [1, 3, 255, 300, 32_767, 32_768]) device.setVringNum(0, num);
      assert.equal(device.describe().rings[0]!.num, 32_768);
      for (const num of [0, 32_769, 65_536, 0x8000_0000]) {
        await refuses(EINVAL, new RegExp(`ring 1 of ${num} entries: not 1 to 32768`), () => device.setVringNum(1, num));
      }
    });

    it('is EBUSY while the ring runs, before anything else is looked at', async () => {
      await setUp();
      await run();
      await refuses(EBUSY, /VHOST_SET_VRING_NUM: ring 0 is running/, () => device.setVringNum(0, 3));
      device.setVringNum(1, 4);
    });
  });

  describe('VHOST_SET_VRING_BASE and VHOST_GET_VRING_BASE', () => {
    it('take 16 bits', async () => {
      for (const base of [0, 1, 0xffff]) {
        device.setVringBase(0, base);
        assert.equal(await device.getVringBase(0), base);
      }
      await refuses(EINVAL, /ring 0: 65536 exceeds 65535/, () => device.setVringBase(0, 0x10000));
    });

    it('take 32 bits with RING_PACKED', async () => {
      device.setFeatures(RING_PACKED);
      for (const base of [0, 0x8000, 0x8000_8000, 0xffff_ffff]) {
        device.setVringBase(0, base);
        assert.equal(await device.getVringBase(0), base);
      }
    });

    it('are EBUSY and a question to the lane while the ring runs', async () => {
      await setUp();
      await run();
      backend.base = 77;
      await refuses(EBUSY, /VHOST_SET_VRING_BASE: ring 0 is running/, () => device.setVringBase(0, 1));
      assert.equal(await device.getVringBase(0), 77);
      assert.deepEqual(backend.calls, ['start 0', 'base 0']);
    });

    it('give back where a ring stopped, and a restart goes on there', async () => {
      await setUp();
      await run();
      backend.base = 65_535;
      await run(0, null);
      assert.equal(await device.getVringBase(0), 65_535);
      await run();
      assert.equal(backend.started.get(0)!.base, 65_535);
      backend.base = 3;
      await run(0, null);
      assert.equal(await device.getVringBase(0), 3);
      assert.deepEqual(backend.calls, ['start 0', 'stop 0', 'start 0', 'stop 0']);
    });
  });

  describe('VHOST_SET_VRING_ADDR', () => {
    it('refuses unknown flags before misalignment; the log flag is known', async () => {
      device.setVringAddr(0, addresses({ flags: 1 }));
      await refuses(EOPNOTSUPP, /unknown flags 0x3/, () => device.setVringAddr(0, addresses({ flags: 3, avail: 1n })));
    });

    it('refuses avail at 2, used and log at 4 bytes misaligned; desc may stand anywhere', async () => {
      device.setVringAddr(0, addresses({ desc: 1n, avail: 2n, used: 4n, log: 4n }));
      for (const wrong of [{ avail: 1n }, { used: 2n }, { used: 1n }, { log: 2n }]) {
        await refuses(EINVAL, /ring 0: avail, used or log is misaligned/, () =>
          device.setVringAddr(0, addresses(wrong)),
        );
      }
    });

    it('lets a running ring say again where it is, and not move', async () => {
      await setUp();
      await run();
      device.setVringAddr(0, addresses());
      for (const part of ['desc', 'avail', 'used'] as const) {
        await refuses(EINVAL, /ring 0 is running and cannot move/, () =>
          device.setVringAddr(0, addresses({ [part]: BigInt(shared + 0x4000) })),
        );
      }
    });
  });

  describe('VHOST_SET_MEM_TABLE', () => {
    it('opens the shared mappings, and closes them with the next table', async () => {
      await device.setMemTable(PID, [region()]);
      const first = device.memory!;
      assert.equal(first.areas.length, 1);
      assert.deepEqual(first.regions, [{ guestAddress: 0, size: MEMORY_BYTES, userAddress: shared }]);
      const open = openDescriptors();
      await device.setMemTable(PID, [region()]);
      assert.equal(openDescriptors(), open);
      assert.notEqual(device.memory!.id, first.id);
      assert.deepEqual(first.areas, []);
    });

    it('takes 64 regions and no more', async () => {
      await device.setMemTable(PID, new Array(64).fill(region()));
      assert.equal(device.memory!.regions.length, 64);
      await refuses(E2BIG, /65 regions, at most 64/, () => device.setMemTable(PID, new Array(65).fill(region())));
      assert.equal(device.memory!.regions.length, 64, 'the old table stays');
    });

    it('takes an empty table', async () => {
      await device.setMemTable(PID, []);
      assert.deepEqual(device.memory!.regions, []);
    });

    it('refuses regions that are empty or pass the end of 64 bits, and keeps the old table', async () => {
      await device.setMemTable(PID, [region()]);
      const { memory } = device;
      for (const wrong of [
        { guestAddress: 2n ** 64n - 1n, size: 2n },
        { guestAddress: 4096n, size: 0n },
      ]) {
        await refuses(EFAULT, /VHOST_SET_MEM_TABLE: region at 0x[0-9a-f]+ has \d+ bytes/, () =>
          device.setMemTable(PID, [region(), { ...region(), ...wrong }]),
        );
      }
      assert.equal(device.memory, memory);
    });

    it('takes a region where no memory can be, and then starts no ring', async () => {
      await device.setMemTable(PID, [region(), { guestAddress: 0n, size: 4096n, userAddress: FAR }]);
      device.setVringNum(0, 256);
      device.setVringAddr(0, addresses());
      await refuses(EFAULT, /ring 0 or a memory region lies outside of user space/, () => run());
      await device.setMemTable(PID, [region()]);
      await run();
    });

    it('leaves out a region whose guest addresses no number holds exactly', async () => {
      await device.setMemTable(PID, [region(), { ...region(), guestAddress: 2n ** 60n }]);
      assert.equal(device.memory!.regions.length, 1);
    });

    it('fails when the process is gone, with nothing open', async () => {
      const open = openDescriptors();
      await assert.rejects(device.setMemTable(2 ** 22 + 1, [region()]), /ENOENT|ESRCH/);
      assert.equal(openDescriptors(), open);
      assert.equal(device.memory, null);
      assert.equal(errnoName(ESRCH), 'ESRCH');
    });

    it('is handed to a backend once, though two rings run there', async () => {
      await setUp(0);
      device.setVringNum(1, 256);
      device.setVringAddr(1, addresses());
      await run(0);
      await run(1);
      backend.calls.length = 0;
      await device.setMemTable(PID, [region()]);
      assert.deepEqual(backend.calls, ['memory']);
      assert.equal(backend.memory, device.memory);
    });

    it('stays as it was when a running ring is not in the new one', async () => {
      await setUp();
      await run();
      const { memory } = device;
      const open = openDescriptors();
      backend.failure = RingUnmappedError.of(backend.started.get(0)!);
      await refuses(EFAULT, /VHOST_SET_MEM_TABLE: virtqueue of 256 entries.* is not in memory/, () =>
        device.setMemTable(PID, [region()]),
      );
      assert.equal(device.memory, memory);
      assert.equal(openDescriptors(), open);
      backend.failure = new Error('the lane died');
      await assert.rejects(device.setMemTable(PID, [region()]), /^Error: the lane died$/);
      assert.equal(openDescriptors(), open);
    });
  });

  describe('VHOST_SET_VRING_KICK, CALL and ERR', () => {
    it('own the descriptor, and close it when another or none comes', async () => {
      const open = openDescriptors();
      for (const kind of ['kick', 'call', 'err'] as const) {
        await device.setVringFd(0, kind, eventfd());
        assert.equal(openDescriptors(), open + 1);
        await device.setVringFd(0, kind, eventfd());
        assert.equal(openDescriptors(), open + 1);
        await device.setVringFd(0, kind, -1);
        assert.equal(openDescriptors(), open);
      }
    });

    it('reach a running ring before the old one is closed', async () => {
      await setUp();
      const [kick, call, err] = [eventfd(), eventfd(), eventfd()];
      await device.setVringFd(0, 'kick', kick);
      await device.setVringFd(0, 'call', call);
      await device.setVringFd(0, 'err', err);
      await run();
      const { kick: k, call: c, err: e } = backend.started.get(0)!;
      assert.deepEqual([k, c, e], [kick, call, err]);
      let openInLane = false;
      backend.setRingFds = async (index, fds) => {
        openInLane = fs.existsSync(`/proc/self/fd/${call}`);
        backend.calls.push(`fds ${index} ${fds.kick} ${fds.call} ${fds.err}`);
      };
      const other = eventfd();
      await device.setVringFd(0, 'call', other);
      assert.equal(openInLane, true);
      assert.equal(fs.existsSync(`/proc/self/fd/${call}`), false);
      assert.deepEqual(backend.calls, ['start 0', `fds 0 ${kick} ${other} ${err}`]);
    });
  });

  describe('VHOST_NET_SET_BACKEND', () => {
    const never = async (): Promise<RingBackend | null> => assert.fail('asked for the backend too early');

    it('needs a memory table first, also to stop', async () => {
      for (const resolve of [never, async () => null]) {
        await refuses(EFAULT, /ring 0: a memory table comes first/, () => device.setBackend(0, resolve));
      }
    });

    it('refuses rings outside of user space before it asks for the backend', async () => {
      await setUp();
      for (const part of ['desc', 'avail', 'used'] as const) {
        device.setVringAddr(0, addresses({ [part]: FAR - 4096n }));
        await refuses(EFAULT, /ring 0 or a memory region lies outside of user space/, () =>
          device.setBackend(0, never),
        );
        device.setVringAddr(0, addresses({ [part]: 2n ** 64n - 4n }));
        await refuses(EFAULT, /outside of user space/, () => device.setBackend(0, never));
      }
    });

    it('passes the refusal of the descriptor on', async () => {
      await setUp();
      const resolve = async (): Promise<RingBackend> => {
        throw new VhostError(ENOTSOCK, 'VHOST_NET_SET_BACKEND', 'no tun file');
      };
      await refuses(ENOTSOCK, /no tun file/, () => device.setBackend(0, resolve));
      assert.equal(device.describe().rings[0]!.running, false);
    });

    it('starts a ring with everything that was said about it', async () => {
      device.setFeatures(SUPPORTED_FEATURES);
      await setUp(1);
      device.setVringBase(1, 9);
      const kick = eventfd();
      await device.setVringFd(1, 'kick', kick);
      await run(1);
      assert.deepEqual(backend.started.get(1), {
        addresses: { desc: shared + DESC, avail: shared + AVAIL, used: shared + USED },
        num: 256,
        base: 9,
        features: SUPPORTED_FEATURES,
        kick,
        call: -1,
        err: -1,
      });
      assert.equal(backend.memory, device.memory);
      assert.deepEqual(
        device.describe().rings.map(({ running }) => running),
        [false, true],
      );
    });

    it('starts a packed ring by the features of now, whenever they were set', async () => {
      await setUp(1);
      device.setFeatures(RING_PACKED);
      device.setVringNum(1, 300);
      device.setVringBase(1, 0x8005_8007);
      // Two event areas of 4 bytes, the last in the memory.
      device.setVringAddr(1, addresses({ avail: BigInt(shared + 300 * 16), used: BigInt(shared + MEMORY_BYTES - 4) }));
      await run(1);
      const { num, base, features } = backend.started.get(1)!;
      assert.deepEqual({ num, base, features }, { num: 300, base: 0x8005_8007, features: RING_PACKED });
    });

    it('refuses a packed ring that is misaligned, reaches out of the memory, or has a base beyond it', async () => {
      device.setFeatures(RING_PACKED);
      await setUp();
      for (const [wrong, message] of [
        [
          { desc: BigInt(shared + 8) },
          /ring 0: the desc part of a packed ring stands at 0x[0-9a-f]+8, no multiple of 16/,
        ],
        [
          { avail: BigInt(shared + 0x1002) },
          /the avail part of a packed ring stands at 0x[0-9a-f]+2, no multiple of 4/,
        ],
      ] as const) {
        device.setVringAddr(0, addresses(wrong));
        await refuses(EINVAL, message, () => run());
      }
      device.setVringAddr(0, addresses({ desc: BigInt(shared + MEMORY_BYTES - 16 * 255) }));
      await refuses(EFAULT, /the desc part of ring 0/, () => run());
      device.setVringAddr(0, addresses());
      for (const base of [256, 0x8100_8000, 0x8002_0003]) {
        device.setVringBase(0, base);
        await refuses(EINVAL, /ring 0: base 0x[0-9a-f]+ lies outside of a packed ring of 256/, () => run());
      }
      device.setVringBase(0, 0x8000);
      await run();
      assert.deepEqual(backend.calls, ['start 0']);
    });

    it('refuses a split ring whose size was set for a packed one', async () => {
      await setUp();
      device.setFeatures(RING_PACKED);
      device.setVringNum(0, 200);
      device.setFeatures(0n);
      await refuses(EINVAL, /ring 0: 200 entries, no power of two, without VIRTIO_F_RING_PACKED/, () => run());
    });

    it('does nothing when the same backend is set again, or none is taken away', async () => {
      await setUp();
      await run(0, null);
      await run();
      await run();
      assert.deepEqual(backend.calls, ['start 0']);
    });

    it('moves a ring from backend to backend with its base', async () => {
      await setUp();
      await run();
      backend.base = 123;
      const other = new FakeRingBackend();
      await run(0, other);
      assert.deepEqual(backend.calls, ['start 0', 'stop 0']);
      assert.deepEqual(other.calls, ['start 0']);
      assert.equal(other.started.get(0)!.base, 123);
    });

    it('takes a ring whose parts are in private memory', async () => {
      await device.setMemTable(PID, [region(), { ...region(privateMemory), guestAddress: BigInt(MEMORY_BYTES) }]);
      device.setVringNum(0, 256);
      const places = { desc: DESC, avail: AVAIL, used: USED };
      for (const [part, at] of Object.entries(places)) {
        device.setVringAddr(0, addresses({ [part]: BigInt(privateMemory + at) }));
        await run();
        await run(0, null);
      }
      assert.equal(device.memory?.copied?.pid, PID);
    });

    it('names the part of a ring that the client has not mapped to write', async () => {
      const readOnly = mmap({ length: MEMORY_BYTES, prot: PROT_READ, flags: MAP_PRIVATE | MAP_ANONYMOUS });
      try {
        await device.setMemTable(PID, [region(), { ...region(readOnly), guestAddress: BigInt(MEMORY_BYTES) }]);
        device.setVringNum(0, 256);
        const places = { desc: DESC, avail: AVAIL, used: USED };
        for (const [part, at] of Object.entries(places)) {
          device.setVringAddr(0, addresses({ [part]: BigInt(readOnly + at) }));
          const message = `the ${part} part of ring 0 at 0x[0-9a-f]+ is not in memory of a region that the client has mapped`;
          await refuses(EFAULT, new RegExp(message), () => run());
        }
      } finally {
        munmap(readOnly, MEMORY_BYTES);
      }
      assert.deepEqual(backend.calls, []);
    });

    it('names the cure where memory comes with descriptors, and the ring is in none of it', async () => {
      await device.setMemory({ regions: [], areas: [] }, 'VHOST_USER_SET_MEM_TABLE');
      device.setVringNum(0, 256);
      device.setVringAddr(0, addresses());
      await refuses(EFAULT, /the desc part of ring 0 .*memory-backend-memfd.*share=on/, () => run());
    });

    it('refuses a ring in shared memory that no region names', async () => {
      await device.setMemTable(PID, [region(shared, USED)]);
      device.setVringNum(0, 256);
      device.setVringAddr(0, addresses());
      await refuses(EFAULT, /the used part of ring 0/, () => run());
      await device.setMemTable(PID, [region(shared, USED + 4 + 8 * 256)]);
      await run();
      await run(0, null);
      device.setFeatures(VIRTIO_RING_F_EVENT_IDX);
      await refuses(EFAULT, /the used part of ring 0/, () => run());
    });

    it('stays stopped when the lane cannot start it, and can be tried again', async () => {
      await setUp();
      backend.failure = RingUnmappedError.of({
        ...{ num: 256, base: 0, features: 0n, kick: -1, call: -1, err: -1 },
        addresses: { desc: 1, avail: 2, used: 3 },
      });
      await refuses(EFAULT, /VHOST_NET_SET_BACKEND: ring 0: virtqueue of 256 entries/, () => run());
      assert.equal(device.describe().rings[0]!.running, false);
      backend.failure = new Error('the lane died');
      await assert.rejects(run(), /^Error: the lane died$/);
      assert.equal(device.describe().rings[0]!.running, false);
      await run();
      assert.equal(device.describe().rings[0]!.running, true);
    });
  });

  it('keeps the busy loop timeout', () => {
    device.setBusyloopTimeout(0, 50);
    assert.equal(device.getBusyloopTimeout(0), 50);
    assert.equal(device.getBusyloopTimeout(1), 0);
  });

  it('refuses a ring that another device runs on the same backend, until that one lets go', async () => {
    const other = new VhostDevice();
    try {
      await setUp();
      await run();
      await other.setMemTable(PID, [region()]);
      for (const index of [0, 1]) {
        other.setVringNum(index, 256);
        other.setVringAddr(index, addresses());
      }
      await refuses(EBUSY, /VHOST_NET_SET_BACKEND: ring 0 of that tap is run by another vhost-net file/, () =>
        other.setBackend(0, async () => backend),
      );
      assert.deepEqual(backend.calls, ['start 0'], 'the running one notices nothing');
      await other.setBackend(1, async () => backend);
      await run(0, null);
      await other.setBackend(0, async () => backend);
      assert.deepEqual(backend.calls, ['start 0', 'start 1', 'stop 0', 'start 0']);
    } finally {
      await other.destroy();
    }
  });

  it('stops, closes and forgets everything when it is destroyed, twice too', async () => {
    const open = openDescriptors();
    device.setOwner(PID);
    await setUp(0);
    device.setVringNum(1, 256);
    device.setVringAddr(1, addresses());
    for (const index of [0, 1]) {
      for (const kind of ['kick', 'call', 'err'] as const) await device.setVringFd(index, kind, eventfd());
      await run(index);
    }
    const { memory } = device;
    assert.equal(openDescriptors(), open + 7);
    await device.destroy();
    assert.equal(openDescriptors(), open);
    assert.deepEqual(memory!.areas, []);
    assert.equal(device.owner, 0);
    assert.deepEqual(backend.calls, ['start 0', 'start 1', 'stop 0', 'stop 1']);
    await device.destroy();
    assert.equal(backend.calls.length, 4);
  });
});
