import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  encodeMessage,
  hasAnswer,
  MAX_PAYLOAD_BYTES,
  readMemTable,
  readSingleRegion,
  readU64,
  readVringAddr,
  readVringFile,
  readVringState,
  requestName,
  u64Reply,
  VhostUserError,
  type VhostUserMessage,
  VhostUserParser,
  vringStateReply,
} from '../../vhost/vhost-user-messages.ts';

// Written down a second time, from the document.
const GET_FEATURES = 1;
const SET_OWNER = 3;
const SET_MEM_TABLE = 5;
const SET_VRING_NUM = 8;
const SET_VRING_ADDR = 9;
const SET_VRING_KICK = 12;
const ADD_MEM_REG = 37;
const REM_MEM_REG = 38;
const NEED_REPLY = 8;

const u32 = (...numbers: number[]): Buffer => Buffer.from(Uint32Array.from(numbers).buffer);
const u64 = (...numbers: bigint[]): Buffer => Buffer.from(BigUint64Array.from(numbers).buffer);
const frame = (request: number, payload: Uint8Array = Buffer.alloc(0), flags = 1): Buffer =>
  Buffer.concat([u32(request, flags, payload.length), payload]);

/** Feeds bytes as a stream would bring them: reads end at `cuts`, and never go beyond a message. */
function parse(bytes: Uint8Array, fds: number[] = [], cuts: number[] = []): VhostUserMessage[] {
  const parser = new VhostUserParser();
  const messages: VhostUserMessage[] = [];
  const ends = [...new Set([...cuts, bytes.length])].sort((a, b) => a - b);
  let at = 0;
  let waiting = fds;
  for (const end of ends) {
    while (at < end) {
      const { room } = parser;
      assert.ok(room.length > 0, 'there is always room');
      const n = Math.min(room.length, end - at);
      room.set(bytes.subarray(at, at + n));
      at += n;
      const message = parser.take(n, waiting);
      waiting = [];
      if (message) messages.push(message);
    }
  }
  return messages;
}

const one = (bytes: Uint8Array, fds: number[] = []): VhostUserMessage => {
  const [message, ...more] = parse(bytes, fds);
  assert.ok(message && more.length === 0);
  return message;
};

describe('vhost-user messages', () => {
  it('are read as the document has them', () => {
    assert.deepEqual(one(frame(SET_OWNER)), {
      request: 3,
      name: 'VHOST_USER_SET_OWNER',
      needReply: false,
      payload: Buffer.alloc(0),
      fds: [],
    });
    assert.equal(one(frame(SET_OWNER, undefined, 1 | NEED_REPLY)).needReply, true);
    assert.deepEqual(readVringState(one(frame(SET_VRING_NUM, u32(3, 256))).payload), { index: 3, num: 256 });
    assert.deepEqual(readVringAddr(one(frame(SET_VRING_ADDR, u64((1n << 32n) | 2n, 10n, 20n, 30n, 40n))).payload), {
      ...{ index: 2, flags: 1 },
      ...{ desc: 10n, used: 20n, avail: 30n, log: 40n },
    });
    const [first, second] = [
      { guestAddress: 0n, size: 0x1000n, userAddress: 0x7f00_0000_0000n, mmapOffset: 0n },
      { guestAddress: 1n << 32n, size: 0x2000n, userAddress: 0x7f00_0000_2000n, mmapOffset: 0x1000n },
    ];
    const words = [first, second].flatMap(({ guestAddress, size, userAddress, mmapOffset }) => [
      ...[guestAddress, size, userAddress, mmapOffset],
    ]);
    const table = one(frame(SET_MEM_TABLE, Buffer.concat([u32(2, 0), u64(...words)])), [7, 8]);
    assert.deepEqual(readMemTable(table.payload), [first, second]);
    assert.deepEqual(table.fds, [7, 8]);
    const single = one(frame(ADD_MEM_REG, u64(0n, ...words.slice(4))), [9]);
    assert.deepEqual(readSingleRegion(single.payload), second);
  });

  it('of kick, call and err say whether a descriptor comes, and must mean it', () => {
    assert.deepEqual(readVringFile(one(frame(SET_VRING_KICK, u64(5n)), [7])), { index: 5, hasFd: true });
    assert.deepEqual(readVringFile(one(frame(SET_VRING_KICK, u64(0x105n)))), { index: 5, hasFd: false });
    const refused = (word: bigint, fds: number[], reason: RegExp): void =>
      assert.throws(() => readVringFile(one(frame(SET_VRING_KICK, u64(word)), fds)), reason);
    refused(5n, [], /^VhostUserError: VHOST_USER_SET_VRING_KICK: ring 5: no descriptor, and no invalid FD flag/);
    refused(0x105n, [7], /ring 5: a descriptor, though there is the invalid FD flag/);
  });

  it('are answered', () => {
    assert.deepEqual(u64Reply(GET_FEATURES, 0x1_0000_0002n), frame(GET_FEATURES, u64(0x1_0000_0002n), 1 | 4));
    assert.deepEqual(vringStateReply(11, { index: 1, num: 77 }), frame(11, u32(1, 77), 1 | 4));
    assert.deepEqual(encodeMessage(SET_OWNER, Buffer.alloc(0), 0), frame(SET_OWNER));
    assert.equal(readU64(u64Reply(1, 5n).subarray(12)), 5n);
    assert.ok(hasAnswer(GET_FEATURES) && !hasAnswer(SET_OWNER) && !hasAnswer(99));
  });

  it('have names, also those that are not served', () => {
    assert.equal(requestName(37), 'VHOST_USER_ADD_MEM_REG');
    assert.equal(requestName(32), 'VHOST_USER_SET_INFLIGHT_FD');
    assert.equal(requestName(4000), 'vhost-user message 4000');
    assert.equal(one(frame(4000, Buffer.alloc(3))).name, 'vhost-user message 4000');
  });

  describe('refused', () => {
    const cases: [what: string, bytes: Buffer, fds: number[], reason: RegExp][] = [
      ['another version', frame(SET_OWNER, undefined, 2), [], /SET_OWNER: version 2, not 1 \(flags 0x2\)/],
      ['no version', frame(SET_OWNER, undefined, 0), [], /version 0, not 1/],
      ['an answer', frame(GET_FEATURES, u64(0n), 5), [], /GET_FEATURES: an answer, though nothing was asked/],
      ['a long payload', u32(SET_OWNER, 1, MAX_PAYLOAD_BYTES + 1), [], /4097 bytes of payload, at most 4096/],
      ['a payload where none belongs', frame(SET_OWNER, u32(1)), [], /SET_OWNER: 4 bytes of payload, not 0/],
      ['a short payload', frame(SET_VRING_ADDR, u64(0n)), [], /SET_VRING_ADDR: 8 bytes of payload, not 40/],
      ['a table without its head', frame(SET_MEM_TABLE, u32(0)), [], /SET_MEM_TABLE: 4 bytes of payload, not 8/],
      ['a table too short', frame(SET_MEM_TABLE, u32(2, 0, 1, 2)), [7, 8], /16 bytes of payload, not 72/],
      ['a table too long', frame(SET_MEM_TABLE, u32(9, 0)), [], /9 regions, at most 8/],
      ['a table with absurdly many', frame(SET_MEM_TABLE, u32(0xffff_ffff, 0)), [], /4294967295 regions, at most 8/],
      [
        'missing descriptors',
        frame(SET_MEM_TABLE, Buffer.concat([u32(1, 0), Buffer.alloc(32)])),
        [],
        /0 descriptors, not 1/,
      ],
      ['descriptors where none belong', frame(SET_OWNER), [7], /SET_OWNER: came with 1 descriptors, not 0/],
      ['two kicks', frame(SET_VRING_KICK, u64(0n)), [7, 8], /came with 2 descriptors, not 0 to 1/],
      ['a region without file', frame(ADD_MEM_REG, Buffer.alloc(40)), [], /0 descriptors, not 1/],
      ['a removal with files', frame(REM_MEM_REG, Buffer.alloc(40)), [7, 8], /2 descriptors, not 0 to 1/],
    ];
    for (const [what, bytes, fds, reason] of cases) {
      it(what, () => {
        assert.throws(
          () => parse(bytes, fds),
          (error: Error) => {
            assert.ok(error instanceof VhostUserError);
            assert.match(error.message, reason);
            return true;
          },
        );
      });
    }

    it('with the descriptors given back', () => {
      const parser = new VhostUserParser();
      const bytes = frame(SET_OWNER, undefined, 2);
      parser.room.set(bytes);
      assert.throws(() => parser.take(bytes.length, [7, 8]), VhostUserError);
      assert.deepEqual(parser.abandon(), [7, 8]);
      assert.deepEqual(parser.abandon(), []);
    });
  });

  it('in the midst are told from those that have ended', () => {
    const parser = new VhostUserParser();
    assert.equal(parser.amidst, false);
    parser.take(1);
    assert.equal(parser.amidst, true);
  });

  const legal = fc.oneof(
    fc.constant(frame(SET_OWNER)),
    fc.tuple(fc.nat(0xffff_ffff), fc.nat(0xffff_ffff)).map(([index, num]) => frame(SET_VRING_NUM, u32(index, num))),
    fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }).map((word) => frame(39, u64(word), 1 | NEED_REPLY)),
    fc.uint8Array({ maxLength: 100 }).map((payload) => frame(4000, payload)),
  );

  it('are the same, wherever the stream is cut', () => {
    fc.assert(
      fc.property(fc.array(legal, { maxLength: 8 }), fc.array(fc.nat(400), { maxLength: 20 }), (frames, cuts) => {
        const bytes = Buffer.concat(frames);
        const messages = parse(
          bytes,
          [],
          cuts.filter((cut) => cut < bytes.length),
        );
        assert.deepEqual(
          Buffer.concat(
            messages.map(({ request, needReply, payload }) => frame(request, payload, needReply ? 1 | NEED_REPLY : 1)),
          ),
          bytes,
        );
      }),
    );
  });

  it('of random bytes are refused or read, and nothing else happens', () => {
    const word = fc.oneof(fc.nat(45), fc.nat(0xffff_ffff));
    const header = fc.tuple(word, fc.oneof(fc.constantFrom(1, 9), word), fc.oneof(fc.nat(300), word));
    const fds = fc.array(fc.nat(1000), { maxLength: 8 });
    fc.assert(
      fc.property(header, fc.uint8Array({ maxLength: 600 }), fds, (head, rest, given) => {
        try {
          for (const message of parse(Buffer.concat([u32(...head), rest]), given)) {
            if (message.request === SET_VRING_KICK) readVringFile(message);
            if (message.request === SET_MEM_TABLE) {
              assert.equal(readMemTable(message.payload).length, message.fds.length, 'a descriptor for each region');
            }
            if (message.request === ADD_MEM_REG || message.request === REM_MEM_REG) readSingleRegion(message.payload);
            if (message.request === SET_VRING_ADDR) readVringAddr(message.payload);
          }
        } catch (error) {
          assert.ok(error instanceof VhostUserError, String(error));
        }
      }),
      { numRuns: 2000 },
    );
  });
});
