import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Acknowledgment } from '../../../../tcpip/tcp/send/acknowledgment.ts';
import { Sender, type SenderOptions } from '../../../../tcpip/tcp/send/sender.ts';
import { distance, plus } from '../../../../tcpip/tcp/sequence.ts';
import { seeded } from '../../../helpers/tcpip-fake-network.ts';

const MSS = 1000;

function optionsOf(more: Partial<SenderOptions> = {}): SenderOptions {
  return {
    ...{ congestion: 'cubic', pacing: false, mss: MSS, una: 0xffff_f000, sack: true, timestamps: false, ecn: false },
    random: seeded(1),
    ...more,
  };
}

describe('Sender', () => {
  const step = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({ kind: fc.constant('send' as const), segments: fc.integer({ min: 1, max: 8 }) }),
    },
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant('ack' as const),
        share: fc.double({ min: -0.2, max: 1.1, noNaN: true }),
        sacks: fc.array(fc.tuple(fc.integer({ min: -3000, max: 20_000 }), fc.integer({ min: -3000, max: 20_000 })), {
          maxLength: 4,
        }),
        dsack: fc.boolean(),
        ece: fc.boolean(),
        hasData: fc.boolean(),
        rtt: fc.constantFrom(-1, 1000, 50_000, 10_000_000),
      }),
    },
    {
      weight: 3,
      arbitrary: fc.record({ kind: fc.constant('wait' as const), us: fc.oneof(fc.nat(5000), fc.nat(500_000)) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant('shrink' as const), mss: fc.integer({ min: 100, max: 999 }) }),
    },
  );

  for (const congestion of ['cubic', 'newreno', 'bbr'] as const) {
    for (const sack of [true, false]) {
      it(`keeps its books whatever ACKs say: ${congestion}, ${sack ? 'with' : 'without'} SACK (property)`, () => {
        fc.assert(
          fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
            const sender = new Sender();
            const options = optionsOf({ congestion, sack, ecn: true });
            let now = 1_000_000;
            sender.reset(options, now);
            const ack = new Acknowledgment();
            const check = (): void => {
              sender.records.check();
              assert.ok(sender.cwnd > 0 && Number.isFinite(sender.cwnd), `cwnd ${sender.cwnd}`);
              assert.ok(sender.ssthresh > 0);
              assert.ok(sender.rto > 0);
              assert.ok(sender.records.inFlight >= 0);
              assert.equal(distance(sender.nxt, sender.una), sender.records.bytes);
            };
            const resend = (): void => {
              for (let i = 0; sender.nextLost(now); i++) {
                assert.ok(i < 1000, 'it sends for ever');
                assert.ok(distance(sender.lostSeq, sender.una) >= 0 && distance(sender.nxt, sender.lostEnd) >= 0);
                assert.ok(distance(sender.lostEnd, sender.lostSeq) > 0);
                sender.retransmitted(sender.lostSeq, sender.lostEnd, now);
              }
            };
            for (const one of steps) {
              if (one.kind === 'send') {
                for (let i = 0; i < one.segments && sender.allowance(now) >= MSS; i++) {
                  sender.sent(sender.nxt, plus(sender.nxt, MSS), now, i % 3 === 0);
                }
              } else if (one.kind === 'wait') {
                now += one.us;
                if (sender.deadline <= now) sender.tick(now);
                if (sender.probe) sender.probeSent(now, false);
              } else if (one.kind === 'shrink') sender.shrinkMss(one.mss, now);
              else {
                const flight = distance(sender.nxt, sender.una);
                ack.una = plus(sender.una, Math.floor(one.share * flight));
                ack.sackCount = one.sacks.length;
                for (const [i, [start, end]] of one.sacks.entries()) {
                  ack.sackStart[i] = plus(sender.una, start);
                  ack.sackEnd[i] = plus(sender.una, end);
                }
                ack.dsack = one.dsack && one.sacks.length > 0;
                ack.ece = one.ece;
                ack.hasData = one.hasData;
                ack.rtt = one.rtt;
                sender.acknowledged(ack, now);
              }
              check();
              resend();
              check();
            }
          }),
          { numRuns: 300 },
        );
      });
    }
  }

  it('saves what a row keeps, and begins with it after a pause', () => {
    const sender = new Sender();
    sender.reset(optionsOf(), 0);
    sender.sent(sender.nxt, plus(sender.nxt, MSS), 0, true);
    const ack = new Acknowledgment();
    ack.una = sender.nxt;
    sender.acknowledged(ack, 30_000);
    const saved = { srtt: 0, rttvar: 0, minRtt: 0, cwnd: 0, ssthresh: 0 };
    sender.save(saved);
    assert.deepEqual([saved.srtt, saved.rttvar, saved.minRtt], [30_000, 15_000, 30_000]);
    const next = new Sender();
    next.reset(optionsOf(), 1_000_000, { ...saved, cwnd: 500_000, ssthresh: 40_000 });
    assert.equal(next.cwnd, 10 * MSS);
    assert.equal(next.ssthresh, 40_000);
    assert.equal(next.srtt, 30_000);
  });
});
