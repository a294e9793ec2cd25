import assert from 'node:assert/strict';
import { type Delivery, initialWindow, type Window } from '../../../../tcpip/tcp/send/congestion-control.ts';
import { Cubic } from '../../../../tcpip/tcp/send/cubic.ts';
import { HyStart } from '../../../../tcpip/tcp/send/hystart.ts';
import { NewReno } from '../../../../tcpip/tcp/send/newreno.ts';
import { RttEstimator } from '../../../../tcpip/tcp/send/rtt-estimator.ts';

const MSS = 1000;
const SECOND = 1_000_000;

function deliveryOf(bytes: number, more: Partial<Delivery> = {}): Delivery {
  return {
    ...{ bytes, delivered: 0, priorDelivered: 0, priorInFlight: 0, inFlight: 0, rtt: -1, srtt: 0, minRtt: 0, rate: 0 },
    ...{ isAppLimited: false, isWindowLimited: true, lost: 0, inRecovery: false, una: 0, nxt: 0 },
    ...more,
  };
}

describe('RttEstimator (RFC 6298)', () => {
  it('begins with the first sample, and smooths the next (§2.2, §2.3)', () => {
    const rtts = new RttEstimator();
    rtts.reset(0, 0, 0, 0);
    assert.equal(rtts.rto, SECOND);
    rtts.sample(100_000, 0);
    assert.deepEqual([rtts.srtt, rtts.rttvar, rtts.rto], [100_000, 50_000, 300_000]);
    rtts.sample(180_000, 0);
    assert.equal(rtts.rttvar, 50_000 + (80_000 - 50_000) / 4);
    assert.equal(rtts.srtt, 110_000);
  });

  it('waits 200 ms at the least and two minutes at the most', () => {
    const rtts = new RttEstimator();
    rtts.reset(0, 0, 0, 0);
    for (let i = 0; i < 100; i++) rtts.sample(100, 0);
    assert.equal(rtts.rto, 200_000);
    rtts.sample(500 * SECOND, 0);
    assert.equal(rtts.rto, 120 * SECOND);
  });

  it('forgets its least round trip after five minutes', () => {
    const rtts = new RttEstimator();
    rtts.reset(0, 0, 0, 0);
    rtts.sample(1000, 0);
    rtts.sample(5000, 200 * SECOND);
    assert.equal(rtts.minRtt, 1000);
    rtts.sample(5000, 301 * SECOND);
    assert.equal(rtts.minRtt, 5000);
  });
});

describe('the initial window (RFC 6928)', () => {
  it('is ten segments, 14,600 bytes or two segments', () => {
    assert.equal(initialWindow(1000), 10_000);
    assert.equal(initialWindow(1460), 14_600);
    assert.equal(initialWindow(4000), 14_600);
    assert.equal(initialWindow(8960), 17_920);
  });
});

describe('CUBIC (RFC 9438)', () => {
  /** After a loss at `cwnd` segments, ACKs of whole windows, a round trip of 100 ms each, for some seconds. */
  function run(cwnd: number, seconds: number, rtt = 100_000): { at: number; cwnd: number }[] {
    const cubic = new Cubic();
    const window: Window = { mss: MSS, cwnd: cwnd * MSS, ssthresh: 0 };
    cubic.reset();
    cubic.congested(window);
    assert.equal(window.ssthresh, Math.floor(0.7 * cwnd * MSS));
    window.cwnd = window.ssthresh;
    const way: { at: number; cwnd: number }[] = [];
    for (let now = 0; now <= seconds * SECOND; now += rtt) {
      way.push({ at: now / SECOND, cwnd: window.cwnd / MSS });
      // An ACK for each segment, spread over the round trip.
      const segments = Math.floor(window.cwnd / MSS);
      for (let i = 0; i < segments; i++)
        cubic.delivered(window, deliveryOf(MSS, { srtt: rtt }), now + (i * rtt) / segments);
    }
    return way;
  }

  it('follows W(t) = C (t - K)³ + W_max (§4.2)', () => {
    const most = 1000;
    const k = Math.cbrt((most * 0.3) / 0.4);
    for (const { at, cwnd } of run(most, 15)) {
      const wanted = 0.4 * (at - k) ** 3 + most;
      assert.ok(Math.abs(cwnd - wanted) / wanted < 0.02, `at ${at} s: ${cwnd}, by the formula ${wanted}`);
    }
  });

  it('is no slower than Reno where that is faster (§4.3)', () => {
    // Ten segments and 10 ms: Reno-friendly. α is 0.529 until the old window is reached.
    const way = run(10, 1, 10_000);
    const rounds = (10 - 7) / 0.529;
    const reached = way.findIndex(({ cwnd }) => cwnd >= 9.9);
    assert.ok(reached > 0 && reached < 1.6 * rounds + 2, `after ${reached} rounds, expected about ${rounds}`);
    assert.ok(way.at(-1)!.cwnd > 60, `${way.at(-1)!.cwnd}`);
  });

  it('gives up more where it did not get as far as before (§4.7)', () => {
    const cubic = new Cubic();
    const window: Window = { mss: MSS, cwnd: 100 * MSS, ssthresh: 0 };
    cubic.reset();
    cubic.congested(window);
    window.cwnd = 80 * MSS;
    cubic.congested(window);
    assert.equal(window.ssthresh, 56 * MSS);
    window.cwnd = 56 * MSS;
    // W_max is 68 and not 80: there the curve is flat.
    for (let i = 0; i < 200; i++) cubic.delivered(window, deliveryOf(MSS, { srtt: SECOND }), i * 10_000);
    const k = Math.cbrt((68 - 56) / 0.4);
    assert.ok(k > 3);
    assert.ok(window.cwnd / MSS < 69, `${window.cwnd / MSS}`);
  });

  it('does not grow while the program is the limit (RFC 7661)', () => {
    const cubic = new Cubic();
    const window: Window = { mss: MSS, cwnd: 100 * MSS, ssthresh: 50 * MSS };
    cubic.reset();
    for (let i = 0; i < 100; i++) cubic.delivered(window, deliveryOf(MSS, { isWindowLimited: false }), i * SECOND);
    assert.equal(window.cwnd, 100 * MSS);
  });
});

describe('HyStart++ (RFC 9406)', () => {
  /** A round of ten ACKs with one round trip time. */
  function round(hystart: HyStart, window: Window, n: number, rtt: number): void {
    for (let i = 0; i < 10; i++) {
      hystart.delivered(window, deliveryOf(MSS, { una: n * 100, nxt: (n + 1) * 100, rtt }));
    }
  }

  it('grows by what is acknowledged while round trips stay the same', () => {
    const hystart = new HyStart();
    const window: Window = { mss: MSS, cwnd: 10 * MSS, ssthresh: 2 ** 31 };
    hystart.reset();
    for (let n = 0; n < 10; n++) round(hystart, window, n, 50_000);
    assert.equal(window.cwnd, 110 * MSS);
    assert.equal(window.ssthresh, 2 ** 31);
  });

  it('grows by a quarter when they become longer, and leaves slow start after five rounds (§4.2)', () => {
    const hystart = new HyStart();
    const window: Window = { mss: MSS, cwnd: 10 * MSS, ssthresh: 2 ** 31 };
    hystart.reset();
    round(hystart, window, 0, 50_000);
    round(hystart, window, 1, 60_000);
    const { cwnd } = window;
    round(hystart, window, 2, 60_000);
    assert.equal(window.cwnd - cwnd, 10 * (MSS / 4));
    for (let n = 3; n < 8; n++) round(hystart, window, n, 60_000);
    assert.ok(window.ssthresh <= window.cwnd);
  });

  it('goes back to slow start when it was only jitter (§4.2)', () => {
    const hystart = new HyStart();
    const window: Window = { mss: MSS, cwnd: 10 * MSS, ssthresh: 2 ** 31 };
    hystart.reset();
    round(hystart, window, 0, 50_000);
    round(hystart, window, 1, 60_000);
    round(hystart, window, 2, 50_000);
    const { cwnd } = window;
    round(hystart, window, 3, 50_000);
    assert.equal(window.cwnd - cwnd, 10 * MSS);
  });
});

describe('NewReno (RFC 5681)', () => {
  it('doubles in slow start, and grows by a segment a window after', () => {
    const reno = new NewReno();
    const window: Window = { mss: MSS, cwnd: 10 * MSS, ssthresh: 20 * MSS };
    reno.reset();
    for (let i = 0; i < 10; i++) reno.delivered(window, deliveryOf(MSS));
    assert.equal(window.cwnd, 20 * MSS);
    for (let i = 0; i < 20; i++) reno.delivered(window, deliveryOf(MSS));
    assert.equal(window.cwnd, 21 * MSS);
  });

  it('counts no more than two segments an ACK in slow start (RFC 3465)', () => {
    const reno = new NewReno();
    const window: Window = { mss: MSS, cwnd: 10 * MSS, ssthresh: 2 ** 31 };
    reno.delivered(window, deliveryOf(8 * MSS));
    assert.equal(window.cwnd, 12 * MSS);
  });

  it('halves what is in flight, to two segments at the least (equation 4)', () => {
    const reno = new NewReno();
    const window: Window = { mss: MSS, cwnd: 10 * MSS, ssthresh: 2 ** 31 };
    reno.congested(window, 9 * MSS);
    assert.equal(window.ssthresh, 4500);
    reno.congested(window, MSS);
    assert.equal(window.ssthresh, 2 * MSS);
  });
});
