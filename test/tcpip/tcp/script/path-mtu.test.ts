import assert from 'node:assert/strict';
import { ERROR_PACKET_TOO_BIG, ERROR_UNREACHABLE_HOST, ERROR_UNREACHABLE_PORT } from '../../../../tcpip/network.ts';
import { newPacket } from '../../../../tcpip/packet.ts';
import { playTcp, TcpScript } from '../../../helpers/tcp-script.ts';

const ACCEPTED = `
  listen
  < S 0:0(0) win 60000 <mss 1400>
  > S. 0:0(0) ack 1
  +20ms < . 1:1(0) ack 1 win 60000
  = accepted
`;

/** An ICMP error that quotes the last segment that was sent, `offset` numbers further. */
function icmp(script: TcpScript, kind: number, mtu = 0, offset = 0): boolean {
  const sent = script.lastSent!;
  const quoted = newPacket();
  quoted.bytes = sent.bytes.slice();
  const view = new DataView(quoted.bytes.buffer);
  view.setUint32(4, view.getUint32(4) + offset);
  quoted.end = 8;
  quoted.local = 0;
  return script.tcp.error(kind, quoted, script.network.destinations.find(4, sent.destination, 0), mtu, script.now);
}

describe('TCP, a narrow path (RFC 1191, 5927)', () => {
  it('sends what was too big again, smaller, and keeps its window', () => {
    const script = new TcpScript().play(`
      ${ACCEPTED}
      write 2800
      > . 1:1401(1400) ack 1
      > P. 1401:2801(1400) ack 1
    `);
    assert.equal(icmp(script, ERROR_PACKET_TOO_BIG, 1040), true);
    script.play(`
      > . 1:1001(1000) ack 1
      > . 1001:1401(400) ack 1
      > . 1401:2401(1000) ack 1
      > P. 2401:2801(400) ack 1
    `);
  });

  it('does not believe an error of what is not in flight (RFC 5927 §4.1)', () => {
    const script = new TcpScript().play(`
      ${ACCEPTED}
      write 1400
      > P. 1:1401(1400) ack 1
    `);
    assert.equal(icmp(script, ERROR_PACKET_TOO_BIG, 1040, 5000), false);
    assert.equal(icmp(script, ERROR_PACKET_TOO_BIG, 1040, -5000), false);
    assert.equal(icmp(script, ERROR_PACKET_TOO_BIG, 9000), false);
    script.play('+10ms quiet');
  });

  it('goes no lower than a path must take', () => {
    const script = new TcpScript().play(`
      ${ACCEPTED}
      write 1400
      > P. 1:1401(1400) ack 1
    `);
    assert.equal(icmp(script, ERROR_PACKET_TOO_BIG, 68), true);
    script.play('> . 1:513(512) ack 1');
  });

  it('tries smaller segments where large ones get no answer, and large ones again (RFC 4821 §7.7, §7.4)', () => {
    playTcp(`
      ${ACCEPTED}
      write 1400
      > P. 1:1401(1400) ack 1
      +200ms > P. 1:1401(1400) ack 1
      +400ms > P. 1:1401(1400) ack 1
      +800ms > . 1:1025(1024) ack 1
      +20ms < . 1:1(0) ack 1025 win 60000
      > P. 1025:1401(376) ack 1
      +20ms < . 1:1(0) ack 1401 win 60000
      write 1400
      > P. 1401:2801(1400) ack 1
    `);
  });
});

describe('TCP, a black hole that stays', () => {
  it('is remembered for the host, once it was no outage (RFC 4821 §5.2)', () => {
    const script = playTcp(`
      ${ACCEPTED}
      write 1400
      > P. 1:1401(1400) ack 1
      +200ms > P. 1:1401(1400) ack 1
      +400ms > P. 1:1401(1400) ack 1
      +800ms > . 1:1025(1024) ack 1
      +20ms < . 1:1(0) ack 1025 win 60000
      > P. 1025:1401(376) ack 1
      +20ms < . 1:1(0) ack 1401 win 60000
    `);
    const { destinations } = script.network;
    const host = destinations.find(4, Uint8Array.of(10, 0, 0, 2), 0);
    assert.equal(destinations.pathMtu(host), 1500);
    script.quiet = true;
    script.play('write 1400\n+5s quiet');
    assert.equal(destinations.pathMtu(host), 1024 + 40);
  });
});

describe('TCP, ICMP errors (RFC 5461)', () => {
  it('end a connection that is not made yet', () => {
    const script = new TcpScript().play('connect\n> S 0:0(0)');
    icmp(script, ERROR_UNREACHABLE_HOST);
    script.play('= closed EHOSTUNREACH\n+1s quiet');
    assert.equal(script.network.destinations.held, 0);
  });

  it('do not end one that is', () => {
    const script = new TcpScript().play(`
      ${ACCEPTED}
      write 1400
      > P. 1:1401(1400) ack 1
    `);
    icmp(script, ERROR_UNREACHABLE_HOST);
    icmp(script, ERROR_UNREACHABLE_PORT);
    script.play('state ESTABLISHED');
  });
});
