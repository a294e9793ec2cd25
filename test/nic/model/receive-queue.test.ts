import assert from 'node:assert/strict';
import { RXD_STAT_DD, RXD_STAT_EOP, RXD_STAT_IPCS, RXD_STAT_L4I, RXD_STAT_VP } from '../../../nic/descriptors.ts';
import {
  EICR_PCI_EXCEPTION,
  FCTRL,
  FCTRL_UPE,
  RDBAL,
  RDH,
  RDLEN,
  RDT,
  RXDCTL,
  RXDCTL_ENABLE,
  RXDCTL_VME,
  SRRCTL,
} from '../../../nic/registers.ts';
import { Engines, finished, HostReceiveRing, split, UNTOUCHED } from '../../helpers/engines-under-test.ts';
import { frameBytes } from '../../helpers/frame-bytes.ts';
import { packet } from '../../helpers/plain-packet.ts';

const DONE = RXD_STAT_DD | RXD_STAT_EOP;
/** DESCTYPE: header split, always. */
const SPLIT_ALWAYS = 5 << 25;
const LEGACY = 0;
const LEGACY_ERROR_TCPE = 1 << 6;

const join = (parts: { bytes: Uint8Array }[]): Uint8Array =>
  Uint8Array.from(Buffer.concat(parts.map((part) => part.bytes)));

describe('a receive queue of the software 82599', () => {
  let engines: Engines;
  beforeEach(() => {
    engines = new Engines();
    engines.write(FCTRL, FCTRL_UPE);
  });
  const frame = (length: number, seed = 0): Uint8Array => {
    const bytes = frameBytes(length, seed);
    bytes[0] = 2;
    bytes.set([0x88, 0xb5], 12);
    return bytes;
  };

  it('scatters a long frame, and says all in its last descriptor', () => {
    const ring = new HostReceiveRing(engines, { bufferKib: 1 });
    ring.provide(7);
    const shape = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(3000, 1) });
    engines.arrive(finished(shape));
    const parts = ring.take();
    assert.deepEqual(
      parts.map(({ words }) => words[3]! & 0xffff),
      [1024, 1024, shape.bytes.length - 2048],
    );
    assert.deepEqual(
      parts.map(({ words }) => words[2]),
      [RXD_STAT_DD, RXD_STAT_DD, DONE | RXD_STAT_IPCS | RXD_STAT_L4I],
    );
    assert.deepEqual(join(parts), finished(shape));
    assert.deepEqual(engines.takeEvents(), [`received 0: ${shape.bytes.length}`, 'receive 0']);
    assert.equal(engines.read(RDH(0)), 3);
  });

  it('fills a buffer to its end', () => {
    const ring = new HostReceiveRing(engines, { bufferKib: 1 });
    ring.provide(4);
    engines.arrive(frame(2048));
    const parts = ring.take();
    assert.equal(parts.length, 2);
    assert.deepEqual(join(parts), frame(2048));
  });

  it('writes no further than the buffer, nor than the frame', () => {
    const ring = new HostReceiveRing(engines, { bufferKib: 1 });
    ring.provide(2);
    engines.arrive(frame(1100));
    const second = engines.bytes(ring.buffers[1]!, 1024);
    assert.ok(second.subarray(76).every((byte) => byte === UNTOUCHED));
    assert.ok(engines.bytes(ring.buffers[2]!, 1024).every((byte) => byte === UNTOUCHED));
  });

  it('goes round its ring, with descriptors fetched anew each time', () => {
    const ring = new HostReceiveRing(engines);
    ring.provide(7);
    for (let i = 0; i < 100; i++) {
      // Another buffer each time: a descriptor remembered from the last round would lead to the wrong one.
      engines.arrive(frame(60 + i, i));
      assert.deepEqual(ring.takeOne().bytes, frame(60 + i, i));
      ring.buffers[(i + 7) % 8] = engines.allocate(2048);
      ring.provide(1);
    }
  });

  it('has no descriptors where RDH is RDT, and takes all but one of its ring', () => {
    const ring = new HostReceiveRing(engines);
    ring.provide(7);
    for (let i = 0; i < 8; i++) engines.arrive(frame(60, i));
    assert.equal(ring.take().length, 7);
    assert.equal(engines.read(RDH(0)), engines.read(RDT(0)));
    ring.provide(1);
    assert.deepEqual(ring.takeOne().bytes, frame(60, 7));
  });

  it('looks at no descriptor from RDT on: it is not its own yet', () => {
    const ring = new HostReceiveRing(engines, { bufferKib: 1 });
    ring.provide(7);
    for (let i = 0; i < 7; i++) engines.arrive(frame(60));
    ring.take();
    ring.provide(2);
    engines.arrive(frame(1500));
    assert.equal(join(ring.take()).length, 1500, 'in the last descriptor of the ring and in the first');
    ring.buffers[1] = engines.allocate(1024);
    ring.provide(1);
    engines.arrive(frame(70, 1));
    assert.deepEqual(ring.takeOne().bytes, frame(70, 1));
  });

  it('writes nothing of a frame for which there are too few descriptors', () => {
    const ring = new HostReceiveRing(engines, { bufferKib: 1 });
    ring.provide(1);
    engines.arrive(frame(1500));
    assert.deepEqual(ring.take(), []);
    ring.provide(1);
    assert.deepEqual(join(ring.take()), frame(1500));
  });

  it('drops a frame that its whole ring cannot hold, rather than keep all others waiting', () => {
    const ring = new HostReceiveRing(engines, { bufferKib: 1 });
    ring.provide(7);
    engines.arrive(frame(7 * 1024 + 1));
    assert.deepEqual(engines.takeEvents(), ['dropped 0']);
    engines.arrive(frame(7 * 1024));
    assert.equal(join(ring.take()).length, 7 * 1024);
  });

  it('takes descriptors that split headers off as one buffer', () => {
    const ring = new HostReceiveRing(engines, { srrctl: SPLIT_ALWAYS });
    ring.provide(1);
    const whole = finished(packet({ ipVersion: 6, isTcp: true, payload: frameBytes(40, 1) }));
    engines.arrive(whole);
    const { info, bytes } = ring.takeOne();
    assert.deepEqual(bytes, whole);
    assert.equal(info >>> 31, 0, 'SPH');
  });

  it('writes the legacy format: the address stays, status, errors and tag share a word', () => {
    const ring = new HostReceiveRing(engines, { srrctl: LEGACY });
    engines.set(RXDCTL(0), RXDCTL_VME);
    ring.provide(1);
    const shape = packet({ ipVersion: 4, isTcp: true, tags: [0x8100], payload: frameBytes(100, 1) });
    const whole = finished(shape);
    whole[shape.payload]! ^= 1;
    engines.arrive(whole);
    const words = engines.words(ring.descriptor(0));
    assert.deepEqual(words.slice(0, 2), split(ring.buffers[0]!));
    assert.equal(words[2], whole.length - 4);
    const status = DONE | RXD_STAT_VP | RXD_STAT_L4I | RXD_STAT_IPCS;
    assert.equal(words[3], status | (LEGACY_ERROR_TCPE << 8) | (5 << 16));
  });

  it('does nothing before it is enabled', () => {
    const ring = new HostReceiveRing(engines);
    engines.write(RXDCTL(0), 0);
    ring.provide(4);
    engines.arrive(frame(60));
    assert.deepEqual(engines.takeEvents(), ['dropped 0']);
    engines.write(RXDCTL(0), RXDCTL_ENABLE);
    engines.arrive(frame(61));
    assert.equal(ring.takeOne().bytes.length, 61);
  });

  it('keeps what registers of a ring can hold', () => {
    engines.write(RDBAL(0), 0xffffffff);
    engines.write(RDLEN(0), 0xffffffff);
    engines.write(RDT(0), 0x12345678);
    assert.equal(engines.read(RDBAL(0)), 0xffffff80);
    assert.equal(engines.read(RDLEN(0)), 0xfff80);
    assert.equal(engines.read(RDT(0)), 0x5678);
  });

  describe('stops, tells why, and raises PCI_EXCEPTION', () => {
    let ring: HostReceiveRing;
    beforeEach(() => {
      ring = new HostReceiveRing(engines, { queue: 0 });
      ring.provide(4);
    });

    function assertStopped(fault: RegExp): void {
      const faults = engines.takeFaults();
      assert.equal(faults.length, 1);
      assert.match(faults[0]!, fault);
      assert.match(faults[0]!, /^receive queue 0 stops: /);
      assert.equal(engines.raised, EICR_PCI_EXCEPTION);
      assert.equal(engines.read(RXDCTL(0)) & RXDCTL_ENABLE, 0);
      engines.arrive(frame(60));
      assert.deepEqual(engines.takeFaults(), [], 'it tells once');
      assert.deepEqual(ring.take(), []);
    }

    it('where the ring has no memory', () => {
      engines.write(RDBAL(0), engines.end % 2 ** 32);
      engines.arrive(frame(60));
      assertStopped(/no memory at 0x1[0-9a-f]+, descriptor 0$/);
    });

    it('where a buffer has no memory, or ends beyond it: nothing is written', () => {
      const last = engines.end - 59;
      engines.setWords(ring.descriptor(0), [...split(last), 0, 0]);
      engines.arrive(frame(60));
      assert.ok(engines.bytes(last, 59).every((byte) => byte === UNTOUCHED));
      assertStopped(new RegExp(`no memory at 0x${last.toString(16)}, the buffer of descriptor 0$`));
    });

    it('where an address is beyond what can be', () => {
      engines.setWords(ring.descriptor(0), [0xffffffff, 0xffffffff, 0, 0]);
      engines.arrive(frame(60));
      assertStopped(/the buffer of descriptor 0$/);
    });

    it('where descriptors can be read and not written', () => {
      engines.bus.writeWords = () => false;
      engines.arrive(frame(60));
      assertStopped(/descriptor 0 at 0x1[0-9a-f]+ cannot be written$/);
    });

    it('where RDT is beyond the ring', () => {
      engines.write(RDT(0), 8);
      assertStopped(/RDT 8 in a ring of 8$/);
    });

    it('where RDH is beyond the ring', () => {
      engines.write(RDH(0), 0xffff);
      engines.arrive(frame(60));
      assertStopped(/RDH 65535 and RDT 4 in a ring of 8$/);
    });

    it('where buffers have no size', () => {
      engines.clear(SRRCTL(0), 0x1f);
      engines.arrive(frame(60));
      assertStopped(/SRRCTL.BSIZEPACKET is 0$/);
    });

    it('until it is enabled again', () => {
      engines.setWords(ring.descriptor(0), [0, 0, 0, 0]);
      engines.arrive(frame(60));
      assertStopped(/no memory at 0x0, the buffer of descriptor 0$/);
      engines.setWords(ring.descriptor(0), [...split(ring.buffers[0]!), 0, 0]);
      engines.write(RXDCTL(0), RXDCTL_ENABLE);
      engines.arrive(frame(61));
      assert.equal(ring.takeOne().bytes.length, 61);
    });
  });

  it('leaves the others alone when it stops', () => {
    const ring = new HostReceiveRing(engines);
    ring.provide(4);
    const other = new HostReceiveRing(engines, { queue: 1 });
    other.provide(4);
    engines.write(RDT(0), 99);
    assert.equal(engines.read(RXDCTL(0)) & RXDCTL_ENABLE, 0);
    assert.equal(engines.read(RXDCTL(1)) & RXDCTL_ENABLE, RXDCTL_ENABLE);
  });
});
