import assert from 'node:assert/strict';
import fc from 'fast-check';
import { compileFilter } from '../../linux/pcap.ts';
import { BpfError, type BpfInstruction, BpfProgram, MORE } from '../../packet/bpf.ts';
import { verdictOfLibpcap } from '../helpers/libpcap.ts';
import { packet } from '../helpers/plain-packet.ts';

const SNAPLEN = 65_550;
const RET_K = 0x06;
const RET_A = 0x16;
const LD_B_ABS = 0x30;
const LD_H_ABS = 0x28;
const LD_W_ABS = 0x20;
const LD_W_IND = 0x40;
const LD_LEN = 0x80;
const JA = 0x05;
const JEQ_K = 0x15;

/** Runs a program on a frame of which more and more is at hand, from `present` bytes on, as a lane does. */
function verdict(program: BpfProgram, frame: Uint8Array, present = frame.length): number {
  for (let have = Math.min(present, frame.length); ; ) {
    const room = new Uint8Array(have + 7).fill(0xee);
    room.set(frame.subarray(0, have), 3);
    const result = program.run(room, 3, have, frame.length);
    if (result !== MORE) return result;
    assert.ok(program.needed > have && program.needed <= frame.length, `asked for ${program.needed} with ${have}`);
    have = program.needed;
  }
}

const FILTERS = [
  '',
  'ip',
  'ip6',
  'arp',
  'icmp',
  'tcp',
  'udp port 53',
  'tcp dst port 80',
  'port 80 or port 443',
  'portrange 1000-2000',
  'host 10.0.0.1',
  'src net 10.0.0.0/8 and not dst host 10.0.0.2',
  'ip6 host fd00::1',
  'ether host 02:00:00:00:00:01',
  'ether broadcast',
  'ether multicast',
  'vlan',
  'vlan 5 and tcp',
  'vlan 5 and vlan 5 and ip6',
  'less 64',
  'greater 100',
  'len % 7 = 3',
  'tcp[tcpflags] & (tcp-syn|tcp-fin) != 0',
  'tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420',
  'ip[6:2] & 0x1fff != 0',
  'ip proto 6 and ip[2:2] > 200',
  'ether[200:4] & 0xff00ff00 = 0x12003400',
  'ether[300] * 3 + len / 2 > 400',
  'not ip and not ip6',
  'icmp6 or (udp and not port 1234)',
];

/** Frames as they are on a wire, some of them damaged. */
const frames: fc.Arbitrary<Uint8Array> = fc.oneof(
  fc.uint8Array({ minLength: 0, maxLength: 400 }),
  fc
    .record({
      ipVersion: fc.constantFrom(4 as const, 6 as const),
      isTcp: fc.boolean(),
      tags: fc.array(fc.constantFrom(0x8100, 0x88a8), { maxLength: 2 }),
      payload: fc.oneof(
        fc.uint8Array({ maxLength: 500 }),
        fc.uint8Array({ maxLength: 50 }).map((rest) => Buffer.concat([Buffer.from('GET /'), rest])),
      ),
      ports: fc.record({ from: fc.constantFrom(53, 80, 1234, 5000), to: fc.constantFrom(53, 80, 443, 1500) }),
      damage: fc.array(fc.tuple(fc.nat(100), fc.nat(255)), { maxLength: 3 }),
      cut: fc.option(fc.nat(120)),
    })
    .map(({ damage, cut, ...shape }) => {
      const bytes = packet(shape).bytes.slice(0, cut ?? undefined);
      for (const [at, value] of damage) if (at < bytes.length) bytes[at] = value;
      return bytes;
    }),
);

/** Programs that no compiler would make, all of which end. */
const programs: fc.Arbitrary<BpfInstruction[]> = fc
  .array(
    fc.oneof(
      fc.tuple(fc.constantFrom(0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1), fc.nat(130)),
      fc.tuple(fc.constantFrom(0x40, 0x48, 0x50), fc.integer({ min: 0xffff_fff0, max: 0xffff_ffff })),
      fc.tuple(fc.constantFrom(0x00, 0x01), fc.oneof(fc.nat(0xffff_ffff), fc.nat(64))),
      fc.tuple(fc.constantFrom(0x80, 0x81, 0x07, 0x87, 0x84), fc.constant(0)),
      fc.tuple(fc.constantFrom(0x60, 0x61, 0x02, 0x03), fc.nat(15)),
      fc.tuple(fc.constantFrom(0x04, 0x14, 0x24, 0x44, 0x54, 0xa4), fc.nat(0xffff_ffff)),
      fc.tuple(fc.constantFrom(0x0c, 0x1c, 0x2c, 0x3c, 0x4c, 0x5c, 0x6c, 0x7c, 0x9c, 0xac), fc.constant(0)),
      fc.tuple(fc.constantFrom(0x34, 0x94), fc.integer({ min: 1, max: 0xffff_ffff })),
      fc.tuple(fc.constantFrom(0x64, 0x74), fc.nat(31)),
      fc.tuple(
        fc.constantFrom(0x15, 0x25, 0x35, 0x45, 0x1d, 0x2d, 0x3d, 0x4d),
        fc.oneof(fc.nat(0xffff_ffff), fc.nat(9)),
      ),
      fc.tuple(fc.constant(JA), fc.nat(3)),
      fc.tuple(fc.constantFrom(RET_K, RET_A), fc.nat(0xffff_ffff)),
    ),
    { minLength: 1, maxLength: 24 },
  )
  .chain((body) =>
    fc.array(fc.tuple(fc.nat(4), fc.nat(4)), { minLength: body.length, maxLength: body.length }).map((jumps) => [
      // libpcap begins with whatever stands in its memory.
      ...Array.from({ length: 16 }, (_, word): BpfInstruction => [0x02, 0, 0, word]),
      ...body.map(([code, k], i): BpfInstruction => {
        const farthest = body.length - i - 1;
        const [jt, jf] = (code & 7) === 5 && code !== JA ? jumps[i]! : [0, 0];
        return [code, Math.min(jt, farthest), Math.min(jf, farthest), code === JA ? Math.min(k, farthest) : k];
      }),
      [RET_A, 0, 0, 0] as const,
    ]),
  );

describe('BpfProgram', () => {
  for (const filter of FILTERS) {
    it(`judges as libpcap does: ${filter || 'everything'}`, () => {
      const instructions = compileFilter(filter, SNAPLEN);
      const program = new BpfProgram(instructions);
      fc.assert(
        fc.property(frames, fc.nat(200), (frame, present) => {
          const expected = verdictOfLibpcap(instructions, frame);
          assert.equal(verdict(program, frame), expected);
          assert.equal(verdict(program, frame, present), expected, `with ${present} bytes at hand`);
        }),
        { numRuns: 150 },
      );
    });
  }

  it('finds frames of either kind', () => {
    // That the judge above does not say 0 to everything.
    const shape = { ipVersion: 4, isTcp: true, payload: Buffer.from('GET / HTTP/1.1') } as const;
    const frame = packet(shape).bytes;
    const matching = FILTERS.filter((filter) => verdict(new BpfProgram(compileFilter(filter, SNAPLEN)), frame) > 0);
    assert.ok(matching.includes('tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420'));
    assert.ok(matching.includes('tcp dst port 80') && !matching.includes('udp port 53'));
    assert.ok(matching.length > 5 && matching.length < FILTERS.length - 5, matching.join('; '));
  });

  it('runs any program as libpcap does', () => {
    fc.assert(
      fc.property(programs, frames, fc.nat(130), (instructions, frame, present) => {
        const program = new BpfProgram(instructions);
        const expected = verdictOfLibpcap(instructions, frame);
        assert.equal(verdict(program, frame), expected);
        assert.equal(verdict(program, frame, present), expected, `with ${present} bytes at hand`);
      }),
      { numRuns: 2000 },
    );
  });

  it('shifts by 32 and more to nothing', () => {
    for (const code of [0x64, 0x74]) {
      const program = new BpfProgram([
        [0x00, 0, 0, 5],
        [code, 0, 0, 32],
        [RET_A, 0, 0, 0],
      ]);
      assert.equal(verdict(program, new Uint8Array(60)), 0);
    }
  });

  it('asks for no more than it needs', () => {
    const program = new BpfProgram([
      [LD_H_ABS, 0, 0, 12],
      [JEQ_K, 0, 1, 0x0800],
      [LD_W_ABS, 0, 0, 196],
      [RET_A, 0, 0, 0],
    ]);
    const ip = new Uint8Array(60);
    ip[12] = 8;
    assert.equal(program.run(ip, 0, 60, 300), MORE);
    assert.equal(program.needed, 200);
    assert.equal(program.run(ip, 0, 60, 199), 0, 'beyond the end of the frame');
    ip[12] = 0;
    assert.equal(program.run(ip, 0, 60, 300), 0, 'decided without');
    const length = new BpfProgram([
      [LD_LEN, 0, 0, 0],
      [RET_A, 0, 0, 0],
    ]);
    assert.equal(length.run(ip, 0, 60, 9000), 9000);
  });

  describe('refuses', () => {
    const ret: BpfInstruction = [RET_K, 0, 0, 0];
    const cases: [what: string, program: BpfInstruction[], message: RegExp][] = [
      ['no program', [], /1 to 4096 instructions, this one 0$/],
      ['too many instructions', Array(4097).fill(ret), /this one 4097$/],
      ['an unknown code', [[0xff, 0, 0, 0], ret], /^instruction 0 of the filter: there is no code 0xff$/],
      ['a code of another size', [[0xb0, 0, 0, 0], ret], /no code 0xb0$/],
      [
        'a jump beyond the end',
        [[JEQ_K, 0, 1, 0], ret],
        /instruction 0 of the filter: it jumps beyond the last one, 1$/,
      ],
      ['a far jump beyond the end', [[JA, 0, 0, 0x7fff_ffff], ret], /jumps beyond/],
      [
        'a loop',
        compileFilter('ip6 protochain 17', SNAPLEN),
        /it jumps back \(as "protochain" does\): a filter has no l/,
      ],
      [
        'a jump back',
        [ret, [JA, 0, 0, -1], ret],
        /^instruction 1 of the filter: jt 0 and jf 0 are of 8 bits, k -1 of 32$/,
      ],
      ['a wide jt', [[JEQ_K, 256, 0, 0], ret], /jt 256/],
      ['no integer', [[RET_K, 0, 0, 0.5]], /k 0.5 of 32$/],
      ['a word of memory that is not there', [[0x02, 0, 0, 16], ret], /there are 16 words of memory, no word 16$/],
      ['a division by 0', [[0x34, 0, 0, 0], ret], /it divides by 0$/],
      ['a remainder by 0', [[0x94, 0, 0, 0], ret], /it divides by 0$/],
      ['an end without a return', [ret, [LD_LEN, 0, 0, 0]], /^instruction 1 of the filter: the last one is no return$/],
      ['what only Linux knows', compileFilter('inbound', SNAPLEN), /no byte of a frame; for "inbound" .* --direction$/],
    ];
    for (const [what, program, message] of cases) {
      it(what, () => {
        assert.throws(
          () => new BpfProgram(program),
          (error) => error instanceof BpfError && message.test(error.message),
        );
      });
    }

    it('nothing that is only far away', () => {
      const program = new BpfProgram([
        [LD_B_ABS, 0, 0, 0x7fff_ffff],
        [RET_K, 0, 0, 1],
      ]);
      assert.equal(verdict(program, new Uint8Array(60)), 0);
      const indirect = new BpfProgram([
        [0x01, 0, 0, 0xffff_ffff],
        [LD_W_IND, 0, 0, 1],
        [RET_K, 0, 0, 1],
      ]);
      // Not address 0: X + k does not wrap.
      assert.equal(verdict(indirect, new Uint8Array(60)), 0);
    });
  });
});
