import assert from 'node:assert/strict';
import fc from 'fast-check';
import { DhcpClient, type DhcpHost, type DhcpOptions } from '../../../tcpip/dhcp/dhcp-client.ts';
import type { Lease } from '../../../tcpip/dhcp/lease.ts';
import { NEVER } from '../../../tcpip/network.ts';
import { type ReplyShape, reply, requestOf, type SentRequest } from '../../helpers/dhcp-messages.ts';
import { seconds, seeded } from '../../helpers/tcpip-wire.ts';

const MAC = [2, 0, 0, 0, 0, 1];
const [DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE] = [1, 2, 3, 4, 5, 6, 7];

interface Sent extends SentRequest {
  at: number;
  /** Where from and to: `0.0.0.0 > everybody`. */
  way: string;
}

/** A client in virtual time, with a network that the test plays. */
class Dialogue implements DhcpHost {
  now = 0;
  readonly random = seeded(7);
  readonly mac = Uint8Array.from(MAC);
  readonly client: DhcpClient;
  readonly saved: (Lease | null)[] = [];
  readonly events: string[] = [];
  /** Whether a probed address is free; null: no answer until the test gives it. */
  isFree: boolean | null = true;
  #sent: Sent[] = [];
  #probed: ((free: boolean, now: number) => void) | null = null;

  constructor(options: DhcpOptions = {}) {
    this.client = new DhcpClient(this, { startDelayMs: 0, saveLease: (lease) => this.saved.push(lease), ...options });
    this.client.start(this.now);
    this.pass(0);
  }

  broadcast(message: Uint8Array, source: Uint8Array | null): void {
    this.#sent.push({ ...requestOf(message), at: this.now, way: `${source?.join('.') ?? '0.0.0.0'} > everybody` });
  }

  send(message: Uint8Array, source: Uint8Array, server: Uint8Array): void {
    this.#sent.push({ ...requestOf(message), at: this.now, way: `${source.join('.')} > ${server.join('.')}` });
  }

  probe(address: Uint8Array, now: number, done: (free: boolean, now: number) => void): () => void {
    this.events.push(`probe ${address.join('.')}`);
    if (this.isFree !== null) done(this.isFree, now);
    else this.#probed = done;
    return () => this.events.push('cancel probe');
  }

  answerProbe(free: boolean): void {
    this.#probed!(free, this.now);
  }

  bound({ address }: Lease): void {
    this.events.push(`bound ${address}`);
  }

  lost({ address }: Lease): void {
    this.events.push(`lost ${address}`);
  }

  pass(time: number): void {
    const until = this.now + time;
    for (let steps = 0; this.client.deadline <= until; steps++) {
      if (steps > 100_000) throw new Error('the client never comes to rest');
      this.now = Math.max(this.now, this.client.deadline);
      this.client.tick(this.now);
    }
    this.now = until;
  }

  sent(): Sent[] {
    return this.#sent.splice(0);
  }

  /** The one message that was sent. */
  one(): Sent {
    const sent = this.sent();
    assert.equal(sent.length, 1);
    return sent[0];
  }

  answer(to: SentRequest, shape: ReplyShape): void {
    this.give(reply({ xid: to.xid, mac: MAC, ...shape }));
  }

  give(message: Uint8Array): void {
    // Amid other bytes, as it is in a frame.
    const bytes = Uint8Array.from([9, 9, 9, ...message, 9, 9]);
    this.client.input(bytes, 3, 3 + message.length, this.now);
    this.pass(0);
  }

  /** Through to BOUND. */
  bind(shape: Partial<ReplyShape> = {}): void {
    this.answer(this.one(), { type: OFFER, ...shape });
    this.answer(this.one(), { type: ACK, ...shape });
    assert.equal(this.client.state, 'bound');
  }
}

describe('the DHCP client', () => {
  describe('gets a lease (RFC 2131 §3.1)', () => {
    it('DISCOVER, OFFER, REQUEST, ACK, probe, bound', () => {
      const d = new Dialogue({ hostName: 'here', mtu: 1400 });
      const discover = d.one();
      assert.equal(discover.type, DISCOVER);
      assert.equal(discover.way, '0.0.0.0 > everybody');
      assert.equal(discover.flags, 0x8000, 'replies for everybody: we have no address');
      assert.deepEqual(discover.ciaddr, [0, 0, 0, 0]);
      assert.deepEqual(discover.mac, MAC);
      assert.deepEqual(discover.options[61], [1, ...MAC]);
      assert.deepEqual(discover.options[55].slice(0, 3), [1, 121, 3], 'classless routes before routers (RFC 3442)');
      assert.deepEqual(discover.options[57], [1400 >> 8, 1400 & 0xff]);
      assert.equal(Buffer.from(discover.options[12]).toString(), 'here');
      assert.ok(discover.length >= 300);

      d.answer(discover, { type: OFFER });
      const request = d.one();
      assert.equal(request.type, REQUEST);
      assert.equal(request.xid, discover.xid);
      assert.deepEqual(request.options[50], [10, 0, 0, 5]);
      assert.deepEqual(request.options[54], [10, 0, 0, 1]);
      assert.deepEqual(request.ciaddr, [0, 0, 0, 0]);

      d.answer(request, { type: ACK });
      assert.deepEqual(d.events, ['probe 10.0.0.5', 'bound 10.0.0.5']);
      assert.equal(d.client.state, 'bound');
      assert.deepEqual(d.client.lease, {
        address: '10.0.0.5',
        prefixLength: 24,
        server: '10.0.0.1',
        routes: [{ prefix: '0.0.0.0', prefixLength: 0, gateway: '10.0.0.1' }],
        dns: ['10.0.0.53'],
        leaseSeconds: 3600,
        renewalSeconds: 1800,
        rebindingSeconds: 3150,
      });
      assert.deepEqual(JSON.parse(JSON.stringify(d.saved)), [d.client.lease]);
    });

    it('asks again after 4, 8, 16, 32, 64, 64 … s, each ± 1 s (§4.1)', () => {
      const d = new Dialogue();
      d.pass(seconds(400));
      const sent = d.sent();
      const gaps = sent.slice(1).map(({ at }, i) => (at - sent[i].at) / seconds(1));
      for (const [i, expected] of [4, 8, 16, 32, 64, 64, 64].entries()) {
        assert.ok(Math.abs(gaps[i] - expected) <= 1, `${gaps}`);
      }
      assert.ok(
        gaps.some((gap) => gap % 1 !== 0),
        'at random',
      );
      assert.ok(sent.every(({ type, secs, at }) => type === DISCOVER && secs === Math.floor(at / seconds(1))));
    });

    it('waits for a random time first, when told so', () => {
      const d = new Dialogue({ startDelayMs: 10_000 });
      d.pass(seconds(10));
      assert.ok(d.sent()[0].at > 0);
    });

    it('begins anew when requests have no answer', () => {
      const d = new Dialogue();
      d.answer(d.one(), { type: OFFER });
      d.pass(seconds(66));
      assert.deepEqual(
        d
          .sent()
          .slice(0, 5)
          .map(({ type }) => type),
        [REQUEST, REQUEST, REQUEST, REQUEST, DISCOVER],
      );
    });

    it('takes no address that somebody has: DECLINE, and again after 10 s', () => {
      const d = new Dialogue();
      d.isFree = false;
      d.answer(d.one(), { type: OFFER });
      d.answer(d.one(), { type: ACK });
      const decline = d.one();
      assert.equal(decline.type, DECLINE);
      assert.deepEqual(decline.options[50], [10, 0, 0, 5]);
      assert.deepEqual(decline.options[54], [10, 0, 0, 1]);
      assert.equal(decline.way, '0.0.0.0 > everybody');
      d.pass(seconds(9.9));
      assert.deepEqual(d.sent(), []);
      d.pass(seconds(0.2));
      assert.equal(d.one().type, DISCOVER);
      assert.deepEqual(d.events, ['probe 10.0.0.5']);
      assert.deepEqual(d.saved, []);
    });

    it('declines a lease that turns out to be in conflict later', () => {
      const d = new Dialogue();
      d.bind();
      d.client.conflict(d.now);
      assert.equal(d.one().type, DECLINE);
      assert.deepEqual(d.events.at(-1), 'lost 10.0.0.5');
      assert.equal(d.saved.at(-1), null);
    });

    it('is not hurried by refusals: each makes it slower', () => {
      const d = new Dialogue();
      const times: number[] = [];
      for (let i = 0; i < 8; i++) {
        while (d.client.state !== 'selecting') d.pass(seconds(0.5));
        times.push(d.now / seconds(1));
        d.answer(d.sent().at(-1)!, { type: OFFER });
        d.answer(d.sent().at(-1)!, { type: NAK });
      }
      const gaps = times.slice(1).map((at, i) => at - times[i]);
      assert.deepEqual(gaps, [0, 2, 4, 8, 16, 32, 64]);
    });
  });

  describe('keeps it (§4.4.5)', () => {
    it('renews at T1, from the address to the server', () => {
      const d = new Dialogue();
      d.bind();
      d.pass(seconds(1799));
      assert.deepEqual(d.sent(), []);
      d.pass(seconds(1));
      const renewal = d.one();
      assert.equal(d.client.state, 'renewing');
      assert.equal(renewal.way, '10.0.0.5 > 10.0.0.1');
      assert.equal(renewal.type, REQUEST);
      assert.deepEqual(renewal.ciaddr, [10, 0, 0, 5]);
      assert.equal(renewal.flags, 0);
      assert.equal(renewal.options[50], undefined);
      assert.equal(renewal.options[54], undefined);
      d.answer(renewal, { type: ACK, lease: 7200 });
      assert.equal(d.client.state, 'bound');
      assert.equal(d.client.expiresAt, d.now + seconds(7200));
      assert.deepEqual(d.events, ['probe 10.0.0.5', 'bound 10.0.0.5', 'bound 10.0.0.5'], 'it is not tried out again');
      assert.equal(d.saved.length, 2);
    });

    it('asks again after half of what is left, a minute at least; from T2 on everybody; and loses it in the end', () => {
      const d = new Dialogue();
      d.bind();
      d.pass(seconds(3600));
      const sent = d.sent();
      // T1 1800 and T2 3150: (3150 - 1800) / 2 … ; then until 3600.
      assert.deepEqual(
        sent.map(({ at }) => Math.floor(at / seconds(1))),
        [1800, 2475, 2812, 2981, 3065, 3125, 3150, 3375, 3487, 3547, 3600],
      );
      assert.deepEqual(
        sent.map(({ way }) => way),
        [...Array(6).fill('10.0.0.5 > 10.0.0.1'), ...Array(4).fill('10.0.0.5 > everybody'), '0.0.0.0 > everybody'],
      );
      assert.equal(sent.at(-1)!.type, DISCOVER);
      assert.equal(d.events.at(-1), 'lost 10.0.0.5');
      assert.equal(d.saved.at(-1), null);
      assert.equal(d.client.lease, null);
    });

    it('takes another server when rebinding', () => {
      const d = new Dialogue();
      d.bind();
      d.pass(seconds(3150));
      d.answer(d.sent().at(-1)!, { type: ACK, server: [10, 0, 0, 2] });
      assert.equal(d.client.lease?.server, '10.0.0.2');
    });

    it('but not when renewing, nor a refusal of another', () => {
      const d = new Dialogue();
      d.bind();
      d.pass(seconds(1800));
      const renewal = d.one();
      d.answer(renewal, { type: ACK, server: [10, 0, 0, 2] });
      d.answer(renewal, { type: NAK, server: [10, 0, 0, 2] });
      assert.equal(d.client.state, 'renewing');
    });

    it('gives it up when it is refused', () => {
      const d = new Dialogue();
      d.bind();
      d.pass(seconds(1800));
      d.answer(d.one(), { type: NAK });
      assert.equal(d.events.at(-1), 'lost 10.0.0.5');
      assert.equal(d.one().type, DISCOVER);
    });

    it('takes T1 and T2 of the server, if they make sense', () => {
      const times = (shape: Partial<ReplyShape>): (number | undefined)[] => {
        const d = new Dialogue();
        d.bind(shape);
        return [d.client.lease?.renewalSeconds, d.client.lease?.rebindingSeconds];
      };
      assert.deepEqual(times({ t1: 100, t2: 200 }), [100, 200]);
      assert.deepEqual(times({ t1: 0, t2: 0 }), [1800, 3150]);
      assert.deepEqual(times({ t1: 5000, t2: 3599 }), [1800, 3599]);
      assert.deepEqual(times({ t1: 300, t2: 4000 }), [300, 3150]);
    });

    it('for ever, when it does not end', () => {
      const d = new Dialogue();
      d.bind({ lease: 0xffff_ffff });
      assert.equal(d.client.deadline, NEVER);
    });

    it('gives it back on demand (§4.4.6)', () => {
      const d = new Dialogue();
      d.bind();
      d.client.release(d.now);
      const release = d.one();
      assert.equal(release.type, RELEASE);
      assert.equal(release.way, '10.0.0.5 > 10.0.0.1');
      assert.deepEqual(release.ciaddr, [10, 0, 0, 5]);
      assert.deepEqual(release.options[54], [10, 0, 0, 1]);
      assert.equal(d.client.state, 'stopped');
      assert.equal(d.saved.at(-1), null);
      assert.equal(d.client.deadline, NEVER);
    });

    it('stops without a word: what was saved stays, and is asked for by the next start', () => {
      const d = new Dialogue();
      d.bind();
      d.client.stop(d.now);
      assert.deepEqual(d.sent(), []);
      assert.equal(d.events.at(-1), 'lost 10.0.0.5');
      assert.equal(d.saved.length, 1);
      d.client.start(d.now);
      d.pass(0);
      assert.deepEqual(d.one().options[50], [10, 0, 0, 5]);
    });

    it('stops while an address is tried out', () => {
      const d = new Dialogue();
      d.isFree = null;
      d.answer(d.one(), { type: OFFER });
      d.answer(d.one(), { type: ACK });
      d.client.stop(d.now);
      assert.equal(d.events.at(-1), 'cancel probe');
      d.answerProbe(true);
      assert.equal(d.client.state, 'stopped');
      assert.equal(d.client.lease, null);
    });
  });

  describe('with a lease kept (INIT-REBOOT, §4.3.2)', () => {
    const kept = (): Lease => {
      const d = new Dialogue();
      d.bind();
      return JSON.parse(JSON.stringify(d.saved[0]));
    };

    it('asks for its address, of any server', () => {
      const d = new Dialogue({ lease: kept() });
      const request = d.one();
      assert.equal(request.type, REQUEST);
      assert.deepEqual(request.options[50], [10, 0, 0, 5]);
      assert.equal(request.options[54], undefined);
      assert.deepEqual(request.ciaddr, [0, 0, 0, 0]);
      d.answer(request, { type: ACK, server: [10, 0, 0, 9] });
      assert.deepEqual(d.events, ['probe 10.0.0.5', 'bound 10.0.0.5']);
      assert.equal(d.client.lease?.server, '10.0.0.9');
    });

    it('begins anew when it is refused, or nobody answers', () => {
      const refused = new Dialogue({ lease: kept() });
      refused.answer(refused.one(), { type: NAK });
      assert.equal(refused.one().type, DISCOVER);
      assert.deepEqual(refused.saved, [null]);
      const ignored = new Dialogue({ lease: kept() });
      ignored.pass(seconds(15));
      assert.deepEqual(
        ignored.sent().map(({ type }) => type),
        [REQUEST, REQUEST, DISCOVER],
      );
    });

    it('does not take another address for it', () => {
      const d = new Dialogue({ lease: kept() });
      d.answer(d.one(), { type: ACK, yiaddr: [10, 0, 0, 6] });
      assert.equal(d.client.state, 'rebooting');
      assert.equal(d.client.counters.inBadLeases, 1);
    });
  });

  describe('does not believe everything', () => {
    const ignored: [string, Partial<ReplyShape>][] = [
      ['another exchange', { xid: 1 }],
      ['another client', { mac: [2, 0, 0, 0, 0, 9] }],
      ['another client identifier (RFC 6842)', { extra: [[61, [1, 2, 3]]] }],
      ['a request', { op: 1 }],
      ['another hardware', { htype: 6 }],
      ['another cookie', { cookie: 0x63825364 }],
      ['an ACK that nobody asked for', { type: ACK }],
      ['a NAK that nobody asked for', { type: NAK }],
      ['an unknown type', { type: 77 }],
      ['no type', { type: undefined }],
      ['no server', { server: undefined }],
      ['no lease time', { lease: undefined }],
      ['a lease of 29 s', { lease: 29 }],
      ['the address 0.0.0.0', { yiaddr: [0, 0, 0, 0] }],
      ['the address 127.0.0.1', { yiaddr: [127, 0, 0, 1] }],
      ['a group', { yiaddr: [224, 0, 0, 5] }],
      ['everybody', { yiaddr: [255, 255, 255, 255] }],
      ['the network itself', { yiaddr: [10, 0, 0, 0] }],
      ['everybody on the network', { yiaddr: [10, 0, 0, 255] }],
      ['options that do not fit', { raw: [53, 1, 2, 54, 200, 1, 2] }],
      ['half an option', { raw: [53, 1, 2, 54] }],
    ];
    for (const [what, shape] of ignored) {
      it(what, () => {
        const d = new Dialogue();
        const discover = d.one();
        d.answer(discover, { type: OFFER, ...shape });
        assert.equal(d.client.state, 'selecting');
        assert.deepEqual(d.sent(), []);
        d.answer(discover, { type: OFFER });
        assert.equal(d.client.state, 'requesting', 'and goes on');
      });
    }

    it('an acknowledgement for another address than was offered', () => {
      const d = new Dialogue();
      d.answer(d.one(), { type: OFFER });
      d.answer(d.one(), { type: ACK, yiaddr: [10, 0, 0, 66] });
      assert.equal(d.client.state, 'requesting');
      assert.deepEqual(d.events, []);
    });

    it('masks, routers, servers and MTUs that cannot be', () => {
      const d = new Dialogue();
      d.bind({
        mask: [255, 0, 255, 0],
        routers: [
          [127, 0, 0, 1],
          [10, 0, 0, 1],
        ],
        dns: [
          [0, 0, 0, 0],
          [224, 0, 0, 1],
        ],
        extra: [
          [26, [0, 100]],
          [15, [0x1b, 0x5b]],
        ],
      });
      const { prefixLength, routes, dns, mtu, domain } = d.client.lease!;
      assert.deepEqual(
        { prefixLength, routes: routes.map(({ gateway }) => gateway), dns, mtu, domain },
        { prefixLength: 8, routes: ['10.0.0.1'], dns: [], mtu: undefined, domain: undefined },
      );
    });
  });

  describe('options', () => {
    it('classless routes go before routers (RFC 3442)', () => {
      const d = new Dialogue();
      d.bind({ extra: [[121, [0, 10, 0, 0, 1, 8, 10, 10, 0, 0, 2, 25, 10, 27, 129, 0xff, 0, 0, 0, 0]]] });
      assert.deepEqual(d.client.lease?.routes, [
        { prefix: '0.0.0.0', prefixLength: 0, gateway: '10.0.0.1' },
        { prefix: '10.0.0.0', prefixLength: 8, gateway: '10.0.0.2' },
        { prefix: '10.27.129.128', prefixLength: 25, gateway: '0.0.0.0' },
      ]);
    });

    it('and are left out when they do not fit', () => {
      for (const broken of [
        [33, 1, 2, 3, 4, 10, 0, 0, 1],
        [24, 10, 0, 0, 10, 0, 0],
        [0, 10, 0, 0],
      ]) {
        const d = new Dialogue();
        d.bind({ extra: [[121, broken]] });
        assert.deepEqual(
          d.client.lease?.routes.map(({ gateway }) => gateway),
          ['10.0.0.1'],
        );
      }
    });

    it('MTU and domain name', () => {
      const d = new Dialogue();
      d.bind({
        extra: [
          [26, [0x05, 0x14]],
          [15, [...Buffer.from('example.org')]],
        ],
      });
      assert.equal(d.client.lease?.mtu, 1300);
      assert.equal(d.client.lease?.domain, 'example.org');
    });

    it('go on in file and sname (overload, RFC 2132 §9.3), and in several parts (RFC 3396)', () => {
      const d = new Dialogue();
      const shape = {
        extra: [
          [52, [3]],
          [15, [...Buffer.from('exam')]],
        ] as [number, number[]][],
        file: [15, 4, ...Buffer.from('ple.'), 255],
        sname: [15, 3, ...Buffer.from('org'), 26, 2, 0x05, 0x14, 255],
      };
      d.bind(shape);
      assert.equal(d.client.lease?.domain, 'example.org');
      assert.equal(d.client.lease?.mtu, 1300);
    });

    it('that do not fit into file are none at all', () => {
      const d = new Dialogue();
      d.answer(d.one(), { type: OFFER, extra: [[52, [1]]], file: [...Array(120).fill(0), 15, 50] });
      assert.equal(d.client.state, 'selecting');
    });

    it('of ours that cannot be are refused', () => {
      const make = (options: DhcpOptions): DhcpClient => new Dialogue(options).client;
      assert.throws(() => make({ clientId: Uint8Array.of(1) }), {
        name: 'RangeError',
        message: /client identifier of 1 bytes: it has 2 to 255/,
      });
      assert.throws(() => make({ hostName: 'no way' }), { name: 'RangeError', message: /host name "no way"/ });
      assert.throws(() => make({ lease: { address: 'nonsense' } as Lease }), {
        name: 'RangeError',
        message: /lease's address is "nonsense"/,
      });
    });
  });

  it('whatever servers say: nothing throws, and a lease is one that can be', () => {
    const bytes4 = fc.uint8Array({ minLength: 4, maxLength: 4 }).map((bytes) => [...bytes]);
    const option = fc
      .tuple(fc.constantFrom(1, 3, 6, 15, 26, 51, 52, 54, 58, 59, 61, 121, 0, 255), fc.uint8Array({ maxLength: 20 }))
      .map(([number, value]) => [number, [...value]] as [number, number[]]);
    const shape = fc.record(
      {
        type: fc.constantFrom(OFFER, ACK, NAK, 0),
        yiaddr: fc.oneof(bytes4, fc.constant<number[]>([10, 0, 0, 5])),
        lease: fc.constantFrom<number>(0, 30, 60, 3600, 0xffff_ffff),
        extra: fc.array(option, { maxLength: 6 }),
        file: fc.uint8Array({ maxLength: 128 }).map((bytes) => [...bytes]),
        cut: fc.nat(260),
      },
      { requiredKeys: ['type'] },
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(shape, fc.nat(90_000_000)), { maxLength: 12 }), fc.boolean(), (answers, isFree) => {
        const d = new Dialogue();
        d.isFree = isFree;
        let last = d.one();
        for (const [each, time] of answers) {
          const message = reply({ xid: last.xid, mac: MAC, ...each });
          d.give(message.subarray(0, message.length - (each.cut ?? 0)));
          d.pass(time);
          last = d.sent().at(-1) ?? last;
          const { lease } = d.client;
          if (lease === null) continue;
          assert.equal(
            d.client.state === 'bound' || d.client.state === 'renewing' || d.client.state === 'rebinding',
            true,
          );
          assert.ok(lease.renewalSeconds <= lease.rebindingSeconds && lease.rebindingSeconds <= lease.leaseSeconds);
          assert.ok(Number(lease.address.split('.')[0]) < 224);
        }
      }),
      { numRuns: 500 },
    );
  });
});
