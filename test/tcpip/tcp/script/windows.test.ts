import assert from 'node:assert/strict';
import { playTcp, TcpScript } from '../../../helpers/tcp-script.ts';

function accepted(window: number, scale = ''): string {
  return `
    listen
    < S 0:0(0) win ${window} <mss 1000${scale}>
    > S. 0:0(0) ack 1
    < . 1:1(0) ack 1 win ${window}
    = accepted
  `;
}

describe('TCP, the send window (RFC 9293 §3.8.6)', () => {
  it('sends no more than it allows, and goes on when it opens', () => {
    playTcp(`
      ${accepted(2500)}
      write 5000
      > . 1:1001(1000) ack 1
      > . 1001:2001(1000) ack 1
      +10ms < . 1:1(0) ack 2001 win 3000
      > . 2001:3001(1000) ack 1
      > . 3001:4001(1000) ack 1
      > P. 4001:5001(1000) ack 1
    `);
  });

  it('is scaled as agreed on (RFC 7323 §2.3)', () => {
    playTcp(`
      listen
      < S 0:0(0) win 1000 <mss 1000,wscale 3>
      > S. 0:0(0) ack 1 <mss 1460,wscale 7>
      < . 1:1(0) ack 1 win 250
      = accepted
      write 3000
      > . 1:1001(1000) ack 1
      > . 1001:2001(1000) ack 1
      +10ms < . 1:1(0) ack 2001 win 250
      > P. 2001:3001(1000) ack 1
    `);
  });

  it('takes a shift of more than 14 for 14 (RFC 7323 §2.3)', () => {
    playTcp(`
      listen
      < S 0:0(0) win 10 <mss 1000,wscale 15>
      > S. 0:0(0) ack 1
      < . 1:1(0) ack 1 win 1
      = accepted
      write 3000
      > . 1:1001(1000) ack 1
      > . 1001:2001(1000) ack 1
      > P. 2001:3001(1000) ack 1
    `);
  });

  it('ignores what an old segment says of it (§3.10.7.4)', () => {
    playTcp(`
      ${accepted(3000)}
      < P. 1:11(10) ack 1 win 3000
      = data 10
      > . 1:1(0) ack 11
      < . 11:11(0) ack 1 win 2000
      < . 6:6(0) ack 1 win 9000
      > . 1:1(0) ack 11
      write 3000
      > . 1:1001(1000) ack 11
      > . 1001:2001(1000) ack 11
      +10ms < . 11:11(0) ack 2001 win 2000
      > P. 2001:3001(1000) ack 11
    `);
  });

  it('survives that the window shrinks (§3.8.6, SHLD-16)', () => {
    playTcp(`
      ${accepted(3000)}
      write 4000
      > . 1:1001(1000) ack 1
      > . 1001:2001(1000) ack 1
      > . 2001:3001(1000) ack 1
      +10ms < . 1:1(0) ack 1001 win 500
      +10ms < . 1:1(0) ack 3001 win 4000
      > P. 3001:4001(1000) ack 1
    `);
  });
});

describe('TCP, a closed window (RFC 9293 §3.8.6.1)', () => {
  it('is asked about with pauses that double, for as long as it takes', () => {
    playTcp(`
      ${accepted(1000)}
      write 2000
      > . 1:1001(1000) ack 1
      +10ms < . 1:1(0) ack 1001 win 0
      +200ms > . 1000:1000(0) ack 1
      < . 1:1(0) ack 1001 win 0
      +400ms > . 1000:1000(0) ack 1
      < . 1:1(0) ack 1001 win 0
      +800ms > . 1000:1000(0) ack 1
      < . 1:1(0) ack 1001 win 1000
      > P. 1001:2001(1000) ack 1
    `);
  });

  it('stays open for hours while the other side answers', () => {
    const script = new TcpScript().play(`
      ${accepted(1000)}
      write 2000
      > . 1:1001(1000) ack 1
      +10ms < . 1:1(0) ack 1001 win 0
    `);
    for (let i = 0; i < 100; i++) {
      let probed = false;
      script.network.onSent = () => {
        probed = true;
      };
      for (let s = 0; s < 61 && !probed; s++) script.play('+1s state ESTABLISHED');
      assert.ok(probed);
      script.play('< . 1:1(0) ack 1001 win 0');
    }
    script.play('state ESTABLISHED');
  });

  it('is given up with the user time-out', () => {
    const script = new TcpScript().play(`
      ${accepted(1000)}
      usertimeout 5000
      write 2000
      > . 1:1001(1000) ack 1
      +10ms < . 1:1(0) ack 1001 win 0
    `);
    script.network.onSent = () => {};
    script.play(`
      +20s = closed ETIMEDOUT
    `);
  });
});

describe('TCP, silly windows and Nagle (RFC 9293 §3.8.6.2, §3.7.4)', () => {
  it('sends a small segment at once when no other is in flight, and holds the next', () => {
    playTcp(`
      ${accepted(30000)}
      write 10
      > P. 1:11(10) ack 1
      write 10
      write 10
      +10ms < . 1:1(0) ack 11 win 30000
      > P. 11:31(20) ack 1
    `);
  });

  it('sends full segments meanwhile', () => {
    playTcp(`
      ${accepted(30000)}
      write 10
      > P. 1:11(10) ack 1
      write 1500
      > . 11:1011(1000) ack 1
      +10ms < . 1:1(0) ack 1011 win 30000
      > P. 1011:1511(500) ack 1
    `);
  });

  it('sends everything at once with noDelay', () => {
    playTcp(`
      ${accepted(30000)}
      nodelay on
      write 10
      > P. 1:11(10) ack 1
      write 10
      > P. 11:21(10) ack 1
    `);
  });

  it('sends nothing small while corked, for 200 ms', () => {
    playTcp(`
      ${accepted(30000)}
      cork on
      write 10
      +10ms quiet
      write 1500
      > . 1:1001(1000) ack 1
      +10ms < . 1:1(0) ack 1001 win 30000
      +180ms > P. 1001:1511(510) ack 1
      +10ms < . 1:1(0) ack 1511 win 30000
      write 20
      +10ms quiet
      cork off
      > P. 1511:1531(20) ack 1
    `);
  });

  it('waits for a window worth half of the largest before it sends less than a segment', () => {
    playTcp(`
      ${accepted(4000)}
      write 4500
      > . 1:1001(1000) ack 1
      > . 1001:2001(1000) ack 1
      > . 2001:3001(1000) ack 1
      > . 3001:4001(1000) ack 1
      +10ms < . 1:1(0) ack 4001 win 100
      +200ms > . 4001:4101(100) ack 1
    `);
  });
});

describe('TCP, the receive window (RFC 9293 §3.8.6.2.2)', () => {
  it('closes while the program is paused, never moves back, and opens by steps worth it', () => {
    const script = new TcpScript({ listen: { receiveBuffer: 4000 } }).play(`
      listen
      < S 0:0(0) win 60000 <mss 1000>
      > S. 0:0(0) ack 1 win 4000
      < . 1:1(0) ack 1 win 60000
      = accepted
      pause
      < P. 1:1001(1000) ack 1 win 60000
      > . 1:1(0) ack 1001 win 3000
      < P. 1001:3001(2000) ack 1 win 60000
      > . 1:1(0) ack 3001 win 1000
      < P. 3001:4001(1000) ack 1 win 60000
      > . 1:1(0) ack 4001 win 0
      < P. 4001:4002(1) ack 1 win 60000
      > . 1:1(0) ack 4001 win 0
      +1s quiet
      resume
    `);
    script.play('> . 1:1(0) ack 4001 win 4000');
  });

  it('closes for small segments, too, when it is scaled: rounding does not move its edge on for ever', () => {
    const script = new TcpScript({ listen: { receiveBuffer: 4096 } }).play(`
      listen
      < S 0:0(0) win 60000 <mss 1000,wscale 7>
      > S. 0:0(0) ack 1 <mss 1460,wscale 7>
      < . 1:1(0) ack 1 win 60000
      = accepted
      pause
    `);
    // The last bytes of the buffer are told one by one: 32 × 128 bytes at first, rounded up and then down.
    script.quiet = true;
    for (let seq = 1; seq < 6000; seq += 50) script.play(`< P. ${seq}:${seq + 50}(50) ack 1 win 60000`);
    script.quiet = false;
    const { receiveQueue, receiveWindow } = script.tcp.info(script.connection);
    assert.ok(receiveQueue >= 4096 && receiveQueue < 4096 + 128, `${receiveQueue} bytes wait`);
    assert.equal(receiveWindow, 0);
  });

  it('takes what a closed window does not allow for a probe, and its ACK counts', () => {
    playTcp(
      `
      listen
      < S 0:0(0) win 60000 <mss 1000>
      > S. 0:0(0) ack 1
      < . 1:1(0) ack 1 win 60000
      = accepted
      write 10
      > P. 1:11(10) ack 1
      pause
      < P. 1:1001(1000) ack 1 win 60000
      > . 11:11(0) ack 1001 win 0
      < P. 1001:1002(1) ack 11 win 60000
      > . 11:11(0) ack 1001 win 0
      resume
      = data 1000
      > . 11:11(0) ack 1001 win 1000
      +10s quiet
      `,
      { listen: { receiveBuffer: 1000 } },
    );
  });

  it('cuts off what lies beyond the window', () => {
    playTcp(
      `
      listen
      < S 0:0(0) win 60000 <mss 1000>
      > S. 0:0(0) ack 1
      < . 1:1(0) ack 1 win 60000
      = accepted
      < P. 1:2001(2000) ack 1 win 60000
      = data 1500
      > . 1:1(0) ack 1501 win 1500
      `,
      { listen: { receiveBuffer: 1500 } },
    );
  });
});

describe('TCP, acknowledgments (RFC 9293 §3.8.6.3, RFC 5681 §4.2)', () => {
  const later = `
    listen
    < S 0:0(0) win 60000 <mss 1000>
    > S. 0:0(0) ack 1
    < . 1:1(0) ack 1 win 60000
    = accepted
    ${Array.from({ length: 20 }, (_, i) => `< . ${1 + i * 1000}:${1001 + i * 1000}(1000) ack 1 win 60000\n= data 1000\n${ackOf(i)}`).join('\n')}
  `;

  /** The first 16 segments are acknowledged at once, then every second. */
  function ackOf(i: number): string {
    return i < 16 || i % 2 === 1 ? `> . 1:1(0) ack ${1001 + i * 1000}` : '';
  }

  it('go out for every second segment, and after 40 ms at the latest', () => {
    playTcp(`
      ${later}
      < . 20001:20101(100) ack 1 win 60000
      = data 100
      +40ms > . 1:1(0) ack 20101
    `);
  });

  it('ride on data', () => {
    playTcp(`
      ${later}
      < . 20001:20101(100) ack 1 win 60000
      = data 100
      write 10
      > P. 1:11(10) ack 20101
      +60ms quiet
    `);
  });

  it('go out at once for what is out of order, and when a hole is filled', () => {
    playTcp(`
      ${later}
      < . 20101:20201(100) ack 1 win 60000
      > . 1:1(0) ack 20001
      < . 20001:20101(100) ack 1 win 60000
      = data 100
      = data 100
      > . 1:1(0) ack 20201
    `);
  });
});

describe('TCP, the device is full', () => {
  it('loses nothing that it can keep', () => {
    playTcp(`
      ${accepted(30000)}
      full
      write 2500
      +10ms < P. 1:11(10) ack 1 win 30000
      = data 10
      +10ms room
      > . 1:1001(1000) ack 11
      > . 1001:2001(1000) ack 11
      > P. 2001:2501(500) ack 11
    `);
  });
});

describe('TCP, keepalive (RFC 9293 §3.8.4)', () => {
  it('asks a silent peer, and is content with any answer', () => {
    playTcp(`
      ${accepted(30000)}
      keepalive 60000 10000 3
      +60s > . 0:0(0) ack 1
      < . 1:1(0) ack 1 win 30000
      +60s > . 0:0(0) ack 1
      +10s > . 0:0(0) ack 1
      < . 1:1(0) ack 1 win 30000
      +60s > . 0:0(0) ack 1
    `);
  });

  it('gives up a peer that does not answer', () => {
    playTcp(`
      ${accepted(30000)}
      keepalive 60000 10000 3
      +60s > . 0:0(0) ack 1
      +10s > . 0:0(0) ack 1
      +10s > . 0:0(0) ack 1
      +10s > R. 1:1(0) ack 1
      = closed ETIMEDOUT
    `);
  });

  it('answers who asks', () => {
    playTcp(`
      ${accepted(30000)}
      +60s < . 0:0(0) ack 1 win 30000
      > . 1:1(0) ack 1
      +60s < . 0:1(1) ack 1 win 30000
      > . 1:1(0) ack 1
    `);
  });
});

describe('TCP, timestamps (RFC 7323)', () => {
  const STAMPED = `
    listen
    < S 0:0(0) win 60000 <mss 1000,TS val 100 ecr 0>
    > S. 0:0(0) ack 1
    < . 1:1(0) ack 1 win 60000 <TS val 100 ecr 10000>
    = accepted
  `;

  it('drops what is older than the newest in order, and says so (§5.3)', () => {
    const script = playTcp(`
      ${STAMPED}
      < P. 1:11(10) ack 1 win 60000 <TS val 200 ecr 10000>
      = data 10
      > . 1:1(0) ack 11 <TS val 10000 ecr 200>
      < P. 11:21(10) ack 1 win 60000 <TS val 199 ecr 10000>
      > . 1:1(0) ack 11 <TS val 10000 ecr 200>
    `);
    assert.equal(script.tcp.counters.pawsDropped, 1);
  });

  it('takes RST whatever its timestamp is (§5.3)', () => {
    playTcp(`
      ${STAMPED}
      < R 1:1(0) <TS val 1 ecr 0>
      = closed ECONNRESET
    `);
  });

  it('drops segments without, once agreed on (§3.2)', () => {
    const script = playTcp(`
      ${STAMPED}
      < P. 1:11(10) ack 1 win 60000
      +1s quiet
    `);
    assert.equal(script.tcp.counters.noTimestamps, 1);
  });

  it('forgets the newest after 24 days (§5.5)', () => {
    playTcp(`
      ${STAMPED}
      +25d < P. 1:11(10) ack 1 win 60000 <TS val 50 ecr 10000>
      = data 10
      > . 1:1(0) ack 11 <TS val 2160010000 ecr 50>
    `);
  });

  it('echoes the one that the last ACK was for, not of what came early (§4.3)', () => {
    playTcp(`
      ${STAMPED}
      < P. 11:21(10) ack 1 win 60000 <TS val 300 ecr 10000>
      > . 1:1(0) ack 1 <TS val 10000 ecr 100>
      < P. 1:11(10) ack 1 win 60000 <TS val 200 ecr 10000>
      = data 10
      = data 10
      > . 1:1(0) ack 21 <TS val 10000 ecr 200>
    `);
  });
});

describe('TCP, urgent data (RFC 9293 §3.8.5, RFC 6093)', () => {
  it('points behind the last urgent byte, until it is acknowledged', () => {
    playTcp(`
      ${accepted(30000)}
      urgent 3
      > PU. 1:4(3) ack 1 urg 3
      nodelay on
      write 10
      > P. 4:14(10) ack 1
    `);
  });

  it('is told to the program, and stays in line', () => {
    playTcp(`
      ${accepted(30000)}
      < PU. 1:11(10) ack 1 win 30000 urg 10
      = urgent 10
      = data 10
      > . 1:1(0) ack 11
    `);
  });
});

describe('TCP, hostile segments', () => {
  it('survives overlapping data, of which what came first counts', () => {
    playTcp(`
      ${accepted(30000)}
      < . 11:31(20) ack 1 win 30000
      > . 1:1(0) ack 1
      < . 1:21(20) ack 1 win 30000
      = data 20
      = data 10
      > . 1:1(0) ack 31
    `);
  });

  it('survives segments without any flag, and Christmas trees', () => {
    const script = new TcpScript().play(accepted(30000));
    script.network.onSent = () => {};
    for (const flags of ['P', 'SF', 'SR', 'FPU', 'SFRPU.EW']) script.play(`< ${flags} 2:12(10) win 100`);
    script.play('state ESTABLISHED');
  });
});
