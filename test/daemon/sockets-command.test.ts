import assert from 'node:assert/strict';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { formatStacks, listStacks } from '../../daemon/sockets-command.ts';
import { RINGSWITCH } from '../../lab/daemon.ts';
import { run } from '../../lab/program.ts';
import { close } from '../../linux/file.ts';
import { bindUnix } from '../../linux/unix-socket.ts';
import { IPPROTO_TCP, IPPROTO_UDP } from '../../packet/header-fields.ts';
import { askStack, StackControl } from '../../sockets/stack-control.ts';
import type { TcpHandler, TcpUser } from '../../tcpip/tcp/api.ts';
import { Tcp } from '../../tcpip/tcp/tcp.ts';
import type { UdpSocket, UdpUser } from '../../tcpip/udp/api.ts';
import { Udp } from '../../tcpip/udp/udp.ts';
import { FakeNetwork, type FakeTcpUser } from '../helpers/fake-tcp-user.ts';
import { frame, ipv4, OURS, THEIRS, udp as udpPacket } from '../helpers/tcpip-packets.ts';
import { seconds, seeded, Wire } from '../helpers/tcpip-wire.ts';

/** VIRTIO_NET_HDR_F_DATA_VALID. */
const DATA_VALID = 2;
const NO_UDP: Pick<UdpUser, 'forEach'> = { forEach() {} };
const HANDLER: TcpHandler = { onConnected() {}, onData() {}, onEnd() {}, onWritable() {}, onClosed() {} };

describe('ringswitch sockets', function () {
  this.timeout(10_000);
  let directory: string;
  let here: FakeTcpUser;
  const opened: (() => void)[] = [];
  beforeEach(() => {
    const parent = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-'));
    opened.push(() => fs.rmSync(parent, { recursive: true }));
    directory = path.join(parent, 'stacks');
    const network = new FakeNetwork();
    here = network.host(10, 0, 0, 1);
    network.host(10, 0, 0, 2).listen({ port: 80, onAccept: () => HANDLER });
  });
  afterEach(() => {
    for (const undo of opened.splice(0).reverse()) undo();
  });

  async function start(name: string, tcp: TcpUser = here, udp = NO_UDP): Promise<StackControl> {
    const control = await StackControl.start({ name, tcp, udp, directory });
    opened.push(() => control.close());
    return control;
  }
  const connect = (localPort: number) =>
    here.connect({ address: Uint8Array.of(10, 0, 0, 2), port: 80, localPort, handler: HANDLER });

  it('shows what ss -tui shows, of every stack', async () => {
    connect(50_001);
    connect(50_002);
    const network = new FakeNetwork();
    const six = new Uint8Array(16).fill(0, 1);
    six.set([0xfd], 0);
    six[15] = 1;
    const other = network.host(...six);
    network.host(...six).listen({ port: 443, onAccept: () => HANDLER });
    other.connect({ address: six, port: 443, localPort: 1234, handler: HANDLER });
    await start('web');
    await start('empty', network.host(9, 9, 9, 9));
    await start('v6', other);
    const words = await run([RINGSWITCH, 'sockets', '--directory', directory]);
    const info =
      '\t ts sack wscale:7,7 cubic rto:204 rtt:3.5/1.25 mss:1448 pmtu:1500 cwnd:10 bytes_sent:5000 bytes_acked:3552' +
      ' bytes_received:12 unacked:1 retrans:2 lost:1 snd_wnd:65536 rcv_wnd:131072 minrtt:3';
    assert.deepEqual(words.trimEnd().split('\n'), [
      `empty, process ${process.pid}: 0 sockets`,
      '',
      `v6, process ${process.pid}: 1 socket`,
      'Netid  State  Recv-Q  Send-Q  Local Address:Port  Peer Address:Port',
      'tcp    ESTAB       7    2000  [fd00::1]:1234      [fd00::1]:443',
      info,
      '',
      `web, process ${process.pid}: 2 sockets`,
      'Netid  State  Recv-Q  Send-Q  Local Address:Port  Peer Address:Port',
      'tcp    ESTAB       7    2000  10.0.0.1:50001      10.0.0.2:80',
      info,
      'tcp    ESTAB       7    2000  10.0.0.1:50002      10.0.0.2:80',
      info,
    ]);
    const json = JSON.parse(await run([RINGSWITCH, 'sockets', '--directory', directory, '--json', '--limit', '1']));
    assert.deepEqual(
      json.map(({ name, total, sockets }: { name: string; total: number; sockets: unknown[] }) => [
        name,
        total,
        sockets.length,
      ]),
      [
        ['empty', 0, 0],
        ['v6', 1, 1],
        ['web', 2, 1],
      ],
    );
    assert.deepEqual(json[2].sockets[0].local, { address: '10.0.0.1', port: 50_001 });
  });

  describe('of a stack with servers', () => {
    let waits: UdpSocket;

    beforeEach(async () => {
      const wire = new Wire();
      const { a: stack, deviceA: device } = wire;
      const [tcp, far] = [stack, wire.b].map((end, i) => {
        const made = new Tcp(end, seeded(i), { clock: () => wire.now });
        end.addTransport(IPPROTO_TCP, made);
        return made;
      }) as [Tcp, Tcp];
      const onAccept = (): TcpHandler => HANDLER;
      const ours = Uint8Array.from(OURS);
      tcp.listen({ port: 80, onAccept });
      tcp.listen({ port: 81, backlog: 5, address: ours, onAccept });
      tcp.listen({ port: 443, ipv6Only: true, onAccept });
      far.connect({ address: ours, port: 80, localPort: 5000, handler: HANDLER });
      wire.run(wire.now + seconds(1));
      // From somebody who never answers.
      const syn = [0x13, 0x89, 0, 81, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0];
      device.give(frame(ipv4(syn, { protocol: IPPROTO_TCP, source: [10, 0, 0, 9] })), { flags: DATA_VALID });
      const udp = new Udp(stack, seeded(3));
      stack.addTransport(IPPROTO_UDP, udp);
      const handler = { onMessage: (): void => assert.fail('it is paused') };
      udp.open({ family: 4, port: 53, handler });
      udp.open({ family: 6, port: 54, handler });
      udp.open({ family: 6, port: 55, ipv6Only: true, handler });
      waits = udp.open({ family: 4, port: 56, address: ours, handler });
      waits.pause();
      device.give(frame(ipv4(udpPacket([1, 2, 3], { to: 56 }))));
      wire.settle();
      udp.open({ family: 4, port: 57, handler }).connect(Uint8Array.from(THEIRS), 53);
      await start('web', tcp, udp);
    });

    /** The rows, without what is known of connections. */
    async function shown(...options: string[]): Promise<string[]> {
      const words = await run([RINGSWITCH, 'sockets', '--directory', directory, ...options]);
      const lines = words.trimEnd().split('\n').slice(1);
      return lines.filter((line) => !line.startsWith('\t')).map((line) => line.replace(/ +/g, ' '));
    }
    const head = 'State Recv-Q Send-Q Local Address:Port Peer Address:Port';
    const connected = ['SYN-RECV 0 0 10.0.0.1:81 10.0.0.9:5001', 'ESTAB 0 0 10.0.0.1:80 10.0.0.2:5000'];
    const listening = ['LISTEN 0 511 *:80 *:*', 'LISTEN 1 5 10.0.0.1:81 0.0.0.0:*', 'LISTEN 0 511 [::]:443 [::]:*'];
    const unconnected = (): string[] => [
      'UNCONN 0 0 0.0.0.0:53 0.0.0.0:*',
      'UNCONN 0 0 *:54 *:*',
      'UNCONN 0 0 [::]:55 [::]:*',
      `UNCONN ${waits.receiveQueue} 0 10.0.0.1:56 0.0.0.0:*`,
    ];
    const chosen = 'ESTAB 0 0 10.0.0.1:57 10.0.0.2:53';
    const mixed = (udp: string[], tcp: string[]): string[] => [
      `Netid ${head}`,
      ...udp.map((line) => `udp ${line}`),
      ...tcp.map((line) => `tcp ${line}`),
    ];
    const sorted = (lines: string[]): string[] => [lines[0]!, ...lines.slice(1).sort()];

    it('shows what is connected, or listens, or both', async () => {
      assert.deepEqual(sorted(await shown()), sorted(mixed([chosen], connected)));
      assert.deepEqual(await shown('-l'), mixed(unconnected(), listening));
      assert.deepEqual(
        sorted(await shown('--all')),
        sorted(mixed([...unconnected(), chosen], [...listening, ...connected])),
      );
      assert.deepEqual(await shown('-la'), await shown('-a'));
      assert.ok(waits.receiveQueue > 0);
    });

    it('shows one protocol, without a word of it', async () => {
      assert.deepEqual(sorted(await shown('-t')), sorted([head, ...connected]));
      assert.deepEqual(await shown('-lt'), [head, ...listening]);
      assert.deepEqual(await shown('--udp'), [head, chosen]);
      assert.deepEqual(await shown('-ul'), [head, ...unconnected()]);
      assert.deepEqual(await shown('-tul'), await shown('-l'));
    });

    it('tells programs the same', async () => {
      const [{ total, sockets }] = JSON.parse(
        await run([RINGSWITCH, 'sockets', '--directory', directory, '-al', '--json', '--limit', '6']),
      );
      assert.equal(total, 10);
      assert.deepEqual(sockets.slice(1, 2), [
        {
          kind: 'udp-listening',
          state: 'UNCONNECTED',
          receiveQueue: 0,
          sendQueue: 0,
          local: { address: '*', port: 54 },
          remote: null,
        },
      ]);
      assert.deepEqual(sockets[5], {
        kind: 'tcp-listening',
        state: 'LISTEN',
        receiveQueue: 0,
        sendQueue: 511,
        local: { address: '*', port: 80 },
        remote: null,
      });
      assert.equal(sockets.length, 6);
    });
  });

  it('says how many it leaves out', async () => {
    connect(50_001);
    connect(50_002);
    await start('web');
    const words = formatStacks(await listStacks(directory, 1)).split('\n');
    assert.equal(words.at(-1), '… and 1 more (--limit)');
    assert.equal(words.length, 5);
  });

  it('finds none where there is none, beside the daemon’s socket unless told otherwise', async () => {
    const socket = path.join(path.dirname(directory), 'control.sock');
    assert.equal(await run([RINGSWITCH, 'sockets', '--socket', socket]), 'no stacks\n');
    await start('web');
    assert.match(await run([RINGSWITCH, 'sockets', '--socket', socket]), /^web, process/);
  });

  it('removes what dead stacks left', async () => {
    const control = await start('web');
    const dead = path.join(directory, 'dead.sock');
    close(bindUnix(dead));
    assert.deepEqual(
      (await listStacks(directory, 1)).map(({ name }) => name),
      ['web'],
    );
    assert.equal(fs.existsSync(dead), false);
    control.close();
    assert.equal(fs.existsSync(control.path), false);
  });

  it('gives two stacks of one name a socket each, and takes the place of a dead one', async () => {
    fs.mkdirSync(directory);
    close(bindUnix(path.join(directory, 'web.sock')));
    assert.equal((await start('web')).path, path.join(directory, 'web.sock'));
    assert.equal((await start('web')).path, path.join(directory, `web-${process.pid}.sock`));
    await assert.rejects(start('web'), /^Error: this process has two stacks with the name web already/);
    assert.equal((await listStacks(directory, 1)).length, 2);
  });

  it('is private', async () => {
    await start('web');
    assert.equal(fs.statSync(directory).mode & 0o777, 0o700);
  });

  it('refuses names, limits and paths that cannot be', async () => {
    await assert.rejects(start('a/b'), /^RangeError: "a\/b" is no name for a stack: 1 to 40 letters/);
    await assert.rejects(start('x'.repeat(41)), /no name for a stack/);
    const { path: socketPath } = await start('web');
    const status = (wanted: string) =>
      new Promise((resolve, reject) => {
        const request = http.get({ socketPath, path: wanted, agent: false }, (response) => {
          response.resume();
          resolve(response.statusCode);
        });
        request.on('error', reject);
      });
    assert.deepEqual(
      [await status('/v1/sockets'), await status('/v1/sockets?kinds=udp,tcp-listening'), await status('/v2/sockets')],
      [200, 200, 404],
    );
    assert.deepEqual([await status('/v1/sockets?limit=-1'), await status('/v1/sockets?kinds=tcp,sctp')], [400, 400]);
    assert.deepEqual(await askStack(path.join(directory, 'none.sock')), 'dead');
    fs.writeFileSync(path.join(directory, 'file.sock'), '');
    assert.deepEqual((await listStacks(directory, 1)).length, 1);
  });
});
