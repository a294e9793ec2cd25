/** Several connections share one line, in virtual time: how evenly (Jain's index), and who suffers whom. */
import assert from 'node:assert/strict';
import type { CongestionControlName, Connection, TcpHandler } from '../../../../tcpip/tcp/api.ts';
import { type PathOptions, TwoHosts } from '../../../helpers/tcpip-two-hosts.ts';

const PORT = 80;
const SECOND = 1_000_000;
/** 20 Mbit/s and 40 ms there and back; the queue holds what the path does. */
const PATH: PathOptions = { rate: 2_500_000, delay: 20_000, queue: 100_000 };
/** After this long the beginning does not count any more; then it is measured. */
const SETTLING = 15 * SECOND;
const MEASURED = 30 * SECOND;

/** Bytes a second that each of these gets, when they begin a second apart and never stop. */
function rates(controls: readonly CongestionControlName[], path: PathOptions = PATH): number[] {
  const two = new TwoHosts(path);
  const chunk = new Uint8Array(65_536);
  const fill = (c: Connection): void => {
    while (two.a.tcp.write(c, chunk)) {}
  };
  const nothing = (): void => {};
  const quiet: TcpHandler = {
    onConnected: nothing,
    onWritable: nothing,
    onData: nothing,
    onEnd: nothing,
    onClosed: (_c, error) => assert.equal(error, null),
  };
  two.b.tcp.listen({ port: PORT, onAccept: () => quiet });
  const open = controls.map((congestion) => {
    const handler: TcpHandler = { ...quiet, onConnected: fill, onWritable: fill };
    const c = two.a.tcp.connect({ address: two.b.address, port: PORT, handler, congestion });
    two.runFor(SECOND);
    return c;
  });
  two.runFor(SETTLING);
  const acknowledged = (): number[] => open.map((c) => two.a.tcp.info(c).bytesAcknowledged);
  const before = acknowledged();
  two.runFor(MEASURED);
  return acknowledged().map((bytes, i) => (bytes - before[i]!) / (MEASURED / SECOND));
}

/** Jain's index: 1 when all have the same, 1/n when one has all. */
function jain(shares: readonly number[]): number {
  const sum = shares.reduce((a, b) => a + b);
  return sum ** 2 / (shares.length * shares.reduce((a, b) => a + b ** 2, 0));
}

const total = (shares: readonly number[]): number => shares.reduce((a, b) => a + b);

describe('connections that share a line', function () {
  this.timeout(60_000);

  for (const congestion of ['cubic', 'newreno'] as const) {
    it(`share it evenly, and use it: ${congestion}`, () => {
      const shares = rates([congestion, congestion, congestion, congestion]);
      assert.ok(jain(shares) > 0.9, `${shares.map(Math.round)}: ${jain(shares)}`);
      assert.ok(total(shares) > 0.9 * PATH.rate!, `${total(shares)} of ${PATH.rate}`);
    });
  }

  it('BBR gets its line though every hundredth packet is lost', () => {
    const [rate] = rates(['bbr'], { ...PATH, loss: 0.01 });
    assert.ok(rate! > 0.85 * PATH.rate!, `${rate} of ${PATH.rate}`);
  });

  it('CUBIC leaves NewReno its part where round trips are short (RFC 9438 §4.3)', () => {
    const shares = rates(['cubic', 'newreno', 'cubic', 'newreno'], { ...PATH, delay: 5000, queue: 25_000 });
    assert.ok(jain(shares) > 0.8, `${shares.map(Math.round)}: ${jain(shares)}`);
  });
});
