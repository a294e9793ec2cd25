/** Checksums and segmentation against a reference that writes each segment's headers out from scratch. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  CONTEXT_MACLEN_SHIFT,
  CONTEXT_TUCMD_IPV4,
  CONTEXT_TUCMD_L4T_SCTP,
  CONTEXT_TUCMD_L4T_TCP,
  CONTEXT_TUCMD_L4T_UDP,
  TXD_CC,
  TXD_CMD_DEXT,
  TXD_CMD_EOP,
  TXD_CMD_IFCS,
  TXD_CMD_RS,
  TXD_CMD_TSE,
  TXD_CMD_VLE,
  TXD_DTYP_CONTEXT,
  TXD_DTYP_DATA,
  TXD_PAYLEN_SHIFT,
  TXD_POPTS_IXSM,
  TXD_POPTS_TXSM,
} from '../../../nic/descriptors.ts';
import { DTXTCPFLGH, DTXTCPFLGL } from '../../../nic/registers.ts';
import { Engines, finished, HostTransmitRing } from '../../helpers/engines-under-test.ts';
import { frameBytes } from '../../helpers/frame-bytes.ts';
import { checksumsVerify, onesSum, type Packet, packet } from '../../helpers/plain-packet.ts';

const DATA = TXD_CMD_DEXT | TXD_DTYP_DATA | TXD_CMD_IFCS;
const CONTEXT = TXD_CMD_DEXT | TXD_DTYP_CONTEXT;
const [FIN, SYN, PSH, ACK, CWR] = [0x01, 0x02, 0x08, 0x10, 0x80];
const TCP_OPTIONS = Buffer.from('0101080a0000000100000002', 'hex');

interface Offload {
  packet: Packet;
  ipVersion: 4 | 6;
  isTcp: boolean;
  l4Length?: number;
  mss?: number;
  vlanTag?: number;
  /** IXSM and TXSM. */
  options?: number;
  l4Type?: number;
}

/** Sends a frame with its context descriptor; `parts` cuts it into buffers. */
function send(engines: Engines, ring: HostTransmitRing, offload: Offload, parts = [0]): Uint8Array[] {
  const { packet: shape, ipVersion, isTcp, l4Length = 0, mss, vlanTag } = offload;
  const { options = TXD_POPTS_TXSM | (ipVersion === 4 ? TXD_POPTS_IXSM : 0) } = offload;
  const { l4Type = isTcp ? CONTEXT_TUCMD_L4T_TCP : CONTEXT_TUCMD_L4T_UDP } = offload;
  const lengths = (shape.ip << CONTEXT_MACLEN_SHIFT) | (shape.transport - shape.ip);
  const tucmd = CONTEXT | l4Type | (ipVersion === 4 ? CONTEXT_TUCMD_IPV4 : 0);
  ring.put([lengths + (vlanTag ?? 0) * 2 ** 16, 0, tucmd, (mss ?? 0) * 2 ** 16 + l4Length * 256]);
  const payload = shape.bytes.length - (mss === undefined ? 0 : shape.transport + l4Length);
  const command = DATA | (mss === undefined ? 0 : TXD_CMD_TSE) | (vlanTag === undefined ? 0 : TXD_CMD_VLE);
  for (const [i, from] of parts.entries()) {
    const isLast = i === parts.length - 1;
    const bytes = shape.bytes.subarray(from, parts[i + 1] ?? shape.bytes.length);
    ring.putBytes(
      bytes,
      command | (isLast ? TXD_CMD_EOP | TXD_CMD_RS : 0),
      payload * 2 ** TXD_PAYLEN_SHIFT + TXD_CC + options,
    );
  }
  ring.kick();
  assert.deepEqual(engines.faults, []);
  return engines.takeSent();
}

/** Writes lengths and checksums of a whole packet, whatever was there. */
function complete(bytes: Buffer, ipVersion: 4 | 6, isTcp: boolean, ip: number, transport: number): Buffer {
  const upper = bytes.length - transport;
  if (ipVersion === 4) {
    bytes.writeUInt16BE(bytes.length - ip, ip + 2);
    bytes.writeUInt16BE(0, ip + 10);
    bytes.writeUInt16BE(0xffff - onesSum(bytes.subarray(ip, transport)), ip + 10);
  } else bytes.writeUInt16BE(upper, ip + 4);
  if (!isTcp) bytes.writeUInt16BE(upper, transport + 4);
  const field = transport + (isTcp ? 16 : 6);
  bytes.writeUInt16BE(0, field);
  const addresses = ipVersion === 4 ? bytes.subarray(ip + 12, ip + 20) : bytes.subarray(ip + 8, ip + 40);
  const pseudo = [...addresses, 0, isTcp ? 6 : 17, upper >>> 8, upper & 0xff];
  const sum = 0xffff - onesSum([...pseudo, ...bytes.subarray(transport)]);
  bytes.writeUInt16BE(sum === 0 && !isTcp ? 0xffff : sum, field);
  return bytes;
}

interface Large {
  ipVersion: 4 | 6;
  isTcp: boolean;
  hasOptions: boolean;
  flags: number;
  payload: Uint8Array;
  sequence: number;
  id: number;
  /** What stands in the lengths and the header checksum, which the card is to write. */
  junk: number;
}

/** A packet to be cut: as a driver leaves it, the pseudo header's sum has no length. */
function large({ ipVersion, isTcp, hasOptions, flags, payload, sequence, id, junk }: Large): Offload {
  const shape = packet({ ipVersion, isTcp, payload: new Uint8Array(0), sequence });
  const { ip, transport, csumOffset } = shape;
  const options = isTcp && hasOptions ? TCP_OPTIONS : Buffer.alloc(0);
  const bytes = Buffer.concat([shape.bytes, options, payload]);
  const l4Length = shape.bytes.length - transport + options.length;
  if (isTcp) {
    bytes[transport + 12] = (l4Length / 4) << 4;
    bytes[transport + 13] = flags;
  }
  if (ipVersion === 4) {
    bytes.writeUInt16BE(id, ip + 4);
    bytes.writeUInt16BE(junk, ip + 2);
    bytes.writeUInt16BE(junk, ip + 10);
  } else bytes.writeUInt16BE(junk, ip + 4);
  if (!isTcp) bytes.writeUInt16BE(0, transport + 4);
  const addresses = ipVersion === 4 ? bytes.subarray(ip + 12, ip + 20) : bytes.subarray(ip + 8, ip + 40);
  bytes.writeUInt16BE(onesSum([...addresses, 0, isTcp ? 6 : 17]), transport + csumOffset);
  return { packet: { ...shape, bytes, payload: transport + l4Length }, ipVersion, isTcp, l4Length };
}

/** What must come out. */
function segmentsOf(of: Large, offload: Offload, mss: number): Uint8Array[] {
  const { ip, transport, payload: headerEnd } = offload.packet;
  const count = Math.max(1, Math.ceil(of.payload.length / mss));
  return Array.from({ length: count }, (_, n) => {
    const part = of.payload.subarray(n * mss, (n + 1) * mss);
    const bytes = Buffer.concat([offload.packet.bytes.subarray(0, headerEnd), part]);
    if (of.ipVersion === 4) bytes.writeUInt16BE((of.id + n) % 0x10000, ip + 4);
    if (of.isTcp) {
      bytes.writeUInt32BE((of.sequence + n * mss) % 2 ** 32, transport + 4);
      if (n > 0) bytes[transport + 13]! &= ~CWR;
      if (n < count - 1) bytes[transport + 13]! &= ~(FIN | PSH);
    }
    return Uint8Array.from(complete(bytes, of.ipVersion, of.isTcp, ip, transport));
  });
}

describe('transmit offloads of the software 82599', () => {
  let engines: Engines;
  let ring: HostTransmitRing;
  beforeEach(() => {
    engines = new Engines();
    ring = new HostTransmitRing(engines);
  });

  for (const ipVersion of [4, 6] as const) {
    for (const isTcp of [true, false]) {
      it(`insert the checksums of ${isTcp ? 'TCP' : 'UDP'} over IPv${ipVersion}`, () => {
        for (const length of [0, 1, 2, 99, 1400]) {
          const shape = packet({ ipVersion, isTcp, payload: frameBytes(length, length) });
          const expected = finished(shape);
          if (ipVersion === 4) shape.bytes.fill(0x5a, shape.ip + 10, shape.ip + 12);
          const [sent] = send(engines, ring, { packet: shape, ipVersion, isTcp });
          assert.deepEqual(sent, expected);
          assert.ok(checksumsVerify(sent!, shape, isTcp));
        }
      });
    }
  }

  it('insert each checksum by itself', () => {
    const shape = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(20, 1) });
    const whole = finished(shape);
    shape.bytes.fill(0, shape.ip + 10, shape.ip + 12);
    const field = shape.transport + 16;
    const of = (options: number) => send(engines, ring, { packet: shape, ipVersion: 4, isTcp: true, options })[0]!;
    const ip = of(TXD_POPTS_IXSM);
    assert.deepEqual(ip.subarray(0, field), whole.subarray(0, field));
    assert.deepEqual(ip.subarray(field), shape.bytes.subarray(field));
    const l4 = of(TXD_POPTS_TXSM);
    assert.deepEqual(l4.subarray(0, shape.transport), shape.bytes.subarray(0, shape.transport));
    assert.deepEqual(l4.subarray(shape.transport), whole.subarray(shape.transport));
    assert.deepEqual(of(0), shape.bytes);
  });

  it('send a checksum of UDP that is 0 as ffff', () => {
    const shape = packet({ ipVersion: 4, isTcp: false, payload: new Uint8Array(2) });
    // The payload is what is missing to a sum of ffff.
    const missing = 0xffff - onesSum(shape.bytes.subarray(shape.transport));
    shape.bytes.set([missing >>> 8, missing & 0xff], shape.payload);
    const [sent] = send(engines, ring, { packet: shape, ipVersion: 4, isTcp: false });
    assert.deepEqual([...sent!.subarray(shape.transport + 6, shape.transport + 8)], [0xff, 0xff]);
  });

  it("insert SCTP's CRC-32c", () => {
    const shape = packet({ ipVersion: 4, isTcp: false, payload: frameBytes(31, 1) });
    const [sent] = send(engines, ring, {
      packet: shape,
      ipVersion: 4,
      isTcp: false,
      options: TXD_POPTS_TXSM,
      l4Type: CONTEXT_TUCMD_L4T_SCTP,
    });
    const message = Buffer.from(sent!.subarray(shape.transport));
    const inserted = message.readUInt32LE(8);
    message.writeUInt32LE(0, 8);
    let crc = 0xffffffff;
    for (const byte of message) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    assert.equal(inserted, ~crc >>> 0);
  });

  it('cut TCP and UDP as the reference does', () => {
    const shapes = fc.record({
      ipVersion: fc.constantFrom<4 | 6>(4, 6),
      isTcp: fc.boolean(),
      hasOptions: fc.boolean(),
      flags: fc.nat(255),
      length: fc.oneof(fc.nat(300), fc.nat(66_000)),
      sequence: fc.oneof(fc.nat(0xffffffff), fc.constant(0xffffff00)),
      id: fc.oneof(fc.nat(0xffff), fc.constant(0xfffe)),
      junk: fc.nat(0xffff),
      mss: fc.oneof(fc.integer({ min: 500, max: 9000 }), fc.integer({ min: 30, max: 100 })),
      cuts: fc.array(fc.nat(65_000), { maxLength: 4 }),
      vlanTag: fc.option(fc.nat(0xffff), { nil: undefined }),
    });
    fc.assert(
      fc.property(shapes, ({ length, mss, cuts, vlanTag, ...rest }) => {
        engines.reset();
        ring = new HostTransmitRing(engines);
        const of = { ...rest, payload: frameBytes(length, mss) };
        const offload = large(of);
        const inside = cuts.filter((at) => at > 0 && at < offload.packet.bytes.length);
        const parts = [...new Set([0, ...inside])].sort((a, b) => a - b);
        const pieces = parts.some((at, i) => (parts[i + 1] ?? offload.packet.bytes.length) - at > 0xffff)
          ? [0, 30_000, 60_000].filter((at) => at < offload.packet.bytes.length)
          : parts;
        const sent = send(engines, ring, { ...offload, mss, vlanTag }, pieces);
        const expected = segmentsOf(of, offload, mss).map((segment) =>
          vlanTag === undefined
            ? segment
            : Uint8Array.from(
                Buffer.concat([
                  segment.subarray(0, 12),
                  Buffer.of(0x81, 0, vlanTag >>> 8, vlanTag & 0xff),
                  segment.subarray(12),
                ]),
              ),
        );
        assert.equal(sent.length, expected.length);
        for (const [n, segment] of sent.entries()) assert.deepEqual(segment, expected[n], `segment ${n}`);
      }),
      { numRuns: 60 },
    );
  });

  it('keep the flags of each segment that DTXTCPFLGL and DTXTCPFLGH say', () => {
    const of: Large = {
      ...{ ipVersion: 4, isTcp: true, hasOptions: false, flags: 0xff },
      ...{ payload: frameBytes(400, 1), sequence: 1, id: 1, junk: 0 },
    };
    const flagsOf = (mss: number): number[] => {
      const offload = large(of);
      return send(engines, ring, { ...offload, mss }).map((segment) => segment[offload.packet.transport + 13]!);
    };
    assert.deepEqual(flagsOf(100), [0xff & ~(FIN | PSH), 0x76, 0x76, 0xff & ~CWR]);
    assert.deepEqual(flagsOf(400), [0xff], 'one segment keeps all');
    engines.write(DTXTCPFLGL, SYN | (ACK << 16));
    engines.write(DTXTCPFLGH, CWR);
    assert.deepEqual(flagsOf(150), [SYN, ACK, CWR]);
  });

  it('leave the checksums of segments alone where they are not asked for', () => {
    const of: Large = {
      ...{ ipVersion: 4, isTcp: true, hasOptions: false, flags: ACK },
      ...{ payload: frameBytes(200, 1), sequence: 1, id: 1, junk: 0x1234 },
    };
    const offload = large(of);
    const { ip, transport, bytes } = offload.packet;
    for (const segment of send(engines, ring, { ...offload, mss: 100, options: 0 })) {
      assert.deepEqual([...segment.subarray(ip + 10, ip + 12)], [0x12, 0x34]);
      assert.deepEqual(
        [...segment.subarray(transport + 16, transport + 18)],
        [...bytes.subarray(transport + 16, transport + 18)],
      );
    }
  });

  it('count each segment', () => {
    const of: Large = {
      ...{ ipVersion: 6, isTcp: true, hasOptions: false, flags: ACK },
      ...{ payload: frameBytes(250, 1), sequence: 1, id: 1, junk: 0 },
    };
    send(engines, ring, { ...large(of), mss: 100 });
    assert.deepEqual(engines.takeEvents(), [
      ...['transmitted 0: 174', 'transmitted 0: 174', 'transmitted 0: 124'],
      'transmit 0',
    ]);
  });
});
