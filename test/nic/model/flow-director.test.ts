/**
 * Flow Director, through registers alone, programmed as Linux's ixgbe does. The hash is a sum bit by bit here, where the model
 * has it folded into words; and some of those that ixgbe computes are given.
 */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { RSS_TYPE_FLOW_DIRECTOR, RXD_RSS_TYPE_MASK, RXD_STAT_FLM } from '../../../nic/descriptors.ts';
import {
  EICR_FLOW_DIRECTOR,
  FCTRL,
  FCTRL_UPE,
  FDIRCMD,
  FDIRCMD_ADD_FLOW,
  FDIRCMD_CLEARHT,
  FDIRCMD_CMD_MASK,
  FDIRCMD_DROP,
  FDIRCMD_FILTER_UPDATE,
  FDIRCMD_FILTER_VALID,
  FDIRCMD_FLOW_TYPE_SHIFT,
  FDIRCMD_LAST,
  FDIRCMD_QUERY,
  FDIRCMD_QUEUE_EN,
  FDIRCMD_REMOVE_FLOW,
  FDIRCMD_RX_QUEUE_SHIFT,
  FDIRCTRL,
  FDIRCTRL_DROP_Q_SHIFT,
  FDIRCTRL_FLEX_OFFSET_SHIFT,
  FDIRCTRL_FULL_THRESH_SHIFT,
  FDIRCTRL_INIT_DONE,
  FDIRCTRL_PERFECT_MATCH,
  FDIRCTRL_REPORT_STATUS,
  FDIRDIP4M,
  FDIRFREE,
  FDIRFSTAT,
  FDIRHASH,
  FDIRHASH_SIG_SW_INDEX_SHIFT,
  FDIRHKEY,
  FDIRIPDA,
  FDIRIPSA,
  FDIRLEN,
  FDIRM,
  FDIRM_DIPV6,
  FDIRM_FLEX,
  FDIRM_L4P,
  FDIRM_POOL,
  FDIRM_VLANID,
  FDIRM_VLANP,
  FDIRMATCH,
  FDIRMISS,
  FDIRPORT,
  FDIRSIP4M,
  FDIRSKEY,
  FDIRTCPM,
  FDIRUDPM,
  FDIRUSTAT,
  FDIRVLAN,
  FLOW_TYPE_IPV6,
  FLOW_TYPE_L4_TCP,
  FLOW_TYPE_L4_UDP,
} from '../../../nic/registers.ts';
import { Engines, HostReceiveRing } from '../../helpers/engines-under-test.ts';
import { frameBytes } from '../../helpers/frame-bytes.ts';
import { packet } from '../../helpers/plain-packet.ts';

/** What ixgbe writes: keys (ixgbe_type.h, IXGBE_ATR_…_HASH_KEY), the flexible bytes are the EtherType's, 64 KiB of filters. */
const BUCKET_KEY = 0x3dad14e2;
const SIGNATURE_KEY = 0x174d3614;
const PBALLOC_64K = 1;
const FLEX = 6 << FDIRCTRL_FLEX_OFFSET_SHIFT;
const DROP_QUEUE = 127;
const ADD = FDIRCMD_ADD_FLOW | FDIRCMD_FILTER_UPDATE | FDIRCMD_LAST | FDIRCMD_QUEUE_EN;
const SIGNATURE_FILTERS = 8190;
const PERFECT_FILTERS = 2046;

interface Flow {
  ipVersion: 4 | 6;
  isTcp: boolean;
  from: number[];
  to: number[];
  ports: { from: number; to: number };
  /** 0: untagged. */
  vlan: number;
}

const FLOW: Flow = {
  ipVersion: 4,
  isTcp: true,
  from: [10, 1, 2, 3],
  to: [10, 9, 8, 7],
  ports: { from: 4321, to: 80 },
  vlan: 0,
};

const flowType = ({ ipVersion, isTcp }: Flow): number =>
  (isTcp ? FLOW_TYPE_L4_TCP : FLOW_TYPE_L4_UDP) | (ipVersion === 6 ? FLOW_TYPE_IPV6 : 0);

function frameOf({ ipVersion, isTcp, from, to, ports, vlan }: Flow): Uint8Array {
  const { bytes } = packet({ ipVersion, isTcp, payload: frameBytes(20, 1), addresses: { from, to }, ports });
  if (vlan === 0) return bytes;
  return Uint8Array.from([...bytes.subarray(0, 12), 0x81, 0, vlan >>> 8, vlan & 0xff, ...bytes.subarray(12)]);
}

/** What is hashed: type and VLAN; addresses, ports, and flexible bytes, the first byte highest. */
function hashInput(flow: Flow, flex: number): { typeAndVlan: number; stream: bigint } {
  const sixteen = (value: number): number[] => [value >>> 8, value & 0xff];
  const address = (bytes: number[]): number[] => [...bytes, ...new Array(16 - bytes.length).fill(0)];
  const ports = [...sixteen(flow.ports.from), ...sixteen(flow.ports.to)];
  const bytes = [...address(flow.to), ...address(flow.from), ...ports, ...sixteen(flex), 0, 0];
  return {
    typeAndVlan: (flowType(flow) << 16) | (flow.vlan & 0xefff),
    stream: BigInt(`0x${Buffer.from(bytes).toString('hex')}`),
  };
}

/**
 * The sum of the key's bits times the stream's sixteen bits from each place on; the word of type and VLAN comes in twice, as
 * ixgbe_atr_compute_sig_hash_82599 has it.
 */
function hashOf({ typeAndVlan, stream }: ReturnType<typeof hashInput>, key: number): number {
  const bit = (n: number): number => Number((stream >> BigInt(n)) & 1n);
  const keyBit = (n: number): number => (key >>> (n % 32)) & 1;
  let hash = 0;
  for (let n = -15; n < 320; n++) {
    for (let i = 0; i < 16; i++) if (n + i >= 0) hash ^= (bit(n + i) & keyBit(n + 32 + 16)) << i;
  }
  for (let n = 0; n < 16; n++) {
    if (n > 0 && keyBit(n) !== 0) hash ^= (typeAndVlan ^ (typeAndVlan << 16)) >>> n;
    if (keyBit(n + 16) !== 0) hash ^= (typeAndVlan ^ (typeAndVlan >>> 16)) >>> n;
  }
  return hash & 0x7fff;
}

describe('Flow Director of the software 82599', () => {
  let engines: Engines;
  let rings: HostReceiveRing[];
  const read = (offset: number): number => engines.read(offset);
  const write = (offset: number, value: number): void => engines.write(offset, value);

  beforeEach(() => {
    engines = new Engines();
    engines.write(FCTRL, FCTRL_UPE);
    rings = [0, 1, 5].map((queue) => new HostReceiveRing(engines, { queue, size: 64 }));
    for (const ring of rings) ring.provide(63);
  });

  /** The queue that a flow's packet comes in on. -1: none. */
  const queueOf = (flow: Flow): number => {
    engines.arrive(frameOf(flow));
    const came = rings.map((ring) => ring.take().length);
    assert.ok(came.reduce((a, b) => a + b) <= 1);
    return rings[came.indexOf(1)]?.queue ?? -1;
  };
  const start = (control: number): void => {
    write(FDIRHKEY, BUCKET_KEY);
    write(FDIRSKEY, SIGNATURE_KEY);
    write(FDIRCTRL, PBALLOC_64K | FLEX | (4 << FDIRCTRL_FULL_THRESH_SHIFT) | control);
    assert.notEqual(read(FDIRCTRL) & FDIRCTRL_INIT_DONE, 0);
    for (const counter of [FDIRUSTAT, FDIRFSTAT, FDIRMATCH, FDIRMISS, FDIRLEN]) read(counter);
  };

  describe('filters by signature', () => {
    const flexOf = ({ ipVersion, vlan }: Flow): number => {
      if (vlan !== 0) return 0x8100;
      return ipVersion === 4 ? 0x0800 : 0x86dd;
    };
    const hashWord = (flow: Flow): number => {
      const input = hashInput(flow, flexOf(flow));
      return (hashOf(input, SIGNATURE_KEY) * 2 ** FDIRHASH_SIG_SW_INDEX_SHIFT + hashOf(input, BUCKET_KEY)) >>> 0;
    };
    const add = (flow: Flow, queue: number, command = ADD): void => {
      write(FDIRHASH, hashWord(flow));
      write(FDIRCMD, command | (flowType(flow) << FDIRCMD_FLOW_TYPE_SHIFT) | (queue << FDIRCMD_RX_QUEUE_SHIFT));
      assert.equal(read(FDIRCMD) & FDIRCMD_CMD_MASK, 0);
    };
    beforeEach(() => start(0));

    it('send a flow to their queue, and count', () => {
      assert.equal(queueOf(FLOW), 0);
      add(FLOW, 5);
      assert.equal(queueOf(FLOW), 5);
      assert.equal(queueOf({ ...FLOW, ports: { from: 4322, to: 80 } }), 0);
      assert.equal(queueOf({ ...FLOW, isTcp: false }), 0);
      assert.deepEqual([FDIRMATCH, FDIRMISS, FDIRUSTAT, FDIRFSTAT].map(read), [1, 3, 1, 0]);
      assert.deepEqual([FDIRMATCH, FDIRMISS, FDIRUSTAT, FDIRLEN].map(read), [
        0,
        0,
        0,
        1 | ((hashWord(FLOW) & 0x1fff) << 16),
      ]);
      assert.equal(read(FDIRFREE), SIGNATURE_FILTERS - 1);
    });

    it('say nothing of themselves in the descriptor but FLM', () => {
      add(FLOW, 5);
      engines.arrive(frameOf(FLOW));
      const { info, status } = rings[2]!.takeOne();
      assert.equal(info & RXD_RSS_TYPE_MASK, 0);
      assert.notEqual(status & RXD_STAT_FLM, 0);
      engines.arrive(frameOf({ ...FLOW, isTcp: false }));
      assert.equal(rings[0]!.takeOne().status & RXD_STAT_FLM, 0);
    });

    it('have the hash that ixgbe computes', () => {
      const six = [0x20, 0x01, 0x0d, 0xb8, ...new Array(11).fill(0)];
      for (const [flow, expected] of [
        [FLOW, 0x01b25a88],
        [{ ...FLOW, vlan: 42 }, 0x4755054c],
        [{ ...FLOW, isTcp: false }, 0x5ea975f3],
        [{ ...FLOW, ipVersion: 6, from: [...six, 1], to: [...six, 2] }, 0x66dc4f1f],
      ] as const) {
        assert.equal(hashWord(flow as Flow), expected);
        write(FDIRHASH, expected);
        write(FDIRCMD, ADD | (5 << FDIRCMD_RX_QUEUE_SHIFT));
        assert.equal(queueOf(flow as Flow), 5);
      }
    });

    it('have the same hash for every flow (property)', () => {
      const ports = fc.record({ from: fc.integer({ min: 0, max: 0xffff }), to: fc.integer({ min: 0, max: 0xffff }) });
      const address = (bytes: number) => fc.array(fc.nat(255), { minLength: bytes, maxLength: bytes });
      const flows = fc.oneof(
        ...([4, 6] as const).map((ipVersion) =>
          fc.record({
            ipVersion: fc.constant(ipVersion),
            isTcp: fc.boolean(),
            from: address(ipVersion === 4 ? 4 : 16),
            to: address(ipVersion === 4 ? 4 : 16),
            ports,
            vlan: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 0xefff })),
          }),
        ),
      );
      fc.assert(
        fc.property(flows, (flow) => {
          add(flow, 5);
          engines.arrive(frameOf(flow));
          assert.equal(read(FDIRMATCH), 1);
          write(FDIRHASH, hashWord(flow));
          write(FDIRCMD, FDIRCMD_REMOVE_FLOW);
          for (const ring of rings) ring.provide(ring.take().length);
          engines.arrive(frameOf(flow));
          assert.equal(read(FDIRMISS), 1);
          for (const ring of rings) ring.provide(ring.take().length);
        }),
        { numRuns: 200 },
      );
    });

    it('are changed by adding them again with Filter-Update, and refused without', () => {
      add(FLOW, 5);
      add(FLOW, 1);
      assert.equal(queueOf(FLOW), 1);
      add(FLOW, 5, ADD & ~FDIRCMD_FILTER_UPDATE);
      assert.equal(queueOf(FLOW), 1);
      assert.deepEqual([FDIRUSTAT, FDIRFSTAT].map(read), [1, 1]);
    });

    it('leave the queue to RSS without QUEUE_EN', () => {
      add(FLOW, 5, ADD & ~FDIRCMD_QUEUE_EN);
      assert.equal(queueOf(FLOW), 0);
      assert.equal(read(FDIRMATCH), 1);
    });

    it('are found by a query, and removed', () => {
      const query = (): number => {
        write(FDIRHASH, hashWord(FLOW));
        write(FDIRCMD, FDIRCMD_QUERY);
        return read(FDIRCMD) & (FDIRCMD_CMD_MASK | FDIRCMD_FILTER_VALID);
      };
      assert.equal(query(), 0);
      add(FLOW, 5);
      assert.equal(query(), FDIRCMD_FILTER_VALID);
      write(FDIRCMD, FDIRCMD_REMOVE_FLOW);
      assert.equal(query(), 0);
      assert.equal(queueOf(FLOW), 0);
      write(FDIRCMD, FDIRCMD_REMOVE_FLOW);
      assert.deepEqual([read(FDIRUSTAT), read(FDIRFSTAT), read(FDIRFREE)], [1 | (1 << 16), 1 << 8, SIGNATURE_FILTERS]);
    });

    it('are all gone with CLEARHT, a new FDIRCTRL, or a reset', () => {
      for (const end of [
        () => write(FDIRCMD, FDIRCMD_CLEARHT),
        () => write(FDIRCTRL, read(FDIRCTRL)),
        () => engines.receive.reset(),
      ]) {
        add(FLOW, 5);
        assert.equal(queueOf(FLOW), 5);
        end();
        write(FDIRCMD, 0);
        assert.equal(queueOf(FLOW), 0);
        assert.equal(read(FDIRFREE), SIGNATURE_FILTERS);
      }
    });

    it('fill the table, which tells as few are left, and refuses what is too much', () => {
      const left = 64;
      for (let n = 0; n < SIGNATURE_FILTERS + 3; n++) {
        if (n === SIGNATURE_FILTERS - left) assert.equal(engines.raised, EICR_FLOW_DIRECTOR);
        if (n === SIGNATURE_FILTERS - left - 1) assert.equal(engines.raised, 0);
        write(FDIRHASH, (n << 16) | (n & 0x1fff));
        write(FDIRCMD, ADD);
      }
      assert.deepEqual([read(FDIRFREE), read(FDIRUSTAT) & 0xffff, read(FDIRFSTAT)], [0, SIGNATURE_FILTERS, 3]);
    });

    it('are not asked where there is no memory for them', () => {
      add(FLOW, 5);
      write(FDIRCTRL, FLEX);
      add(FLOW, 5);
      assert.equal(queueOf(FLOW), 0);
      assert.deepEqual([FDIRMATCH, FDIRMISS, FDIRFREE].map(read), [0, 0, 0]);
    });

    it('are not asked of what is no IP', () => {
      const arp = new Uint8Array(60);
      arp.set([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6]);
      engines.arrive(arp);
      assert.deepEqual([FDIRMATCH, FDIRMISS].map(read), [0, 0]);
    });
  });

  describe('perfect filters', () => {
    /** As `ethtool -N` has it: what of a flow counts. Default: addresses and ports. */
    interface Rule {
      from?: number[];
      to?: number[];
      ports?: { from: number; to: number };
      vlan?: number;
      anyProtocol?: boolean;
    }
    const all: Required<Omit<Rule, 'anyProtocol'>> = {
      from: [255, 255, 255, 255],
      to: [255, 255, 255, 255],
      ports: { from: 0xffff, to: 0xffff },
      vlan: 0,
    };
    const little = (bytes: number[]): number => Buffer.from(bytes).readUInt32LE();
    const reversed = (mask: number): number =>
      Number.parseInt([...mask.toString(2).padStart(16, '0')].reverse().join(''), 2);

    function setMask(mask: Rule): void {
      const { from, to, ports, vlan } = { ...all, ...mask };
      const noId = (vlan & 0xfff) === 0 ? FDIRM_VLANID : 0;
      const noPriority = vlan >>> 13 === 0 ? FDIRM_VLANP : 0;
      write(FDIRM, FDIRM_DIPV6 | FDIRM_POOL | FDIRM_FLEX | noId | noPriority | (mask.anyProtocol ? FDIRM_L4P : 0));
      const portMask = ~(reversed(ports.from) | (reversed(ports.to) << 16));
      write(FDIRTCPM, portMask);
      write(FDIRUDPM, portMask);
      write(FDIRSIP4M, ~little(from));
      write(FDIRDIP4M, ~little(to));
    }

    function masked(flow: Flow, mask: Rule): Flow {
      const { from, to, ports, vlan } = { ...all, ...mask };
      return {
        ...flow,
        from: flow.from.map((byte, i) => byte & from[i]!),
        to: flow.to.map((byte, i) => byte & to[i]!),
        ports: { from: flow.ports.from & ports.from, to: flow.ports.to & ports.to },
        vlan: flow.vlan & vlan,
      };
    }

    const bucketOf = (flow: Flow, { anyProtocol = false }: Rule): number => {
      const input = hashInput(flow, 0);
      if (anyProtocol) input.typeAndVlan &= 0xffff;
      return hashOf(input, BUCKET_KEY) & 0x1fff;
    };

    function add(flow: Flow, id: number, queue: number, mask: Rule = {}, command = ADD): void {
      const rule = masked(flow, mask);
      write(FDIRIPSA, little(rule.from));
      write(FDIRIPDA, little(rule.to));
      write(FDIRPORT, rule.ports.from | (rule.ports.to << 16));
      write(FDIRVLAN, rule.vlan);
      write(FDIRHASH, bucketOf(rule, mask) | (id << FDIRHASH_SIG_SW_INDEX_SHIFT));
      const type = mask.anyProtocol ? 0 : flowType(rule);
      write(FDIRCMD, command | (type << FDIRCMD_FLOW_TYPE_SHIFT) | (queue << FDIRCMD_RX_QUEUE_SHIFT));
      assert.equal(read(FDIRCMD) & FDIRCMD_CMD_MASK, 0);
    }

    beforeEach(() => {
      start(FDIRCTRL_PERFECT_MATCH | FDIRCTRL_REPORT_STATUS | (DROP_QUEUE << FDIRCTRL_DROP_Q_SHIFT));
      setMask({});
    });

    it('send the flow to their queue, and no other', () => {
      add(FLOW, 7, 5);
      assert.equal(queueOf(FLOW), 5);
      for (const other of [
        { isTcp: false },
        { from: [10, 1, 2, 4] },
        { to: [10, 9, 8, 6] },
        { ports: { from: 4320, to: 80 } },
        { ports: { from: 4321, to: 81 } },
      ]) {
        assert.equal(queueOf({ ...FLOW, ...other }), 0, JSON.stringify(other));
      }
      assert.equal(queueOf({ ...FLOW, vlan: 3 }), 5, 'the VLAN does not count');
      assert.deepEqual([FDIRMATCH, FDIRMISS, FDIRUSTAT].map(read), [2, 5, 1]);
      assert.equal(read(FDIRFREE), PERFECT_FILTERS - 1);
    });

    it('tell which they are in the descriptor', () => {
      add(FLOW, 7, 5);
      engines.arrive(frameOf(FLOW));
      const { info, hash, status } = rings[2]!.takeOne();
      assert.equal(info & RXD_RSS_TYPE_MASK, RSS_TYPE_FLOW_DIRECTOR);
      assert.equal(hash & 0xffff, 7);
      assert.equal((hash >>> 16) & 0x7ff, bucketOf(FLOW, {}) & 0x7ff);
      assert.notEqual(status & RXD_STAT_FLM, 0);
    });

    for (const [name, mask, same, other] of [
      ['source networks', { from: [255, 255, 0, 0] }, { from: [10, 1, 77, 78] }, { from: [10, 2, 2, 3] }],
      ['destination networks', { to: [255, 0, 0, 0] }, { to: [10, 3, 3, 3] }, { to: [11, 9, 8, 7] }],
      [
        'destination ports alone',
        { ports: { from: 0, to: 0xffff } },
        { ports: { from: 99, to: 80 } },
        { ports: { from: 4321, to: 81 } },
      ],
      [
        'ranges of source ports',
        { ports: { from: 0xff00, to: 0xffff } },
        { ports: { from: 4321 ^ 0xff, to: 80 } },
        { ports: { from: 4321 ^ 0x100, to: 80 } },
      ],
      ['VLANs', { vlan: 0x0fff }, { vlan: 0x2000 + 42 }, { vlan: 43 }],
      ['priorities of VLANs', { vlan: 0xe000 }, { vlan: 7 }, { vlan: 0x4000 + 42 }],
      [
        'addresses of any protocol',
        { anyProtocol: true, ports: { from: 0, to: 0 } },
        { isTcp: false, ports: { from: 1, to: 2 } },
        { isTcp: false, from: [1, 1, 1, 1] },
      ],
    ] as [string, Rule, Partial<Flow>, Partial<Flow>][]) {
      it(`match by ${name}`, () => {
        const flow = { ...FLOW, vlan: 42 };
        setMask(mask);
        add(flow, 1, 5, mask);
        assert.equal(queueOf(flow), 5);
        assert.equal(queueOf({ ...flow, ...same }), 5);
        assert.equal(queueOf({ ...flow, ...other }), 0);
      });
    }

    it('drop, by a queue that is off', () => {
      add(FLOW, 1, DROP_QUEUE, {}, ADD | FDIRCMD_DROP);
      assert.equal(queueOf(FLOW), -1);
      assert.equal(queueOf({ ...FLOW, isTcp: false }), 0);
      assert.equal(read(FDIRMATCH), 1);
      assert.deepEqual(
        engines.takeEvents().filter((event) => event.startsWith('dropped')),
        [],
      );
    });

    it('are removed by number', () => {
      add(FLOW, 1, 5);
      const hash = bucketOf(FLOW, {});
      for (const [id, valid, queue] of [
        [2, 0, 5],
        [1, FDIRCMD_FILTER_VALID, 0],
      ] as const) {
        write(FDIRHASH, hash | (id << FDIRHASH_SIG_SW_INDEX_SHIFT));
        write(FDIRCMD, FDIRCMD_QUERY);
        assert.equal(read(FDIRCMD) & FDIRCMD_FILTER_VALID, valid);
        write(FDIRCMD, FDIRCMD_REMOVE_FLOW);
        assert.equal(queueOf(FLOW), queue);
      }
    });

    it('know no IPv6', () => {
      setMask({ from: [0, 0, 0, 0], to: [0, 0, 0, 0], ports: { from: 0, to: 0 }, anyProtocol: true });
      const six: Flow = { ...FLOW, ipVersion: 6, from: new Array(16).fill(0), to: new Array(16).fill(0) };
      write(FDIRHASH, 0);
      write(FDIRCMD, ADD | (FLOW_TYPE_IPV6 << FDIRCMD_FLOW_TYPE_SHIFT) | (5 << FDIRCMD_RX_QUEUE_SHIFT));
      assert.equal(queueOf(six), 0);
    });
  });
});
