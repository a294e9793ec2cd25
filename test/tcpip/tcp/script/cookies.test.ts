import assert from 'node:assert/strict';
import { playTcp, TcpScript } from '../../../helpers/tcp-script.ts';

/** Nobody may wait: every SYN is answered with a cookie. */
const FULL = { listen: { backlog: 0 } };

describe('TCP, SYN cookies (RFC 4987 §3.6)', () => {
  it('make a connection without having kept anything', () => {
    const script = new TcpScript(FULL).play(`
      listen
      < S 0:0(0) win 8000 <mss 1300>
      > S. 0:0(0) ack 1 win 65535 <mss 1460>
    `);
    assert.equal(script.tcp.connectionCount, 0);
    assert.equal(script.network.destinations.held, 0);
    script.play(`
      +10ms < . 1:1(0) ack 1 win 8000
      = accepted
      state ESTABLISHED
      write 2000
      > . 1:1301(1300) ack 1
      > P. 1301:2001(700) ack 1
    `);
    assert.equal(script.tcp.counters.syncookiesSent, 1);
    assert.equal(script.tcp.counters.syncookiesRecv, 1);
  });

  it('take data that comes with the last ACK', () => {
    playTcp(
      `
      listen
      < S 0:0(0) win 8000 <mss 1460>
      > S. 0:0(0) ack 1
      < P. 1:101(100) ack 1 win 8000
      = accepted
      = data 100
      > . 1:1(0) ack 101
      `,
      FULL,
    );
  });

  it('round the MSS down to one that they can tell', () => {
    playTcp(
      `
      listen
      < S 0:0(0) win 8000 <mss 1400>
      > S. 0:0(0) ack 1
      < . 1:1(0) ack 1 win 8000
      = accepted
      write 1400
      > . 1:1301(1300) ack 1
      > P. 1301:1401(100) ack 1
      `,
      FULL,
    );
  });

  it('keep window scale and SACK in the timestamp', () => {
    // 10,000 ms is 0x2710: the options stand in its last six bits.
    playTcp(
      `
      listen
      < S 0:0(0) win 1000 <mss 1460,sackOK,TS val 100 ecr 0,wscale 3>
      > S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 10000 ecr 100,wscale 7>
      < . 1:1(0) ack 1 win 125 <TS val 101 ecr 10000>
      = accepted
      write 1448
      write 100
      > . 1:1001(1000) ack 1
      < P. 101:201(100) ack 1 win 125 <TS val 102 ecr 10000>
      > . 1001:1001(0) ack 1 <TS val 10061 ecr 101,sack 101:201>
      `,
      FULL,
    );
  });

  it('are refused when they are old, or wrong', () => {
    const script = new TcpScript(FULL).play(`
      listen
      < S 0:0(0) win 8000 <mss 1460>
      > S. 0:0(0) ack 1
      < . 1:1(0) ack 100 win 8000
      > R 100:100(0)
      < . 500:500(0) ack 1 win 8000
      > R 1:1(0)
      +200s < . 1:1(0) ack 1 win 8000
      > R 1:1(0)
    `);
    assert.equal(script.tcp.connectionCount, 0);
  });

  it('are not looked for where none was sent', () => {
    const script = playTcp(`
      listen
      < . 1:1(0) ack 1 win 8000
      > R 1:1(0)
    `);
    assert.equal(script.tcp.counters.syncookiesFailed, 0);
  });

  it('go out where the table is full', () => {
    playTcp(
      `
      listen
      < S 0:0(0) win 8000 <mss 1460>
      > S. 0:0(0) ack 1
      `,
      { ...FULL, tcp: { maxConnections: 1 } },
    );
  });
});
