import assert from 'node:assert/strict';
import { playTcp, TcpScript } from '../../../helpers/tcp-script.ts';

/** An accepted connection without any options. */
const ACCEPTED = `
  listen
  < S 0:0(0) win 60000 <mss 1460>
  > S. 0:0(0) ack 1
  < . 1:1(0) ack 1 win 60000
  = accepted
`;

describe('TCP, closing (RFC 9293 §3.6)', () => {
  it('closes first, and waits in TIME-WAIT (figure 12)', () => {
    const script = new TcpScript().play(`
      ${ACCEPTED}
      shutdown
      > F. 1:1(0) ack 1
      state FIN-WAIT-1
      < . 1:1(0) ack 2 win 60000
      state FIN-WAIT-2
      < F. 1:1(0) ack 2 win 60000
      = end
      > . 2:2(0) ack 2
      = closed
      state CLOSED
    `);
    script.end();
    assert.equal(script.tcp.timeWaitCount, 1);
    assert.equal(script.tcp.connectionCount, 0);
    script.play('+59s quiet');
    assert.equal(script.tcp.timeWaitCount, 1);
    script.play('+2s quiet');
    assert.equal(script.tcp.timeWaitCount, 0);
    assert.equal(script.network.destinations.held, 0);
  });

  it('closes second', () => {
    const script = playTcp(`
      ${ACCEPTED}
      < F. 1:1(0) ack 1 win 60000
      = end
      > . 1:1(0) ack 2
      state CLOSE-WAIT
      shutdown
      > F. 1:1(0) ack 2
      state LAST-ACK
      < . 2:2(0) ack 2 win 60000
      = closed
    `);
    assert.equal(script.tcp.timeWaitCount, 0);
  });

  it('closes simultaneously (figure 13)', () => {
    const script = playTcp(`
      ${ACCEPTED}
      shutdown
      > F. 1:1(0) ack 1
      < F. 1:1(0) ack 1 win 60000
      = end
      > . 2:2(0) ack 2
      state CLOSING
      < . 2:2(0) ack 2 win 60000
      = closed
    `);
    assert.equal(script.tcp.timeWaitCount, 1);
  });

  it('goes to TIME-WAIT at once when FIN carries the ACK of ours', () => {
    const script = playTcp(`
      ${ACCEPTED}
      shutdown
      > F. 1:1(0) ack 1
      < F. 1:1(0) ack 2 win 60000
      = end
      > . 2:2(0) ack 2
      = closed
    `);
    assert.equal(script.tcp.timeWaitCount, 1);
  });

  it('sends a FIN again that was lost, whatever comes meanwhile', () => {
    playTcp(`
      ${ACCEPTED}
      shutdown
      > F. 1:1(0) ack 1
      +2ms < P. 1:101(100) ack 1 win 60000
      = data 100
      > . 2:2(0) ack 101
      +199ms > F. 1:1(0) ack 101
      +10ms < . 101:101(0) ack 2 win 60000
      state FIN-WAIT-2
      < F. 101:101(0) ack 2 win 60000
      = end
      > . 2:2(0) ack 102
      = closed
    `);
  });

  it('sends a FIN again and again when nothing comes (RFC 6298 §5.5), and gives up', () => {
    const script = playTcp(`
      ${ACCEPTED}
      close
      > F. 1:1(0) ack 1
      +200ms > F. 1:1(0) ack 1
      +400ms > F. 1:1(0) ack 1
      +800ms > F. 1:1(0) ack 1
    `);
    script.quiet = true;
    script.play('+300s quiet');
    assert.equal(script.tcp.connectionCount, 0);
    assert.equal(script.network.destinations.held, 0);
  });

  it('tells the end when the program reads again, though nothing but FIN had come', () => {
    playTcp(`
      ${ACCEPTED}
      pause
      < F. 1:1(0) ack 1 win 60000
      > . 1:1(0) ack 2
      resume
      = end
      shutdown
      > F. 1:1(0) ack 2
      < . 2:2(0) ack 2 win 60000
      = closed
    `);
  });

  it('is half closed: data still comes, and goes the other way', () => {
    playTcp(`
      ${ACCEPTED}
      shutdown
      > F. 1:1(0) ack 1
      < . 1:1(0) ack 2 win 60000
      < P. 1:101(100) ack 2 win 60000
      = data 100
      > . 2:2(0) ack 101
      < F. 101:101(0) ack 2 win 60000
      = end
      = closed
      > . 2:2(0) ack 102
    `);
    playTcp(`
      ${ACCEPTED}
      < F. 1:1(0) ack 1 win 60000
      = end
      > . 1:1(0) ack 2
      write 50
      > P. 1:51(50) ack 2
      < . 2:2(0) ack 51 win 60000
      shutdown
      > F. 51:51(0) ack 2
      < . 2:2(0) ack 52 win 60000
      = closed
    `);
  });

  it('sends FIN with the last data', () => {
    playTcp(`
      ${ACCEPTED}
      write 50; shutdown
      > FP. 1:51(50) ack 1
      state FIN-WAIT-1
    `);
  });

  it('takes FIN with data, and FIN before its turn', () => {
    playTcp(`
      ${ACCEPTED}
      < FP. 1:11(10) ack 1 win 60000
      = data 10
      = end
      > . 1:1(0) ack 12
    `);
    playTcp(`
      ${ACCEPTED}
      < FP. 11:21(10) ack 1 win 60000
      > . 1:1(0) ack 1
      < P. 1:11(10) ack 1 win 60000
      = data 10
      = data 10
      = end
      > . 1:1(0) ack 22
    `);
  });

  it('refuses to write after shutdown', () => {
    const script = new TcpScript().play(`${ACCEPTED}
      shutdown
      > F. 1:1(0) ack 1
    `);
    assert.throws(() => script.tcp.write(script.connection, new Uint8Array(1)), { code: 'EPIPE' });
  });

  it('tells the end only when the program has all data, and keeps the connection until then', () => {
    const script = new TcpScript().play(`
      ${ACCEPTED}
      pause
      < FP. 1:101(100) ack 1 win 60000
      > . 1:1(0) ack 102
      shutdown
      > F. 1:1(0) ack 102
      < . 102:102(0) ack 2 win 60000
      +1s quiet
      resume
      = data 100
      = end
      = closed
    `);
    script.end();
    assert.equal(script.tcp.connectionCount, 0);
  });

  it('sends RST when the program aborts (§3.10.5)', () => {
    const script = playTcp(`
      ${ACCEPTED}
      write 10
      > P. 1:11(10) ack 1
      abort
      > R. 11:11(0) ack 1
      state CLOSED
      +1s quiet
    `);
    assert.equal(script.network.destinations.held, 0);
  });

  it('sends RST when the program closes without having read all (RFC 1122 §4.2.2.13)', () => {
    playTcp(`
      ${ACCEPTED}
      pause
      < P. 1:11(10) ack 1 win 60000
      > . 1:1(0) ack 11
      close
      > R. 1:1(0) ack 11
    `);
  });

  it('answers data for a program that has closed with RST', () => {
    playTcp(`
      ${ACCEPTED}
      close
      > F. 1:1(0) ack 1
      < . 1:1(0) ack 2 win 60000
      < P. 1:11(10) ack 2 win 60000
      > R 2:2(0)
      +70s quiet
    `);
  });

  it('gives up an orphan in FIN-WAIT-2 after a minute', () => {
    const script = playTcp(`
      ${ACCEPTED}
      close
      > F. 1:1(0) ack 1
      < . 1:1(0) ack 2 win 60000
      +59s quiet
    `);
    assert.equal(script.tcp.connectionCount, 1);
    script.play('+2s quiet');
    assert.equal(script.tcp.connectionCount, 0);
  });

  it('sends what was written before close', () => {
    playTcp(`
      ${ACCEPTED}
      write 10; close
      > FP. 1:11(10) ack 1
    `);
  });
});

describe('TCP, RST (RFC 9293 §3.5.2, §3.10.7.4; RFC 5961 §3)', () => {
  for (const [state, before] of [
    ['ESTABLISHED', ''],
    ['FIN-WAIT-1', 'shutdown\n> F. 1:1(0) ack 1'],
    ['FIN-WAIT-2', 'shutdown\n> F. 1:1(0) ack 1\n< . 1:1(0) ack 2 win 60000'],
  ] as const) {
    it(`ends a connection in ${state}`, () => {
      playTcp(`
        ${ACCEPTED}
        ${before}
        state ${state}
        < R 1:1(0)
        = closed ECONNRESET
        +1s quiet
      `);
    });
  }

  it('ends one in CLOSE-WAIT and LAST-ACK', () => {
    playTcp(`
      ${ACCEPTED}
      < F. 1:1(0) ack 1 win 60000
      = end
      > . 1:1(0) ack 2
      < R 2:2(0)
      = closed ECONNRESET
    `);
    playTcp(`
      ${ACCEPTED}
      < F. 1:1(0) ack 1 win 60000
      = end
      > . 1:1(0) ack 2
      shutdown
      > F. 1:1(0) ack 2
      < R 2:2(0)
      = closed ECONNRESET
    `);
  });

  it('is asked about when it is in the window but not exact (§3.2)', () => {
    playTcp(`
      ${ACCEPTED}
      < R 2:2(0)
      > . 1:1(0) ack 1
      < R 60000:60000(0)
      > . 1:1(0) ack 1
      state ESTABLISHED
    `);
  });

  it('is dropped outside of the window', () => {
    playTcp(`
      ${ACCEPTED}
      < R -5:-5(0)
      < R 200000:200000(0)
      +1s quiet
      state ESTABLISHED
    `);
  });

  it('is asked about by a SYN in a connection (§4.2)', () => {
    playTcp(`
      ${ACCEPTED}
      < S 1:1(0) win 100
      > . 1:1(0) ack 1
      < S 5000:5000(0) win 100
      > . 1:1(0) ack 1
      < S -5000:-5000(0) win 100
      > . 1:1(0) ack 1
      state ESTABLISHED
    `);
  });

  it('is asked about by an ACK of what was never sent, or long ago (§5.2)', () => {
    playTcp(`
      ${ACCEPTED}
      < . 1:1(0) ack 2 win 60000
      > . 1:1(0) ack 1
      < P. 1:11(10) ack -70000 win 60000
      > . 1:1(0) ack 1
      +1s quiet
    `);
  });

  it('asks so often only (§7)', () => {
    const script = new TcpScript().play(ACCEPTED);
    for (let i = 0; i < 5000; i++) {
      script.network.onSent = () => {};
      script.play('< S 1:1(0) win 100');
    }
    const { challengeAcks, challengeAcksWithheld } = script.tcp.counters;
    assert.ok(challengeAcks >= 500 && challengeAcks <= 1500, `${challengeAcks}`);
    assert.equal(challengeAcks + challengeAcksWithheld, 5000);
  });
});

describe('TCP, TIME-WAIT (RFC 9293 §3.6.1, RFC 6191, RFC 1337)', () => {
  const WAITING = `
    listen
    < S 0:0(0) win 60000 <mss 1460,TS val 100 ecr 0>
    > S. 0:0(0) ack 1
    < . 1:1(0) ack 1 win 60000 <TS val 101 ecr 10000>
    = accepted
    shutdown
    > F. 1:1(0) ack 1
    < F. 1:1(0) ack 2 win 60000 <TS val 102 ecr 10000>
    = end
    = closed
    > . 2:2(0) ack 2
  `;

  it('answers FIN again, and begins anew', () => {
    const script = playTcp(`
      ${WAITING}
      +50s < F. 1:1(0) ack 2 win 60000 <TS val 103 ecr 10000>
      > . 2:2(0) ack 2 <TS val 60000 ecr 102>
      +50s quiet
    `);
    assert.equal(script.tcp.timeWaitCount, 1);
    script.play('+11s quiet');
    assert.equal(script.tcp.timeWaitCount, 0);
  });

  it('is not ended by RST (RFC 1337)', () => {
    const script = playTcp(`
      ${WAITING}
      < R 2:2(0)
      < R. 2:2(0) ack 2
    `);
    assert.equal(script.tcp.timeWaitCount, 1);
  });

  it('makes way for a SYN with a newer timestamp (RFC 6191 §2)', () => {
    const script = new TcpScript().play(`
      ${WAITING}
      +1s < S 0:0(0) win 60000 <mss 1460,TS val 1200 ecr 0>
    `);
    assert.equal(script.tcp.timeWaitCount, 0);
    assert.equal(script.tcp.counters.timeWaitsReused, 1);
    assert.equal(script.tcp.connectionCount, 1);
  });

  it('makes way for a SYN with a higher number, where there are no timestamps (RFC 1122 §4.2.2.13)', () => {
    const script = new TcpScript().play(`
      ${WAITING.replaceAll(/,?TS val \d+ ecr \d+/g, '')}
      +1s < S 100:100(0) win 60000 <mss 1460>
    `);
    assert.equal(script.tcp.counters.timeWaitsReused, 1);
  });

  it('does not make way for an old SYN', () => {
    const script = playTcp(`
      ${WAITING}
      +1s < S 0:0(0) win 60000 <mss 1460,TS val 90 ecr 0>
      > . 2:2(0) ack 2
    `);
    assert.equal(script.tcp.timeWaitCount, 1);
  });
});
