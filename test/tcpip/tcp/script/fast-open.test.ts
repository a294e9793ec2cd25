import assert from 'node:assert/strict';
import { playTcp, TcpScript } from '../../../helpers/tcp-script.ts';

const OPEN = { listen: { fastOpen: true } };
const DATA = { connect: { fastOpenData: new Uint8Array(100) } };

/** Asks for a cookie; gives it as hex. */
function cookieOf(script: TcpScript): string {
  let cookie = '';
  const { onSent } = script.network;
  script.network.onSent = (sent) => {
    const text = Buffer.from(sent.bytes).toString('hex');
    cookie = /220a([0-9a-f]{16})/.exec(text)?.[1] ?? cookie;
    onSent(sent);
  };
  script.play(`
    listen
    < S 0:0(0) win 8000 <mss 1460,FO>
    > S. 0:0(0) ack 1
    < R 1:1(0)
  `);
  script.network.onSent = onSent;
  assert.match(cookie, /^[0-9a-f]{16}$/);
  return cookie;
}

describe('TCP Fast Open, the server (RFC 7413 §4.2)', () => {
  it('gives a cookie to who asks, and takes data with it at once', () => {
    const script = new TcpScript(OPEN);
    const cookie = cookieOf(script);
    script.restart();
    script.play(`
      < S 0:100(100) win 8000 <mss 1460,FO ${cookie}>
      = accepted
      = data 100
      > S. 0:0(0) ack 101
      write 50
      > P. 1:51(50) ack 101
      +10ms < . 101:101(0) ack 51 win 8000
      state ESTABLISHED
    `);
    assert.equal(script.tcp.counters.fastOpenPassive, 1);
  });

  it('takes no data without a cookie, or with a wrong one, and gives a new one', () => {
    const script = new TcpScript(OPEN).play(`
      listen
      < S 0:100(100) win 8000 <mss 1460,FO 0102030405060708>
      > S. 0:0(0) ack 1
      < P. 1:101(100) ack 1 win 8000
      = accepted
      = data 100
      > . 1:1(0) ack 101
    `);
    assert.equal(script.tcp.counters.fastOpenPassive, 0);
  });

  it('ignores the option where the listener does not want it', () => {
    playTcp(`
      listen
      < S 0:100(100) win 8000 <mss 1460,FO>
      > S. 0:0(0) ack 1 <mss 1460>
    `);
  });
});

describe('TCP Fast Open, the client (RFC 7413 §4.1, §4.2)', () => {
  const KNOWN = `
    connect
    > S 0:0(0) <mss 1460,sackOK,wscale 7,TS val 10000 ecr 0,FO>
    +10ms < S. 0:0(0) ack 1 win 8000 <mss 1460,FO 1122334455667788>
    = connected
    > P. 1:101(100) ack 1
    abort
    > R. 101:101(0) ack 1
  `;

  it('asks for a cookie first, and sends data behind the handshake', () => {
    playTcp(KNOWN, DATA);
  });

  it('sends data in the SYN when it knows one', () => {
    const script = new TcpScript(DATA).play(KNOWN);
    script.restart();
    script.play(`
      connect
      > S 0:100(100) <mss 1460,sackOK,wscale 7,TS val 10010 ecr 0,FO 1122334455667788>
      +10ms < S. 0:0(0) ack 101 win 8000 <mss 1460>
      = connected
      > . 101:101(0) ack 1
      +1s quiet
    `);
    script.end();
  });

  it('sends again what the SYN-ACK does not acknowledge', () => {
    const script = new TcpScript(DATA).play(KNOWN);
    script.restart();
    script.play(`
      connect
      > S 0:100(100)
      +10ms < S. 0:0(0) ack 1 win 8000 <mss 1460>
      = connected
      > P. 1:101(100) ack 1
    `);
    script.end();
  });

  it('sends a plain SYN when one with data is lost, and asks anew next time', () => {
    const script = new TcpScript(DATA).play(KNOWN);
    script.restart();
    script.play(`
      connect
      > S 0:100(100)
      +1s > S 0:0(0) <mss 1460,sackOK,wscale 7,TS val 11010 ecr 0>
      +10ms < S. 0:0(0) ack 1 win 8000 <mss 1460>
      = connected
      > P. 1:101(100) ack 1
      abort
      > R. 101:101(0) ack 1
    `);
    script.restart();
    script.play(`
      connect
      > S 0:0(0) <mss 1460,sackOK,wscale 7,TS val 11020 ecr 0,FO>
    `);
  });
});
