/** Random segments in every state: whatever comes, nothing throws, nothing is given twice, and nothing stays behind. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { TcpScript } from '../../helpers/tcp-script.ts';

const ACCEPTED = `
  listen
  < S 0:0(0) win 60000 <mss 1000,sackOK,TS val 100 ecr 0,wscale 7>
  > S. 0:0(0) ack 1
  < . 1:1(0) ack 1 win 500 <TS val 101 ecr 10000>
  = accepted
`;

/** Ways into each state; what is sent is not looked at. */
const STATES: Record<string, string> = {
  LISTEN: 'listen',
  'SYN-SENT': 'connect',
  'SYN-RECEIVED': 'listen\n< S 0:0(0) win 60000 <mss 1000,sackOK,TS val 100 ecr 0,wscale 7>\n> S. 0:0(0) ack 1',
  ESTABLISHED: ACCEPTED,
  'with data in flight': `${ACCEPTED}\nwrite 5000`,
  'FIN-WAIT-1': `${ACCEPTED}\nshutdown`,
  'FIN-WAIT-2': `${ACCEPTED}\nshutdown\n> F. 1:1(0) ack 1\n< . 1:1(0) ack 2 win 500 <TS val 102 ecr 10000>`,
  'CLOSE-WAIT': `${ACCEPTED}\n< F. 1:1(0) ack 1 win 500 <TS val 102 ecr 10000>`,
  'LAST-ACK': `${ACCEPTED}\n< F. 1:1(0) ack 1 win 500 <TS val 102 ecr 10000>\n> . 1:1(0) ack 2\nshutdown`,
  paused: `${ACCEPTED}\npause`,
};

const number = fc.oneof(fc.integer({ min: -3, max: 3 }), fc.integer({ min: -2000, max: 8000 }), fc.integer());
const option = fc.oneof(
  fc.tuple(fc.nat(3000), fc.nat(20_000)).map(([val, ecr]) => `TS val ${val} ecr ${ecr}`),
  fc.tuple(number, number).map(([a, b]) => `sack ${a}:${b}`),
  fc.tuple(number, number, number, number).map(([a, b, c, d]) => `sack ${a}:${b} ${c}:${d}`),
  fc.nat(65_535).map((mss) => `mss ${mss}`),
  fc.nat(20).map((shift) => `wscale ${shift}`),
  fc.constant('sackOK'),
  fc.constantFrom('FO', 'FO 0102030405060708'),
);
const segment = fc
  .record({
    flags: fc.oneof(
      fc.constantFrom('.', 'P.', 'F.', 'FP.', 'S', 'S.', 'R', 'R.', '.E', 'P.W', 'PU.'),
      fc.constant('.'),
    ),
    seq: number,
    length: fc.oneof(fc.constant(0), fc.nat(20), fc.nat(2000)),
    ack: number,
    window: fc.oneof(fc.nat(65_535), fc.constantFrom(0, 1, 500)),
    options: fc.array(option, { maxLength: 2 }),
    wait: fc.constantFrom('', '', '+1ms ', '+50ms ', '+300ms ', '+5s '),
  })
  .map(({ flags, seq, length, ack, window, options, wait }) => {
    const text = `${flags} ${seq}:${seq + length}(${length})`;
    const urgent = flags.includes('U') ? ` urg ${length}` : '';
    return `${wait}< ${text}${flags.includes('.') ? ` ack ${ack}` : ''} win ${window}${urgent} <${options.join(',')}>`;
  });
const action = fc.oneof(
  { weight: 8, arbitrary: segment },
  { weight: 1, arbitrary: fc.constantFrom('write 700', 'shutdown', 'pause', 'resume', '+2s cork on', 'full', 'room') },
);

describe('TCP, random segments', function () {
  this.timeout(60_000);

  for (const [state, way] of Object.entries(STATES)) {
    it(`survives them in ${state}`, () => {
      fc.assert(
        fc.property(fc.array(action, { minLength: 1, maxLength: 12 }), (actions) => {
          const script = new TcpScript({ listen: { fastOpen: true }, tcp: { maxConnections: 64, maxTimeWait: 64 } });
          script.quiet = true;
          script.play(way);
          for (const line of actions) script.play(line);
          script.network.room = Number.POSITIVE_INFINITY;
          script.tcp.writable(script.now);
          script.closeAll();
          script.play('+200s state CLOSED');
          assert.equal(script.tcp.connectionCount, 0);
          assert.equal(script.network.destinations.held, 0);
        }),
        { numRuns: 300 },
      );
    });
  }
});
