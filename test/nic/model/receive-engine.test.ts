import assert from 'node:assert/strict';
import {
  PKTTYPE_IPV4,
  PKTTYPE_IPV6,
  PKTTYPE_TCP,
  PKTTYPE_UDP,
  RXD_ERR_IPE,
  RXD_ERR_TCPE,
  RXD_PKTTYPE_SHIFT,
  RXD_STAT_DD,
  RXD_STAT_EOP,
  RXD_STAT_IPCS,
  RXD_STAT_L4I,
  RXD_STAT_LB,
  RXD_STAT_UDPCS,
  RXD_STAT_VP,
} from '../../../nic/descriptors.ts';
import {
  DCA_RXCTRL,
  DMATXCTL,
  EICR_RX_MISS,
  FCTRL,
  FCTRL_BAM,
  FCTRL_UPE,
  FTQF,
  HLREG0,
  HLREG0_RXCRCSTRP,
  L34TIMIR,
  PFVLVF,
  PSRTYPE,
  RDRXCTL,
  RDRXCTL_CRC_STRIP,
  RDRXCTL_DMAIDONE,
  RETA,
  RXCSUM,
  RXCSUM_IPPCSE,
  RXCTRL,
  RXDCTL,
  RXDCTL_ENABLE,
  RXDCTL_VME,
  RXPBSIZE,
  RXPBSIZE_SIZE_SHIFT,
  SECRXCTRL,
  SECRXCTRL_RX_DIS,
  SECRXSTAT,
  SECRXSTAT_SECRX_RDY,
  SRRCTL,
  SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER,
  SRRCTL_DROP_EN,
} from '../../../nic/registers.ts';
import { Engines, finished, HostReceiveRing } from '../../helpers/engines-under-test.ts';
import { frameBytes } from '../../helpers/frame-bytes.ts';
import { onesSum, packet } from '../../helpers/plain-packet.ts';

const DONE = RXD_STAT_DD | RXD_STAT_EOP;
const TAG_TYPE = 0x8100;
/** Nothing that the card knows. */
const plain = (length: number, seed = 0): Uint8Array => {
  const frame = frameBytes(length, seed);
  frame.set([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
  return frame;
};
/** CRC-32 of IEEE 802.3, a bit at a time. */
function crc(bytes: Uint8Array): number {
  let value = 0xffffffff;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
  }
  return ~value >>> 0;
}

describe('the receive engine of the software 82599', () => {
  let engines: Engines;
  beforeEach(() => {
    engines = new Engines();
    engines.write(FCTRL, FCTRL_UPE | FCTRL_BAM);
  });

  describe('a frame', () => {
    it('goes into the buffer of the next descriptor, is counted, and interrupts', () => {
      const ring = new HostReceiveRing(engines);
      ring.provide(4);
      for (const length of [60, 1514]) {
        const frame = plain(length);
        engines.arrive(frame);
        const { info, hash, status, tag, bytes } = ring.takeOne();
        assert.deepEqual(bytes, frame);
        assert.deepEqual({ info, hash, status, tag }, { info: 0, hash: 0, status: DONE, tag: 0 });
        assert.deepEqual(engines.takeEvents(), [`received 0: ${length}`, 'receive 0']);
      }
    });

    it('does not come in while RXCTRL or SECRXCTRL keeps it out', () => {
      const ring = new HostReceiveRing(engines);
      ring.provide(4);
      engines.write(RXCTRL, 0);
      engines.arrive(plain(60));
      engines.write(RXCTRL, 1);
      engines.write(SECRXCTRL, SECRXCTRL_RX_DIS);
      engines.arrive(plain(60));
      assert.equal(engines.read(SECRXSTAT), SECRXSTAT_SECRX_RDY);
      assert.deepEqual([ring.take(), engines.takeEvents()], [[], []]);
      engines.write(SECRXCTRL, 0);
      engines.arrive(plain(60));
      assert.equal(ring.take().length, 1);
    });

    it('says that it was looped back', () => {
      const ring = new HostReceiveRing(engines);
      ring.provide(1);
      engines.arrive(plain(60), true);
      assert.equal(ring.takeOne().status, DONE | RXD_STAT_LB);
    });

    it('shorter than an Ethernet header is none', () => {
      const ring = new HostReceiveRing(engines);
      ring.provide(1);
      for (let length = 0; length < 14; length++) engines.arrive(plain(60).subarray(0, length));
      assert.deepEqual([ring.take(), engines.takeEvents()], [[], []]);
    });
  });

  describe('checksums', () => {
    const payload = frameBytes(77, 1);
    for (const ipVersion of [4, 6] as const) {
      for (const isTcp of [true, false]) {
        const name = `${isTcp ? 'TCP' : 'UDP'} over IPv${ipVersion}`;
        const info =
          ((ipVersion === 4 ? PKTTYPE_IPV4 : PKTTYPE_IPV6) | (isTcp ? PKTTYPE_TCP : PKTTYPE_UDP)) << RXD_PKTTYPE_SHIFT;
        const checked = (ipVersion === 4 ? RXD_STAT_IPCS : 0) | RXD_STAT_L4I | (isTcp ? 0 : RXD_STAT_UDPCS);

        it(`${name}: right, and wrong`, () => {
          const ring = new HostReceiveRing(engines);
          ring.provide(4);
          const shape = packet({ ipVersion, isTcp, payload });
          const frame = finished(shape);
          engines.arrive(frame);
          const right = ring.takeOne();
          assert.equal(right.info, info);
          assert.equal(right.status, DONE | checked);
          frame[shape.payload + 5]! ^= 1;
          engines.takeEvents();
          engines.arrive(frame);
          assert.equal(ring.takeOne().status, (DONE | checked | RXD_ERR_TCPE) >>> 0);
          assert.ok(engines.takeEvents().includes('checksum error'));
        });
      }
    }

    it('of the IPv4 header: wrong', () => {
      const ring = new HostReceiveRing(engines);
      ring.provide(1);
      const shape = packet({ ipVersion: 4, isTcp: true, payload });
      const frame = finished(shape);
      frame[shape.ip + 8]! -= 1;
      engines.arrive(frame);
      assert.equal(ring.takeOne().status, (DONE | RXD_STAT_IPCS | RXD_STAT_L4I | RXD_ERR_IPE) >>> 0);
    });

    it('are those of the packet, not of the padding behind it', () => {
      const ring = new HostReceiveRing(engines);
      ring.provide(1);
      const frame = finished(packet({ ipVersion: 4, isTcp: true, payload: payload.subarray(0, 2) }));
      engines.arrive(Buffer.concat([frame, Buffer.from('dead', 'hex')]));
      assert.equal(ring.takeOne().status, DONE | RXD_STAT_IPCS | RXD_STAT_L4I);
    });

    it('of a fragment take the place of the hash where RXCSUM has it so', () => {
      const ring = new HostReceiveRing(engines);
      ring.provide(3);
      const shape = packet({ ipVersion: 4, isTcp: false, payload });
      const frame = finished(shape);
      engines.write(RXCSUM, RXCSUM_IPPCSE);
      engines.arrive(frame);
      assert.equal(ring.takeOne().hash, 0, 'a whole datagram');
      frame[shape.ip + 6] = 0x20;
      engines.arrive(frame);
      const fragment = ring.takeOne();
      assert.equal(fragment.hash, onesSum(frame.subarray(shape.transport)) * 0x10000 + 7);
      assert.equal(fragment.status & (RXD_STAT_L4I | RXD_STAT_UDPCS), 0, 'a fragment is not checked');
      engines.write(RXCSUM, 0);
      engines.arrive(frame);
      assert.equal(ring.takeOne().hash, 0);
    });
  });

  describe('a VLAN tag', () => {
    const tagged = packet({ ipVersion: 4, isTcp: true, tags: [TAG_TYPE], payload: frameBytes(50, 3) });
    const frame = finished(tagged);

    it('is kept, and said', () => {
      const ring = new HostReceiveRing(engines);
      ring.provide(1);
      engines.arrive(frame);
      const { status, tag, bytes } = ring.takeOne();
      assert.deepEqual(bytes, frame);
      assert.equal(status, DONE | RXD_STAT_VP | RXD_STAT_IPCS | RXD_STAT_L4I);
      assert.equal(tag, 0);
    });

    it('goes into the descriptor where the queue strips it', () => {
      const ring = new HostReceiveRing(engines);
      ring.provide(1);
      engines.set(RXDCTL(0), RXDCTL_VME);
      engines.arrive(frame);
      const { status, tag, bytes } = ring.takeOne();
      assert.deepEqual(bytes, Uint8Array.from([...frame.subarray(0, 12), ...frame.subarray(16)]));
      assert.equal(status, DONE | RXD_STAT_VP | RXD_STAT_IPCS | RXD_STAT_L4I);
      assert.equal(tag, 5);
    });
  });

  describe('the CRC', () => {
    for (const strips of [false, true]) {
      it(`follows where it is not stripped${strips ? ', over the tag that is' : ''}`, () => {
        engines.clear(HLREG0, HLREG0_RXCRCSTRP);
        const ring = new HostReceiveRing(engines);
        ring.provide(1);
        if (strips) engines.set(RXDCTL(0), RXDCTL_VME);
        const frame = finished(packet({ ipVersion: 4, isTcp: true, tags: [TAG_TYPE], payload: frameBytes(30, 4) }));
        engines.arrive(frame);
        const { bytes } = ring.takeOne();
        const kept = strips ? [...frame.subarray(0, 12), ...frame.subarray(16)] : [...frame];
        assert.deepEqual([...bytes.subarray(0, -4)], kept);
        assert.equal(Buffer.from(bytes).readUInt32LE(bytes.length - 4), crc(frame));
      });
    }

    it('is stripped by either register', () => {
      engines.clear(HLREG0, HLREG0_RXCRCSTRP);
      engines.write(RDRXCTL, RDRXCTL_CRC_STRIP);
      const ring = new HostReceiveRing(engines);
      ring.provide(1);
      engines.arrive(plain(60));
      assert.equal(ring.takeOne().bytes.length, 60);
    });
  });

  describe('without descriptors', () => {
    it('frames wait, and come in order when RDT moves', () => {
      const ring = new HostReceiveRing(engines);
      const frames = Array.from({ length: 20 }, (_, i) => plain(100 + i, i));
      const wire = new Uint8Array(200);
      for (const frame of frames) {
        // The MAC's memory, which holds the next frame then.
        wire.set(frame);
        engines.arrive(wire.subarray(0, frame.length));
      }
      assert.deepEqual(engines.takeEvents(), []);
      const got = [];
      for (const count of [1, 3, 7, 7, 7]) {
        ring.provide(count);
        got.push(...ring.take().map(({ bytes }) => bytes));
      }
      assert.deepEqual(got, frames);
    });

    it('each keeps what its write-back is to say', () => {
      const ring = new HostReceiveRing(engines);
      engines.set(RXDCTL(0), RXDCTL_VME);
      engines.arrive(finished(packet({ ipVersion: 4, isTcp: true, tags: [TAG_TYPE], payload: frameBytes(50, 1) })));
      engines.arrive(plain(60));
      ring.provide(2);
      const [first, second] = ring.take().map(({ words }) => words);
      assert.equal(first![2], DONE | RXD_STAT_VP | RXD_STAT_IPCS | RXD_STAT_L4I);
      assert.equal(first![3]! >>> 16, 5);
      assert.deepEqual(second, [0, 0, DONE, 60]);
    });

    it('a frame waits in a buffer that is as large as RXPBSIZE says; the rest is missed', () => {
      engines.write(RXPBSIZE(0), 4 << RXPBSIZE_SIZE_SHIFT);
      const ring = new HostReceiveRing(engines);
      for (let i = 0; i < 5; i++) engines.arrive(plain(1000, i));
      assert.deepEqual(engines.takeEvents(), ['missed']);
      assert.equal(engines.raised, EICR_RX_MISS);
      for (let round = 0; round < 3; round++) {
        ring.provide(4);
        assert.deepEqual(
          ring.take().map(({ bytes }) => bytes),
          [0, 1, 2, 3].map((i) => plain(1000, i)),
        );
        for (let i = 0; i < 4; i++) engines.arrive(plain(1000, i));
      }
    });

    it('has 512 KiB after reset, of all lengths of frames', () => {
      const ring = new HostReceiveRing(engines);
      const count = Math.floor(0x80000 / 64);
      for (let i = 0; i < count + 3; i++) engines.arrive(plain(64, i));
      assert.deepEqual(engines.takeEvents(), ['missed', 'missed', 'missed']);
      let got = 0;
      while (got < count) {
        ring.provide(7);
        for (const { bytes } of ring.take()) assert.deepEqual(bytes, plain(64, got++));
      }
      ring.provide(7);
      assert.deepEqual(ring.take(), []);
    });

    it('frames are dropped where the queue says so', () => {
      const ring = new HostReceiveRing(engines);
      engines.set(SRRCTL(0), SRRCTL_DROP_EN);
      engines.arrive(plain(60));
      assert.deepEqual(engines.takeEvents(), ['dropped 0']);
      ring.provide(1);
      assert.deepEqual(ring.take(), []);
    });

    it('a frame that waits is dropped when the queue comes to say so, or is switched off', () => {
      const ring = new HostReceiveRing(engines);
      engines.arrive(plain(60));
      engines.set(SRRCTL(0), SRRCTL_DROP_EN);
      assert.deepEqual(engines.takeEvents(), ['dropped 0']);
      engines.clear(SRRCTL(0), SRRCTL_DROP_EN);
      engines.arrive(plain(60));
      engines.clear(RXDCTL(0), RXDCTL_ENABLE);
      assert.deepEqual(engines.takeEvents(), ['dropped 0']);
      assert.deepEqual(ring.take(), []);
    });

    it('a reset forgets what waits', () => {
      engines.arrive(plain(60));
      new HostReceiveRing(engines);
      engines.arrive(plain(60));
      engines.receive.reset();
      const ring = new HostReceiveRing(engines);
      ring.provide(3);
      assert.deepEqual(ring.take(), []);
    });

    it('an interrupt handler that gives a descriptor for each frame gets each frame once', () => {
      const ring = new HostReceiveRing(engines);
      // As many as it would not bear to be called within itself.
      const count = 8000;
      for (let i = 0; i < count; i++) engines.arrive(plain(60, i));
      const got: Uint8Array[] = [];
      engines.onInterrupt = () => {
        got.push(...ring.take().map(({ bytes }) => bytes));
        ring.provide(1);
      };
      ring.provide(1);
      assert.equal(got.length, count);
      for (const [i, bytes] of got.entries()) assert.deepEqual(bytes, plain(60, i));
    });
  });

  describe('registers', () => {
    it('are reset with the card, and say that the DMA is ready', () => {
      assert.equal(engines.read(RXPBSIZE(0)), 512 << RXPBSIZE_SIZE_SHIFT);
      assert.equal(engines.read(RXPBSIZE(1)), 0);
      assert.equal(engines.read(RDRXCTL) & RDRXCTL_DMAIDONE, RDRXCTL_DMAIDONE);
      assert.equal(engines.read(DMATXCTL) >>> 16, TAG_TYPE);
    });

    it('of the first sixteen queues answer where the 82598 has them too', () => {
      const pairs: [number, number][] = [
        [0x2100 + 4 * 3, SRRCTL(3)],
        [0x2200 + 4 * 15, DCA_RXCTRL(15)],
        [0x5480, PSRTYPE(0)],
        [0x5c00 + 4 * 31, RETA(31)],
      ];
      for (const [legacy, offset] of pairs) {
        engines.write(legacy, 0x01020304);
        assert.equal(engines.read(offset), 0x01020304);
        engines.write(offset, 0x04030201);
        assert.equal(engines.read(legacy), 0x04030201);
      }
    });

    it('of filters that the model does not have keep what is written', () => {
      for (const offset of [FTQF(0), FTQF(127), L34TIMIR(127), PFVLVF(63)]) {
        engines.write(offset, 0x12345678);
        assert.equal(engines.read(offset), 0x12345678);
      }
    });

    it('are there for all 128 queues, and RXDCTL.ENABLE reads as it was written', () => {
      for (const queue of [0, 15, 16, 63, 64, 127]) {
        engines.write(SRRCTL(queue), SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER | 4);
        engines.write(RXDCTL(queue), RXDCTL_ENABLE);
        assert.equal(engines.read(RXDCTL(queue)), RXDCTL_ENABLE);
        engines.write(RXDCTL(queue), 0);
        assert.equal(engines.read(RXDCTL(queue)), 0);
      }
    });
  });
});
