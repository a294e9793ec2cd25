import assert from 'node:assert/strict';
import {
  CONTEXT_IDX_SHIFT,
  CONTEXT_MACLEN_SHIFT,
  CONTEXT_MSS_SHIFT,
  CONTEXT_TUCMD_L4T_SCTP,
  CONTEXT_TUCMD_L4T_TCP,
  CONTEXT_VLAN_SHIFT,
  LEGACY_CMD_IC,
  LEGACY_CMD_VLE,
  LEGACY_CSO_SHIFT,
  TXD_CC,
  TXD_CMD_DEXT,
  TXD_CMD_EOP,
  TXD_CMD_IFCS,
  TXD_CMD_RS,
  TXD_CMD_TSE,
  TXD_CMD_VLE,
  TXD_DTYP_CONTEXT,
  TXD_DTYP_DATA,
  TXD_IDX_SHIFT,
  TXD_PAYLEN_SHIFT,
  TXD_POPTS_IXSM,
  TXD_POPTS_TXSM,
} from '../../../nic/descriptors.ts';
import {
  DMATXCTL,
  DMATXCTL_TE,
  EICR_PCI_EXCEPTION,
  SECTXSTAT,
  SECTXSTAT_SECTX_RDY,
  TDBAL,
  TDH,
  TDLEN,
  TDT,
  TDWBAH,
  TDWBAL,
  TDWBAL_HEAD_WB_EN,
  TXDCTL,
  TXDCTL_ENABLE,
  TXDCTL_SWFLSH,
  TXDCTL_WTHRESH_SHIFT,
  TXPBSIZE,
} from '../../../nic/registers.ts';
import { Engines, HostTransmitRing, split } from '../../helpers/engines-under-test.ts';
import { frameBytes } from '../../helpers/frame-bytes.ts';

const DATA = TXD_CMD_DEXT | TXD_DTYP_DATA | TXD_CMD_IFCS;
const LAST = DATA | TXD_CMD_EOP;
const LAST_RS = LAST | TXD_CMD_RS;
const CONTEXT = TXD_CMD_DEXT | TXD_DTYP_CONTEXT;
const LEGACY_LAST = TXD_CMD_EOP | TXD_CMD_IFCS;
const paylen = (bytes: number): number => bytes * 2 ** TXD_PAYLEN_SHIFT;

describe('a transmit queue of the software 82599', () => {
  let engines: Engines;
  let ring: HostTransmitRing;
  beforeEach(() => {
    engines = new Engines();
    ring = new HostTransmitRing(engines);
  });

  /** Puts a frame in one descriptor. */
  const putFrame = (frame: Uint8Array, command = LAST_RS, options = 0): number =>
    ring.putBytes(frame, command, paylen(frame.length) | options);

  describe('a frame', () => {
    it('is sent, written back, counted, and interrupts', () => {
      const frame = frameBytes(100, 1);
      const index = putFrame(frame);
      assert.deepEqual(engines.sent, []);
      ring.kick();
      assert.deepEqual(engines.takeSent(), [frame]);
      assert.ok(ring.isDone(index));
      assert.equal(engines.read(TDH(0)), 1);
      assert.deepEqual(engines.takeEvents(), ['transmitted 0: 100', 'transmit 0']);
    });

    it('comes from many buffers', () => {
      const frame = frameBytes(9000, 1);
      const cuts = [0, 1, 60, 61, 4000, 8999];
      for (const [i, at] of cuts.entries()) {
        const last = i === cuts.length - 1;
        ring.putBytes(frame.subarray(at, cuts[i + 1]), last ? LAST_RS : DATA, i === 0 ? paylen(frame.length) : 0);
      }
      ring.kick();
      assert.deepEqual(engines.takeSent(), [frame]);
    });

    it('may come in parts with TDT, and with descriptors of no bytes', () => {
      const frame = frameBytes(200, 1);
      ring.putBytes(frame.subarray(0, 100), DATA, paylen(200));
      ring.kick();
      assert.deepEqual(engines.sent, []);
      ring.put([0, 0, DATA, 0]);
      ring.putBytes(frame.subarray(100), LAST, 0);
      ring.kick();
      assert.deepEqual(engines.takeSent(), [frame]);
    });

    it('follows the other, round and round the ring', () => {
      for (let i = 0; i < 50; i++) {
        for (let n = 0; n < 7; n++) putFrame(frameBytes(60 + n, i));
        ring.kick();
        assert.deepEqual(
          engines.takeSent(),
          [0, 1, 2, 3, 4, 5, 6].map((n) => frameBytes(60 + n, i)),
        );
        assert.equal(engines.read(TDH(0)), ring.tail);
      }
    });

    it('is one of more than are fetched at once', () => {
      ring = new HostTransmitRing(engines, { size: 512 });
      for (let i = 0; i < 511; i++) putFrame(frameBytes(60, i), LAST);
      ring.kick();
      const sent = engines.takeSent();
      assert.equal(sent.length, 511);
      for (const [i, frame] of sent.entries()) assert.deepEqual(frame, frameBytes(60, i));
    });

    it('is written back where RS asks for it only', () => {
      const without = putFrame(frameBytes(60, 1), LAST);
      const withRs = putFrame(frameBytes(60, 2));
      ring.kick();
      assert.deepEqual([ring.isDone(without), ring.isDone(withRs)], [false, true]);
      assert.deepEqual(
        engines.takeEvents().filter((event) => event === 'transmit 0'),
        ['transmit 0'],
      );
    });

    it('has only the status of its descriptor written back', () => {
      const index = putFrame(frameBytes(60, 1));
      const before = engines.words(ring.descriptor(index));
      ring.kick();
      const after = engines.words(ring.descriptor(index));
      assert.deepEqual(after, [...before.slice(0, 3), 1]);
      assert.deepEqual(engines.words(ring.descriptor(index + 1)), [0xa5a5a5a5, 0xa5a5a5a5, 0xa5a5a5a5, 0xa5a5a5a5]);
    });

    it('of each of 128 queues goes out', () => {
      for (const queue of [0, 1, 63, 64, 127]) {
        ring = new HostTransmitRing(engines, { queue });
        putFrame(frameBytes(60, queue));
        ring.kick();
        assert.deepEqual(engines.takeSent(), [frameBytes(60, queue)]);
        assert.deepEqual(engines.takeEvents(), [`transmitted ${queue}: 60`, `transmit ${queue}`]);
      }
    });
  });

  describe('head write-back', () => {
    it('writes TDH to memory, and no DD', () => {
      const at = engines.allocate(4);
      engines.write(TDWBAL(0), split(at)[0] | TDWBAL_HEAD_WB_EN);
      engines.write(TDWBAH(0), split(at)[1]);
      putFrame(frameBytes(60, 0), LAST);
      const index = putFrame(frameBytes(60, 1));
      ring.kick();
      assert.deepEqual(engines.words(at, 2), [2, 0xa5a5a5a5]);
      assert.equal(ring.isDone(index), false);
      assert.ok(engines.takeEvents().includes('transmit 0'));
    });
  });

  describe('with WTHRESH', () => {
    const THRESHOLD = 8;
    const enable = (more = 0): void =>
      engines.write(TXDCTL(0), TXDCTL_ENABLE | (THRESHOLD << TXDCTL_WTHRESH_SHIFT) | more);
    const done = (count: number): boolean[] => Array.from({ length: count }, (_, i) => ring.isDone(i));
    const putMany = (count: number): void => {
      for (let n = 0; n < count; n++) putFrame(frameBytes(60, n), n % 2 === 0 ? LAST : LAST_RS);
      ring.kick();
      assert.equal(engines.takeSent().length, count, 'sent they are at once');
    };
    const interrupts = (): number => engines.takeEvents().filter((event) => event === 'transmit 0').length;
    beforeEach(() => enable());

    it('writes back so many at a time, with RS or without, and interrupts once', () => {
      putMany(THRESHOLD - 1);
      assert.deepEqual(done(THRESHOLD - 1), new Array(THRESHOLD - 1).fill(false));
      assert.equal(interrupts(), 0);
      putMany(1);
      assert.deepEqual(done(THRESHOLD), new Array(THRESHOLD).fill(true));
      assert.equal(interrupts(), 1);
      putMany(2 * THRESHOLD + 1);
      assert.deepEqual(done(3 * THRESHOLD + 1), [...new Array(3 * THRESHOLD).fill(true), false]);
      assert.equal(interrupts(), 2);
    });

    it('counts each descriptor, those of contexts too, and writes only their status', () => {
      ring.put([7 * 2 ** CONTEXT_VLAN_SHIFT, 0, CONTEXT, 0]);
      const before = engines.words(ring.descriptor(0));
      for (let n = 0; n < THRESHOLD - 2; n++)
        ring.putBytes(frameBytes(60, n), DATA, n === 0 ? paylen(60 * (THRESHOLD - 2)) : 0);
      ring.kick();
      assert.equal(ring.isDone(0), false);
      ring.put([0, 0, LAST, 0]);
      before.splice(3, 1, 1);
      ring.kick();
      assert.deepEqual(engines.words(ring.descriptor(0)), before);
    });

    it('goes round the ring', () => {
      ring = new HostTransmitRing(engines, { size: 16 });
      enable();
      for (let round = 0; round < 20; round++) {
        const first = ring.tail;
        putMany(5);
        // What is done of each round was asked for by one that came before it.
        const total = 5 * (round + 1);
        const pending = total % THRESHOLD;
        for (let n = 0; n < 5; n++) {
          const expected = 5 - n > pending;
          assert.equal(ring.isDone((first + n) % 16), expected, `round ${round}, descriptor ${n}`);
        }
      }
    });

    it('writes back what there is when the interval of its interrupt is over', () => {
      engines.transmitDelay = 100;
      putMany(2);
      engines.clock.advance(50);
      putMany(1);
      engines.clock.advance(49);
      assert.deepEqual([done(3), interrupts()], [[false, false, false], 0]);
      engines.clock.advance(1);
      assert.deepEqual([done(3), interrupts()], [[true, true, true], 1]);
      assert.equal(engines.clock.pending, 0);
      putMany(THRESHOLD);
      assert.equal(engines.clock.pending, 0, 'nothing is left to write back');
    });

    it('waits without end where no interval is set', () => {
      putMany(THRESHOLD - 1);
      assert.equal(engines.clock.pending, 0);
      engines.clock.advance(1e6);
      assert.equal(ring.isDone(0), false);
    });

    it('writes back what there is with SWFLSH', () => {
      putMany(3);
      enable(TXDCTL_SWFLSH);
      assert.deepEqual([done(3), interrupts()], [[true, true, true], 1]);
      enable(TXDCTL_SWFLSH);
      assert.equal(interrupts(), 0, 'nothing to flush');
      // As a driver does that switches the queue off.
      putMany(1);
      engines.write(TXDCTL(0), TXDCTL_SWFLSH);
      assert.equal(ring.isDone(3), true);
    });

    it('above what the ring has, writes back when that is full', () => {
      ring = new HostTransmitRing(engines, { size: 8 });
      engines.write(TXDCTL(0), TXDCTL_ENABLE | (100 << TXDCTL_WTHRESH_SHIFT));
      putMany(7);
      assert.deepEqual(done(7), new Array(7).fill(true));
    });

    it('is of no account with head write-back', () => {
      const at = engines.allocate(4);
      engines.write(TDWBAL(0), split(at)[0] | TDWBAL_HEAD_WB_EN);
      engines.write(TDWBAH(0), split(at)[1]);
      putMany(2);
      assert.deepEqual(engines.words(at, 1), [2]);
    });

    it('forgets what was not written back when the queue or the card is off', () => {
      engines.transmitDelay = 100;
      putMany(3);
      engines.write(TXDCTL(0), 0);
      assert.equal(engines.clock.pending, 0);
      enable();
      putMany(3);
      engines.transmit.reset();
      assert.equal(engines.clock.pending, 0);
      engines.clock.advance(1000);
      assert.deepEqual(done(6), new Array(6).fill(false));
    });

    it('stops where there is no memory to write back to', () => {
      ring.kick();
      putMany(3);
      engines.bus.writeWords = () => false;
      enable(TXDCTL_SWFLSH);
      assert.match(engines.takeFaults()[0]!, /^transmit queue 0 stops: the write-back of descriptor 0 to/);
      assert.equal(engines.read(TXDCTL(0)) & TXDCTL_ENABLE, 0);
    });
  });

  describe('waits for the MAC to have room', () => {
    it('before a frame, not in the midst of one', () => {
      ring.putBytes(frameBytes(100, 1).subarray(0, 50), DATA, paylen(100));
      ring.kick();
      engines.mac.ready = false;
      ring.putBytes(frameBytes(100, 1).subarray(50), LAST_RS, 0);
      const next = putFrame(frameBytes(60, 2));
      ring.kick();
      assert.deepEqual(engines.takeSent(), [frameBytes(100, 1)]);
      assert.equal(ring.isDone(next), false);
      engines.mac.ready = true;
      engines.mac.onReady();
      assert.deepEqual(engines.takeSent(), [frameBytes(60, 2)]);
      assert.ok(ring.isDone(next));
      engines.mac.onReady();
      assert.deepEqual(engines.sent, []);
    });

    it('each queue in its turn', () => {
      const other = new HostTransmitRing(engines, { queue: 9 });
      engines.mac.ready = false;
      for (let n = 0; n < 2; n++) {
        putFrame(frameBytes(60, n));
        other.putBytes(frameBytes(70, n), LAST_RS, paylen(70));
      }
      other.kick();
      ring.kick();
      assert.deepEqual(engines.sent, []);
      // There is room for one frame only, each time.
      engines.mac.transmit = (frame) => {
        engines.sent.push(frame.slice());
        engines.mac.ready = false;
      };
      const lengths = [];
      for (let n = 0; n < 4; n++) {
        engines.mac.ready = true;
        engines.mac.onReady();
        lengths.push(...engines.takeSent().map(({ length }) => length));
      }
      assert.deepEqual(lengths, [70, 60, 70, 60]);
    });

    it('and is forgotten when the card is reset', () => {
      engines.mac.ready = false;
      putFrame(frameBytes(60, 1));
      ring.kick();
      engines.transmit.reset();
      engines.write(TXDCTL(0), 0);
      engines.mac.ready = true;
      engines.mac.onReady();
      assert.deepEqual(engines.sent, []);
    });
  });

  describe('is on', () => {
    it('only with TXDCTL.ENABLE, and what waits goes out when it is set', () => {
      engines.write(TXDCTL(0), 0);
      putFrame(frameBytes(60, 1));
      ring.kick();
      assert.deepEqual(engines.sent, []);
      engines.write(TXDCTL(0), TXDCTL_ENABLE | (8 << TXDCTL_WTHRESH_SHIFT) | 32);
      assert.equal(engines.read(TXDCTL(0)), TXDCTL_ENABLE | (8 << TXDCTL_WTHRESH_SHIFT) | 32);
      assert.equal(engines.takeSent().length, 1);
    });

    it('only with DMATXCTL.TE', () => {
      engines.clear(DMATXCTL, DMATXCTL_TE);
      putFrame(frameBytes(60, 1));
      ring.kick();
      assert.deepEqual(engines.sent, []);
      engines.set(DMATXCTL, DMATXCTL_TE);
      assert.equal(engines.takeSent().length, 1);
    });

    it('and flushes at once: SWFLSH reads as 0', () => {
      engines.write(TXDCTL(0), TXDCTL_ENABLE | TXDCTL_SWFLSH);
      assert.equal(engines.read(TXDCTL(0)), TXDCTL_ENABLE);
    });

    it('and when it was off, forgets the half of a frame that it had', () => {
      ring.putBytes(frameBytes(100, 1), DATA, paylen(200));
      ring.kick();
      engines.write(TXDCTL(0), 0);
      engines.write(TXDCTL(0), TXDCTL_ENABLE);
      putFrame(frameBytes(60, 2));
      ring.kick();
      assert.deepEqual(engines.takeSent(), [frameBytes(60, 2)]);
    });

    it('with registers that hold what they can, and a path that is ready', () => {
      engines.write(TXDCTL(0), 0);
      engines.write(TDBAL(0), 0xffffffff);
      engines.write(TDLEN(0), 0xffffffff);
      assert.deepEqual([engines.read(TDBAL(0)), engines.read(TDLEN(0))], [0xffffff80, 0xfff80]);
      assert.equal(engines.read(SECTXSTAT), SECTXSTAT_SECTX_RDY);
      assert.equal(engines.read(TXPBSIZE(0)), 160 << 10);
    });

    it('and sees a TDT that is written within its own interrupt, in order', () => {
      // As many as it would not bear to be called within itself.
      const count = 8000;
      let put = 0;
      engines.onInterrupt = () => {
        if (put === count) return;
        putFrame(frameBytes(60, put++));
        ring.kick();
      };
      engines.onInterrupt(0);
      const sent = engines.takeSent();
      assert.equal(sent.length, count);
      for (const [i, frame] of sent.entries()) assert.deepEqual(frame, frameBytes(60, i));
    });
  });

  describe('VLAN tags', () => {
    const frame = frameBytes(80, 1);
    const tagged = (tag: number[], type = [0x81, 0]): Uint8Array =>
      Uint8Array.from([...frame.subarray(0, 12), ...type, ...tag, ...frame.subarray(12)]);

    it('come from the context that the frame names', () => {
      ring.put([0x1234 * 2 ** CONTEXT_VLAN_SHIFT + (14 << CONTEXT_MACLEN_SHIFT), 0, CONTEXT, 0]);
      ring.put([0x5678 * 2 ** CONTEXT_VLAN_SHIFT + (14 << CONTEXT_MACLEN_SHIFT), 0, CONTEXT, 1 << CONTEXT_IDX_SHIFT]);
      for (const index of [1, 0]) putFrame(frame, LAST | TXD_CMD_VLE, TXD_CC | (index << TXD_IDX_SHIFT));
      putFrame(frame, LAST);
      ring.kick();
      assert.deepEqual(engines.takeSent(), [tagged([0x56, 0x78]), tagged([0x12, 0x34]), frame]);
    });

    it('have the type of DMATXCTL.VT', () => {
      engines.write(DMATXCTL, DMATXCTL_TE | (0x88a8 << 16));
      ring.put([7 * 2 ** CONTEXT_VLAN_SHIFT, 0, CONTEXT, 0]);
      putFrame(frame, LAST | TXD_CMD_VLE, TXD_CC);
      ring.kick();
      assert.deepEqual(engines.takeSent(), [tagged([0, 7], [0x88, 0xa8])]);
    });

    it('come with a legacy descriptor by themselves', () => {
      ring.putBytes(frame, LEGACY_LAST | LEGACY_CMD_VLE, 0x0123 * 2 ** 16);
      ring.kick();
      assert.deepEqual(engines.takeSent(), [tagged([0x01, 0x23])]);
    });
  });

  describe('legacy descriptors', () => {
    it('send frames, and write back', () => {
      const frame = frameBytes(90, 1);
      ring.putBytes(frame.subarray(0, 40), TXD_CMD_IFCS, 0);
      const last = ring.putBytes(frame.subarray(40), LEGACY_LAST | TXD_CMD_RS, 0);
      ring.kick();
      assert.deepEqual(engines.takeSent(), [frame]);
      assert.ok(ring.isDone(last));
    });

    it('insert a checksum from CSS on into CSO', () => {
      const frame = new Uint8Array(64);
      frame.set([0x12, 0x34, 0xff, 0xff, 0, 1], 20);
      ring.putBytes(frame, LEGACY_LAST | LEGACY_CMD_IC | (30 << LEGACY_CSO_SHIFT), 20 << 8);
      ring.kick();
      const [sent] = engines.takeSent();
      // 0x1234 + 0xffff + 0x0001, with the carry added again.
      assert.deepEqual([...sent!.subarray(30, 32)], [0xed, 0xca]);
    });
  });

  describe('drops a frame that contradicts itself, raises PCI_EXCEPTION, and goes on', () => {
    const context = (word0: number, word2: number, word3: number): void => {
      ring.put([word0, 0, CONTEXT | word2, word3]);
    };
    const headers = (mac: number, ip: number): number => (mac << CONTEXT_MACLEN_SHIFT) | ip;
    const mss = (bytes: number, l4: number): number => bytes * 2 ** CONTEXT_MSS_SHIFT + l4 * 256;
    const tse = LAST_RS | TXD_CMD_TSE;
    const frame = frameBytes(100, 1);
    const whole = paylen(100);
    const behind = (header: number): number => paylen(100 - header) | TXD_CC | TXD_POPTS_TXSM;
    const TCP = CONTEXT_TUCMD_L4T_TCP;

    const cases: [string, () => void, RegExp][] = [
      [
        'shorter than a header',
        () => void ring.putBytes(frame.subarray(0, 13), LAST_RS, paylen(13)),
        /it has 13 bytes/,
      ],
      ['with no bytes', () => void ring.put([0, 0, LAST_RS, 0]), /it has 0 bytes/],
      ['PAYLEN too long', () => void ring.putBytes(frame, LAST_RS, paylen(101)), /PAYLEN is 101, and .* 100 bytes/],
      ['PAYLEN too short', () => void ring.putBytes(frame, LAST_RS, paylen(99)), /PAYLEN is 99, and .* 100 bytes/],
      [
        'an IP header beyond it',
        () => {
          context(headers(90, 20), TCP, 0);
          ring.putBytes(frame, LAST_RS, whole | TXD_CC | TXD_POPTS_IXSM);
        },
        /an IP header of 20 bytes behind 90 in a frame of 100/,
      ],
      [
        'an IP header too short',
        () => {
          context(headers(14, 19), TCP, 0);
          ring.putBytes(frame, LAST_RS, whole | TXD_CC | TXD_POPTS_IXSM);
        },
        /an IP header of 19 bytes/,
      ],
      [
        'a transport header beyond it',
        () => {
          context(headers(14, 67), TCP, 0);
          ring.putBytes(frame, LAST_RS, whole | TXD_CC | TXD_POPTS_TXSM);
        },
        /a transport header at 81 in a frame of 100 bytes/,
      ],
      [
        'a transport protocol that is none',
        () => {
          context(headers(14, 20), 3 << 11, 0);
          ring.putBytes(frame, LAST_RS, whole | TXD_CC | TXD_POPTS_TXSM);
        },
        /\(L4T\) that is reserved/,
      ],
      [
        'TSO with an MSS of 0',
        () => {
          context(headers(14, 40), TCP, mss(0, 20));
          ring.putBytes(frame, tse, behind(74));
        },
        /an MSS of 0/,
      ],
      [
        'TSO without a context ever',
        () => {
          engines.transmit.reset();
          ring.putBytes(frame, tse, behind(0));
        },
        /an IP header of 0 bytes/,
      ],
      [
        'TSO with headers beyond it',
        () => {
          context(headers(14, 40), TCP, mss(1000, 60));
          ring.putBytes(frame, tse, behind(74));
        },
        /headers of 114 bytes in a frame of 100/,
      ],
      [
        'TSO with a TCP header too short',
        () => {
          context(headers(14, 40), TCP, mss(1000, 19));
          ring.putBytes(frame, tse, behind(73));
        },
        /a transport header of 19 bytes/,
      ],
      [
        'TSO with an IPv6 header too short',
        () => {
          context(headers(14, 39), TCP, mss(1000, 20));
          ring.putBytes(frame, tse, behind(73));
        },
        /an IP header of 39 bytes/,
      ],
      [
        'TSO of SCTP',
        () => {
          context(headers(14, 40), CONTEXT_TUCMD_L4T_SCTP, mss(1000, 20));
          ring.putBytes(frame, tse, behind(74));
        },
        /SCTP to be segmented/,
      ],
      [
        'TSO with a PAYLEN that counts headers',
        () => {
          context(headers(14, 40), TCP, mss(1000, 20));
          ring.putBytes(frame, tse, behind(0));
        },
        /PAYLEN is 100, and its buffers have 26 bytes/,
      ],
      [
        'a legacy checksum beyond it',
        () => void ring.putBytes(frame, LEGACY_LAST | LEGACY_CMD_IC | TXD_CMD_RS | (99 << LEGACY_CSO_SHIFT), 20 << 8),
        /a checksum from 20 into 99 of 100 bytes/,
      ],
      [
        'more than PAYLEN can say',
        () => {
          const part = frameBytes(0xffff, 1);
          for (let i = 0; i < 5; i++) ring.putBytes(part, i === 4 ? LAST_RS : DATA, paylen(0x3ffff));
        },
        /longer than 262143 bytes/,
      ],
    ];
    for (const [name, put, why] of cases) {
      it(name, () => {
        put();
        const last = (ring.tail + ring.size - 1) % ring.size;
        putFrame(frameBytes(60, 7));
        ring.kick();
        assert.deepEqual(engines.takeSent(), [frameBytes(60, 7)], 'the next one is sent');
        assert.ok(ring.isDone(last), 'its descriptor comes back');
        assert.equal(engines.raised, EICR_PCI_EXCEPTION);
        const [fault, ...others] = engines.takeFaults();
        assert.deepEqual(others, []);
        assert.match(fault!, new RegExp(`^transmit queue 0: the frame that ends in descriptor ${last} is dropped: `));
        assert.match(fault!, why);
      });
    }

    it('telling of the first one only, until it was off', () => {
      for (let i = 0; i < 10; i++) ring.putBytes(frame, LAST_RS, 0);
      ring.kick();
      assert.equal(engines.takeFaults().length, 1);
      engines.write(TXDCTL(0), 0);
      engines.write(TXDCTL(0), TXDCTL_ENABLE);
      ring.putBytes(frame, LAST_RS, 0);
      ring.kick();
      assert.equal(engines.takeFaults().length, 1);
    });
  });

  describe('stops where its ring cannot be believed, tells why, and raises PCI_EXCEPTION', () => {
    function assertStopped(fault: RegExp): void {
      const [first, ...others] = engines.takeFaults();
      assert.deepEqual(others, []);
      assert.match(first!, /^transmit queue 0 stops: /);
      assert.match(first!, fault);
      assert.equal(engines.raised, EICR_PCI_EXCEPTION);
      assert.equal(engines.read(TXDCTL(0)) & TXDCTL_ENABLE, 0);
      ring.kick();
      assert.deepEqual([engines.sent, engines.faults], [[], []], 'it stays off');
      ring = new HostTransmitRing(engines);
      putFrame(frameBytes(60, 9));
      ring.kick();
      assert.deepEqual(engines.takeSent(), [frameBytes(60, 9)], 'until it is enabled anew');
    }

    it('TDT beyond it', () => {
      engines.write(TDT(0), 64);
      assertStopped(/TDH 0 and TDT 64 in a ring of 64$/);
    });

    it('TDH beyond it', () => {
      engines.write(TDH(0), 0xffff);
      engines.write(TDT(0), 1);
      assertStopped(/TDH 65535 and TDT 1 in a ring of 64$/);
    });

    it('no descriptors at all', () => {
      engines.write(TDLEN(0), 0);
      engines.write(TDT(0), 1);
      assertStopped(/in a ring of 0$/);
    });

    it('no memory for descriptors', () => {
      engines.write(TDBAL(0), engines.end % 2 ** 32);
      putFrame(frameBytes(60, 1));
      ring.kick();
      assertStopped(/no memory at 0x[0-9a-f]+, descriptor 0$/);
    });

    it('no memory for a buffer, or for its end', () => {
      ring.put([...split(engines.end - 59), LAST_RS | 60, paylen(60)]);
      ring.kick();
      assertStopped(/no memory at 0x[0-9a-f]+, the buffer of descriptor 0$/);
    });

    it('an address that cannot be', () => {
      ring.put([0xffffffff, 0xffffffff, LAST_RS | 60, paylen(60)]);
      ring.kick();
      assertStopped(/the buffer of descriptor 0$/);
    });

    it('a type of descriptor that is none', () => {
      ring.put([0, 0, TXD_CMD_DEXT | TXD_CMD_EOP | (5 << 20), 0]);
      ring.kick();
      assertStopped(/descriptor 0 is of no type/);
    });

    it('a frame that has no end, in as many steps as it likes', () => {
      const address = engines.allocate(60);
      for (let i = 0; i < 70; i++) {
        ring.put([...split(address), DATA | 1, paylen(60)]);
        if (engines.faults.length > 0) break;
        ring.kick();
      }
      assertStopped(/are of one frame that does not end$/);
    });

    it('no memory for the write-back', () => {
      engines.write(TDWBAL(0), TDWBAL_HEAD_WB_EN | 0x1000);
      putFrame(frameBytes(60, 1));
      ring.kick();
      engines.takeSent();
      engines.write(TDWBAL(0), 0);
      assertStopped(/the write-back of descriptor 0 to 0x1000 finds no memory$/);
    });
  });
});
