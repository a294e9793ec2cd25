/** IPv6, groups and DHCP against Linux: its kernel through a tap, Debian's dnsmasq as router and server, and its bridge as querier. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { NetworkNamespace } from '../../../lab/namespace.ts';
import { formatIp, parseIp } from '../../../packet/ip-text.ts';
import { NetworkStack, type NetworkStackOptions } from '../../../sockets/network-stack.ts';
import { openTapDevice } from '../../../tcpip/devices/open-tap.ts';
import { attachDhcp } from '../../../tcpip/dhcp/attach-dhcp.ts';
import type { Lease } from '../../../tcpip/dhcp/lease.ts';
import type { Ipv6 } from '../../../tcpip/ipv6/ipv6.ts';
import { until as eventually } from '../../helpers/until.ts';

/** Trying an IPv4 address out takes up to 8 s (RFC 5227 §1.1). */
const PATIENCE_MS = 15_000;
const bytesOf = (address: string): Uint8Array => parseIp(address)!;

function until<T>(what: string, look: () => T | Promise<T>) {
  return eventually(what, look, { timeoutMs: PATIENCE_MS });
}

function ping(stack: NetworkStack, address: string, size = 56): Promise<number> {
  return new Promise((resolve, reject) => {
    stack.stack.advance(stack.now);
    stack.stack.ping(bytesOf(address), { size, timeoutMs: 2000 }, (error, reply) => {
      if (error !== null) reject(error);
      else resolve(reply!.size);
    });
  });
}

describe('IPv6 with Linux', function () {
  this.timeout(60_000);
  const undo: (() => Promise<unknown>)[] = [];
  afterEach(async () => {
    for (const each of undo.splice(0).reverse()) await each();
  });

  /** A stack on a tap whose other side is in a namespace. */
  async function start(
    options: NetworkStackOptions = {},
  ): Promise<{ stack: NetworkStack; ipv6: Ipv6; host: NetworkNamespace; tap: string }> {
    const tap = `rs${randomBytes(4).toString('hex')}`;
    const host = await NetworkNamespace.create('ipv6');
    undo.push(() => host.dispose());
    const stack = await NetworkStack.start(openTapDevice({ name: tap }), { control: false, ...options });
    undo.push(() => stack.close(0));
    stack.hold();
    undo.push(async () => stack.letGo());
    await host.moveIn(tap);
    return { stack, ipv6: stack.stack.ipv6 as Ipv6, host, tap };
  }

  const isUp = (ipv6: Ipv6): boolean =>
    ipv6.addresses.list().some(({ origin, state }) => origin === 'link-local' && state === 'preferred');

  it('ping6 to a global and the link-local address, in one piece and in fragments, both ways', async () => {
    const { stack, ipv6, host, tap } = await start({ addresses: ['fd00::2/64'] });
    await host.exec(['ip', 'addr', 'add', 'fd00::1/64', 'dev', tap, 'nodad']);
    await host.exec(['ip', 'link', 'set', tap, 'up']);
    await until('the addresses', () => isUp(ipv6) && stack.stack.locals.find(6, bytesOf('fd00::2'), 0) !== -1);
    const local = formatIp(ipv6.addresses.list().find(({ origin }) => origin === 'link-local')!.bytes);
    for (const target of ['fd00::2', `${local}%${tap}`]) {
      for (const size of [56, 4000, 60_000]) {
        const said = await host.exec(['ping', '-6', '-c', '3', '-i', '0.05', '-W', '3', '-s', String(size), target]);
        assert.match(said, /3 received, 0% packet loss/);
      }
    }
    for (const size of [56, 4000, 60_000]) assert.equal(await ping(stack, 'fd00::1', size), size);
    assert.ok(stack.stack.reassembler.counters.reasmOks >= 12);
    assert.ok(ipv6.counters.fragOks >= 12);
    const neighbours = await host.exec(['ip', '-6', 'neigh']);
    assert.match(neighbours, /fd00::2 dev \S+ lladdr/);
    await host.exec(['ping', '-6', '-c', '1', '-W', '3', '-I', tap, 'ff02::1']);
  });

  it('Linux finds an address of ours to be taken (DAD), and we one of its', async () => {
    const { stack, ipv6, host, tap } = await start({ addresses: ['fd00::2/64'] });
    await host.exec(['ip', 'addr', 'add', 'fd00::1/64', 'dev', tap, 'nodad']);
    await host.exec(['ip', 'link', 'set', tap, 'up']);
    await until('the address', () => stack.stack.locals.find(6, bytesOf('fd00::2'), 0) !== -1);
    await host.exec(['ip', 'addr', 'add', 'fd00::2/64', 'dev', tap]);
    await until('dadfailed', async () =>
      (await host.exec(['ip', '-6', 'addr', 'show', 'dev', tap])).includes('dadfailed'),
    );
    ipv6.addresses.add(bytesOf('fd00::1'), 64, stack.now);
    stack.loop.wake();
    await until('a duplicate', () => ipv6.addresses.get(bytesOf('fd00::1'), 0)?.state === 'duplicate');
  });

  it('takes addresses, a route and an MTU from a router (dnsmasq), and talks by it', async () => {
    const { stack, ipv6, host, tap } = await start();
    await host.exec(['ip', 'addr', 'add', '2001:db8:1::1/64', 'dev', tap, 'nodad']);
    await host.exec(['ip', 'addr', 'add', '2001:db8:ffff::9/128', 'dev', 'lo']);
    await host.exec(['ip', 'link', 'set', tap, 'up']);
    await until(
      'a link-local address of Linux',
      async () => !(await host.exec(['ip', '-6', 'addr', 'show', 'dev', tap])).includes('tentative'),
    );
    host.spawn([
      'dnsmasq',
      ...['--no-daemon', '--conf-file=/dev/null', '--port=0', '--pid-file=', `--interface=${tap}`, '--user=root'],
      ...['--enable-ra', '--dhcp-range=2001:db8:1::,ra-only,64,600', `--ra-param=${tap},mtu:1400,high,10,1200`],
      '--dhcp-option=option6:dns-server,[2001:db8:1::53]',
    ]);
    const address = await until('an address', () =>
      ipv6.addresses.list().find(({ origin, state }) => origin === 'slaac' && state === 'preferred'),
    );
    assert.match(formatIp(address.bytes), /^2001:db8:1:0?:/);
    assert.equal(ipv6.routers.routers[0].preference, 1);
    assert.deepEqual(
      ipv6.routers.nameServers.map((server) => formatIp(server.address)),
      ['2001:db8:1::53'],
    );
    assert.equal(stack.stack.destinations.six.linkMtu, 1400);
    assert.equal(await ping(stack, '2001:db8:1::1', 1350), 1350);
    assert.equal(await ping(stack, '2001:db8:ffff::9', 3000), 3000);
    const said = await host.exec(['ping', '-6', '-c', '1', '-W', '3', formatIp(address.bytes)]);
    assert.match(said, /1 received/);
  });

  it('leases an address where the stack is told to', async () => {
    const { stack, host, tap } = await start({ ipv6: false, dhcp: { startDelayMs: 0 } });
    await host.address(tap, '10.78.0.1/24');
    host.spawn([
      'dnsmasq',
      ...['--no-daemon', '--conf-file=/dev/null', '--port=0', '--pid-file=', `--interface=${tap}`, '--user=root'],
      ...['--dhcp-range=10.78.0.100,10.78.0.110,255.255.255.0,120', '--no-ping', '--leasefile-ro'],
    ]);
    const { address } = await until('a lease', () => stack.lease);
    assert.match(address, /^10\.78\.0\.1(0\d|10)$/);
    assert.match(await host.exec(['ping', '-c', '1', '-W', '3', address]), /1 received/);
  });

  it('leases an address of dnsmasq, the same one again from what was kept, and gives it back', async () => {
    const { stack, host, tap } = await start({ ipv6: false });
    const directory = await mkdtemp(path.join(tmpdir(), 'dhcp-'));
    undo.push(() => rm(directory, { recursive: true }));
    const leases = path.join(directory, 'leases');
    await host.address(tap, '10.77.0.1/24');
    host.spawn([
      'dnsmasq',
      ...['--no-daemon', '--conf-file=/dev/null', '--port=0', '--pid-file=', `--interface=${tap}`, '--user=root'],
      ...[
        '--dhcp-range=10.77.0.100,10.77.0.110,255.255.255.0,120',
        '--no-ping',
        '--dhcp-authoritative',
        `--dhcp-leasefile=${leases}`,
      ],
      ...[
        '--dhcp-option=option:mtu,1400',
        '--dhcp-option=121,0.0.0.0/0,10.77.0.1,10.88.0.0/16,10.77.0.1',
        '--domain=example.org',
      ],
    ]);
    const saved: (Lease | null)[] = [];
    const options = { startDelayMs: 0, saveLease: (lease: Lease | null) => saved.push(lease), hostName: 'stacked' };
    stack.stack.advance(stack.now);
    const first = attachDhcp(stack.stack, stack.udp, options);
    const lease = await until('a lease', () => first.client.lease);
    assert.match(lease.address, /^10\.77\.0\.1(0\d|10)$/);
    assert.equal(lease.leaseSeconds, 120);
    assert.equal(lease.domain, 'example.org');
    assert.deepEqual(lease.routes, [
      { prefix: '0.0.0.0', prefixLength: 0, gateway: '10.77.0.1' },
      { prefix: '10.88.0.0', prefixLength: 16, gateway: '10.77.0.1' },
    ]);
    assert.equal(stack.stack.destinations.four.linkMtu, 1400);
    assert.equal(await ping(stack, '10.77.0.1'), 56);
    assert.match(await host.exec(['ping', '-c', '1', '-W', '3', lease.address]), /1 received/);
    assert.match(await host.exec(['cat', leases]), new RegExp(`${lease.address} stacked`));
    first.close();
    assert.equal(stack.stack.locals.find(4, bytesOf(lease.address), 0), -1);

    stack.stack.advance(stack.now);
    const kept = JSON.parse(JSON.stringify(saved[0])) as Lease;
    const second = attachDhcp(stack.stack, stack.udp, { ...options, lease: kept });
    assert.equal((await until('the lease again', () => second.client.lease)).address, lease.address);
    assert.equal(second.client.counters.outDiscovers, 0, 'INIT-REBOOT');
    stack.stack.advance(stack.now);
    second.close(true);
    await until('the end of the lease', async () => !(await host.exec(['cat', leases])).includes(lease.address));
    assert.equal(saved.at(-1), null);
  });

  it('declines what dnsmasq offers but another host has', async () => {
    const { stack, host, tap } = await start({ ipv6: false });
    await host.address(tap, '10.77.0.1/24');
    // Linux has the only address that there is to lease.
    await host.exec(['ip', 'addr', 'add', '10.77.0.100/32', 'dev', tap]);
    host.spawn([
      'dnsmasq',
      ...[
        '--no-daemon',
        '--conf-file=/dev/null',
        '--port=0',
        '--pid-file=',
        `--interface=${tap}`,
        '--user=root',
        '--no-ping',
      ],
      ...['--dhcp-range=10.77.0.100,10.77.0.100,255.255.255.0,120', '--dhcp-authoritative', '--leasefile-ro'],
    ]);
    stack.stack.advance(stack.now);
    const { client } = attachDhcp(stack.stack, stack.udp, { startDelayMs: 0 });
    await until('a decline', () => client.counters.outDeclines === 1);
    assert.equal(client.lease, null);
  });

  it('the bridge of Linux, as a querier that snoops, knows what we listen to', async () => {
    const { stack, ipv6, host, tap } = await start({ addresses: ['10.77.0.2/24'] });
    await host.exec([
      'ip',
      'link',
      'add',
      'br0',
      'type',
      'bridge',
      'mcast_snooping',
      '1',
      'mcast_querier',
      '1',
      'mcast_igmp_version',
      '3',
      'mcast_mld_version',
      '2',
    ]);
    await host.exec(['ip', 'link', 'set', tap, 'master', 'br0']);
    await host.address('br0', '10.77.0.1/24');
    await host.exec(['ip', 'link', 'set', tap, 'up']);
    await until('the link-local address', () => isUp(ipv6));
    const known = (group: string) => async (): Promise<boolean> =>
      (await host.exec(['bridge', 'mdb', 'show'])).includes(group);
    for (const [address, group] of [
      ['0.0.0.0', '239.7.7.7'],
      ['::', 'ff15::7'],
    ]) {
      const family = address === '::' ? 6 : 4;
      const socket = stack.udp.open({ family, port: 7777, handler: { onMessage: () => {} } });
      socket.join(bytesOf(group));
      stack.loop.wake();
      await until(`${group} in the bridge's table`, known(group));
      socket.close();
      stack.loop.wake();
      await until(`${group} out of the bridge's table`, async () => !(await known(group)()));
    }
  });
});
