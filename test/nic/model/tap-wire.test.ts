/** A wire whose other end is a tap: of the kernel, in a network namespace of the test's own, or of a switch. */
import assert from 'node:assert/strict';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { DaemonProcess } from '../../../lab/daemon.ts';
import { NetworkNamespace } from '../../../lab/namespace.ts';
import type { Program } from '../../../lab/program.ts';
import { TapWire } from '../../../nic/model/tap-wire.ts';
import { broadcastFrame, TunClient } from '../../helpers/tun-client.ts';

const CHILD = path.join(import.meta.dirname, '../../helpers/tap-wire-child.ts');
const SETTLE_MS = 5000;
const ARP_REQUEST =
  'ffffffffffff' +
  '020000000001' +
  '0806' +
  '0001080006040001' +
  '020000000001' +
  '0a630002' +
  '000000000000' +
  '0a630001';

describe('a tap as a wire', function () {
  this.timeout(30_000);
  let host: NetworkNamespace;
  let wire: Program | undefined;

  beforeEach(async () => {
    host = await NetworkNamespace.create('tapwire');
  });

  afterEach(async () => {
    await wire?.stop();
    wire = undefined;
    await host.dispose();
  });

  async function start(name: string, device: string): Promise<Program> {
    wire = host.spawn([process.execPath, CHILD, name, device], { interactive: true });
    await said(/^ready true$/m);
    return wire;
  }
  async function said(told: RegExp): Promise<void> {
    const one = wire!;
    await one.waitFor(String(told), SETTLE_MS, () => told.test(one.stdout));
  }
  const tell = (words: string): void => void wire!.stdin.write(`${words}\n`);
  /** The tap with an address, and nothing said by the kernel of its own accord. */
  async function up(): Promise<void> {
    await host.exec(['sysctl', '-qw', 'net.ipv6.conf.wire0.disable_ipv6=1']);
    await host.address('wire0', '10.99.0.1/24');
  }

  it('carries frames both ways', async () => {
    await start('wire0', '/dev/net/tun');
    await up();
    tell('light on');
    tell(`send ${ARP_REQUEST}`);
    // 42 bytes, padded as on a cable.
    await said(/^frame 020000000001[0-9a-f]{12}08060001080006040002[0-9a-f]{12}0a6300010200000000010a630002(00){18}$/m);
  });

  it('sends nothing without light', async () => {
    await start('wire0', '/dev/net/tun');
    await up();
    tell(`send ${ARP_REQUEST}`);
    tell('light on');
    tell('light off');
    tell(`send ${ARP_REQUEST}`);
    tell('light on');
    tell(`send ${ARP_REQUEST.replaceAll('020000000001', '020000000003')}`);
    await said(/^frame 020000000003/m);
    assert.doesNotMatch(wire!.stdout, /^frame 020000000001/m);
  });

  it('loses what the tap does not take, and goes on', async () => {
    await start('wire0', '/dev/net/tun');
    tell('light on');
    tell(`send ${ARP_REQUEST}`);
    await up();
    tell('send 0102030405');
    tell(`send ${ARP_REQUEST}`);
    await said(/^frame 020000000001/m);
    assert.doesNotMatch(wire!.stdout, /gone|carrier/);
  });

  it('goes dark, and idles, when its interface is deleted', async () => {
    await start('wire0', '/dev/net/tun');
    await up();
    await host.exec(['ip', 'link', 'del', 'wire0']);
    await said(/^gone the tap wire0 is gone \(EBADFD\): the card has no cable any more$/m);
    await said(/^carrier false$/m);
    tell('light on');
    tell(`send ${ARP_REQUEST}`);
    tell('cpu');
    await said(/^cpu /m);
    await delay(300);
    tell('cpu');
    await said(/^cpu \d+\n(.*\n)*cpu \d+$/m);
    const [before, after] = [...wire!.stdout.matchAll(/^cpu (\d+)$/gm)].map(([, us]) => Number(us));
    assert.ok(after! - before! < 150_000, `it used ${after! - before!} us of 300 ms`);
    tell('close');
    await said(/^closed$/m);
    assert.equal(wire!.stdout.match(/^gone/gm)!.length, 1);
  });

  it('lets go of its tap when it is closed', async () => {
    await start('wire0', '/dev/net/tun');
    tell('close');
    await said(/^closed$/m);
    assert.doesNotMatch(await host.exec(['ip', 'link']), /wire0/);
  });

  it('may be a port of a switch, and goes dark when the switch ends', async () => {
    await using daemon = await DaemonProcess.start();
    await start('wire0', daemon.tun);
    using client = new TunClient(daemon.tun);
    const there = broadcastFrame(60);
    tell('light on');
    tell(`send ${there.toString('hex')}`);
    assert.deepEqual(client.receive(), there);
    const back = broadcastFrame(1514);
    client.write(back);
    await said(new RegExp(`^frame ${back.toString('hex')}$`, 'm'));
    assert.deepEqual((await daemon.ports()).map(({ name }) => name).includes('wire0'), true);
    await daemon.kill();
    tell(`send ${there.toString('hex')}`);
    await said(/^gone the tap wire0 is gone \(E[A-Z]+\)/m);
    await said(/^carrier false$/m);
  });

  it('refuses names that are none, and says which file cannot be opened', () => {
    for (const name of ['', 'x'.repeat(16)]) assert.throws(() => new TapWire(name), /a tap's name has 1 to 15 bytes/);
    assert.throws(() => new TapWire('wire0', '/nowhere/tun'), /open\(path="\/nowhere\/tun".*ENOENT/);
    assert.throws(() => new TapWire('wire0', '/dev/null'), /TUNSETIFF wire0.*ENOTTY/);
  });
});
