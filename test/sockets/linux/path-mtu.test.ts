/**
 * Files by hash through Linux routers with a narrow link between them: with their word (ICMP), and where it is swallowed.
 *
 *     stack ═ 1500 ═ router ═ narrow ═ router ═ 1500 ═ host
 */
import assert from 'node:assert/strict';
import { FAMILIES, type Family, LinuxStackWorld } from '../../helpers/linux-stack-world.ts';

const FIRST_MTU = 1300;
/** RFC 8200 §5: what each link of IPv6 takes. */
const LEAST_MTU = 1280;
/** Bytes of the headers of IP and TCP. */
const HEADERS: Record<Family, number> = { 4: 40, 6: 60 };
const SILENCE = `{
  chain out {
    type filter hook output priority 0
    icmp type destination-unreachable counter drop
    icmpv6 type packet-too-big counter drop
  }
}`;

describe('path MTU discovery through Linux routers', function () {
  this.timeout(60_000);
  let world: LinuxStackWorld;

  beforeEach(async () => {
    world = await LinuxStackWorld.create({ routed: true, bytes: 500_000 });
    world.serve();
  });
  afterEach(() => world?.dispose());

  async function narrow(mtu: number): Promise<void> {
    for (const router of world.routers) await router.exec(['ip', 'link', 'set', 'narrow', 'mtu', String(mtu)]);
  }

  /** What Linux has learned goes, or it would tell us of it by its MSS option. */
  async function forget(): Promise<void> {
    await world.shell('ip route flush cache; ip -6 route flush cache');
  }

  for (const family of FAMILIES) {
    it(`believes routers that the path is narrow, and narrower later, IPv${family}`, async () => {
      for (const mtu of [FIRST_MTU, LEAST_MTU]) {
        await narrow(mtu);
        await forget();
        const { hash, info } = await world.upload(family);
        assert.equal(hash, world.hash);
        assert.equal(info.pathMtu, mtu);
        assert.equal(info.mss, mtu - HEADERS[family]);
        await forget();
        assert.equal(await world.linuxDownloads(family), world.hash);
      }
    });

    it(`takes what Linux sends over a narrow path, IPv${family}`, async () => {
      for (const mtu of [FIRST_MTU, LEAST_MTU]) {
        await narrow(mtu);
        assert.equal((await world.download(family)).hash, world.hash);
        assert.equal(await world.linuxUploads(family), world.hash);
        const route = await world.host.exec(['ip', 'route', 'get', world.ours[family]]);
        assert.match(route, new RegExp(` mtu ${mtu}\\b`));
      }
    });
  }

  it('finds by itself what gets through where routers are silent (RFC 4821)', async () => {
    await narrow(LEAST_MTU);
    for (const router of world.routers) await world.nft(SILENCE, router);
    await Promise.all(
      FAMILIES.flatMap((family) => [
        world.upload(family).then(({ hash, info }) => {
          assert.equal(hash, world.hash);
          assert.ok(info.mss <= LEAST_MTU - HEADERS[family], `an MSS of ${info.mss}`);
        }),
        world.linuxDownloads(family).then((hash) => assert.equal(hash, world.hash)),
      ]),
    );
    const rules = await world.routers[0]!.exec(['nft', 'list', 'ruleset']);
    assert.equal(rules.match(/counter packets [1-9]/g)?.length, 2, rules);
  });

  it('takes what Linux sends once it has found the same', async () => {
    await narrow(LEAST_MTU);
    for (const router of world.routers) await world.nft(SILENCE, router);
    // After one time-out, not three.
    await world.sysctl(['net.ipv4.tcp_mtu_probing=1', 'net.ipv4.tcp_retries1=1']);
    await Promise.all(
      FAMILIES.flatMap((family) => [
        world.download(family).then(({ hash }) => assert.equal(hash, world.hash)),
        world.linuxUploads(family).then((hash) => assert.equal(hash, world.hash)),
      ]),
    );
    assert.ok((await world.nstat('TcpExtTCPTimeouts')) > 0);
  });
});
