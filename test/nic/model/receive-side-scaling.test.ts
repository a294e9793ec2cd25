/** With the verification suite that Microsoft published for receive-side scaling: keys, packets, hashes. */
import assert from 'node:assert/strict';
import {
  RSS_TYPE_IPV4,
  RSS_TYPE_IPV4_TCP,
  RSS_TYPE_IPV4_UDP,
  RSS_TYPE_IPV6,
  RSS_TYPE_IPV6_TCP,
  RSS_TYPE_IPV6_UDP,
  RSS_TYPE_NONE,
  RXD_RSS_TYPE_MASK,
} from '../../../nic/descriptors.ts';
import {
  FCTRL,
  FCTRL_UPE,
  MRQC,
  MRQC_MRQE_RSS,
  MRQC_RSS_FIELD_IPV4,
  MRQC_RSS_FIELD_IPV4_TCP,
  MRQC_RSS_FIELD_IPV4_UDP,
  MRQC_RSS_FIELD_IPV6,
  MRQC_RSS_FIELD_IPV6_TCP,
  MRQC_RSS_FIELD_IPV6_UDP,
  RETA,
  RETA_WORDS,
  RSSRK,
  RSSRK_WORDS,
  RXCSUM,
  RXDCTL,
  RXDCTL_VME,
  SRRCTL,
  SRRCTL_DROP_EN,
} from '../../../nic/registers.ts';
import { Engines, HostReceiveRing } from '../../helpers/engines-under-test.ts';
import { packet } from '../../helpers/plain-packet.ts';

const KEY = Buffer.from('6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa', 'hex');
const V4 = { from: [66, 9, 149, 187], to: [161, 142, 100, 80], addresses: 0x323e8fc2, withPorts: 0x51ccc178 };
const V6 = {
  from: [0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7],
  to: [0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1],
  addresses: 0x2cc18cd5,
  withPorts: 0x40207d3d,
};
const PORTS = { from: 2794, to: 1766 };
const QUEUES = 16;

describe('receive-side scaling of the software 82599', () => {
  let engines: Engines;
  let rings: HostReceiveRing[];
  beforeEach(() => {
    engines = new Engines();
    engines.write(FCTRL, FCTRL_UPE);
    for (let n = 0; n < RSSRK_WORDS; n++) engines.write(RSSRK(n), KEY.readUInt32LE(4 * n));
    rings = Array.from({ length: QUEUES }, (_, queue) => {
      const ring = new HostReceiveRing(engines, { queue });
      ring.provide(4);
      return ring;
    });
  });

  const shape = (ipVersion: 4 | 6, isTcp: boolean, tags: number[] = []) => {
    const addresses = ipVersion === 4 ? V4 : V6;
    return packet({ ipVersion, isTcp, tags, addresses, ports: PORTS, payload: new Uint8Array(10) });
  };

  /** Sends it in, and finds where it came out. */
  function steer(bytes: Uint8Array): { queue: number; type: number; hash: number } {
    engines.arrive(bytes);
    const [queue] = rings.flatMap((ring, i) => {
      const [done] = ring.take();
      if (!done) return [];
      ring.provide(1);
      return [{ queue: i, type: done.words[0]! & RXD_RSS_TYPE_MASK, hash: done.words[1]! }];
    });
    if (!queue) throw new Error('it came out of no queue');
    return queue;
  }

  /** Entry i of RETA is queue f(i). */
  function setReta(queueOf: (i: number) => number): void {
    for (let n = 0; n < RETA_WORDS; n++) {
      let word = 0;
      for (let i = 3; i >= 0; i--) word = word * 256 + queueOf(4 * n + i);
      engines.write(RETA(n), word);
    }
  }

  const kinds: [4 | 6, boolean, number, number, number, number][] = [
    [4, true, MRQC_RSS_FIELD_IPV4_TCP, RSS_TYPE_IPV4_TCP, MRQC_RSS_FIELD_IPV4, RSS_TYPE_IPV4],
    [4, false, MRQC_RSS_FIELD_IPV4_UDP, RSS_TYPE_IPV4_UDP, MRQC_RSS_FIELD_IPV4, RSS_TYPE_IPV4],
    [6, true, MRQC_RSS_FIELD_IPV6_TCP, RSS_TYPE_IPV6_TCP, MRQC_RSS_FIELD_IPV6, RSS_TYPE_IPV6],
    [6, false, MRQC_RSS_FIELD_IPV6_UDP, RSS_TYPE_IPV6_UDP, MRQC_RSS_FIELD_IPV6, RSS_TYPE_IPV6],
  ];
  for (const [ipVersion, isTcp, withPorts, typeWithPorts, addresses, typeOfAddresses] of kinds) {
    it(`hashes ${isTcp ? 'TCP' : 'UDP'} over IPv${ipVersion} as published, by the fields of MRQC`, () => {
      const { bytes } = shape(ipVersion, isTcp);
      const expected = ipVersion === 4 ? V4 : V6;
      setReta((i) => i & 0xf);
      const queueOf = (hash: number): number => hash & 0xf;
      engines.write(MRQC, MRQC_MRQE_RSS | withPorts | addresses);
      const hash = expected.withPorts;
      assert.deepEqual(steer(bytes), { queue: queueOf(hash), type: typeWithPorts, hash });
      engines.write(MRQC, MRQC_MRQE_RSS | addresses);
      const other = expected.addresses;
      assert.deepEqual(steer(bytes), { queue: queueOf(other), type: typeOfAddresses, hash: other });
      engines.write(MRQC, MRQC_MRQE_RSS);
      assert.deepEqual(steer(bytes), { queue: 0, type: RSS_TYPE_NONE, hash: 0 });
      engines.write(MRQC, withPorts | addresses);
      assert.deepEqual(steer(bytes), { queue: 0, type: RSS_TYPE_NONE, hash: 0 }, 'without MRQE');
    });
  }

  it('looks up the seven lowest bits of the hash in RETA', () => {
    engines.write(MRQC, MRQC_MRQE_RSS | MRQC_RSS_FIELD_IPV4_TCP);
    setReta((i) => (i === (V4.withPorts & 0x7f) ? 9 : 2));
    assert.equal(steer(shape(4, true).bytes).queue, 9);
    setReta((i) => (i === (V4.withPorts & 0x7f) ? 2 : 9));
    assert.equal(steer(shape(4, true).bytes).queue, 2);
  });

  it('hashes the same with a VLAN tag, also where that is stripped', () => {
    engines.write(MRQC, MRQC_MRQE_RSS | MRQC_RSS_FIELD_IPV4_TCP);
    const { bytes } = shape(4, true, [0x8100]);
    assert.equal(steer(bytes).hash, V4.withPorts);
    engines.set(RXDCTL(0), RXDCTL_VME);
    assert.equal(steer(bytes).hash, V4.withPorts);
  });

  it('hashes addresses only where a datagram is in fragments', () => {
    engines.write(MRQC, MRQC_MRQE_RSS | MRQC_RSS_FIELD_IPV4_UDP | MRQC_RSS_FIELD_IPV4);
    const fragment = shape(4, false);
    fragment.bytes[fragment.ip + 6] = 0x20;
    assert.deepEqual(steer(fragment.bytes), { queue: 0, type: RSS_TYPE_IPV4, hash: V4.addresses });
  });

  it('follows the key as it is written, and forgets it with a reset', () => {
    engines.write(MRQC, MRQC_MRQE_RSS | MRQC_RSS_FIELD_IPV4_TCP);
    assert.equal(steer(shape(4, true).bytes).hash, V4.withPorts);
    engines.write(RSSRK(0), 0);
    assert.notEqual(steer(shape(4, true).bytes).hash, V4.withPorts);
    engines.write(RSSRK(0), KEY.readUInt32LE(0));
    assert.equal(steer(shape(4, true).bytes).hash, V4.withPorts);
    for (let n = 0; n < RSSRK_WORDS; n++) engines.registers.set(RSSRK(n), 0);
    engines.receive.reset();
    assert.equal(steer(shape(4, true).bytes).hash, 0);
  });

  it('also answers where the 82598 has its registers', () => {
    engines.write(0x5818, MRQC_MRQE_RSS | MRQC_RSS_FIELD_IPV4_TCP);
    for (let n = 0; n < RSSRK_WORDS; n++) engines.write(0x5c80 + 4 * n, KEY.readUInt32LE(4 * n) ^ (n === 9 ? 1 : 0));
    for (let n = 0; n < RETA_WORDS; n++) engines.write(0x5c00 + 4 * n, 0x05050505);
    assert.deepEqual(steer(shape(4, true).bytes), { queue: 5, type: RSS_TYPE_IPV4_TCP, hash: V4.withPorts });
    assert.equal(engines.read(RSSRK(9)), (KEY.readUInt32LE(36) ^ 1) >>> 0);
  });

  it('spreads, and shows no hash where RXCSUM wants the sum of fragments', () => {
    engines.write(MRQC, MRQC_MRQE_RSS | MRQC_RSS_FIELD_IPV4_TCP);
    setReta(() => 3);
    engines.write(RXCSUM, 0);
    assert.deepEqual(steer(shape(4, true).bytes), { queue: 3, type: RSS_TYPE_IPV4_TCP, hash: 0 });
  });

  describe('with a queue that has no descriptors', () => {
    let empty: HostReceiveRing;
    const V6_QUEUE = 1;
    beforeEach(() => {
      empty = new HostReceiveRing(engines, { queue: 0 });
      engines.write(MRQC, MRQC_MRQE_RSS | MRQC_RSS_FIELD_IPV6_TCP);
      setReta(() => V6_QUEUE);
      engines.arrive(shape(4, true).bytes);
    });

    it('those behind wait too, in one buffer, and all come when it has some', () => {
      engines.arrive(shape(6, true).bytes);
      assert.deepEqual(rings[V6_QUEUE]!.take(), []);
      rings[V6_QUEUE]!.provide(1);
      assert.deepEqual(rings[V6_QUEUE]!.take(), []);
      empty.provide(1);
      assert.equal(empty.take().length, 1);
      assert.equal(rings[V6_QUEUE]!.take().length, 1);
    });

    it('those behind are not dropped for being of a queue that drops: theirs has descriptors', () => {
      engines.set(SRRCTL(V6_QUEUE), SRRCTL_DROP_EN);
      engines.arrive(shape(6, true).bytes);
      empty.provide(1);
      assert.equal(rings[V6_QUEUE]!.take().length, 1);
    });

    it('it holds nobody up where it drops', () => {
      engines.takeEvents();
      engines.set(SRRCTL(0), SRRCTL_DROP_EN);
      engines.arrive(shape(4, true).bytes);
      engines.arrive(shape(6, true).bytes);
      assert.deepEqual(
        engines.takeEvents().filter((event) => event.startsWith('dropped')),
        ['dropped 0', 'dropped 0'],
        'the one that waited, and the one that came',
      );
      assert.equal(rings[V6_QUEUE]!.take().length, 1);
    });
  });
});
