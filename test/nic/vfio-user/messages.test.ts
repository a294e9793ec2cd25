import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  commandName,
  composeDmaMap,
  composeDmaUnmap,
  composeIrqInfo,
  composeIrqSet,
  composeMessage,
  composeRegionAccess,
  composeRegionInfo,
  composeVersion,
  MAX_DATA_BYTES,
  MAX_MESSAGE_BYTES,
  MAX_MESSAGE_FDS,
  parseDmaMap,
  parseDmaUnmap,
  parseIrqInfo,
  parseIrqSet,
  parseRegionData,
  parseRegionInfoRequest,
  parseRegionRead,
  parseVersion,
  regionDataOf,
  VfioUserError,
  type VfioUserMessage,
  VfioUserParser,
} from '../../../nic/vfio-user/messages.ts';

const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ''), 'hex');
/** A VERSION body as another implementation writes it. */
const versionBody = (data: string | Buffer, numbers = '0000 0100'): Buffer =>
  Buffer.concat([hex(numbers), Buffer.from(data)]);

/** Feeds bytes as a stream would bring them: reads end at `cuts`, and never go beyond a message. */
function parse(bytes: Uint8Array, fds: number[] = [], cuts: number[] = []): VfioUserMessage[] {
  const parser = new VfioUserParser();
  const messages: VfioUserMessage[] = [];
  let waiting = fds;
  for (let at = 0; at < bytes.length; ) {
    const { room } = parser;
    assert.ok(room.length > 0, 'there is always room');
    const cut = cuts.find((other) => other > at) ?? bytes.length;
    const n = Math.min(room.length, cut - at);
    room.set(bytes.subarray(at, at + n));
    at += n;
    const message = parser.take(n, waiting);
    waiting = [];
    if (message) messages.push({ ...message, body: Buffer.from(message.body) });
  }
  return messages;
}

describe('vfio-user messages', () => {
  it('are read as the document has them', () => {
    const bytes = hex('3412 0300 28000000 10000000 00000000' + '18000000 00000000 0000100000000000 0010000000000000');
    const [message, ...more] = parse(bytes, [7]);
    assert.equal(more.length, 0);
    const { id, command, flags, error, body, fds } = message!;
    assert.deepEqual([id, command, flags, error, fds], [0x1234, 3, 0x10, 0, [7]]);
    assert.deepEqual(parseDmaUnmap(body), { address: 0x100000, size: 0x1000 });
  });

  it('are written as the document has them', () => {
    const error = composeMessage(0xffee, 8, 0x21, Buffer.alloc(0), 22);
    assert.equal(error.toString('hex'), 'eeff0800' + '10000000' + '21000000' + '16000000');
    assert.equal(
      composeMessage(1, 9, 1, hex('aabb')).toString('hex'),
      `${'01000900' + '12000000' + '01000000'}00000000aabb`,
    );
  });

  it('have bodies as the document has them', () => {
    const map = { offset: 0x2000, address: 0x1_0000_0000, size: 0x20_0000, readable: true, writable: false };
    const mapBytes = hex('20000000 01000000 0020000000000000 0000000001000000 0000200000000000');
    assert.deepEqual(composeDmaMap(map), mapBytes);
    assert.deepEqual(parseDmaMap(mapBytes), map);
    assert.deepEqual(
      composeDmaUnmap({ address: 4096, size: 8192 }),
      hex('18000000 00000000 0010000000000000 0020000000000000'),
    );
    assert.equal(parseDmaUnmap(hex('18000000 02000000 0000000000000000 0000000000000000')), null, 'everything');
    assert.deepEqual(
      composeRegionInfo({ index: 7, flags: 3, size: 4096 }),
      hex('20000000 03000000 07000000 00000000 0010000000000000 0000000000000000'),
    );
    assert.equal(parseRegionInfoRequest(composeRegionInfo({ index: 7, flags: 0, size: 0 })), 7);
    assert.deepEqual(parseIrqInfo(hex('10000000 09000000 02000000 40000000')), { flags: 9, index: 2, count: 64 });
    assert.deepEqual(composeIrqInfo({ flags: 9, index: 2, count: 64 }), hex('10000000 09000000 02000000 40000000'));
    const bools = { data: 2, action: 8, index: 2, start: 3, count: 2, chosen: [true, false] };
    assert.deepEqual(composeIrqSet(bools), hex('16000000 0a000000 02000000 03000000 02000000 0100'));
    assert.deepEqual(parseIrqSet(composeIrqSet(bools)), bools);
    const access = { offset: 0x42a4, region: 0, count: 4 };
    assert.deepEqual(composeRegionAccess(access), hex('a442000000000000 00000000 04000000'));
    assert.deepEqual(parseRegionRead(composeRegionAccess(access)), access);
    const write = composeRegionAccess(access, 4);
    regionDataOf(write).writeUInt32LE(0x12345678);
    assert.equal(parseRegionData(write).data.toString('hex'), '78563412');
  });

  it('agree on a version, with or without capabilities', () => {
    const defaults = { max_msg_fds: 1, max_data_xfer_size: 2 ** 20, max_dma_maps: 65_535, pgsizes: 4096 };
    assert.deepEqual(parseVersion(hex('0000 0100')), { major: 0, minor: 1, capabilities: defaults });
    assert.deepEqual(parseVersion(versionBody('{}\0')).capabilities, defaults);
    const qemu =
      '{"capabilities": {"max_msg_fds": 8, "max_data_xfer_size": 1048576, "write_multiple": true, "x": {}}}\0';
    assert.deepEqual(parseVersion(versionBody(qemu)).capabilities, { ...defaults, max_msg_fds: 8 });
    const composed = composeVersion({ major: 0, minor: 1, capabilities: { max_msg_fds: 16 } });
    assert.equal(composed.toString('latin1'), '\0\0\x01\0{"capabilities":{"max_msg_fds":16}}\0');
  });

  const refused: [what: string, act: () => unknown, told: RegExp][] = [
    ['a version of 3 bytes', () => parseVersion(hex('000001')), /^3 bytes of body, at least 4$/],
    ['version data without an end', () => parseVersion(versionBody('{}')), /does not end with its only NUL/],
    ['version data with two ends', () => parseVersion(versionBody('{}\0\0')), /does not end with its only NUL/],
    ['version data that is no JSON', () => parseVersion(versionBody('{]\0')), /version data is no JSON: /],
    ['version data that is no UTF-8', () => parseVersion(versionBody(hex('22ff2200'))), /version data is no JSON: /],
    ['version data that is an array', () => parseVersion(versionBody('[]\0')), /no JSON object/],
    ['capabilities that are a word', () => parseVersion(versionBody('{"capabilities":"x"}\0')), /capabilities are no/],
    [
      'a capability that is a word',
      () => parseVersion(versionBody('{"capabilities":{"max_msg_fds":"x"}}\0')),
      /max_msg_fds is "x"/,
    ],
    ['a capability below zero', () => parseVersion(versionBody('{"capabilities":{"pgsizes":-1}}\0')), /pgsizes is -1/],
    ['a map that is too short', () => parseDmaMap(Buffer.alloc(31)), /^31 bytes of body, not 32$/],
    ['a map that is too long', () => parseDmaMap(Buffer.alloc(33)), /^33 bytes of body, not 32$/],
    ['a map with other flags', () => parseDmaMap(Buffer.concat([hex('20000000 04000000'), Buffer.alloc(24)])), /0x4/],
    [
      'a map beyond what numbers hold',
      () => parseDmaMap(hex('20000000 03000000 0000000000000000 0000000000002000 0010000000000000')),
      /^address 0x20000000000000 is out of range$/,
    ],
    [
      'an unmap with other flags',
      () => parseDmaUnmap(hex('18000000 01000000 0000000000000000 0000000000000000')),
      /0x1/,
    ],
    [
      'an unmap of everything and more',
      () => parseDmaUnmap(hex('18000000 02000000 0010000000000000 0000000000000000')),
      /everything, and a range besides/,
    ],
    ['a question for a region, cut', () => parseRegionInfoRequest(Buffer.alloc(8)), /^8 bytes of body, at least 32$/],
    ['a question for interrupts, cut', () => parseIrqInfo(Buffer.alloc(15)), /^15 bytes of body, at least 16$/],
    [
      'interrupts without data',
      () => parseIrqSet(hex('14000000 20000000 02000000 00000000 00000000')),
      /0x20: one kind/,
    ],
    [
      'interrupts without action',
      () => parseIrqSet(hex('14000000 01000000 02000000 00000000 00000000')),
      /0x1: one kind/,
    ],
    ['two kinds of data', () => parseIrqSet(hex('14000000 25000000 02000000 00000000 00000000')), /0x25: one kind/],
    ['two actions', () => parseIrqSet(hex('14000000 31000000 02000000 00000000 00000000')), /0x31: one kind/],
    [
      'too few bools',
      () => parseIrqSet(hex('15000000 22000000 02000000 00000000 02000000 01')),
      /21 bytes of body, not 22/,
    ],
    ['bools nobody announced', () => parseIrqSet(hex('15000000 21000000 02000000 00000000 01000000 01')), /not 20/],
    ['a read with data', () => parseRegionRead(Buffer.alloc(20)), /^20 bytes of body, not 16$/],
    [
      'a read of too much',
      () => parseRegionRead(composeRegionAccess({ offset: 0, region: 0, count: MAX_DATA_BYTES + 1 })),
      /1048577 bytes of data, at most 1048576/,
    ],
    [
      'a write of less than announced',
      () => parseRegionData(composeRegionAccess({ offset: 0, region: 0, count: 4 }, 3)),
      /4 bytes of data announced, and 3 came/,
    ],
  ];
  for (const [what, act, told] of refused) {
    it(`refuse ${what}`, () => {
      assert.throws(act, (error: unknown) => {
        assert.ok(error instanceof VfioUserError, String(error));
        assert.match(error.message, told);
        assert.equal(error.errno, 22);
        return true;
      });
    });
  }

  it('of an impossible size end the stream, and give their descriptors back', () => {
    for (const size of [0, 15, MAX_MESSAGE_BYTES + 1, 0xffff_ffff]) {
      const parser = new VfioUserParser();
      const bytes = composeMessage(1, 2, 0, Buffer.alloc(0));
      bytes.writeUInt32LE(size, 4);
      parser.room.set(bytes);
      assert.throws(() => parser.take(bytes.length, [7, 8]), new RegExp(`DMA_MAP: it says that it has ${size} bytes`));
      assert.deepEqual(parser.abandon(), [7, 8]);
      assert.deepEqual(parser.abandon(), []);
    }
  });

  it('that bring a descriptor with each of their bytes end the stream', () => {
    const parser = new VfioUserParser();
    for (let i = 0; i < MAX_MESSAGE_FDS; i++) assert.equal(parser.take(0, [i]), null);
    assert.equal(parser.amidst, false);
    assert.throws(() => parser.take(1, [99]), /came with 17 descriptors; at most 16 are possible/);
    assert.equal(parser.abandon().length, MAX_MESSAGE_FDS + 1);
  });

  it('may be as long as the longest write', () => {
    const body = composeRegionAccess({ offset: 0, region: 0, count: MAX_DATA_BYTES }, MAX_DATA_BYTES);
    regionDataOf(body).fill(0x5a);
    const [first, second] = parse(
      Buffer.concat([composeMessage(1, 10, 0, body), composeMessage(2, 13, 0, Buffer.alloc(0))]),
    );
    assert.deepEqual(parseRegionData(first!.body).data, Buffer.alloc(MAX_DATA_BYTES, 0x5a));
    assert.equal(second!.id, 2);
  });

  it('have names, those that are not served too', () => {
    assert.deepEqual([2, 6, 15, 4711].map(commandName), [
      'DMA_MAP',
      'DEVICE_GET_REGION_IO_FDS',
      'REGION_WRITE_MULTI',
      'command 4711',
    ]);
  });

  it('are the same, wherever the stream is cut', () => {
    const word = fc.nat(0xffff);
    const frame = fc.tuple(word, word, fc.nat(0xffff_ffff), fc.uint8Array({ maxLength: 200 }), fc.nat(0xffff_ffff));
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 6 }), fc.array(fc.nat(1200), { maxLength: 30 }), (frames, cuts) => {
        const bytes = Buffer.concat(frames.map((parts) => composeMessage(...parts)));
        const messages = parse(
          bytes,
          [],
          cuts.sort((a, b) => a - b),
        );
        assert.deepEqual(
          messages.map(({ id, command, flags, body, error }) => [id, command, flags, new Uint8Array(body), error]),
          frames,
        );
      }),
    );
  });

  it('say after reading what was written', () => {
    const page = fc.nat(2 ** 31).map((n) => n * 4096);
    fc.assert(
      fc.property(page, page, page, fc.boolean(), fc.boolean(), (address, size, offset, readable, writable) => {
        const range = { address, size, offset, readable, writable };
        assert.deepEqual(parseDmaMap(composeDmaMap(range)), range);
        assert.deepEqual(parseDmaUnmap(composeDmaUnmap(range)), { address, size });
      }),
    );
  });

  it('of random bytes are refused or read, and nothing else happens', () => {
    const parsers = [
      parseVersion,
      parseDmaMap,
      parseDmaUnmap,
      parseRegionInfoRequest,
      parseIrqInfo,
      parseIrqSet,
      parseRegionRead,
      parseRegionData,
    ];
    const small = fc.constantFrom(0, 1, 2, 4, 8, 16, 32, 33, 34, 36);
    const likely = fc.array(fc.oneof(small, fc.nat(0xffff_ffff)), { maxLength: 10 });
    const words = likely.map((values) => Buffer.from(Uint32Array.from(values).buffer));
    const bytes = fc.oneof(
      words,
      fc.uint8Array({ maxLength: 64 }).map((array) => Buffer.from(array)),
    );
    fc.assert(
      fc.property(fc.constantFrom(...parsers), bytes, (parser, body) => {
        try {
          parser(body);
        } catch (error) {
          assert.ok(error instanceof VfioUserError, String(error));
        }
      }),
      { numRuns: 3000 },
    );
  });
});
