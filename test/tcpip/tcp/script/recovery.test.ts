import assert from 'node:assert/strict';
import { playTcp, TcpScript } from '../../../helpers/tcp-script.ts';

/** Accepted with SACK and timestamps, a round trip of 20 ms, and full segments of 1000 bytes. */
const STAMPED = `
  listen
  < S 0:0(0) win 60000 <mss 1012,sackOK,TS val 100 ecr 0>
  > S. 0:0(0) ack 1
  +20ms < . 1:1(0) ack 1 win 60000 <TS val 120 ecr 10000>
  = accepted
`;
/** With SACK alone: nothing but the numbers tells what arrived. */
const SACKED = STAMPED.replaceAll(/,?TS val \d+ ecr \d+/g, '')
  .replace('1012', '1000')
  .replaceAll(' <>', '');
/** Without either. */
const PLAIN = SACKED.replace(',sackOK', '');

/** The first ten segments. */
const TEN = `
  nodelay on
  write 10000
  ${Array.from({ length: 10 }, (_, i) => `> ${i === 9 ? 'P.' : '.'} ${1 + 1000 * i}:${1001 + 1000 * i}(1000) ack 1`).join('\n')}
`;

describe('TCP, loss with SACK (RFC 2018, 6675, 8985)', () => {
  it('begins with ten segments (RFC 6928)', () => {
    playTcp(`
      ${SACKED}
      write 12000
      ${TEN.split('\n').slice(3).join('\n').replace('P.', '.')}
      +19ms quiet
    `);
  });

  it('sends a hole again when three segments behind it have arrived, and what is new besides', () => {
    const script = playTcp(`
      ${SACKED}
      ${TEN}
      +20ms < . 1:1(0) ack 1 win 60000 <sack 1001:2001>
      < . 1:1(0) ack 1 win 60000 <sack 1001:3001>
      < . 1:1(0) ack 1 win 60000 <sack 1001:4001>
      > . 1:1001(1000) ack 1
      +20ms < . 1:1(0) ack 10001 win 60000
      +1s quiet
    `);
    assert.equal(script.tcp.counters.retransSegs, 1);
    assert.equal(script.tcp.counters.timeouts, 0);
  });

  it('waits a quarter of a round trip where fewer have arrived (RFC 8985 §6.2)', () => {
    playTcp(`
      ${SACKED}
      write 3000
      > . 1:1001(1000) ack 1
      > . 1001:2001(1000) ack 1
      > P. 2001:3001(1000) ack 1
      +20ms < . 1:1(0) ack 1 win 60000 <sack 2001:3001>
      +5ms > . 1:1001(1000) ack 1
      +20ms < . 1:1(0) ack 1001 win 60000 <sack 2001:3001>
      > . 1001:2001(1000) ack 1
    `);
  });

  it('sends each hole once a round trip', () => {
    playTcp(`
      ${SACKED}
      ${TEN}
      +20ms < . 1:1(0) ack 1 win 60000 <sack 1001:2001 3001:10001>
      > . 1:1001(1000) ack 1
      > . 2001:3001(1000) ack 1
      +20ms < . 1:1(0) ack 2001 win 60000 <sack 3001:10001>
      < . 1:1(0) ack 10001 win 60000
      +1s quiet
    `);
  });

  it('takes no SACK seriously that is reversed, or of what was never sent', () => {
    playTcp(`
      ${SACKED}
      write 2000
      > . 1:1001(1000) ack 1
      > P. 1001:2001(1000) ack 1
      +10ms < . 1:1(0) ack 1 win 60000 <sack 5001:9001>
      < . 1:1(0) ack 1 win 60000 <sack 2001:1001>
      < . 1:1(0) ack 1 win 60000 <sack -5000:-4000>
      +10ms < . 1:1(0) ack 2001 win 60000
      +1s quiet
    `);
  });

  it('reduces the window once a round trip, by CUBIC to seven tenths (RFC 9438 §4.6)', () => {
    const script = new TcpScript().play(`
      ${SACKED}
      ${TEN}
      +20ms < . 1:1(0) ack 1 win 60000 <sack 1001:4001>
      > . 1:1001(1000) ack 1
      +20ms < . 1:1(0) ack 10001 win 60000
    `);
    const { cwnd, ssthresh } = script.tcp.info(script.connection);
    assert.equal(ssthresh, 7000);
    assert.ok(cwnd >= 7000 && cwnd < 8000, `cwnd is ${cwnd}`);
  });
});

describe('TCP, loss without SACK (RFC 5681, 6582, 3042)', () => {
  it('sends again with the third duplicate ACK, and two new segments before (limited transmit)', () => {
    playTcp(`
      ${PLAIN}
      write 12000
      ${TEN.split('\n').slice(3).join('\n').replace('P.', '.')}
      +20ms < . 1:1(0) ack 1 win 60000
      > . 10001:11001(1000) ack 1
      < . 1:1(0) ack 1 win 60000
      > P. 11001:12001(1000) ack 1
      < . 1:1(0) ack 1 win 60000
      > . 1:1001(1000) ack 1
      +20ms < . 1:1(0) ack 12001 win 60000
      +1s quiet
    `);
  });

  it('sends the next hole with a partial ACK (RFC 6582 §3.2)', () => {
    playTcp(`
      ${PLAIN}
      ${TEN}
      +20ms < . 1:1(0) ack 1 win 60000
      < . 1:1(0) ack 1 win 60000
      < . 1:1(0) ack 1 win 60000
      > . 1:1001(1000) ack 1
      +20ms < . 1:1(0) ack 4001 win 60000
      > . 4001:5001(1000) ack 1
      +20ms < . 1:1(0) ack 10001 win 60000
      +1s quiet
    `);
  });

  it('counts no ACK with data or another window for a duplicate', () => {
    playTcp(`
      ${PLAIN}
      ${TEN}
      +10ms < . 1:1(0) ack 1 win 59000
      < . 1:1(0) ack 1 win 58000
      < . 1:1(0) ack 1 win 57000
      +5ms quiet
    `);
  });
});

describe('TCP, a tail that is lost (RFC 8985 §7)', () => {
  it('is probed after two round trips, before the time-out', () => {
    playTcp(`
      ${SACKED}
      ${TEN}
      +20ms < . 1:1(0) ack 8001 win 60000
      +40ms > P. 9001:10001(1000) ack 1
      +20ms < . 1:1(0) ack 8001 win 60000 <sack 9001:10001>
      > . 8001:9001(1000) ack 1
      +20ms < . 1:1(0) ack 10001 win 60000
      +1s quiet
    `);
  });

  it('is probed with new data where there is some', () => {
    const script = new TcpScript().play(`
      ${SACKED}
      ${TEN}
      +20ms < . 1:1(0) ack 10001 win 500
      nodelay off
      write 1000
    `);
    script.play('+200ms > . 10001:10501(500) ack 1');
  });
});

describe('TCP, the retransmission time-out (RFC 6298)', () => {
  it('comes after 200 ms at the least, doubles, and begins anew with an ACK', () => {
    playTcp(`
      ${PLAIN}
      write 1000
      > P. 1:1001(1000) ack 1
      +200ms > P. 1:1001(1000) ack 1
      +400ms > P. 1:1001(1000) ack 1
      +10ms < . 1:1(0) ack 1001 win 60000
      write 1000
      > P. 1001:2001(1000) ack 1
      +200ms > P. 1001:2001(1000) ack 1
    `);
  });

  it('takes no round trip of what was sent twice (Karn, §3)', () => {
    const script = new TcpScript().play(`
      ${PLAIN}
      write 1000
      > P. 1:1001(1000) ack 1
      +200ms > P. 1:1001(1000) ack 1
      +190ms < . 1:1(0) ack 1001 win 60000
    `);
    assert.ok(script.tcp.info(script.connection).rtt <= 20);
  });

  it('leaves one segment in flight, and slow start from there (RFC 5681 §3.1)', () => {
    playTcp(`
      ${PLAIN}
      ${TEN}
      +200ms > . 1:1001(1000) ack 1
      +20ms < . 1:1(0) ack 1001 win 60000
      > . 1001:2001(1000) ack 1
      > . 2001:3001(1000) ack 1
      +20ms < . 1:1(0) ack 3001 win 60000
      > . 3001:4001(1000) ack 1
      > . 4001:5001(1000) ack 1
      > . 5001:6001(1000) ack 1
      > . 6001:7001(1000) ack 1
    `);
  });

  it('ends the connection after 15 of them (RFC 9293 §3.8.3, R2)', () => {
    const script = new TcpScript().play(`
      ${PLAIN}
      write 1000
    `);
    script.quiet = true;
    script.play('+2000s state CLOSED');
    assert.equal(script.tcp.connectionCount, 0);
    assert.equal(script.tcp.counters.timeouts, 15 + 1);
  });

  it('ends it sooner where the program says so (RFC 5482)', () => {
    const script = new TcpScript().play(`
      ${PLAIN}
      usertimeout 3000
    `);
    script.network.onSent = () => {};
    script.play(`
      write 1000
      +2900ms state ESTABLISHED
      +200ms = closed ETIMEDOUT
    `);
  });

  it('was spurious when the first ACK is for what was not sent again (F-RTO, RFC 5682)', () => {
    const script = new TcpScript().play(`
      ${SACKED}
      ${TEN}
      +40ms > P. 9001:10001(1000) ack 1
      +200ms > . 1:1001(1000) ack 1
      +20ms < . 1:1(0) ack 2001 win 60000
      < . 1:1(0) ack 10001 win 60000
      +1s quiet
    `);
    const { cwnd } = script.tcp.info(script.connection);
    assert.ok(cwnd >= 10_000, `cwnd is ${cwnd}`);
  });
});

describe('TCP, needless retransmissions', () => {
  it('are taken back by D-SACK (RFC 2883, 3708)', () => {
    const script = new TcpScript().play(`
      ${SACKED}
      ${TEN}
      +20ms < . 1:1(0) ack 1 win 60000 <sack 1001:4001>
      > . 1:1001(1000) ack 1
      +1ms < . 1:1(0) ack 4001 win 60000
      +19ms < . 1:1(0) ack 4001 win 60000 <sack 1:1001>
    `);
    assert.ok(script.tcp.info(script.connection).cwnd >= 10_000);
  });

  it('are taken back by timestamps (Eifel, RFC 3522)', () => {
    const script = new TcpScript().play(`
      ${STAMPED}
      ${TEN}
      +20ms < . 1:1(0) ack 1 win 60000 <TS val 140 ecr 10020,sack 1001:4001>
      > . 1:1001(1000) ack 1
      +5ms < . 1:1(0) ack 4001 win 60000 <TS val 145 ecr 10020>
    `);
    assert.ok(script.tcp.info(script.connection).cwnd >= 10_000);
  });
});

describe('TCP, what it tells of what came (RFC 2018 §4, RFC 2883)', () => {
  it('SACKs the newest range first', () => {
    playTcp(`
      ${SACKED}
      < . 2001:3001(1000) ack 1 win 60000
      > . 1:1(0) ack 1 <sack 2001:3001>
      < . 6001:7001(1000) ack 1 win 60000
      > . 1:1(0) ack 1 <sack 6001:7001 2001:3001>
      < . 4001:5001(1000) ack 1 win 60000
      > . 1:1(0) ack 1 <sack 4001:5001 6001:7001 2001:3001>
      < . 3001:4001(1000) ack 1 win 60000
      > . 1:1(0) ack 1 <sack 2001:5001 6001:7001>
      < . 1:2001(2000) ack 1 win 60000
      = data 2000
      = data 2000
      = data 1000
      > . 1:1(0) ack 5001 <sack 6001:7001>
    `);
  });

  it('tells of duplicates, once', () => {
    playTcp(`
      ${SACKED}
      < . 1:1001(1000) ack 1 win 60000
      = data 1000
      > . 1:1(0) ack 1001 <>
      < . 1:1001(1000) ack 1 win 60000
      > . 1:1(0) ack 1001 <sack 1:1001>
      < . 2001:3001(1000) ack 1 win 60000
      > . 1:1(0) ack 1001 <sack 2001:3001>
      < . 2001:3001(1000) ack 1 win 60000
      > . 1:1(0) ack 1001 <sack 2001:3001 2001:3001>
    `);
  });

  it('leaves room for them in segments with data', () => {
    playTcp(`
      ${SACKED}
      < . 2001:3001(1000) ack 1 win 60000
      > . 1:1(0) ack 1 <sack 2001:3001>
      write 2000
      > . 1:989(988) ack 1 <sack 2001:3001>
      > . 989:1977(988) ack 1 <sack 2001:3001>
      > P. 1977:2001(24) ack 1 <sack 2001:3001>
    `);
  });
});

describe('TCP, ECN (RFC 3168 §6.1.2)', () => {
  it('takes a mark for congestion, once a window, and says so with CWR', () => {
    const script = new TcpScript().play(`
      listen
      < SEW 0:0(0) win 60000 <mss 1000,sackOK>
      > S.E 0:0(0) ack 1
      +20ms < . 1:1(0) ack 1 win 60000
      = accepted
      ${TEN}
      +20ms < .E 1:1(0) ack 2001 win 60000
      < .E 1:1(0) ack 3001 win 60000
      write 5000
    `);
    assert.equal(script.tcp.info(script.connection).ssthresh, 7000);
    script.play(`
      +10ms < .E 1:1(0) ack 10001 win 60000
      > .W 10001:11001(1000) ack 1
    `);
  });
});

describe('TCP, after a pause (RFC 5681 §4.1)', () => {
  it('begins with the initial window again', () => {
    const script = new TcpScript({ segments: true }).play(`
      ${SACKED}
    `);
    script.quiet = true;
    for (let round = 0; round < 5; round++) {
      const sent = 1 + round * 20_000;
      script.play(`
        write 20000
        +20ms < . 1:1(0) ack ${sent + 10_000} win 60000
        +20ms < . 1:1(0) ack ${sent + 20_000} win 60000
      `);
    }
    assert.ok(script.tcp.info(script.connection).cwnd > 10_000);
    script.play('+10s state ESTABLISHED');
    assert.equal(script.tcp.info(script.connection).inFlight, 0);
    script.play('write 60000');
    assert.equal(script.tcp.info(script.connection).inFlight, 10_000);
  });
});
