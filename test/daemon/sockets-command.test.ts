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
import { askStack, StackControl } from '../../sockets/stack-control.ts';
import type { TcpHandler } from '../../tcpip/tcp/api.ts';
import { FakeNetwork, type FakeTcpUser } from '../helpers/fake-tcp-user.ts';

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

  async function start(name: string, tcp = here): Promise<StackControl> {
    const control = await StackControl.start({ name, tcp, directory });
    opened.push(() => control.close());
    return control;
  }
  const connect = (localPort: number) =>
    here.connect({ address: Uint8Array.of(10, 0, 0, 2), port: 80, localPort, handler: HANDLER });

  it('shows what ss -ti shows, of every stack', async () => {
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
      `empty, process ${process.pid}: 0 connections`,
      '',
      `v6, process ${process.pid}: 1 connection`,
      'State  Recv-Q  Send-Q  Local Address:Port  Peer Address:Port',
      'ESTAB       7    2000  [fd00::1]:1234      [fd00::1]:443',
      info,
      '',
      `web, process ${process.pid}: 2 connections`,
      'State  Recv-Q  Send-Q  Local Address:Port  Peer Address:Port',
      'ESTAB       7    2000  10.0.0.1:50001      10.0.0.2:80',
      info,
      'ESTAB       7    2000  10.0.0.1:50002      10.0.0.2:80',
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
      [await status('/v1/sockets'), await status('/v1/sockets?limit=-1'), await status('/v2/sockets')],
      [200, 400, 404],
    );
    assert.deepEqual(await askStack(path.join(directory, 'none.sock')), 'dead');
    fs.writeFileSync(path.join(directory, 'file.sock'), '');
    assert.deepEqual((await listStacks(directory, 1)).length, 1);
  });
});
