/** Ten thousand connections for ten minutes of virtual time, on a path that loses, delays and repeats. */
import assert from 'node:assert/strict';
import type { Connection, TcpHandler } from '../../../tcpip/tcp/api.ts';
import { seeded } from '../../helpers/tcpip-fake-network.ts';
import { TwoHosts } from '../../helpers/tcpip-two-hosts.ts';

const CONNECTIONS = 10_000;
const MINUTES = 10;
const PORT = 80;
/** Messages are sent in rounds, each on every hundredth connection. */
const ROUND = 1_000_000;
const MESSAGE_BYTES = 700;

describe('TCP, ten minutes with 10,000 connections under loss', function () {
  this.timeout(120_000);

  it('loses and confuses nothing, and leaves nothing behind', () => {
    const two = new TwoHosts({
      ...{ delay: 15_000, loss: 0.02, duplicate: 0.005, reorder: 0.02, reorderBy: 10_000, seed: 5 },
      tcp: { maxConnections: CONNECTIONS + 100, maxTimeWait: 2 * CONNECTIONS, ephemeralPorts: [1024, 65_535] },
    });
    const random = seeded(77);
    const open: Connection[] = [];
    const owed = new Map<Connection, number>();
    const failures: string[] = [];
    let established = 0;
    let closed = 0;
    const nothing = (): void => {};
    const echo: TcpHandler = {
      onConnected: nothing,
      onWritable: nothing,
      onData: (c, bytes, start, end) => {
        two.b.tcp.write(c, bytes.slice(start, end));
      },
      onEnd: (c) => two.b.tcp.shutdown(c),
      onClosed: (_c, error) => {
        if (error !== null) failures.push(`b: ${error.code}`);
      },
    };
    const client: TcpHandler = {
      onConnected: () => {
        established++;
      },
      onWritable: nothing,
      onData: (c, bytes, start, end) => {
        for (let i = start; i < end; i++)
          if (bytes[i] !== (c & 0xff)) failures.push(`connection ${c} got another's data`);
        owed.set(c, owed.get(c)! - (end - start));
      },
      onEnd: nothing,
      onClosed: (_c, error) => {
        closed++;
        if (error !== null) failures.push(`a: ${error.code}`);
      },
    };
    two.b.tcp.listen({ port: PORT, backlog: CONNECTIONS, onAccept: () => echo });
    for (let i = 0; i < CONNECTIONS; i++) {
      const c = two.a.tcp.connect({ address: two.b.address, port: PORT, handler: client });
      open.push(c);
      owed.set(c, 0);
      if (i % 100 === 0) two.runFor(10_000);
    }
    two.runFor(60_000_000);
    assert.equal(established, CONNECTIONS);
    const end = two.now + MINUTES * 60_000_000;
    while (two.now < end) {
      for (let i = 0; i < CONNECTIONS / 100; i++) {
        const c = open[random() % CONNECTIONS]!;
        two.a.tcp.write(c, new Uint8Array(MESSAGE_BYTES).fill(c & 0xff));
        owed.set(c, owed.get(c)! + MESSAGE_BYTES);
      }
      two.runFor(ROUND);
    }
    two.runFor(120_000_000);
    assert.deepEqual(failures, []);
    assert.deepEqual(
      [...owed.values()].filter((bytes) => bytes !== 0),
      [],
    );
    for (const [i, c] of open.entries()) {
      two.a.tcp.shutdown(c);
      if (i % 100 === 0) two.runFor(10_000);
    }
    two.runFor(180_000_000);
    assert.deepEqual(failures, []);
    assert.equal(closed, CONNECTIONS);
    for (const host of [two.a, two.b]) {
      assert.equal(host.tcp.connectionCount, 0);
      assert.equal(host.tcp.timeWaitCount, 0);
      assert.equal(host.network.destinations.held, 0);
      assert.equal(host.tcp.deadline, Number.POSITIVE_INFINITY);
    }
  });
});
