/**
 * Spoiled frames of all kinds, thrown at whole stacks in the midst of a dialogue, for a bounded time: every parser of
 * tcpip/ sees them. $RINGSWITCH_FUZZ_SECONDS goes on for longer, $RINGSWITCH_FUZZ_SEED repeats a run.
 */
import assert from 'node:assert/strict';
import {
  IPPROTO_TCP,
  IPV6_HEADER_LENGTH,
  TCP_ACK,
  TCP_FLAGS,
  TCP_MIN_HEADER_LENGTH,
  TCP_SEQUENCE,
  TCP_SYN,
  UDP_HEADER_LENGTH,
} from '../../packet/header-fields.ts';
import { parseDhcpReply } from '../../tcpip/dhcp/dhcp-message.ts';
import { HeaderChain, quotedTransport } from '../../tcpip/ipv6/header-chain.ts';
import { NdOptions } from '../../tcpip/ipv6/nd-options.ts';
import { Segment } from '../../tcpip/tcp/segment.ts';
import { reply } from '../helpers/dhcp-messages.ts';
import {
  type Corpus,
  datagramFrame,
  type Mutation,
  mutate,
  neighbourFrame,
  pingFrame,
  record,
  segmentFrame,
  Victim,
} from '../helpers/fuzzed-stack.ts';
import { guardedBytes } from '../helpers/guarded-bytes.ts';
import { bytesOf } from '../helpers/tcpip-packets.ts';
import { seconds, seeded } from '../helpers/tcpip-wire.ts';

const SECONDS = Number(process.env.RINGSWITCH_FUZZ_SECONDS ?? 6);
const FIRST_SEED = Number(process.env.RINGSWITCH_FUZZ_SEED ?? 1);
/** Spoiled frames between two of the dialogue's. */
const MOST_BETWEEN = 12;
const MIB = 2 ** 20;
const NO_DATA = new Uint8Array(0);
const IP_AT = 14;
const TRANSPORT_AT = 34;
const ICMPV6_AT = 54;
const IPPROTO_ICMPV6 = 58;
/** Bytes before the options, by type: RS, RA, NS, NA, redirect (RFC 4861 §4). */
const ND_BODY = new Map([
  [133, 8],
  [134, 16],
  [135, 24],
  [136, 24],
  [137, 40],
]);

type Parse = (bytes: Uint8Array, at: number, end: number) => unknown;

const isIpv6 = (frame: Uint8Array, next?: number): boolean =>
  frame[12] === 0x86 && frame[13] === 0xdd && (next === undefined || frame[20] === next);

/** Where the transport's header begins, without options or extension headers; or -1. */
function transportOf(protocol: number): (frame: Uint8Array) => number {
  return (frame) => {
    if (isIpv6(frame, protocol)) return ICMPV6_AT;
    return frame[12] === 8 && frame[13] === 0 && frame[23] === protocol ? TRANSPORT_AT : -1;
  };
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const POISONS = [0xee, 0x45];

/** Segments whose options end in the middle of one. */
function cutSegments(): Uint8Array[] {
  const options = [
    [8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
    [5, 18, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 1, 0, 0, 0, 2, 0],
    [2, 4, 5, 180],
    [34, 10, 1, 2, 3, 4, 5, 6, 7, 8],
    [3, 3, 7],
  ];
  return options.flatMap((option) =>
    [1, 2, 3].map((pad) => {
      const cut = [...Array<number>(pad).fill(1), ...option].slice(0, (pad + option.length - 1) & ~3);
      return Uint8Array.from([
        0,
        80,
        1,
        2,
        0,
        0,
        0,
        9,
        0,
        0,
        0,
        7,
        (5 + cut.length / 4) << 4,
        16,
        1,
        0,
        0,
        0,
        0,
        0,
        ...cut,
      ]);
    }),
  );
}

function dhcpMessages(): Uint8Array[] {
  const extra: [number, number[]][] = [
    [121, [24, 10, 1, 2, 10, 0, 0, 9, 0, 10, 0, 0, 1]],
    [26, [5, 220]],
    [52, [3]],
  ];
  return [2, 5, 6].map((type) =>
    reply({ type, xid: 7, t1: 100, t2: 200, extra, file: [12, 1, 65, 255], sname: [15, 1, 66] }),
  );
}

/** What is parsed by itself: where it begins in a frame that has it, and the parser. */
const PARSERS: Record<string, [at: (frame: Uint8Array) => number, parse: Parse]> = {
  'TCP segments': [transportOf(IPPROTO_TCP), (bytes, at, end) => new Segment().parse(bytes, at, end)],
  'ND options': [
    (frame) => (isIpv6(frame, IPPROTO_ICMPV6) ? ICMPV6_AT + (ND_BODY.get(frame[ICMPV6_AT]!) ?? 4) : -1),
    (bytes, at, end) => new NdOptions().parse(bytes, at, end),
  ],
  'IPv6 header chains': [
    (frame) => (isIpv6(frame) ? IP_AT : -1),
    (bytes, at, end) => end - at < IPV6_HEADER_LENGTH || new HeaderChain().walk(bytes, at, end),
  ],
  'quoted IPv6 packets': [
    (frame) => (isIpv6(frame) ? IP_AT : -1),
    (bytes, at, end) => end - at < IPV6_HEADER_LENGTH || quotedTransport(bytes, at, end, new HeaderChain()),
  ],
  'DHCP replies': [() => 0, (bytes, at, end) => parseDhcpReply(bytes, at, end)],
};

describe('tcpip/, fuzzed', function () {
  this.timeout(SECONDS * 2000 + 60_000);
  let corpus: Corpus;

  before(() => {
    corpus = record();
  });

  for (const [name, [beginOf, parse]] of Object.entries(PARSERS)) {
    it(`reads nothing beyond the end of ${name}`, () => {
      const random = seeded(FIRST_SEED);
      const frames = name.startsWith('DHCP') ? dhcpMessages() : corpus.all;
      const fit: Uint8Array[] = frames
        .filter((frame) => beginOf(frame) >= 0)
        .map((frame) => frame.slice(beginOf(frame)));
      if (name.startsWith('TCP')) fit.push(...cutSegments());
      assert.notEqual(fit.length, 0);
      const until = performance.now() + (SECONDS * 1000) / 6;
      let count = 0;
      for (; performance.now() < until || count < 100; count++) {
        const { bytes } = mutate(random, fit, false);
        // In the midst of bytes that look like more of it.
        const whole = Uint8Array.from([...bytes, ...bytes, ...bytes]);
        const end = 2 * bytes.length;
        try {
          parse(guardedBytes(whole, bytes.length, end), bytes.length, end);
        } catch (error) {
          throw new Error(`RINGSWITCH_FUZZ_SEED=${FIRST_SEED}, number ${count}: ${hex(bytes)}`, { cause: error });
        }
      }
    });
  }

  it('does what it did, when what it heard is said again', () => {
    const victim = new Victim(POISONS[0]!);
    for (const { at, frames } of corpus.heard) victim.give(at, frames);
    victim.run(corpus.end);
    assert.ok(corpus.answers.length > 50);
    for (const [i, answer] of corpus.answers.entries()) assert.equal(hex(victim.sent[i]!), hex(answer), `answer ${i}`);
    assert.equal(victim.sent.length, corpus.answers.length);
  });

  it('throws nothing, looks at nothing but its frames, keeps its limits, and goes on', () => {
    const end = performance.now() + SECONDS * 1000;
    let frames = 0;
    let seed = FIRST_SEED;
    for (; performance.now() < end; seed++) {
      const mutations: Mutation[] = [];
      try {
        frames += play(corpus, seed, mutations);
      } catch (error) {
        const last = mutations.slice(-3).map(({ bytes, meta }) => `${hex(bytes)} ${JSON.stringify(meta)}`);
        throw new Error(`RINGSWITCH_FUZZ_SEED=${seed}, after ${mutations.length} spoiled frames:\n${last.join('\n')}`, {
          cause: error,
        });
      }
    }
    assert.ok(frames > 100, `${frames} frames in ${seed - FIRST_SEED} dialogues`);
  });
});

/** One dialogue with two victims, which must not differ. Gives how many spoiled frames they got. */
function play({ heard, all, end }: Corpus, seed: number, mutations: Mutation[]): number {
  const random = seeded(seed);
  const [one, other] = POISONS.map((poison) => new Victim(poison)) as [Victim, Victim];
  const give = (at: number, frames: readonly Mutation[]): void => {
    one.give(at, frames);
    other.give(at, frames);
    const [a, b] = [one.sent.splice(0), other.sent.splice(0)];
    assert.deepEqual(a.map(hex), b.map(hex), 'what lies around a frame made a difference');
  };
  // A few frames of the dialogue are lost: what was spoiled may come instead.
  for (const { at, frames } of heard) {
    const spoiled: Mutation[] = [];
    for (let i = random() % MOST_BETWEEN; i > 0; i--) {
      spoiled.push(mutate(random, all));
    }
    mutations.push(...spoiled);
    give(at, spoiled);
    if (random() % 20 > 0) give(at, frames);
  }
  assert.ok(one.tcp.connectionCount <= 64 && one.tcp.timeWaitCount <= 64);
  assert.ok(one.tcp.receiveMemory <= MIB, `${one.tcp.receiveMemory} bytes wait`);
  assert.ok(one.stack.reassembler.memory <= 4 * MIB, `${one.stack.reassembler.memory} bytes of fragments`);
  // Rest for all that is under way, and then: is anybody there?
  one.run(end + seconds(600));
  one.sent.length = 0;
  one.give(one.now, [{ bytes: pingFrame(seed & 0xffff), meta: {} }]);
  one.run(one.now + seconds(3));
  const identity = hex(pingFrame(seed & 0xffff).slice(TRANSPORT_AT + 4));
  const isAnswer = (frame: Uint8Array): boolean =>
    frame[TRANSPORT_AT] === 0 && hex(frame.slice(TRANSPORT_AT + 4)) === identity;
  assert.ok(one.sent.some(isAnswer), 'no answer to a ping');
  echoes(one, seed);
  return mutations.length;
}

/** The echo servers on UDP and TCP serve on, whatever they have heard. */
function echoes(victim: Victim, seed: number): void {
  const data = bytesOf(40, seed);
  const dataBehind = (at: number): boolean => victim.sent.some((frame) => hex(frame.slice(at)) === hex(data));
  const say = (bytes: Uint8Array): void => {
    victim.sent.length = 0;
    victim.give(victim.now, [
      { bytes, meta: {} },
      { bytes: neighbourFrame(), meta: {} },
    ]);
    victim.run(victim.now + seconds(1));
  };
  say(datagramFrame(data));
  assert.ok(dataBehind(TRANSPORT_AT + UDP_HEADER_LENGTH), 'no echo by UDP');
  say(segmentFrame(1000, 0, TCP_SYN, NO_DATA));
  const isSynAck = (frame: Uint8Array): boolean =>
    transportOf(IPPROTO_TCP)(frame) === TRANSPORT_AT && frame[TRANSPORT_AT + TCP_FLAGS] === (TCP_SYN | TCP_ACK);
  const answer = victim.sent.find(isSynAck);
  assert.ok(answer !== undefined, 'no SYN-ACK');
  const isn = Buffer.from(answer).readUInt32BE(TRANSPORT_AT + TCP_SEQUENCE);
  say(segmentFrame(1001, (isn + 1) >>> 0, TCP_ACK, data));
  assert.ok(dataBehind(TRANSPORT_AT + TCP_MIN_HEADER_LENGTH), 'no echo by TCP');
}
