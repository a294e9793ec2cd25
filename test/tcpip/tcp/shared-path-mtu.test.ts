/** What one connection hears of a path, all connections on it know: routers tell it seldom, and not to everybody. */
import assert from 'node:assert/strict';
import { IPPROTO_TCP } from '../../../packet/header-fields.ts';
import type { Connection, TcpHandler } from '../../../tcpip/tcp/api.ts';
import { Tcp } from '../../../tcpip/tcp/tcp.ts';
import { bytesOf, frame, icmp, ipv4, OURS, THEIRS } from '../../helpers/tcpip-packets.ts';
import { seconds, seeded, Wire } from '../../helpers/tcpip-wire.ts';

const NARROW = 1000;
const BYTES = 5000;
const ETHERNET = 14;
const IP_HEADER = 20;
const FRAGMENTATION_NEEDED = [3, 4] as const;

/** IPv4's total length and fragment field. */
const read16 = (bytes: Uint8Array, at: number): number => (bytes[at]! << 8) | bytes[at + 1]!;
const totalLength = (bytes: Uint8Array): number => read16(bytes, ETHERNET + 2);
const isFragment = (bytes: Uint8Array): boolean => (read16(bytes, ETHERNET + 6) & 0x3fff) !== 0;

describe('TCP, connections that share a path (RFC 1191 §6.4)', () => {
  let wire: Wire;
  let tcp: Tcp;
  let got: number;
  let sent: Uint8Array[];
  let isNarrow: boolean;
  let errors: number;
  const nothing: TcpHandler = { onConnected() {}, onData() {}, onEnd() {}, onWritable() {}, onClosed() {} };

  /** A router that tells of the first packet alone that is too big for it. */
  const passes = ({ bytes }: { bytes: Uint8Array }, fromA: boolean): boolean => {
    if (!fromA || !isNarrow || bytes[12] !== 8 || bytes[13] !== 0 || totalLength(bytes) <= NARROW) return true;
    if (errors++ === 0) {
      const quote = bytes.slice(ETHERNET, ETHERNET + IP_HEADER + 8);
      const error = icmp(...FRAGMENTATION_NEEDED, [0, 0, NARROW >> 8, NARROW & 0xff], quote);
      wire.deviceA.give(frame(ipv4(error, { protocol: 1, source: THEIRS, destination: OURS })));
    }
    return false;
  };
  const connect = (): Connection => {
    const c = tcp.connect({ address: Uint8Array.from(THEIRS), port: 80, handler: nothing });
    wire.run(wire.now + seconds(1));
    return c;
  };

  beforeEach(() => {
    isNarrow = false;
    errors = 0;
    got = 0;
    sent = [];
    wire = new Wire({ passes });
    const [near, far] = [wire.a, wire.b].map((stack, i) => {
      const made = new Tcp(stack, seeded(i), { clock: () => wire.now });
      stack.addTransport(IPPROTO_TCP, made);
      return made;
    }) as [Tcp, Tcp];
    tcp = near;
    const counts: TcpHandler = {
      ...nothing,
      onData: (_, __, start, end) => {
        got += end - start;
      },
    };
    far.listen({ port: 80, onAccept: () => counts });
    wire.watch = ({ bytes }, fromA) => {
      if (fromA && bytes[ETHERNET + 9] === IPPROTO_TCP) sent.push(bytes);
    };
  });

  it('all send smaller segments at once, and none is cut', () => {
    const busy = [connect(), connect(), connect()];
    isNarrow = true;
    for (const c of busy) tcp.write(c, bytesOf(BYTES));
    // Less than the first retransmission time-out.
    wire.run(wire.now + seconds(0.1));
    assert.equal(got, busy.length * BYTES);
    assert.ok(errors > 1, `${errors} packets were too big`);
    assert.ok(!sent.some(isFragment));
    for (const c of busy) assert.equal(tcp.info(c).mss, NARROW - 2 * IP_HEADER);
  });

  it('those that were idle, too', () => {
    const [busy, idle] = [connect(), connect()];
    tcp.write(idle, bytesOf(BYTES));
    // All is acknowledged, and nothing kept of it.
    wire.run(wire.now + seconds(300));
    isNarrow = true;
    tcp.write(busy, bytesOf(BYTES));
    wire.run(wire.now + seconds(1));
    sent = [];
    errors = 0;
    tcp.write(idle, bytesOf(BYTES));
    wire.run(wire.now + seconds(0.1));
    assert.equal(got, 3 * BYTES);
    assert.equal(errors, 0);
    assert.ok(sent.length > 5);
    assert.ok(!sent.some(isFragment));
  });
});
