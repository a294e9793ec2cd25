import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  ANNOUNCE_INTERVAL,
  ANNOUNCE_WAIT,
  type Arp,
  DEFEND_INTERVAL,
  MAX_CONFLICTS,
  PROBE_MAX,
  PROBE_MIN,
  PROBE_WAIT,
  RATE_LIMIT_INTERVAL,
} from '../../../tcpip/link/arp.ts';
import { NO_NEIGHBOUR, REACHABLE, STALE } from '../../../tcpip/link/neighbour-cache.ts';
import type { Time } from '../../../tcpip/network.ts';
import { NOT_LOCAL } from '../../../tcpip/packet.ts';
import { Stack } from '../../../tcpip/stack.ts';
import {
  arp,
  arpFrame,
  EVERYBODY,
  frame,
  OUR_MAC,
  OURS,
  THEIR_MAC,
  THEIRS,
  takeSent,
} from '../../helpers/tcpip-packets.ts';
import { MemoryDevice, seconds, seeded } from '../../helpers/tcpip-wire.ts';

const ETHERTYPE_ARP = 0x0806;
const NOBODY = [0, 0, 0, 0];
const OUR_ADDRESS = Uint8Array.from(OURS);

describe('ARP', () => {
  let device: MemoryDevice;
  let stack: Stack;
  let now: Time;
  let theArp: Arp;

  beforeEach(() => {
    device = new MemoryDevice();
    stack = new Stack({ device, random: seeded(5) });
    theArp = stack.arp;
    now = seconds(1);
    stack.advance(now);
  });

  /** Has the address, and has announced it. */
  function settle(): number {
    const local = stack.locals.add(OUR_ADDRESS, 24);
    stack.poll(now);
    device.sent = [];
    return local;
  }

  function give(...frames: Uint8Array[]): Uint8Array[] {
    for (const bytes of frames) device.give(bytes);
    stack.poll(now);
    return takeSent(device, ETHERTYPE_ARP);
  }

  /** Everything that happens until a time, with the time of each packet. */
  function run(until: Time): { at: Time; payload: Uint8Array }[] {
    const seen: { at: Time; payload: Uint8Array }[] = [];
    while (stack.deadline <= until) {
      now = Math.max(now, stack.deadline);
      stack.poll(now);
      for (const payload of takeSent(device, ETHERTYPE_ARP)) seen.push({ at: now, payload });
    }
    now = until;
    stack.advance(now);
    return seen;
  }

  const neighbour = (): number => stack.neighbours.find(4, Uint8Array.from(THEIRS), 0);

  it('answers whoever asks for an address of ours, and knows him then (RFC 826)', () => {
    settle();
    const answers = give(arpFrame());
    assert.deepEqual(answers, [
      arp({ operation: 2, senderMac: OUR_MAC, sender: OURS, targetMac: THEIR_MAC, target: THEIRS }),
    ]);
    assert.equal(stack.neighbours.state[neighbour()], STALE);
    assert.deepEqual(Array.from(stack.neighbours.mac(neighbour())), THEIR_MAC);
  });

  it('answers a probe without learning from it (RFC 5227 §1.1)', () => {
    settle();
    const answers = give(arpFrame({ sender: NOBODY }));
    assert.deepEqual(answers, [
      arp({ operation: 2, senderMac: OUR_MAC, sender: OURS, targetMac: THEIR_MAC, target: NOBODY }),
    ]);
    assert.equal(stack.neighbours.count, 0);
  });

  it('answers for no other address, and not for 127.0.0.1', () => {
    settle();
    assert.deepEqual(give(arpFrame({ target: [10, 0, 0, 77] })), []);
    assert.deepEqual(give(arpFrame({ target: [127, 0, 0, 1] })), []);
    assert.equal(neighbour(), NO_NEIGHBOUR);
  });

  it('lets nobody fill its table: announcements and answers that nobody asked for are not kept', () => {
    settle();
    give(arpFrame({ target: THEIRS }));
    give(arpFrame({ operation: 2, targetMac: OUR_MAC, target: OURS, to: OUR_MAC }));
    give(arpFrame({ sender: [192, 168, 7, 7] }));
    assert.equal(stack.neighbours.count, 0);
  });

  it('brings up to date what it knows when somebody announces himself', () => {
    settle();
    give(arpFrame());
    const other = [2, 0, 0, 0, 0, 9];
    give(arpFrame({ senderMac: other, target: THEIRS }));
    assert.deepEqual(Array.from(stack.neighbours.mac(neighbour())), other);
    assert.equal(stack.neighbours.state[neighbour()], STALE);
  });

  it('asks by broadcast from the address of the packet, and believes the answer', () => {
    stack.locals.add(Uint8Array.of(10, 0, 0, 5), 24);
    const local = settle();
    const destination = stack.destinations.hold(4, Uint8Array.from(THEIRS), 0);
    assert.equal(stack.begin(local, destination, 17, 0, 8), 0);
    stack.send(8, -1);
    stack.poll(now);
    const { bytes } = device.sent[0]!;
    assert.deepEqual(
      bytes,
      frame(arp({ senderMac: OUR_MAC, sender: OURS, target: THEIRS }), {
        to: EVERYBODY,
        from: OUR_MAC,
        type: ETHERTYPE_ARP,
      }),
    );
    device.sent = [];
    device.give(arpFrame({ operation: 2, targetMac: OUR_MAC, to: OUR_MAC }));
    stack.poll(now);
    assert.equal(stack.neighbours.state[neighbour()], REACHABLE);
    assert.equal(device.sent.length, 1, 'what waited');
    assert.deepEqual(Array.from(device.sent[0]!.bytes.slice(0, 6)), THEIR_MAC);
  });

  it('probes with the address in the cache alone', () => {
    const local = settle();
    give(arpFrame());
    const destination = stack.destinations.hold(4, Uint8Array.from(THEIRS), 0);
    stack.begin(local, destination, 17, 0, 8);
    stack.send(8, -1);
    stack.poll(now);
    device.sent = [];
    now += seconds(5);
    stack.poll(now);
    assert.deepEqual(Array.from(device.sent[0]!.bytes.slice(0, 6)), THEIR_MAC);
    assert.deepEqual(device.sent[0]!.bytes.slice(14), arp({ senderMac: OUR_MAC, sender: OURS, target: THEIRS }));
  });

  it('counts what is no ARP for Ethernet and IPv4, and what nobody can send', () => {
    settle();
    const right = arp();
    const wrongs: Uint8Array[] = [0, 2, 4, 5, 6].map((at) => right.map((byte, i) => (i === at ? byte ^ 0x40 : byte)));
    wrongs.push(right.slice(0, 27), arp({ operation: 3 }), arp({ senderMac: [1, 0, 0, 0, 0, 1] }));
    wrongs.push(
      arp({ sender: [224, 0, 0, 1] }),
      arp({ sender: [127, 0, 0, 1] }),
      arp({ sender: [255, 255, 255, 255] }),
    );
    for (const wrong of wrongs) assert.deepEqual(give(frame(wrong, { to: EVERYBODY, type: ETHERTYPE_ARP })), []);
    assert.equal(theArp.counters.inErrors, wrongs.length);
    assert.equal(stack.neighbours.count, 0);
  });

  it('does not throw, whatever comes', () => {
    settle();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.boolean(), (bytes, asArp) => {
        const payload = asArp ? Uint8Array.from([...arp().slice(0, 7), ...bytes]) : bytes;
        give(frame(payload, { to: EVERYBODY, type: ETHERTYPE_ARP }));
      }),
    );
  });

  describe('tries out an address (RFC 5227 §2.1)', () => {
    let outcome: boolean | null;

    function acquire(): () => void {
      outcome = null;
      return theArp.acquire(OUR_ADDRESS, now, (free) => {
        outcome = free;
      });
    }

    it('with three probes, then waits; nobody answers: it is free', () => {
      const begin = now;
      acquire();
      const seen = run(begin + seconds(20));
      assert.equal(outcome, true);
      assert.equal(seen.length, 3);
      for (const { payload } of seen)
        assert.deepEqual(payload, arp({ senderMac: OUR_MAC, sender: NOBODY, target: OURS }));
      assert.ok(seen[0]!.at - begin <= PROBE_WAIT);
      for (const i of [1, 2]) {
        const gap = seen[i]!.at - seen[i - 1]!.at;
        assert.ok(gap >= PROBE_MIN && gap <= PROBE_MAX);
      }
    });

    it('and knows only ANNOUNCE_WAIT after the last probe', () => {
      acquire();
      const seen: Time[] = [];
      while (seen.length < 3) seen.push(...run(stack.deadline).map(({ at }) => at));
      run(seen[2]! + ANNOUNCE_WAIT - 1);
      assert.equal(outcome, null);
      run(seen[2]! + ANNOUNCE_WAIT);
      assert.equal(outcome, true);
    });

    const rivals: [string, Uint8Array][] = [
      ['somebody answers', arpFrame({ operation: 2, sender: OURS, target: NOBODY, to: OUR_MAC })],
      ['somebody asks from it', arpFrame({ sender: OURS, target: THEIRS })],
      ['somebody else tries it out', arpFrame({ sender: NOBODY, target: OURS })],
    ];
    for (const [title, bytes] of rivals) {
      it(`${title}: it is not`, () => {
        acquire();
        run(now + seconds(1.5));
        assert.deepEqual(give(bytes), []);
        assert.equal(outcome, false);
        assert.deepEqual(run(now + seconds(60)), []);
        assert.equal(theArp.counters.conflicts, 1);
      });
    }

    it('our own probe that comes back is no conflict, nor is a question for it', () => {
      acquire();
      run(now + seconds(1.5));
      give(arpFrame({ senderMac: OUR_MAC, sender: NOBODY, target: OURS }));
      give(frame(arp({ senderMac: OUR_MAC, sender: NOBODY, target: OURS }), { to: EVERYBODY, type: ETHERTYPE_ARP }));
      give(arpFrame({ sender: THEIRS, target: OURS }));
      assert.equal(outcome, null);
    });

    it('slowly after ten conflicts', () => {
      for (let i = 0; i < MAX_CONFLICTS; i++) {
        acquire();
        give(arpFrame({ sender: OURS, target: THEIRS }));
        assert.equal(outcome, false);
      }
      const begin = now;
      acquire();
      const seen = run(begin + seconds(100));
      assert.ok(seen[0]!.at - begin >= RATE_LIMIT_INTERVAL);
      assert.equal(outcome, true);
    });

    it('not when it is cancelled, not twice at once, and no address that cannot be', () => {
      const cancel = acquire();
      assert.throws(() => acquire(), /already/);
      cancel();
      assert.deepEqual(run(now + seconds(20)), []);
      assert.equal(outcome, null);
      for (const wrong of [
        [0, 0, 0, 0],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [255, 255, 255, 255],
        [10, 0, 0],
      ]) {
        assert.throws(() => theArp.acquire(Uint8Array.from(wrong), now, () => {}), /no IPv4 address/);
      }
    });
  });

  it('announces an address twice (RFC 5227 §2.3)', () => {
    const begin = now;
    stack.addAddress(OUR_ADDRESS, 24);
    const seen = run(begin + seconds(30));
    assert.deepEqual(
      seen.map(({ at }) => at - begin),
      [0, ANNOUNCE_INTERVAL],
    );
    for (const { payload } of seen) assert.deepEqual(payload, arp({ senderMac: OUR_MAC, sender: OURS, target: OURS }));
  });

  it('announces no address that was taken out meanwhile', () => {
    stack.removeAddress(stack.addAddress(OUR_ADDRESS, 24));
    assert.deepEqual(run(now + seconds(30)), []);
  });

  describe('defends an address (RFC 5227 §2.4)', () => {
    const rival = arpFrame({ sender: OURS, target: THEIRS });
    const announcement = arp({ senderMac: OUR_MAC, sender: OURS, target: OURS });

    it('once in ten seconds, and keeps it', () => {
      const local = settle();
      const conflicts: boolean[] = [];
      theArp.onConflict = (_address, lost) => conflicts.push(lost);
      assert.deepEqual(give(rival), [announcement]);
      assert.deepEqual(give(rival, rival), []);
      now += DEFEND_INTERVAL;
      assert.deepEqual(give(rival), [announcement]);
      assert.deepEqual(conflicts, [false, false, false, false]);
      assert.ok(stack.locals.has(local));
    });

    it('or gives it up when it is disputed again, if told so', () => {
      const local = settle();
      theArp.policy = 'give-up';
      const lost: number[][] = [];
      theArp.onConflict = (address, isLost) => {
        if (isLost) lost.push(Array.from(address.bytes));
      };
      assert.deepEqual(give(rival), [announcement]);
      assert.deepEqual(give(rival), []);
      assert.deepEqual(lost, [OURS]);
      assert.equal(stack.locals.has(local), false);
      assert.equal(stack.locals.find(4, OUR_ADDRESS, 0), NOT_LOCAL);
    });
  });
});
