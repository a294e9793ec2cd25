/** The frame engines under a host that writes anything anywhere: they never throw, and write only what they were given. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  TXD_CMD_DEXT,
  TXD_CMD_EOP,
  TXD_CMD_RS,
  TXD_CMD_TSE,
  TXD_CMD_VLE,
  TXD_DTYP_CONTEXT,
  TXD_DTYP_DATA,
} from '../../../nic/descriptors.ts';
import { REGISTER_SPACE_BYTES } from '../../../nic/model/register-file.ts';
import {
  FCTRL,
  MRQC,
  RDBAH,
  RDBAL,
  RDH,
  RDLEN,
  RDT,
  RXDCTL,
  RXDCTL_ENABLE,
  SRRCTL,
  TDBAH,
  TDBAL,
  TDH,
  TDLEN,
  TDT,
  TDWBAL,
  TXDCTL,
  TXDCTL_ENABLE,
  VLNCTRL,
} from '../../../nic/registers.ts';
import { Engines, HostReceiveRing, HostTransmitRing, split } from '../../helpers/engines-under-test.ts';
import { packet } from '../../helpers/plain-packet.ts';

const RING = 8;
const DESCRIPTOR = 16;
const word = fc.oneof(fc.nat(0xffffffff), fc.nat(0x1ff), fc.constantFrom(0, 0xffffffff, 0x80000000));
const words = fc.tuple(word, word, word, word);

/** Ranges that the card wrote, by address and length. */
function recordWrites(engines: Engines): [at: number, length: number][] {
  const written: [number, number][] = [];
  const { bus } = engines;
  const write = bus.write.bind(bus);
  bus.write = (address, from) => {
    const done = write(address, from);
    if (done) written.push([address, from.length]);
    return done;
  };
  bus.writeWords = (address, from) => bus.write(address, new Uint8Array(from.slice().buffer));
  return written;
}

function assertWithin(written: [number, number][], allowed: [at: number, length: number][]): void {
  for (const [at, length] of written) {
    assert.ok(
      allowed.some(([start, bytes]) => at >= start && at + length <= start + bytes),
      `${length} bytes at 0x${at.toString(16)}`,
    );
  }
}

describe('the frame engines of the software 82599, under any host,', () => {
  let engines: Engines;
  let written: [at: number, length: number][];
  before(() => {
    engines = new Engines();
    written = recordWrites(engines);
  });
  beforeEach(() => engines.reset());

  it('take any value in any of their registers, and any frame', () => {
    const offsets = fc.oneof(
      fc.nat(REGISTER_SPACE_BYTES / 4 - 1).map((n) => 4 * n),
      fc.constantFrom(...[RDBAL, RDBAH, RDLEN, RDH, RDT, SRRCTL, RXDCTL].map((of) => of(0))),
      fc.constantFrom(...[TDBAL, TDBAH, TDLEN, TDH, TDT, TDWBAL, TXDCTL].map((of) => of(0))),
      fc.constantFrom(FCTRL, VLNCTRL, MRQC),
    );
    const steps = fc.array(
      fc.oneof(
        fc.record({ offset: offsets, value: word }),
        fc.record({
          frame: fc.uint8Array({ minLength: 60, maxLength: 200, size: 'max' }),
          type: fc.constantFrom(0x0800, 0x86dd, 0x8100),
        }),
      ),
      { maxLength: 60, size: 'max' },
    );
    let delivered = 0;
    fc.assert(
      fc.property(steps, (all) => {
        engines.reset();
        new HostReceiveRing(engines, { size: RING }).provide(RING - 1);
        new HostTransmitRing(engines, { size: RING });
        engines.write(FCTRL, 0xffffffff);
        for (const step of all) {
          if ('frame' in step) {
            step.frame.set([step.type >>> 8, step.type & 0xff], 12);
            engines.arrive(step.frame);
            continue;
          }
          engines.write(step.offset, step.value);
          const read = engines.read(step.offset);
          assert.ok(Number.isInteger(read) && read >= 0 && read <= 0xffffffff);
        }
        delivered += engines.events.filter((event) => event.startsWith('received')).length;
      }),
      { numRuns: 400 },
    );
    assert.ok(delivered > 0, 'none of the frames came through');
  });

  it('receive into the buffers of descriptors, and write back to the ring: nothing else', () => {
    const shapes = fc.record({
      // Buffers that overlap, lie partly beyond memory, and nowhere; not over the ring.
      buffers: fc.array(
        fc.oneof(fc.integer({ min: RING * DESCRIPTOR, max: 0x3fffff }), fc.integer({ min: 0x3ff000, max: 0x400100 })),
        {
          ...{ minLength: RING, maxLength: RING },
        },
      ),
      wild: fc.option(words, { nil: undefined }),
      head: fc.nat(RING),
      tail: fc.nat(RING),
      srrctl: word,
      rxdctl: word,
      frames: fc.array(fc.tuple(fc.nat(4000), fc.boolean()), { minLength: 1, maxLength: 12 }),
    });
    let writes = 0;
    fc.assert(
      fc.property(shapes, ({ buffers, wild, head, tail, srrctl, rxdctl, frames }) => {
        engines.reset();
        engines.write(FCTRL, 0xffffffff);
        const ring = new HostReceiveRing(engines, { size: RING });
        const bufferBytes = (srrctl & 0x1f) * 1024;
        const allowed: [number, number][] = [[ring.base, RING * DESCRIPTOR]];
        for (const [i, offset] of buffers.entries()) {
          engines.setWords(ring.descriptor(i), [...split(engines.bus.base + offset), 0, 0]);
          allowed.push([engines.bus.base + offset, bufferBytes]);
        }
        if (wild) {
          engines.setWords(ring.descriptor(3), wild);
          allowed.push([wild[1] * 2 ** 32 + wild[0], bufferBytes]);
        }
        engines.write(SRRCTL(0), srrctl);
        engines.write(RXDCTL(0), rxdctl | RXDCTL_ENABLE);
        engines.write(RDH(0), head);
        written.length = 0;
        engines.write(RDT(0), tail);
        for (const [payload, isTcp] of frames) {
          engines.arrive(packet({ ipVersion: 4, isTcp, tags: [0x8100], payload: new Uint8Array(payload) }).bytes);
        }
        assertWithin(written, allowed);
        // A buffer and a write-back for each descriptor.
        if (head < RING && tail < RING) assert.ok(written.length <= 2 * (RING - 1));
        else assert.deepEqual(written, []);
        writes += written.length;
      }),
      { numRuns: 600 },
    );
    assert.ok(writes > 0, 'nothing was received');
  });

  it('transmit what descriptors say as far as it makes sense, and write back to the ring: nothing else', () => {
    const context = words.map(([a, b, c, d]) => [a, b, TXD_CMD_DEXT | TXD_DTYP_CONTEXT | (c & 0x1fff), d]);
    // Headers of usual lengths, and an MSS that cuts.
    const usual = fc
      .record({ ip: fc.constantFrom(20, 40), l4: fc.constantFrom(8, 20), mss: fc.nat(3000), c: fc.nat(0x1fff) })
      .map(({ ip, l4, mss, c }) => [
        (14 << 9) | ip,
        0,
        TXD_CMD_DEXT | TXD_DTYP_CONTEXT | (c & 0x1e00),
        mss * 65536 + l4 * 256,
      ]);
    const commands = fc
      .subarray([TXD_CMD_EOP, TXD_CMD_RS, TXD_CMD_VLE, TXD_CMD_TSE, 1 << 26])
      .map((bits) => bits.reduce((all, bit) => all | bit, 0));
    const data = fc
      .record({
        at: fc.oneof(
          { weight: 9, arbitrary: fc.nat(0x3f0000) },
          { weight: 1, arbitrary: fc.integer({ min: 0x3fff00, max: 0x400100 }) },
        ),
        length: fc.oneof(fc.nat(0xffff), fc.nat(200)),
        command: commands,
        isAdvanced: fc.boolean(),
        isRight: fc.boolean(),
        last: word,
      })
      .map(({ at, length, command, isAdvanced, isRight, last }) => ({
        at,
        isRight,
        words: [0, 0, (isAdvanced ? TXD_CMD_DEXT | TXD_DTYP_DATA : 0) | command | length, last],
      }));
    const descriptor = fc.oneof(
      { weight: 4, arbitrary: data },
      { weight: 1, arbitrary: context.map((all) => ({ at: null, isRight: false, words: all })) },
      { weight: 2, arbitrary: usual.map((all) => ({ at: null, isRight: false, words: all })) },
      { weight: 1, arbitrary: words.map((all) => ({ at: null, isRight: false, words: [...all] })) },
    );
    const steps = fc.array(fc.array(descriptor, { maxLength: RING - 1 }), { minLength: 1, maxLength: 5 });
    let sent = 0;
    fc.assert(
      fc.property(steps, fc.nat(RING + 2), (all, wildTail) => {
        engines.reset();
        const ring = new HostTransmitRing(engines, { size: RING });
        written.length = 0;
        for (const descriptors of all) {
          for (const { at, isRight, words: given } of descriptors) {
            // PAYLEN is right at times: else hardly anything would be sent.
            const fixed = [...given];
            if (at !== null) {
              fixed.splice(0, 2, ...split(engines.bus.base + at));
              if (isRight) fixed[3] = (given[2]! & 0xffff) * 2 ** 14 + (given[3]! & 0x3fff);
            }
            ring.put(fixed);
          }
          ring.kick();
          engines.set(TXDCTL(0), TXDCTL_ENABLE);
        }
        engines.write(TDT(0), wildTail);
        assertWithin(
          written,
          Array.from({ length: RING }, (_, i) => [ring.descriptor(i) + 12, 4]),
        );
        for (const frame of engines.sent) assert.ok(frame.length >= 14 && frame.length <= 0x3ffff + 4);
        sent += engines.sent.length;
      }),
      { numRuns: 600 },
    );
    assert.ok(sent > 0, 'nothing was sent');
  });

  it('end, however small the segments that they are to cut', () => {
    const ring = new HostTransmitRing(engines);
    const mss = 1;
    ring.put([(14 << 9) | 20, 0, TXD_CMD_DEXT | TXD_DTYP_CONTEXT | (1 << 11) | (1 << 10), mss * 65536 + 20 * 256]);
    const command = TXD_CMD_DEXT | TXD_DTYP_DATA | TXD_CMD_TSE | TXD_CMD_EOP;
    ring.putBytes(new Uint8Array(5000), command, (5000 - 54) * 2 ** 14);
    ring.kick();
    assert.equal(engines.sent.length, 5000 - 54);
  });
});
