import assert from 'node:assert/strict';
import type { PortStatus } from '../../daemon/control.ts';
import { NO_IMPAIRMENT } from '../../daemon/impairment-options.ts';
import {
  formatBytes,
  formatFdb,
  formatMemory,
  formatPorts,
  formatRings,
  formatStatus,
  formatTable,
} from '../../daemon/show.ts';
import { cardPort, FakeControl, goodRing, guestPort, tapPort, vhostUserPort } from '../helpers/fake-control.ts';

const text = (...lines: string[]): string => lines.join('\n');

describe('show', () => {
  it('writes bytes for people', () => {
    const written = [0, 1023, 1024, 1536, 1024 ** 2 - 1, 1024 ** 3, 5 * 1024 ** 5, 2048 * 1024 ** 5].map(formatBytes);
    assert.deepEqual(written, ['0 B', '1023 B', '1.0 KiB', '1.5 KiB', '1.0 MiB', '1.0 GiB', '5.0 PiB', '2048.0 PiB']);
  });

  it('aligns columns, numbers to the right', () => {
    assert.equal(
      formatTable(
        ['NAME', 'N'],
        [
          ['a', 1],
          ['longer', 1000],
        ],
      ),
      text('NAME       N', 'a          1', 'longer  1000'),
    );
    assert.equal(formatTable(['NAME', 'N'], []), 'NAME  N');
  });

  it('shows control characters of names as what they are', () => {
    assert.equal(formatTable(['A'], [['\x1b[2J\x00é']]), text('A', String.raw`\x1b[2J\x00é`));
    const port = { ...guestPort(), name: '\x1b]0;', error: '\x07' };
    assert.ok(!formatPorts([port]).includes('\x1b') && !formatPorts([port]).includes('\x07'));
    const error = { code: 'CHAIN_LOOPS', index: 3, value: 4, message: 'loops' };
    assert.ok(!formatRings([{ ...goodRing(), port: '\x1b', error }]).includes('\x1b'));
  });

  it('the status', () => {
    assert.equal(
      formatStatus(new FakeControl().status()),
      text(
        'ringswitch 0.1.0, process 1042, up 61 s',
        'devices in /run/ringswitch/dev, log level info',
        '1 ports; addresses age after 300 s, 16384 at most',
      ),
    );
  });

  it('the ports, what they dropped, and what is wrong with them', () => {
    const tap = { ...tapPort('host0', true), carrier: 'down' as const, error: 'the interface was deleted' };
    const unused = { ...guestPort(), name: 'web2', link: 'down' as const, path: 'none' as const, queues: 0 };
    unused.counters = tap.counters;
    unused.clients = [];
    assert.equal(
      formatPorts([guestPort(), tap, unused]),
      text(
        'PORT   KIND   LINK        PATH   QUEUES  RX FRAMES  RX       TX FRAMES  TX   DROPS  OFFLOADS                CLIENT',
        'web1   guest  up          vhost       1         12  1.5 KiB          0  0 B      2  csum,tso4               qemu-system-x86 (2077)',
        'host0  tap    no carrier  file        1          0  0 B              0  0 B      0  csum,tso4,tso6,tso-ecn  -',
        'web2   guest  down        none        0          0  0 B              0  0 B      0  csum,tso4               -',
        'web1: dropped 2 tx_drop_no_buffers',
        'host0: the interface was deleted',
      ),
    );
    assert.equal(formatPorts([]), 'no ports');
  });

  it('how ports are impaired, and what that has done', () => {
    const seven = { ...NO_IMPAIRMENT, seed: 7, loss: 0.01, delayMs: 20, jitterMs: 0.5 };
    const rate = { ...NO_IMPAIRMENT, seed: 8, bitsPerSecond: 64_000, limit: 5 };
    const notes = (impairment: PortStatus['impairment'], counters: Record<string, number> = {}): string[] =>
      formatPorts([{ ...guestPort(), impairment, counters }])
        .split('\n')
        .slice(2);
    assert.deepEqual(notes({ to: null, from: null }), []);
    assert.deepEqual(notes({ to: seven, from: seven }), [
      'web1: impaired in both directions: loss 1%, delay 20ms ±500us, limit 1000, seed 7',
    ]);
    assert.deepEqual(notes({ to: seven, from: rate }, { tx_drop_impaired: 3, rx_impaired_corrupted: 4 }), [
      'web1: dropped 3 tx_drop_impaired',
      'web1: impaired to the port: loss 1%, delay 20ms ±500us, limit 1000, seed 7',
      'web1: impaired from the port: rate 64kbit, limit 5, seed 8',
      'web1: on impaired wires 4 rx_impaired_corrupted',
    ]);
  });

  it('where a guest over vhost-user is waited for', () => {
    const note = (mode: 'server' | 'client'): string =>
      formatPorts([vhostUserPort({ name: 'vm1', path: '/run/vm1.sock', mode, queues: 2 })])
        .split('\n')
        .at(-1)!;
    assert.equal(note('server'), 'vm1: not connected; waits for a peer on /run/vm1.sock');
    assert.equal(note('client'), 'vm1: not connected; tries to connect to /run/vm1.sock');
  });

  it('a network card, and what became of it', () => {
    const options = { name: 'uplink', device: '01:00.0', queues: 4, descriptors: 512, mtu: 1500, withoutIommu: false };
    const lost = { ...cardPort(options), error: 'the card no longer answers' };
    assert.equal(
      formatPorts([{ ...cardPort(options), carrier: 'up' as const }, lost]),
      text(
        'PORT    KIND  LINK        PATH  QUEUES  RX FRAMES  RX   TX FRAMES  TX   DROPS  OFFLOADS                          CLIENT',
        'uplink  nic   up          card       4          0  0 B          0  0 B      0  csum,tso4,tso6,tso-ecn,uso4,uso6  -',
        'uplink  nic   no carrier  card       4          0  0 B          0  0 B      0  csum,tso4,tso6,tso-ecn,uso4,uso6  -',
        'uplink: the card no longer answers',
      ),
    );
  });

  it('the learned addresses', () => {
    const row = { mac: '52:54:00:12:34:56', port: 'web1', ageSeconds: 3 };
    assert.equal(formatFdb([row]), text('ADDRESS            PORT  AGE', '52:54:00:12:34:56  web1  3 s'));
    assert.equal(formatFdb([]), 'no addresses learned');
  });

  it('the rings, and how they broke', () => {
    const message = 'a chain is longer than its table: it loops (at 7, value 256)';
    const broken = {
      ...goodRing(),
      ring: 'tx' as const,
      error: { code: 'CHAIN_LOOPS', index: 7, value: 256, message },
    };
    assert.equal(
      formatRings([goodRing(), broken]),
      text(
        'PORT  QUEUE  RING  SIZE  BASE  USED  HEADER  CALLS  WITHHELD  STATE    FEATURES',
        'web1      0  rx     256    40    12      12      9         3  running  MRG_RXBUF,EVENT_IDX,VERSION_1',
        'web1      0  tx     256    40    12      12      9         3  BROKEN   MRG_RXBUF,EVENT_IDX,VERSION_1',
        `web1 queue 0 tx: CHAIN_LOOPS: ${message}`,
      ),
    );
    const packed = { ...goodRing(), num: 300, base: 0x8010_0007, usedIdx: 0x8010, features: ['RING_PACKED'] };
    assert.equal(
      formatRings([packed]),
      text(
        'PORT  QUEUE  RING  SIZE  BASE  USED  HEADER  CALLS  WITHHELD  STATE    FEATURES',
        'web1      0  rx     300  7/0   16/1      12      9         3  running  RING_PACKED',
      ),
    );
    assert.equal(formatRings([]), 'no rings');
  });

  it('the mapped memory', () => {
    const row = { table: 1, mappedBytes: 2 ** 30, rings: 2 };
    assert.equal(formatMemory([row]), text('TABLE  MAPPED   RINGS', '    1  1.0 GiB      2'));
    assert.equal(formatMemory([]), 'no guest memory mapped');
  });
});
