/** Whole transfers between two TCPs over a path of every kind, in virtual time: each byte arrives, once and in order. */
import assert from 'node:assert/strict';
import type { CongestionControlName, Connection, TcpError, TcpHandler } from '../../../tcpip/tcp/api.ts';
import { type PathOptions, TwoHosts } from '../../helpers/tcpip-two-hosts.ts';

const PORT = 80;

interface Outcome {
  two: TwoHosts;
  /** Virtual seconds that the data took. */
  seconds: number;
  retransmitted: number;
}

/** Byte `i` of what is sent. */
function byteAt(i: number): number {
  return (i * 31 + (i >>> 8)) & 0xff;
}

/** Sends `bytes` from a to b, and closes; asserts that b gets them, and that nothing is left behind. */
function transfer(bytes: number, path: PathOptions, congestion: CongestionControlName = 'cubic'): Outcome {
  const two = new TwoHosts(path);
  let received = 0;
  let written = 0;
  let doneAt = 0;
  const closed: (TcpError | null)[] = [];
  const begun = two.now;
  const chunk = (): Uint8Array => {
    const size = Math.min(65_536, bytes - written);
    const part = Uint8Array.from({ length: size }, (_, i) => byteAt(written + i));
    written += size;
    return part;
  };
  const fill = (c: Connection): void => {
    while (written < bytes) if (!two.a.tcp.write(c, chunk())) return;
    two.a.tcp.shutdown(c);
  };
  const client: TcpHandler = {
    onConnected: fill,
    onWritable: fill,
    onData: () => assert.fail('b sends nothing'),
    onEnd: () => {},
    onClosed: (_c, error) => closed.push(error),
  };
  const server: TcpHandler = {
    onConnected: () => {},
    onWritable: () => {},
    onData: (_c, data, start, end) => {
      for (let i = start; i < end; i++) {
        if (data[i] !== byteAt(received)) assert.fail(`byte ${received} is ${data[i]}`);
        received++;
      }
      if (received === bytes) doneAt = two.now;
    },
    onEnd: (c) => two.b.tcp.shutdown(c),
    onClosed: (_c, error) => closed.push(error),
  };
  two.b.tcp.listen({ port: PORT, onAccept: () => server });
  two.a.tcp.connect({ address: two.b.address, port: PORT, handler: client, congestion });
  for (let s = 0; s < 3600 && closed.length < 2; s++) two.runFor(1_000_000);
  assert.equal(received, bytes);
  assert.deepEqual(closed, [null, null]);
  two.runFor(70_000_000);
  assert.equal(two.a.network.destinations.held + two.b.network.destinations.held, 0);
  assert.equal(two.a.tcp.connectionCount + two.b.tcp.connectionCount, 0);
  return { two, seconds: (doneAt - begun) / 1e6, retransmitted: two.a.tcp.counters.retransSegs };
}

describe('TCP, whole transfers', function () {
  this.timeout(20_000);

  for (const congestion of ['cubic', 'newreno', 'bbr'] as const) {
    describe(congestion, () => {
      it('goes without a retransmission where nothing is lost', () => {
        const { retransmitted } = transfer(2_000_000, { delay: 1000 }, congestion);
        assert.equal(retransmitted, 0);
      });

      for (const [name, path] of [
        ['1 % loss', { delay: 5000, loss: 0.01 }],
        ['10 % loss', { delay: 5000, loss: 0.1 }],
        ['reordering', { delay: 5000, reorder: 0.1, reorderBy: 3000 }],
        ['duplicates', { delay: 5000, duplicate: 0.1 }],
        ['all of it', { delay: 5000, loss: 0.02, reorder: 0.05, reorderBy: 8000, duplicate: 0.02 }],
        ['a slow line with a short queue', { delay: 10_000, rate: 1_250_000, queue: 20_000 }],
      ] as [string, PathOptions][]) {
        it(`survives ${name}`, () => {
          for (let seed = 1; seed <= 3; seed++) transfer(300_000, { ...path, seed }, congestion);
        });

        it(`survives ${name} with super-frames`, () => {
          transfer(300_000, { ...path, segments: true, seed: 9 }, congestion);
        });
      }

      it('fills a line of 100 Mbit/s and 40 ms', () => {
        const { seconds } = transfer(25_000_000, { delay: 20_000, rate: 12_500_000, queue: 500_000 }, congestion);
        assert.ok(seconds < 2.6, `2 s at the best, it took ${seconds}`);
      });
    });
  }

  it('gets more out of a lossy line by BBR than by NewReno', () => {
    const line = { delay: 20_000, rate: 12_500_000, queue: 500_000, loss: 0.01 };
    const { seconds } = transfer(25_000_000, line, 'bbr');
    assert.ok(seconds < 5, `2 s at the best, it took ${seconds}`);
    const reno = transfer(5_000_000, line, 'newreno').seconds;
    assert.ok(reno > seconds, `a fifth of it took NewReno ${reno} s, BBR ${seconds} s`);
  });
});
