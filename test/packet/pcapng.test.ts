import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { run } from '../../lab/program.ts';
import {
  EPB_FLAGS_INBOUND,
  EPB_FLAGS_OUTBOUND,
  fileHeader,
  packetBlockBytes,
  statisticsBlock,
  writePacket,
} from '../../packet/pcapng.ts';
import { packet } from '../helpers/plain-packet.ts';

/** The bytes of hex words; what follows a `#` is for people. */
const hex = (text: string): Buffer => Buffer.from(text.replace(/#.*$/gm, '').replace(/\s/g, ''), 'hex');

const HEADER = { hardware: 'x64', os: 'Linux', application: 'ringswitch 1', interfaceName: 'web1', snaplen: 65_550 };
/** 2023-11-14T22:13:20.123456789Z */
const TIME_NS = 1_700_000_000_123_456_789n;
const times = (ns: bigint): { high: number; low: number } => ({
  high: Number(ns >> 32n),
  low: Number(ns & 0xffff_ffffn),
});

/** A packet as a block, of which the first `captured` bytes are kept. */
function block(bytes: Uint8Array, flags: number, { ns = TIME_NS, captured = bytes.length, from = 0 } = {}): Buffer {
  const to = new Uint8Array(packetBlockBytes(captured) + 8).fill(0xaa);
  const shown = new Uint8Array(from + bytes.length);
  shown.set(bytes, from);
  const end = writePacket(
    to,
    new DataView(to.buffer),
    4,
    { ...times(ns), length: bytes.length, bytes: shown, from, captured },
    flags,
  );
  assert.equal(end, 4 + packetBlockBytes(captured));
  assert.ok(
    [...to.subarray(0, 4), ...to.subarray(end)].every((byte) => byte === 0xaa),
    'writes within its block',
  );
  return Buffer.from(to.subarray(4, end));
}

describe('pcapng', () => {
  it('begins with a section and its interface', () => {
    const expected = hex(`
      0a0d0d0a  44000000            # Section Header Block, 68 bytes
      4d3c2b1a  0100 0000           # byte-order magic, version 1.0
      ffffffffffffffff              # section length: unknown
      0200 0300  783634 00          # shb_hardware "x64"
      0300 0500  4c696e7578 000000  # shb_os "Linux"
      0400 0c00  72696e677377697463682031   # shb_userappl "ringswitch 1"
      0000 0000                     # opt_endofopt
      44000000
      01000000  38000000            # Interface Description Block, 56 bytes
      0100 0000  0e000100           # LINKTYPE_ETHERNET, reserved, snaplen 65550
      0200 0400  77656231           # if_name "web1"
      0900 0100  09 000000          # if_tsresol 10^-9 s
      0b00 0900  00 69636d70206f7220 000000  # if_filter, a libpcap string "icmp or "
      0000 0000
      38000000`);
    assert.deepEqual(fileHeader({ ...HEADER, filter: 'icmp or ' }), expected);
    assert.equal(fileHeader(HEADER).length, 68 + 40, 'no if_filter without a filter');
  });

  it('has a block for each packet', () => {
    const expected = hex(`
      06000000  34000000            # Enhanced Packet Block, 52 bytes
      00000000                      # interface 0
      fe9c9717  15cd853d            # time in ns: upper, lower 32 bits
      05000000  07000000            # captured 5 of 7 bytes
      0102030405 000000
      0200 0400  01000000           # epb_flags: inbound
      0000 0000
      34000000`);
    assert.deepEqual(block(Uint8Array.of(1, 2, 3, 4, 5, 6, 7), EPB_FLAGS_INBOUND, { captured: 5, from: 3 }), expected);
    assert.equal(block(new Uint8Array(8), EPB_FLAGS_OUTBOUND).readUInt32LE(28 + 8 + 4), 2);
  });

  it('ends with statistics', () => {
    const statistics = {
      start: 2n ** 32n + 1n,
      end: 2n ** 33n + 5n,
      received: 9,
      accepted: 7,
      dropped: 2,
      delivered: 5,
    };
    const expected = hex(`
      05000000  64000000            # Interface Statistics Block, 100 bytes
      00000000  02000000 05000000   # interface 0, time
      0200 0800  01000000 01000000  # isb_starttime, upper 32 bits first
      0300 0800  02000000 05000000  # isb_endtime
      0400 0800  0900000000000000   # isb_ifrecv
      0500 0800  0200000000000000   # isb_ifdrop
      0600 0800  0700000000000000   # isb_filteraccept
      0800 0800  0500000000000000   # isb_usrdeliv
      0000 0000
      64000000`);
    assert.deepEqual(statisticsBlock(statistics), expected);
    const told = statisticsBlock({ ...statistics, comment: 'gone' });
    assert.deepEqual(told.subarray(20, 28), hex('0100 0400 676f6e65'), 'opt_comment');
  });

  it('keeps an option within its 16 bits', () => {
    const header = fileHeader({ ...HEADER, filter: 'x'.repeat(70_000) });
    assert.equal(header.readUInt16LE(68 + 16 + 8 + 8 + 2), 0xffff);
    assert.equal(header.length % 4, 0);
  });

  it('is read by tshark and capinfos', async function () {
    this.timeout(20_000);
    const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-pcapng-')), 'a.pcapng');
    try {
      const udp = packet({ ipVersion: 4, isTcp: false, payload: new Uint8Array(33) }).bytes;
      const tcp = packet({ ipVersion: 6, isTcp: true, payload: new Uint8Array(1000) }).bytes;
      fs.writeFileSync(
        file,
        Buffer.concat([
          fileHeader({ ...HEADER, filter: 'udp or tcp' }),
          block(udp, EPB_FLAGS_INBOUND),
          block(tcp, EPB_FLAGS_OUTBOUND, { ns: TIME_NS + 1n, captured: 100 }),
          statisticsBlock({ start: TIME_NS, end: TIME_NS + 9n, received: 4, accepted: 3, dropped: 1, delivered: 2 }),
        ]),
      );
      const fields = [
        'frame.time_epoch',
        'frame.len',
        'frame.cap_len',
        'frame.packet_flags_direction',
        'frame.protocols',
      ];
      const read = await run(['tshark', '-r', file, '-T', 'fields', ...fields.flatMap((field) => ['-e', field])]);
      assert.deepEqual(
        read
          .trim()
          .split('\n')
          .map((line) => line.split('\t')),
        [
          ['1700000000.123456789', '75', '75', '0x00000001', 'eth:ethertype:ip:udp:data'],
          ['1700000000.123456790', '1074', '100', '0x00000002', 'eth:ethertype:ipv6:tcp'],
        ],
      );
      const infos = await run(['capinfos', file]);
      for (const line of [
        /Capture application: ringswitch 1$/m,
        /Capture hardware: {4}x64$/m,
        /Name = web1$/m,
        /Filter string = udp or tcp$/m,
        /Time precision = nanoseconds \(9\)$/m,
        /Number of stat entries = 1$/m,
      ]) {
        assert.match(infos, line);
      }
    } finally {
      fs.rmSync(path.dirname(file), { recursive: true });
    }
  });
});
