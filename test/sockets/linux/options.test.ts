/** Files by hash between our TCP and Linux's, with options that either side has or has not. */
import assert from 'node:assert/strict';
import type { ConnectionOptions } from '../../../tcpip/tcp/api.ts';
import { FAMILIES, LinuxStackWorld, SINK } from '../../helpers/linux-stack-world.ts';

const SYSCTLS = [
  'tcp_syncookies',
  'tcp_timestamps',
  'tcp_sack',
  'tcp_window_scaling',
  'tcp_ecn',
  'tcp_congestion_control',
];
/** Beyond the ports of the services with default settings. */
const BASE = 1000;

/** What Linux is told (`net.ipv4.` before each), and what connections then agree on. */
const LINUX: Record<string, { sysctl: string[]; agreed: RegExp }> = {
  'no timestamps': { sysctl: ['tcp_timestamps=0'], agreed: /^sack,wscale:\d+,\d+$/ },
  'no SACK': { sysctl: ['tcp_sack=0'], agreed: /^ts,wscale:\d+,\d+$/ },
  'no window scaling': { sysctl: ['tcp_window_scaling=0'], agreed: /^ts,sack$/ },
  'none of the three': { sysctl: ['tcp_timestamps=0', 'tcp_sack=0', 'tcp_window_scaling=0'], agreed: /^$/ },
  'SYN cookies for everybody': { sysctl: ['tcp_syncookies=2'], agreed: /^ts,sack,wscale:\d+,\d+$/ },
  'SYN cookies, and no timestamps to keep options in': {
    sysctl: ['tcp_syncookies=2', 'tcp_timestamps=0'],
    agreed: /^$/,
  },
};
const OURS: Record<string, ConnectionOptions> = {
  NewReno: { congestion: 'newreno' },
  BBR: { congestion: 'bbr' },
  'paced CUBIC': { pacing: true },
  'no delay': { noDelay: true },
  'small buffers': { receiveBuffer: 16_384, sendBuffer: 16_384 },
  'keepalive, user time-out and a traffic class': { keepAliveMs: 50, userTimeoutMs: 20_000, trafficClass: 0xb8 },
};

describe('options of TCP, ours and Linux’s', function () {
  this.timeout(60_000);
  let world: LinuxStackWorld;
  let defaults: string[];

  before(async () => {
    world = await LinuxStackWorld.create({ bytes: 3_000_000 });
    world.serve();
    const words = await world.host.exec(['sysctl', ...SYSCTLS.map((name) => `net.ipv4.${name}`)]);
    defaults = words
      .trim()
      .split('\n')
      .map((line) => line.replaceAll(' ', ''));
  });
  after(() => world?.dispose());
  afterEach(() => world.sysctl(defaults));

  const ipv4 = (words: string[]): string[] => words.map((word) => `net.ipv4.${word}`);

  for (const [name, { sysctl, agreed }] of Object.entries(LINUX)) {
    it(`carries files both ways when Linux has ${name}`, async () => {
      await world.sysctl(ipv4(sysctl));
      for (const family of FAMILIES) {
        const { hash, info } = await world.download(family);
        assert.equal(hash, world.hash);
        assert.match(info.options.join(','), agreed);
        assert.equal((await world.upload(family)).hash, world.hash);
        assert.equal(await world.linuxDownloads(family), world.hash);
        assert.equal(await world.linuxUploads(family), world.hash);
      }
    });
  }

  it('carries files with each congestion control that Linux allows there', async () => {
    const words = await world.host.exec(['sysctl', '-n', 'net.ipv4.tcp_allowed_congestion_control']);
    const names = words.trim().split(' ');
    assert.ok(names.includes('reno'), words);
    for (const name of names) {
      await world.sysctl([`net.ipv4.tcp_congestion_control=${name}`]);
      for (const family of FAMILIES) {
        assert.equal((await world.download(family)).hash, world.hash);
        assert.equal(await world.linuxUploads(family), world.hash);
      }
    }
  });

  for (const [name, settings] of Object.entries(OURS)) {
    it(`carries files both ways when we have ${name}`, async () => {
      const services = world.serve(settings, BASE);
      try {
        for (const family of FAMILIES) {
          const { hash, info } = await world.download(family, settings);
          assert.equal(hash, world.hash);
          assert.equal(info.congestion, settings.congestion ?? 'cubic');
          assert.equal((await world.upload(family, settings)).hash, world.hash);
          assert.equal(await world.linuxDownloads(family, BASE + 19), world.hash);
          assert.equal(await world.linuxUploads(family, BASE + SINK), world.hash);
        }
      } finally {
        services.close();
      }
    });
  }

  it('agrees on ECN where both sides ask for it, and not otherwise', async () => {
    for (const family of FAMILIES) {
      for (const [sysctl, ecn, expected] of [
        [1, true, true],
        [1, undefined, false],
        [0, true, false],
      ] as const) {
        await world.sysctl([`net.ipv4.tcp_ecn=${sysctl}`]);
        let seen = '';
        const options = { ecn };
        const { received, info } = await world.exchange(family, SINK, world.bytes, options, async (c) => {
          const { port } = world.stack.tcp.localEndpoint(c);
          // Our ACK may still be on its way.
          for (let i = 0; i < 100 && !seen.includes('ESTAB'); i++) {
            seen = await world.host.exec(['ss', '-tioHn', `dport = :${port}`]);
          }
        });
        assert.equal(received.toString(), world.hash);
        assert.equal(info.options.includes('ecn'), expected);
        assert.match(seen, /ESTAB/);
        assert.equal(/ ecn( |$)/m.test(seen), expected, seen);
      }
    }
  });

  it('agrees on ECN with clients on Linux', async () => {
    for (const family of FAMILIES) {
      for (const ecn of [1, 0]) {
        await world.sysctl([`net.ipv4.tcp_ecn=${ecn}`]);
        assert.equal(await world.linuxUploads(family), world.hash);
        assert.equal(world.sunk.at(-1)!.options.includes('ecn'), ecn === 1);
      }
    }
  });

  it('slows down for marks of congestion, and echoes them (RFC 3168 §6.1)', async () => {
    await world.sysctl(['net.ipv4.tcp_ecn=1', 'net.ipv4.tcp_congestion_control=reno']);
    // The host marks each tenth packet that may be marked, both ways.
    const mark = (family: string): string =>
      `meta l4proto tcp ${family} ecn ect0 numgen inc mod 10 == 0 ${family} ecn set ce;`;
    const rules = `${mark('ip')} ${mark('ip6')}`;
    await world.nft(`{
      chain in { type filter hook prerouting priority 0; ${rules} }
      chain out { type filter hook postrouting priority 0; ${rules} }
    }`);
    try {
      for (const family of FAMILIES) {
        const { hash, info } = await world.upload(family, { ecn: true, congestion: 'newreno' });
        assert.equal(hash, world.hash);
        assert.ok(info.ssthresh < world.bytes.length, `ssthresh ${info.ssthresh}`);
        assert.equal(info.lost, 0);
        const echoed = await world.nstat('TcpExtTCPDeliveredCE');
        assert.equal(await world.linuxUploads(family), world.hash);
        assert.ok((await world.nstat('TcpExtTCPDeliveredCE')) > echoed);
      }
    } finally {
      await world.forgetNft();
    }
  });
});
