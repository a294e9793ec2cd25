import assert from 'node:assert/strict';
import { carriedBy, readNetworkState } from '../../../nic/pci/network-state.ts';

/** What ip(8) of Debian 12 prints. */
const addr = [
  { ifname: 'lo', addr_info: [{ family: 'inet', local: '127.0.0.1', prefixlen: 8, scope: 'host' }] },
  {
    ifname: 'eth0',
    addr_info: [
      { family: 'inet', local: '192.0.2.2', prefixlen: 24, scope: 'global' },
      { family: 'inet', local: '169.254.1.1', prefixlen: 16, scope: 'link' },
      { family: 'inet6', local: 'fe80::1', prefixlen: 64, scope: 'link' },
    ],
  },
  { ifname: 'eth1', addr_info: [{ family: 'inet6', local: 'fe80::2', prefixlen: 64, scope: 'link' }] },
  { ifname: 'eth2' },
];
const routes4 = [
  { dst: 'default', gateway: '192.0.2.1', dev: 'eth0', flags: [] },
  { dst: '192.0.2.0/24', dev: 'eth0', protocol: 'kernel', scope: 'link' },
  { type: 'local', dst: '192.0.2.2', dev: 'eth0', table: 'local', protocol: 'kernel' },
  { type: 'blackhole', dst: '203.0.113.0/24', protocol: 'static' },
  { dst: '198.51.100.0/24', nexthops: [{ gateway: '10.0.0.1', dev: 'eth1' }, { dev: 'eth2' }] },
  { dst: '198.18.0.0/15', dev: 'eth2', table: '100', via: { family: 'inet6', host: 'fe80::9' } },
];
const routes6 = [
  { dst: 'fe80::/64', dev: 'eth1', protocol: 'kernel' },
  { dst: 'default', gateway: 'fe80::99', dev: 'eth0', protocol: 'ra' },
];
const run = (words: string[]): string => {
  if (words[0] === 'addr') return JSON.stringify(addr);
  return JSON.stringify(words[0] === '-4' ? routes4 : routes6);
};

describe('the state of the network', () => {
  it('is what people and routing daemons gave the interfaces', () => {
    const state = readNetworkState(run);
    assert.deepEqual(carriedBy(state, 'eth0'), [
      '192.0.2.2/24',
      '169.254.1.1/16',
      'the default route via 192.0.2.1',
      'the default route via fe80::99',
    ]);
    assert.deepEqual(carriedBy(state, 'eth1'), ['the route to 198.51.100.0/24 via 10.0.0.1']);
    assert.deepEqual(carriedBy(state, 'eth2'), [
      'the route to 198.51.100.0/24',
      'the route to 198.18.0.0/15 via fe80::9',
    ]);
    assert.deepEqual(carriedBy(state, 'eth3'), []);
  });

  it('is read from this machine', () => {
    assert.ok(carriedBy(readNetworkState(), 'lo').includes('127.0.0.1/8'));
  });

  const failures: [what: string, run: () => string, why: RegExp][] = [
    [
      'without ip(8)',
      () => {
        throw Object.assign(new Error('spawnSync ip ENOENT'), { code: 'ENOENT' });
      },
      /there is no ip\(8\); install iproute2$/,
    ],
    [
      'when ip(8) fails',
      () => {
        throw Object.assign(new Error('Command failed'), { status: 1, stderr: 'Cannot open netlink socket\n' });
      },
      /ip -j addr show: Cannot open netlink socket$/,
    ],
    ['when it prints no JSON', () => '1: lo: <LOOPBACK>', /printed no JSON list: "1: lo: <LOOPBACK>"$/],
    ['when it prints no list', () => '{}', /printed no JSON list: "{}"$/],
  ];
  for (const [what, broken, why] of failures) {
    it(`is an error ${what}`, () => {
      assert.throws(
        () => readNetworkState(broken),
        (error: Error) => {
          assert.match(error.message, /^cannot tell which addresses and routes this machine has: ip -j addr show/);
          assert.match(error.message, why);
          return true;
        },
      );
    });
  }

  it('has no routes where ip prints nothing at all', () => {
    assert.deepEqual(
      readNetworkState(() => ''),
      { addresses: [], routes: [] },
    );
  });
});
