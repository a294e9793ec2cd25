import assert from 'node:assert/strict';
import { playTcp, TcpScript } from '../../../helpers/tcp-script.ts';

/** The other side as Linux is. */
const SYN = '< S 0:0(0) win 65535 <mss 1460,sackOK,TS val 100 ecr 0,wscale 7>';

describe('TCP, opening (RFC 9293 §3.5)', () => {
  it('answers SYN, and tells the program when the handshake is done', () => {
    playTcp(`
      listen
      ${SYN}
      > S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,wscale 7,TS val 10000 ecr 100>
      +10ms < . 1:1(0) ack 1 win 512 <TS val 110 ecr 10000>
      = accepted
      state ESTABLISHED
    `);
  });

  it('offers nothing in SYN-ACK that the other side did not (RFC 7323 §1.3, RFC 2018 §2)', () => {
    playTcp(`
      listen
      < S 0:0(0) win 8000 <mss 1000>
      > S. 0:0(0) ack 1 win 65535 <mss 1460>
      +10ms < . 1:1(0) ack 1 win 8000
      = accepted
      write 1500
      > . 1:1001(1000) ack 1 win 65535 <>
      > P. 1001:1501(500) ack 1 win 65535 <>
    `);
  });

  it('takes 536 bytes for the MSS of who names none (RFC 9293 §3.7.1, MUST-15)', () => {
    playTcp(`
      listen
      < S 0:0(0) win 8000
      > S. 0:0(0) ack 1
      < . 1:1(0) ack 1 win 8000
      = accepted
      write 600
      > . 1:537(536) ack 1
      > P. 537:601(64) ack 1
    `);
  });

  it('sends SYN again after 1, 2, 4, … s, and gives up after 127 s (RFC 6298 §5.7, RFC 9293 §3.8.3)', () => {
    playTcp(`
      connect
      > S 0:0(0) win 65535 <mss 1460,sackOK,wscale 7,TS val 10000 ecr 0>
      +1s > S 0:0(0) <mss 1460,sackOK,wscale 7,TS val 11000 ecr 0>
      +2s > S 0:0(0)
      +4s > S 0:0(0)
      +8s > S 0:0(0)
      +16s > S 0:0(0)
      +32s > S 0:0(0)
      +63s quiet
      +2s quiet
      = closed ETIMEDOUT
    `);
  });

  it('sends SYN-ACK again, and forgets a client that never answers', () => {
    const script = playTcp(`
      listen
      ${SYN}
      > S. 0:0(0) ack 1
      +1s > S. 0:0(0) ack 1
      +2s > S. 0:0(0) ack 1
      +4s > S. 0:0(0) ack 1
      +8s > S. 0:0(0) ack 1
      +16s > S. 0:0(0) ack 1
      +33s quiet
    `);
    assert.equal(script.tcp.connectionCount, 0);
    assert.equal(script.network.destinations.held, 0);
  });

  it('answers a SYN that comes again with SYN-ACK', () => {
    playTcp(`
      listen
      ${SYN}
      > S. 0:0(0) ack 1
      +10ms ${SYN}
      > S. 0:0(0) ack 1
      +10ms < . 1:1(0) ack 1 win 512 <TS val 120 ecr 10000>
      = accepted
    `);
  });

  it('opens actively', () => {
    playTcp(`
      connect
      > S 0:0(0)
      +10ms < S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 100 ecr 10000,wscale 7>
      = connected
      > . 1:1(0) ack 1 win 1024 <TS val 10010 ecr 100>
      state ESTABLISHED
    `);
  });

  it('sends what was written before the handshake with it', () => {
    playTcp(`
      connect
      > S 0:0(0)
      write 100
      +10ms < S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 100 ecr 10000,wscale 7>
      = connected
      > P. 1:101(100) ack 1 <TS val 10010 ecr 100>
    `);
  });

  it('opens simultaneously (§3.5 figure 7)', () => {
    playTcp(`
      connect
      > S 0:0(0)
      +10ms < S 0:0(0) win 65535 <mss 1460,sackOK,TS val 100 ecr 0,wscale 7>
      > S. 0:0(0) ack 1 <mss 1460,sackOK,wscale 7,TS val 10010 ecr 100>
      state SYN-RECEIVED
      +10ms < S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 100 ecr 10000,wscale 7>
      = connected
      state ESTABLISHED
      +10ms < . 1:1(0) ack 1 win 512 <TS val 110 ecr 10010>
      +1s quiet
    `);
  });

  it('is refused by RST with the right ACK only (§3.10.7.3)', () => {
    playTcp(`
      connect
      > S 0:0(0)
      < R 0:0(0)
      < R. 0:0(0) ack 5
      state SYN-SENT
      < R. 0:0(0) ack 1
      = closed ECONNREFUSED
    `);
  });

  it('answers a wrong ACK in SYN-SENT with RST, and goes on (§3.5.1 figure 9)', () => {
    playTcp(`
      connect
      > S 0:0(0)
      < . 500:500(0) ack 300 win 100
      > R 300:300(0)
      state SYN-SENT
      +1s > S 0:0(0)
    `);
  });

  it('refuses a SYN for a port where nobody listens, and anything else (§3.10.7.1)', () => {
    playTcp(`
      < S 0:0(0) win 100
      > R. 0:0(0) ack 1 win 0
      < . 77:87(10) ack 5 win 100
      > R 5:5(0) win 0
      < R 5:5(0)
      < R. 5:5(0) ack 4
      quiet
    `);
  });

  it('answers an ACK in LISTEN with RST, ignores RST, drops what is neither (§3.10.7.2)', () => {
    playTcp(`
      listen
      < . 1:1(0) ack 99 win 100
      > R 99:99(0)
      < R 1:1(0)
      < P 1:11(10) win 100
      +1s quiet
    `);
  });

  it('says nothing to SYN with FIN', () => {
    playTcp(`
      listen
      < FS 0:0(0) win 8000 <mss 1460>
      +1s quiet
    `);
  });

  it('answers a wrong ACK in SYN-RECEIVED with RST', () => {
    playTcp(`
      listen
      < S 0:0(0) win 1000 <mss 1460>
      > S. 0:0(0) ack 1
      < . 1:1(0) ack 5 win 100
      > R 5:5(0)
      < . 1:1(0) ack 1 win 100
      = accepted
    `);
  });

  it('goes back to LISTEN by RST in SYN-RECEIVED', () => {
    const script = new TcpScript().play(`
      listen
      < S 0:0(0) win 1000 <mss 1460>
      > S. 0:0(0) ack 1
      < R 1:1(0)
      +3s quiet
    `);
    assert.equal(script.tcp.connectionCount, 0);
  });

  it('takes data that comes with the last ACK of the handshake', () => {
    playTcp(`
      listen
      < S 0:0(0) win 1000 <mss 1460>
      > S. 0:0(0) ack 1
      < P. 1:101(100) ack 1 win 100
      = accepted
      = data 100
      > . 1:1(0) ack 101
    `);
  });

  it('resets a connection that the program does not want', () => {
    playTcp(
      `
      listen
      < S 0:0(0) win 1000 <mss 1460>
      > S. 0:0(0) ack 1
      < . 1:1(0) ack 1 win 100
      > R. 1:1(0) ack 1
      `,
      { listen: { onAccept: () => null } },
    );
  });
});

describe('TCP, ECN in the handshake (RFC 3168 §6.1.1)', () => {
  it('is taken where it is asked for', () => {
    playTcp(`
      listen
      < SEW 0:0(0) win 8000 <mss 1000>
      > S.E 0:0(0) ack 1
      < . 1:1(0) ack 1 win 8000
      = accepted
      write 10
      > P. 1:11(10) ack 1 ect
    `);
  });

  it('is not taken where the listener has it off', () => {
    playTcp(
      `
      listen
      < SEW 0:0(0) win 8000 <mss 1000>
      > S. 0:0(0) ack 1
      `,
      { listen: { ecn: false } },
    );
  });

  it('is asked for where the program wants it, and not again when the SYN is lost', () => {
    playTcp(
      `
      connect
      > SEW 0:0(0)
      +1s > S 0:0(0)
      `,
      { connect: { ecn: true } },
    );
  });

  it('is off when the SYN-ACK only echoes the flags', () => {
    playTcp(
      `
      connect
      > SEW 0:0(0)
      < S.EW 0:0(0) ack 1 win 8000 <mss 1000>
      = connected
      > . 1:1(0) ack 1
      write 10
      > P. 1:11(10) ack 1
      `,
      { connect: { ecn: true } },
    );
  });

  it('echoes CE until CWR comes (§6.1.3)', () => {
    playTcp(`
      listen
      < SEW 0:0(0) win 8000 <mss 1000>
      > S.E 0:0(0) ack 1
      < . 1:1(0) ack 1 win 8000
      = accepted
      < P. 1:11(10) ack 1 win 8000 ce
      = data 10
      > .E 1:1(0) ack 11
      < P. 11:21(10) ack 1 win 8000
      = data 10
      > .E 1:1(0) ack 21
      < P.W 21:31(10) ack 1 win 8000
      = data 10
      > . 1:1(0) ack 31
    `);
  });
});
