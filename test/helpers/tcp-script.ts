/**
 * Dialogues with one TCP in virtual time, a line each: in the spirit of packetdrill.
 *
 *     listen                                      a listener on port 80, which accepts
 *     < S 0:0(0) win 65535 <mss 1460,sackOK>      a segment arrives
 *     > S. 0:0(0) ack 1 <mss 1460,sackOK>         exactly this one leaves
 *     +10ms < . 1:1(0) ack 1 win 1000             10 ms later
 *     = accepted                                  the program hears of it
 *     write 1000                                  the program does something; with `;` several things in one call
 *     > P. 1:1001(1000) ack 1
 *     +200ms > P. 1:1001(1000) ack 1              after 200 ms, and not before, it leaves again
 *     +1s quiet                                   until then nothing leaves
 *     state ESTABLISHED
 *
 * Numbers count from each side's ISS: SYN is 0. Flags: S F R P U, `.` for ACK, E for ECE, W for CWR; `ce` behind the
 * options marks the packet, `ect` expects that it may be marked. `win` is what stands in the header. Timestamps are ms of virtual
 * time on our side. What an expectation does not mention (win, options) may be anything; `<>` means no options.
 *
 * Options are mss N, sackOK, wscale N, TS val N ecr N, sack A:B C:D, FO HEX. `#` begins a comment.
 */
import assert from 'node:assert/strict';
import { fold, pseudoHeaderSumIpv4, sum } from '../../packet/checksum.ts';
import type { Connection, ConnectOptions, Listener, ListenOptions, TcpHandler } from '../../tcpip/tcp/api.ts';
import { TcpError } from '../../tcpip/tcp/api.ts';
import type { TcpOptions } from '../../tcpip/tcp/core.ts';
import { Segment, SegmentWriter } from '../../tcpip/tcp/segment.ts';
import { Tcp } from '../../tcpip/tcp/tcp.ts';
import { FakeNetwork, packetOf, type Sent, seeded } from './tcpip-fake-network.ts';

const OURS = Uint8Array.of(10, 0, 0, 1);
const THEIRS = Uint8Array.of(10, 0, 0, 2);
const OUR_PORT = 80;
const THEIR_PORT = 40_000;
/** Where their numbers begin: soon over the edge of 32 bits. */
const THEIR_ISS = 0xffff_ff00;
const FLAGS: [string, number][] = [
  ['S', 0x02],
  ['F', 0x01],
  ['R', 0x04],
  ['P', 0x08],
  ['.', 0x10],
  ['U', 0x20],
  ['E', 0x40],
  ['W', 0x80],
];

export interface ScriptOptions {
  tcp?: Partial<TcpOptions>;
  listen?: Partial<ListenOptions>;
  connect?: Partial<ConnectOptions>;
  segments?: boolean;
  mtu?: number;
}

export class TcpScript {
  readonly network = new FakeNetwork([OURS]);
  readonly tcp: Tcp;
  /** Virtual time in µs. */
  now = 10_000_000;
  connection: Connection = -1;
  /** The segment that left last. */
  lastSent: Sent | null = null;
  /** What leaves is of no interest, calls for a connection that is gone do nothing, and data may be any: for random dialogues. */
  quiet = false;
  readonly #options: ScriptOptions;
  readonly #sent: { at: number; sent: Sent }[] = [];
  readonly #events: string[] = [];
  readonly #log: string[] = [];
  readonly #segment = new Segment();
  #ourIss = 0;
  #isIssKnown = false;
  #ourPort = OUR_PORT;
  /** What has to be taken from our timestamps for ms of virtual time. */
  #stampOffset = 0;
  #dataRead = 0;
  #listener: Listener | null = null;

  constructor(options: ScriptOptions = {}) {
    this.#options = options;
    this.network.segments = options.segments ?? false;
    this.network.destinations.mtu = options.mtu ?? 1500;
    this.tcp = new Tcp(this.network, seeded(7), { ...options.tcp, clock: () => this.now });
    this.tcp.onError = (error) => {
      throw error;
    };
    this.network.onSent = (sent) => {
      this.lastSent = sent;
      this.#sent.push({ at: this.now, sent });
    };
  }

  /** Plays the lines; throws AssertionError with the dialogue so far. */
  play(text: string): this {
    for (const raw of text.split('\n')) {
      const line = raw.replace(/#.*/, '').trim();
      if (line === '') continue;
      try {
        this.#playLine(line);
      } catch (error) {
        const told = this.#log.slice(-30).join('\n');
        throw new assert.AssertionError({
          message: `${(error as Error).message}\nat: ${line}\nthe dialogue:\n${told}`,
        });
      }
    }
    return this;
  }

  #playLine(line: string): void {
    const [, wait, rest] = /^(?:\+([\d.]+(?:us|ms|s|m|h|d))\s+)?(.*)$/.exec(line)!;
    const until = this.now + (wait === undefined ? 0 : microseconds(wait));
    const [word, ...words] = rest!.split(/\s+/);
    if (word === '>' && !this.quiet) {
      this.#expect(rest!.slice(1).trim(), wait === undefined ? null : until);
      return;
    }
    this.#goOn(until);
    if (this.quiet) this.#forgetSent();
    const mayWait = wait === undefined && word !== '<' && word !== 'quiet';
    if (this.#sent.length > 0 && !mayWait) assert.fail(`unexpected: ${this.#describe(this.#sent[0]!.sent)}`);
    if (word === '>') return;
    if (word === '<') this.#inject(rest!.slice(1).trim());
    else if (word === '=') this.#expectEvent(words.join(' '));
    else if (word === 'quiet') this.#log.push(`${this.#time()} quiet`);
    else if (word === 'state') this.#expectState(words[0]!);
    else for (const action of rest!.split(/\s*;\s*/)) this.#try(action.split(/\s+/) as [string, ...string[]]);
    this.tcp.settle(this.now);
  }

  /** Time goes on; stops early when something is sent. */
  #goOn(until: number, stopWhenSent = false): void {
    for (;;) {
      if (stopWhenSent && this.#sent.length > 0) return;
      const due = this.tcp.deadline;
      if (due > until) break;
      this.now = Math.max(this.now, due);
      this.tcp.tick(this.now);
      this.tcp.settle(this.now);
    }
    this.now = Math.max(this.now, until);
    // Their clock goes on, too.
    this.tcp.tick(this.now);
    this.tcp.settle(this.now);
  }

  // ---- the program

  #handler(): TcpHandler {
    const event = (text: string): void => {
      this.#events.push(text);
      this.#log.push(`${this.#time()} = ${text}`);
    };
    return {
      onConnected: () => event('connected'),
      onData: (_c, bytes, start, end) => {
        for (let i = start; i < end; i++) {
          if (!this.quiet) assert.equal(bytes[i], pattern(this.#dataRead), `byte ${this.#dataRead} of the data`);
          this.#dataRead++;
        }
        event(`data ${end - start}`);
      },
      onEnd: () => event('end'),
      onWritable: () => event('writable'),
      onClosed: (_c, error: TcpError | null) => event(error === null ? 'closed' : `closed ${error.code}`),
      onUrgent: (_c, bytes) => event(`urgent ${bytes}`),
    };
  }

  #try(words: [string, ...string[]]): void {
    try {
      this.#act(...words);
    } catch (error) {
      if (!this.quiet || !(error instanceof TcpError)) throw error;
    }
  }

  #act(word: string, ...words: string[]): void {
    this.#log.push(`${this.#time()} ${word} ${words.join(' ')}`);
    const { tcp, connection: c } = this;
    const on = words[0] !== 'off';
    const count = Number(words[0] ?? 0);
    switch (word) {
      case 'listen': {
        const onAccept = (accepted: Connection): TcpHandler => {
          this.connection = accepted;
          this.#events.push('accepted');
          return this.#handler();
        };
        this.#listener = tcp.listen({ port: OUR_PORT, onAccept, ...this.#options.listen });
        break;
      }
      case 'connect':
        this.connection = tcp.connect({
          address: THEIRS,
          port: THEIR_PORT,
          handler: this.#handler(),
          ...this.#options.connect,
        });
        this.#ourPort = tcp.localEndpoint(this.connection).port;
        break;
      case 'write':
        if (!tcp.write(c, new Uint8Array(count).fill(0x77))) this.#log.push('   (enough)');
        break;
      case 'urgent':
        tcp.writeUrgent(c, new Uint8Array(count).fill(0x77));
        break;
      case 'shutdown':
        tcp.shutdown(c);
        break;
      case 'close':
        tcp.close(c);
        break;
      case 'abort':
        tcp.abort(c);
        break;
      case 'pause':
        tcp.pause(c);
        break;
      case 'resume':
        tcp.resume(c);
        break;
      case 'nodelay':
        tcp.setNoDelay(c, on);
        break;
      case 'cork':
        tcp.setCork(c, on);
        break;
      case 'keepalive':
        tcp.setKeepAlive(c, count, Number(words[1] ?? 75_000), Number(words[2] ?? 9));
        break;
      case 'usertimeout':
        tcp.setUserTimeout(c, count);
        break;
      case 'full':
        this.network.room = 0;
        break;
      case 'room':
        this.network.room = Number.POSITIVE_INFINITY;
        tcp.writable(this.now);
        break;
      default:
        assert.fail(`no such action: ${word}`);
    }
  }

  /** The next segments are of another connection: numbers count anew. */
  restart(): void {
    this.#isIssKnown = false;
    this.#dataRead = 0;
  }

  /** Sees what left, for the ISS, and forgets it. */
  #forgetSent(): void {
    for (const { sent } of this.#sent.splice(0)) this.#noteIss(sent);
    this.#events.length = 0;
  }

  /** Aborts whatever there is. */
  closeAll(): void {
    const open: Connection[] = [];
    this.tcp.forEach((c) => {
      open.push(c);
    });
    for (const c of open) this.tcp.abort(c);
    this.#listener?.close();
    this.tcp.settle(this.now);
  }

  #expectEvent(text: string): void {
    if (this.quiet) return;
    assert.equal(this.#events.shift() ?? '(nothing)', text, `expected the event "${text}"`);
  }

  #expectState(state: string): void {
    assert.equal(state === 'CLOSED' ? this.#stateOrClosed() : this.tcp.info(this.connection).state, state);
  }

  #stateOrClosed(): string {
    try {
      return this.tcp.info(this.connection).state;
    } catch {
      return 'CLOSED';
    }
  }

  /** Asserts that the program heard nothing more than was expected. */
  end(): void {
    assert.deepEqual(this.#events, []);
    assert.deepEqual(
      this.#sent.map(({ sent }) => this.#describe(sent)),
      [],
    );
  }

  // ---- segments

  #inject(text: string): void {
    const parsed = parse(text);
    const writer = new SegmentWriter();
    const bytes = new Uint8Array(60 + parsed.length);
    const seq = (THEIR_ISS + parsed.seq) >>> 0;
    const ack = parsed.ack === null ? 0 : (this.#ourIss + parsed.ack) >>> 0;
    writer.begin(bytes, 0, THEIR_PORT, this.#ourPort, seq, ack, parsed.flags & 0xff, parsed.window ?? 0);
    if (parsed.urgent !== null) writer.urgent(parsed.urgent);
    for (const option of parsed.options ?? []) this.#writeOption(writer, option);
    const header = writer.end();
    const first = parsed.seq - ((parsed.flags & 0x02) !== 0 ? 0 : 1);
    for (let i = 0; i < parsed.length; i++) bytes[header + i] = pattern(first + i);
    const segment = bytes.subarray(0, header + parsed.length);
    const trafficClass = parsed.marks.includes('ce') ? 3 : 0;
    const sent: Sent = {
      source: THEIRS,
      destination: OURS,
      bytes: segment,
      trafficClass,
      gsoSize: 0,
      headerLength: header,
      hasCwr: false,
    };
    const packet = packetOf(sent, this.network);
    packet.verified = true;
    this.#log.push(`${this.#time()} < ${text}`);
    this.tcp.input(packet, this.now);
  }

  #writeOption(writer: SegmentWriter, option: string): void {
    const words = option.split(/\s+/);
    switch (words[0]) {
      case 'mss':
        writer.mss(Number(words[1]));
        break;
      case 'sackOK':
        writer.sackPermitted();
        break;
      case 'wscale':
        writer.windowScale(Number(words[1]));
        break;
      case 'TS':
        writer.timestamps(Number(words[2]), (Number(words[4]) + this.#stampOffset) >>> 0);
        break;
      case 'sack': {
        const pairs = words.slice(1).map((pair) => pair.split(':').map((n) => (this.#ourIss + Number(n)) >>> 0));
        const starts = Uint32Array.from(pairs, (pair) => pair[0]!);
        writer.sack(
          starts,
          Uint32Array.from(pairs, (pair) => pair[1]!),
          pairs.length,
        );
        break;
      }
      case 'FO': {
        const cookie = Buffer.from(words[1] ?? '', 'hex');
        writer.fastOpen(cookie, cookie.length);
        break;
      }
      default:
        assert.fail(`no such option: ${option}`);
    }
  }

  #expect(text: string, at: number | null): void {
    if (at === null) this.tcp.settle(this.now);
    else this.#goOn(at + 1_500, true);
    const first = this.#sent.shift();
    if (first === undefined) assert.fail(`nothing was sent; expected ${text}`);
    this.#noteIss(first.sent);
    const actual = this.#describe(first.sent);
    this.#log.push(`${this.#time()} > ${actual}`);
    if (at !== null) {
      // The wheel's ticks are 1 ms, and it rounds up.
      assert.ok(
        first.at >= at - 1_000 && first.at <= at + 1_500,
        `it left at ${this.#time(first.at)}, not ${this.#time(at)}`,
      );
      this.now = Math.max(first.at, at);
    }
    assertMatches(parse(actual), parse(text), actual, text);
  }

  #noteIss({ bytes }: Sent): void {
    if (this.#isIssKnown || (bytes[13]! & 0x02) === 0) return;
    this.#segment.parse(bytes, 0, bytes.length);
    this.#ourIss = this.#segment.seq;
    this.#isIssKnown = true;
    if (this.#segment.hasTimestamps) this.#stampOffset = (this.#segment.tsVal - Math.floor(this.now / 1000)) >>> 0;
  }

  #describe(sent: Sent): string {
    const { bytes, source, destination } = sent;
    const segment = this.#segment;
    assert.ok(segment.parse(bytes, 0, bytes.length));
    const pseudo = pseudoHeaderSumIpv4(Uint8Array.of(...source, ...destination), 0, 6, bytes.length);
    assert.equal(fold(sum(bytes, 0, bytes.length, pseudo)), 0xffff, 'the checksum');
    if (!this.#isIssKnown && (segment.flags & 0x02) !== 0) {
      this.#noteIss(sent);
      segment.parse(bytes, 0, bytes.length);
    }
    const seq = (segment.seq - this.#ourIss) | 0;
    const flags = FLAGS.filter(([, bit]) => (segment.flags & bit) !== 0)
      .map(([name]) => name)
      .join('');
    const words = [`${flags} ${seq}:${seq + segment.dataLength}(${segment.dataLength})`];
    if ((segment.flags & 0x10) !== 0) words.push(`ack ${(segment.ack - THEIR_ISS) | 0}`);
    words.push(`win ${segment.window}`);
    if ((segment.flags & 0x20) !== 0) words.push(`urg ${segment.urgentPointer}`);
    const options: string[] = [];
    if (segment.mss >= 0) options.push(`mss ${segment.mss}`);
    if (segment.sackPermitted) options.push('sackOK');
    if (segment.windowScale >= 0) options.push(`wscale ${segment.windowScale}`);
    if (segment.hasTimestamps) {
      options.push(`TS val ${(segment.tsVal - this.#stampOffset) >>> 0} ecr ${segment.tsEcr}`);
    }
    if (segment.sackCount > 0) {
      const blocks = Array.from(
        { length: segment.sackCount },
        (_, i) => `${(segment.sackStart[i]! - THEIR_ISS) | 0}:${(segment.sackEnd[i]! - THEIR_ISS) | 0}`,
      );
      options.push(`sack ${blocks.join(' ')}`);
    }
    if (segment.cookieLength >= 0) {
      const cookie = bytes.subarray(segment.cookieAt, segment.cookieAt + segment.cookieLength);
      options.push(`FO ${Buffer.from(cookie).toString('hex')}`.trim());
    }
    words.push(`<${options.join(',')}>`);
    if ((sent.trafficClass & 3) !== 0) words.push('ect');
    return words.join(' ');
  }

  #time(at: number = this.now): string {
    return `${((at - 10_000_000) / 1e6).toFixed(6)}`;
  }
}

interface Parsed {
  flags: number;
  seq: number;
  length: number;
  ack: number | null;
  window: number | null;
  urgent: number | null;
  options: string[] | null;
  marks: string[];
}

function parse(text: string): Parsed {
  const match =
    /^([SFRPUEW.]+) (-?\d+):(-?\d+)\((\d+)\)(?: ack (-?\d+))?(?: win (\d+))?(?: urg (\d+))?(?: <([^>]*)>)?((?: (?:ce|ect))*)$/.exec(
      text,
    );
  if (match === null) throw new Error(`no segment: ${text}`);
  const [, letters, seq, end, length, ack, window, urgent, options, marks] = match;
  assert.equal(Number(end) - Number(seq), Number(length), `${text}: the range and the length differ`);
  let flags = 0;
  for (const letter of letters!) flags |= FLAGS.find(([name]) => name === letter)![1];
  return {
    flags,
    seq: Number(seq),
    length: Number(length),
    ack: ack === undefined ? null : Number(ack),
    window: window === undefined ? null : Number(window),
    urgent: urgent === undefined ? null : Number(urgent),
    options: options === undefined ? null : options.split(',').filter((option) => option !== ''),
    marks: (marks ?? '').trim().split(' '),
  };
}

function assertMatches(actual: Parsed, expected: Parsed, was: string, wanted: string): void {
  const message = `expected ${wanted}\n     got ${was}`;
  assert.equal(actual.flags, expected.flags, message);
  assert.equal(actual.seq, expected.seq, message);
  assert.equal(actual.length, expected.length, message);
  assert.equal(actual.ack, expected.ack, message);
  assert.equal(actual.urgent, expected.urgent, message);
  if (expected.window !== null) assert.equal(actual.window, expected.window, message);
  if (expected.options !== null) assert.deepEqual(actual.options!.sort(), expected.options.sort(), message);
  if (expected.marks.includes('ect')) assert.ok(actual.marks.includes('ect'), message);
}

/** What stands at an offset of the data that the other side sends: what arrives is compared with it. */
function pattern(offset: number): number {
  return (offset * 7 + (offset >> 8)) & 0xff;
}

function microseconds(text: string): number {
  const units: Record<string, number> = { us: 1, ms: 1e3, s: 1e6, m: 60e6, h: 3600e6, d: 86_400e6 };
  const [, number, unit] = /^([\d.]+)(us|ms|s|m|h|d)$/.exec(text)!;
  return Math.round(Number(number) * units[unit!]!);
}

/** Plays one dialogue from beginning to end. */
export function playTcp(text: string, options: ScriptOptions = {}): TcpScript {
  const script = new TcpScript(options).play(text);
  script.end();
  return script;
}
