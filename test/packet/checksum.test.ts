import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  completePartialChecksum,
  finish,
  finishUdp,
  fold,
  pseudoHeaderSumIpv4,
  pseudoHeaderSumIpv6,
  sum,
} from '../../packet/checksum.ts';

/** Annotated hex: what stands after a `#` is a comment. */
function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text.replace(/#.*$/gm, '').replace(/\s/g, ''), 'hex'));
}

/** RFC 1071 as one would say it: the big-endian words as one big number, modulo 2^16 - 1. */
function plainSum(bytes: Uint8Array): number {
  let total = 0n;
  for (let i = 0; i < bytes.length; i += 2) total += BigInt(bytes[i] * 256 + (bytes[i + 1] ?? 0));
  if (total === 0n) return 0;
  const rest = Number(total % 0xffffn);
  return rest === 0 ? 0xffff : rest;
}

describe('Internet checksum', () => {
  it("sums RFC 1071's own example", () => {
    // RFC 1071 §3: the sum of these bytes is ddf2.
    const bytes = hex('00 01 f2 03 f4 f5 f6 f7');
    assert.equal(fold(sum(bytes, 0, 8, 0)), 0xddf2);
    assert.equal(finish(sum(bytes, 0, 8, 0)), 0x220d);
  });

  it('finds a correct IPv4 header correct', () => {
    const header = hex(`
      45 00 00 73   # version, IHL; DSCP; total length 115
      00 00 40 00   # ID; DF
      40 11 b8 61   # TTL 64; UDP; header checksum
      c0 a8 00 01   # 192.168.0.1
      c0 a8 00 c7   # 192.168.0.199`);
    assert.equal(finish(sum(header, 0, 20, 0)), 0);
    header[10] = header[11] = 0;
    assert.equal(finish(sum(header, 0, 20, 0)), 0xb861);
  });

  it('agrees with plain arithmetic on any range, in one piece or several', () => {
    const property = fc.property(
      fc.uint8Array({ maxLength: 300, size: 'max' }),
      fc.nat(300),
      fc.nat(300),
      fc.nat(150),
      (bytes, a, b, cut) => {
        const start = Math.min(a, b, bytes.length);
        const end = Math.min(Math.max(a, b), bytes.length);
        const expected = plainSum(bytes.slice(start, end));
        assert.equal(fold(sum(bytes, start, end, 0)), expected);
        const middle = Math.min(start + 2 * cut, end - ((end - start) & 1));
        assert.equal(fold(sum(bytes, middle, end, sum(bytes, start, middle, 0))), expected);
      },
    );
    fc.assert(property, { numRuns: 500 });
  });

  it('does not overflow on the longest and heaviest ranges', () => {
    const bytes = new Uint8Array(1_000_001).fill(0xff);
    for (const length of [65_534, 65_535, 65_550, 131_072, 1_000_001]) {
      const partial = sum(bytes, 0, length, 0xffff_ffff);
      assert.ok(partial >= 0 && partial < 2 ** 17);
      // All-ones words leave a sum of all ones; a last odd byte is the word ff00.
      assert.equal(fold(partial), length % 2 === 0 ? 0xffff : 0xff00);
    }
    assert.equal(sum(bytes, 5, 5, 0), 0);
  });

  it('folds and finishes the extremes', () => {
    assert.equal(fold(0xffff_ffff), 0xffff);
    assert.equal(fold(0x1_0000), 1);
    assert.equal(fold(0), 0);
    assert.equal(finish(0xffff), 0);
    assert.equal(finishUdp(0xffff), 0xffff);
    assert.equal(finishUdp(0), 0xffff);
    assert.equal(finishUdp(0x1234), 0xedcb);
  });

  it('sums the pseudo headers of IPv4 and IPv6', () => {
    const v4 = hex('ff c0 a8 00 01 c0 a8 00 c7');
    assert.equal(fold(pseudoHeaderSumIpv4(v4, 1, 17, 95)), plainSum(hex('c0a80001 c0a800c7 0011 005f')));
    const v6 = hex('fd000000000000000000000000000001 fd00000000000000000000000000ff02');
    assert.equal(
      fold(pseudoHeaderSumIpv6(v6, 0, 6, 0x1_8001)),
      plainSum(hex('fd000000000000000000000000000001 fd00000000000000000000000000ff02 00018001 00000006')),
    );
  });
});

describe('completePartialChecksum', () => {
  /** A UDP datagram, 10.0.0.1:1000 to 10.0.0.2:2000, as a guest sends it with NEEDS_CSUM. */
  const PARTIAL_UDP = `
    02 00 00 00 00 02  02 00 00 00 00 01  08 00   # Ethernet
    45 00 00 1f 00 01 00 00 40 11 66 cb           # IPv4, 31 bytes, UDP
    0a 00 00 01 0a 00 00 02
    03 e8 07 d0 00 0b                             # ports; UDP length 11
    14 1f                                         # the pseudo header's sum: 0a00+0001+0a00+0002+0011+000b
    61 62 63                                      # "abc"`;
  const UDP_START = 34;

  it('completes a UDP checksum', () => {
    const frame = hex(PARTIAL_UDP);
    assert.equal(completePartialChecksum(frame, frame.length, UDP_START, 6), true);
    // 03e8+07d0+000b+141f+6162+6300 = e444
    assert.equal((frame[40] << 8) | frame[41], 0xffff - 0xe444);
    const pseudo = hex('0a000001 0a000002 0011 000b');
    assert.equal(plainSum(Uint8Array.from([...pseudo, ...frame.subarray(UDP_START)])), 0xffff);
  });

  it('writes 0xffff where a UDP checksum comes out as 0, and 0 where a TCP one does', () => {
    const frame = hex(PARTIAL_UDP);
    // e444 + 1bbb = ffff: the sum is all ones, the checksum 0.
    frame[40] = (0x141f + 0x1bbb) >>> 8;
    frame[41] = (0x141f + 0x1bbb) & 0xff;
    assert.equal(completePartialChecksum(frame, frame.length, UDP_START, 6), true);
    assert.deepEqual([frame[40], frame[41]], [0xff, 0xff]);
    const tcp = new Uint8Array(18).fill(0xff);
    assert.equal(completePartialChecksum(tcp, 18, 0, 16), true);
    assert.deepEqual([tcp[16], tcp[17]], [0, 0]);
  });

  it('leaves bytes past the length out of the sum', () => {
    const frame = hex(`${PARTIAL_UDP}\nff ff ff`);
    assert.equal(completePartialChecksum(frame, frame.length - 3, UDP_START, 6), true);
    assert.equal((frame[40] << 8) | frame[41], 0xffff - 0xe444);
  });

  it('refuses fields outside the frame, and writes nothing', () => {
    const untouched = hex(PARTIAL_UDP);
    const { length } = untouched;
    const refused: [length: number, csumStart: number, csumOffset: number][] = [
      [length + 1, UDP_START, 6], // the length lies
      [length, length, 0],
      [length, length - 1, 0], // one byte short
      [length, UDP_START, length - UDP_START - 1],
      [length, 0xffff, 0xffff],
      [length, -1, 6],
      [length, 6, -1],
      [1, 0, 0],
      [0, 0, 0],
      [length, Number.NaN, 6],
      [Number.NaN, UDP_START, 6],
    ];
    for (const [frameLength, csumStart, csumOffset] of refused) {
      const frame = untouched.slice();
      assert.equal(
        completePartialChecksum(frame, frameLength, csumStart, csumOffset),
        false,
        `${frameLength} ${csumStart} ${csumOffset}`,
      );
      assert.deepEqual(frame, untouched);
    }
    const last = untouched.slice();
    assert.equal(completePartialChecksum(last, length, length - 2, 0), true, 'the last two bytes are inside');
  });
});
