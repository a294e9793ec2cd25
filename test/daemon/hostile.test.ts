/** Guests that break their rings and clients that die or lie: what is theirs stops, the others go on. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { RingRow } from '../../daemon/control.ts';
import { type DaemonProcess, RINGSWITCH } from '../../lab/daemon.ts';
import { Program, run } from '../../lab/program.ts';
import { eventfd } from '../../linux/eventfd.ts';
import { close, O_RDWR, open } from '../../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, ifreq, TUNSETIFF } from '../../linux/if-tun.ts';
import { ioctl } from '../../linux/ioctl.ts';
import {
  VHOST_NET_SET_BACKEND,
  VHOST_SET_MEM_TABLE,
  VHOST_SET_VRING_CALL,
  VHOST_SET_VRING_ERR,
  VHOST_SET_VRING_KICK,
} from '../../linux/vhost.ts';
import { withDaemon } from '../helpers/daemon-fixture.ts';
import { descriptorsOf } from '../helpers/descriptors.ts';
import { F_INDIRECT, F_NEXT, F_WRITE } from '../helpers/split-driver.ts';
import { broadcastFrame, TunClient } from '../helpers/tun-client.ts';
import { until, untilPorts } from '../helpers/until.ts';
import { VhostClient } from '../helpers/vhost-client.ts';
import { VhostGuest } from '../helpers/vhost-guest.ts';

const BRING_UP_CHILD = fileURLToPath(new URL('../helpers/bring-up-child.ts', import.meta.url));
const DEATHS = 50;
/** At once. */
const DYING = 4;
const START_MS = 10_000;
const RX = 0;
const TX = 1;

describe('a hostile client', function () {
  this.timeout(60_000);
  let daemon: DaemonProcess;

  withDaemon((started) => {
    daemon = started;
  });

  const guest = (name: string): VhostGuest => new VhostGuest({ tun: daemon.tun, vhostNet: daemon.vhostNet, name });

  /** Guests that stay from test to test. */
  let staying: VhostGuest[] = [];

  /** Nothing is left of any other client. */
  async function gone(): Promise<void> {
    const count = staying.length;
    await untilPorts(daemon, count);
    assert.equal((await daemon.ports()).length, count, 'ports');
    assert.equal((await daemon.rings()).length, 2 * count, 'rings');
    assert.equal(((await daemon.client.get('/v1/memory')) as unknown[]).length, count, 'memory tables');
  }
  afterEach(gone);

  /** Frames pass between two guests, both ways. */
  function assertPass(a: VhostGuest, b: VhostGuest): void {
    for (const [seed, length] of [60, 1514, 3000].entries()) {
      const frame = broadcastFrame(length, seed);
      a.send(frame);
      assert.deepEqual(b.receive(), frame);
      b.send(frame);
      assert.deepEqual(a.receive(), frame);
    }
  }

  /** Each breaks a ring of a guest in one way: which ring, which code, and how. */
  const attacks: [name: string, ring: 0 | 1, code: string, attack: (guest: VhostGuest) => void][] = [
    ['avail.idx that jumps', TX, 'AVAIL_IDX_JUMPED', ({ tx }) => tx.pokeAvailIdx(tx.announced + tx.num + 1)],
    ['avail.idx that goes back', TX, 'AVAIL_IDX_JUMPED', ({ tx }) => tx.pokeAvailIdx(tx.announced - 1)],
    [
      'a head beyond the ring',
      TX,
      'HEAD_OUT_OF_RANGE',
      ({ tx }) => {
        tx.pokeAvail(tx.announced, tx.num);
        tx.pokeAvailIdx(tx.announced + 1);
      },
    ],
    ...(
      [
        ['a chain that loops', TX, 'CHAIN_LOOPS', { len: 0, flags: F_NEXT, next: 0 }],
        ['a chain that leaves the table', TX, 'NEXT_OUT_OF_RANGE', { len: 64, flags: F_NEXT, next: 0xffff }],
        ['a buffer outside of its memory', TX, 'BUFFER_UNMAPPED', { addr: 1n << 40n, len: 64 }],
        ['a buffer that ends outside', TX, 'BUFFER_UNMAPPED', { addr: (1n << 20n) - 1n, len: 64 }],
        ['a buffer whose end overflows', TX, 'BUFFER_UNMAPPED', { addr: 2n ** 64n - 1n, len: 0xffff_ffff }],
        ['a buffer of the wrong direction', TX, 'WRONG_DIRECTION', { len: 64, flags: F_WRITE }],
        ['an indirect table that was not negotiated', TX, 'INDIRECT_NOT_NEGOTIATED', { len: 16, flags: F_INDIRECT }],
      ] as const
    ).map(([name, ring, code, descriptor]): [string, 0 | 1, string, (guest: VhostGuest) => void] => [
      name,
      ring,
      code,
      ({ tx }) => {
        tx.pokeDescriptor(0, descriptor);
        tx.pokeAvail(tx.announced, 0);
        tx.pokeAvailIdx(tx.announced + 1);
      },
    ]),
    [
      'a receive buffer that is not writable',
      RX,
      'WRONG_DIRECTION',
      ({ rx }) => rx.pokeDescriptor(0, { addr: 0x10000n, len: 4096 }),
    ],
    [
      'a receive buffer outside of its memory',
      RX,
      'BUFFER_UNMAPPED',
      ({ rx }) => rx.pokeDescriptor(0, { addr: 1n << 47n, len: 4096, flags: F_WRITE }),
    ],
    ['avail.idx of the receive ring that jumps', RX, 'AVAIL_IDX_JUMPED', ({ rx }) => rx.pokeAvailIdx(30_000)],
  ];

  describe('whose ring has', () => {
    let one: VhostGuest;
    let other: VhostGuest;

    before(() => {
      one = guest('one');
      other = guest('other');
      staying = [one, other];
    });

    after(() => {
      staying = [];
      one?.[Symbol.dispose]();
      other?.[Symbol.dispose]();
    });

    for (const [name, ring, code, attack] of attacks) {
      it(`${name} loses that ring, with ${code}, and nobody else anything`, async () => {
        const bad = guest('bad');
        try {
          attack(bad);
          bad.kick(ring);
          // To find a broken receive ring, there must be something to receive.
          one.send(broadcastFrame(60, 1));
          other.receive();
          assert.ok(bad.errSignalled(ring), 'the err eventfd is signalled');
          const rows = (await daemon.rings()).filter(({ port }) => port === 'bad');
          const [broken, sound] = ring === RX ? rows : rows.toReversed();
          assert.equal(broken?.error?.code, code);
          assert.equal(sound?.error, null);
          const ringName: RingRow['ring'] = ring === RX ? 'rx' : 'tx';
          assert.equal(broken.ring, ringName);
          const shown = await run([RINGSWITCH, 'show', 'rings', '--socket', daemon.socket]);
          assert.match(shown, new RegExp(`^bad queue 0 ${ringName}: ${code}: `, 'm'));
          await until(`${code} in the log`, () => daemon.log.includes(code), { instead: () => daemon.log });
          const lines = daemon.log.split('\n').filter((line) => line.includes(`code=${code}`));
          assert.match(
            lines.at(-1)!,
            new RegExp(` warn bad: its guest broke ring ${ringName} of queue 0, which stops: `),
          );
          assertPass(one, other);
          const frame = broadcastFrame(200, 9);
          if (ring === TX) {
            // What it is sent still comes, behind what it has seen of the others' broadcasts.
            one.send(frame);
            while (!bad.receive().equals(frame));
          } else {
            // What it sends still goes.
            bad.send(frame);
            assert.deepEqual(one.receive(), frame);
          }
          assert.deepEqual(other.receive(), frame);
        } finally {
          bad[Symbol.dispose]();
        }
      });
    }
  });

  it('that sets its broken ring up again is served again', async () => {
    using a = guest('again');
    using b = new TunClient(daemon.tun);
    a.tx.pokeAvailIdx(12_345);
    a.kick(TX);
    assert.ok(a.errSignalled(TX));
    a.client.setBackend(TX, -1);
    a.tx.pokeAvailIdx(0);
    a.client.setBackend(TX, a.client.tun);
    const frame = broadcastFrame(60);
    a.send(frame);
    assert.deepEqual(b.receive(), frame);
    assert.ok((await daemon.rings()).every(({ error }) => error === null));
  });

  it(`that is killed at any of ${DEATHS} points of its way leaves nothing`, async () => {
    const steps: string[] = [];
    new VhostClient({
      ...{ tun: daemon.tun, vhostNet: daemon.vhostNet, name: 'count' },
      onStep: (request) => steps.push(request),
    }).close();
    await gone();
    const descriptors = (): string[] => descriptorsOf(daemon.pid);
    const mappings = (): number =>
      fs.readFileSync(`/proc/${daemon.pid}/maps`, 'latin1').match(/vhost-client|\/dev\/zero/g)?.length ?? 0;
    const before = { descriptors: descriptors(), mappings: mappings() };
    let next = 0;
    const kill = async (): Promise<void> => {
      while (next < DEATHS) {
        const number = next++;
        // Every point at least once; the kill itself comes while the client goes on, so anywhere behind it.
        const step = number % (steps.length + 1);
        const words = [process.execPath, BRING_UP_CHILD, daemon.tun, daemon.vhostNet, `dies${number}`, String(step)];
        await using program = new Program(words);
        const sign = step < steps.length ? '.' : 'up';
        await program.waitFor(sign, START_MS, () => program.stdout.includes(sign));
        if (number % 3 === 0) await delay(Math.random() * 3);
        program.signal('SIGKILL');
        await program.ended;
      }
    };
    await Promise.all(Array.from({ length: DYING }, kill));
    await gone();
    await until('the descriptors are closed', () => descriptors().length <= before.descriptors.length);
    assert.deepEqual({ descriptors: descriptors(), mappings: mappings() }, before);
    assert.doesNotMatch(daemon.log, / error /);
  });

  it('that exits between two requests leaves nothing', async () => {
    for (const closeFirst of ['tun', 'vhost'] as const) {
      const client = new VhostClient({ tun: daemon.tun, vhostNet: daemon.vhostNet, name: 'half' });
      client.setBackend(RX, -1); // One ring stopped, one running.
      client.close(closeFirst);
      await gone();
    }
  });

  describe('that gives the wrong descriptor', () => {
    let client: VhostClient;

    beforeEach(() => {
      client = new VhostClient({ tun: daemon.tun, vhostNet: daemon.vhostNet, name: 'wrong' });
    });

    afterEach(() => {
      client.close();
    });

    const set = (request: number, fd: number): number => ioctl(client.vhost, request, Int32Array.of(TX, fd), 'request');

    for (const [name, request] of Object.entries({ VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR })) {
      it(`to ${name} is refused, and its ring keeps what it had`, async () => {
        const file = open('/dev/null', O_RDWR);
        const closed = eventfd();
        close(closed);
        try {
          for (const fd of [file, client.tun, client.vhost]) assert.throws(() => set(request, fd), /failed: EINVAL$/);
          for (const fd of [closed, 100_000]) assert.throws(() => set(request, fd), /failed: EBADF$/);
        } finally {
          close(file);
        }
        assert.deepEqual(
          (await daemon.rings()).map(({ ring, error }) => [ring, error]),
          [
            ['rx', null],
            ['tx', null],
          ],
        );
      });
    }

    it('to VHOST_NET_SET_BACKEND is refused: of nothing, of something else, of a tun file without an interface', () => {
      const backend = (fd: number): void => client.setBackend(TX, fd);
      client.setBackend(TX, -1);
      const closed = eventfd();
      close(closed);
      assert.throws(() => backend(closed), /failed: ENOTSOCK$/);
      const files = [open('/dev/null', O_RDWR), eventfd(), open(daemon.vhostNet, O_RDWR)];
      for (const fd of files) assert.throws(() => backend(fd), /failed: ENOTSOCK$/);
      const bare = open(daemon.tun, O_RDWR);
      assert.throws(() => backend(bare), /failed: EINVAL$/);
      for (const fd of [...files, bare]) close(fd);
      backend(client.tun);
    });

    it("to VHOST_NET_SET_BACKEND, the kernel's own tun file, is refused", () => {
      client.setBackend(TX, -1);
      const kernel = open('/dev/net/tun', O_RDWR);
      try {
        assert.throws(() => client.setBackend(TX, kernel), /failed: ENOTSOCK$/, 'bare');
        ioctl(kernel, TUNSETIFF, ifreq(`rsh${process.pid}`, IFF_TAP | IFF_NO_PI), 'TUNSETIFF');
        assert.throws(() => client.setBackend(TX, kernel), /failed: ENOTSOCK$/, 'attached');
      } finally {
        close(kernel);
      }
    });

    it('or memory that is not there finds its running rings as they were', () => {
      const table = Buffer.alloc(8 + 32);
      table.writeUInt32LE(1, 0);
      table.writeBigUInt64LE(1n << 20n, 16);
      table.writeBigUInt64LE(0x1000n, 24);
      assert.throws(() => ioctl(client.vhost, VHOST_SET_MEM_TABLE, table, 'VHOST_SET_MEM_TABLE'), /failed: EFAULT$/);
      ioctl(client.vhost, VHOST_NET_SET_BACKEND, Int32Array.of(TX, -1), 'VHOST_NET_SET_BACKEND');
    });
  });
});
