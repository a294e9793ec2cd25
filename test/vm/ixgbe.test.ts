/**
 * The software 82599, as Linux's own ixgbe judges it: two guests, each with a card, and a cable between the cards.
 *
 *     a: ixgbe ── QEMU ── vfio-user ──╮ ringswitch model 82599 ╭── vfio-user ── QEMU ── ixgbe :b
 *                                     ╰── card 0 ═ cable ═ card 1 ──╯
 */
import assert from 'node:assert/strict';
import type { Machine } from '../../lab/machine.ts';
import { CardModel } from '../../lab/model.ts';
import { assertNoComplaints, bootIxgbeGuest, bringUp, ip6Of, statistics, untilCarrier } from './ixgbe-guest.ts';
import { assertPings, assertTransfer, ipOf, serveIperf3 } from './traffic.ts';

const [A, B] = [1, 2] as const;
const FILE_MIB = 4;
const ROUNDS = 5;
const SMALL_FETCHES = 24;

/** Arguments of `ethtool -K`. */
const OFFLOADS: Record<string, string> = {
  'checksums and segmentation': 'rx on tx on sg on tso on gro on',
  'checksums without segmentation': 'rx on tx on tso off gso off',
  'none of them': 'rx off tx off tso off gso off gro off',
};

describe("Linux's ixgbe on the software 82599", function () {
  this.timeout(120_000);
  let model: CardModel;
  let a: Machine;
  let b: Machine;
  const guests: Machine[] = [];

  before(async () => {
    model = await CardModel.start({ cards: 2 });
    const boot = async (name: string, number: number, socket: string): Promise<Machine> => {
      const guest = await bootIxgbeGuest({ name, number, socket });
      guests.push(guest);
      return guest;
    };
    const booted = await Promise.allSettled([boot('a', A, model.sockets[0]!), boot('b', B, model.sockets[1]!)]);
    for (const result of booted) if (result.status === 'rejected') throw result.reason;
    [a, b] = booted.map((result) => (result as PromiseFulfilledResult<Machine>).value) as [Machine, Machine];
    await Promise.all(guests.map((guest) => untilCarrier(guest, true)));
    await both('mkdir -p /tmp/www && echo small > /tmp/www/small && httpd -p 8080 -h /tmp/www');
    await both(serveIperf3());
  });

  after(async () => {
    await Promise.all(guests.map((guest) => guest.stop()));
    await model?.stop();
  });

  afterEach(async function () {
    if (!model?.running) throw model?.error('it ended.') ?? new Error('There is no model.');
    if (this.currentTest?.state !== 'failed') await assertNoComplaints(...guests);
  });

  const both = (command: string): Promise<string[]> => Promise.all(guests.map((guest) => guest.sh(command)));

  async function iperfReport(address: string, more: string): Promise<IperfReport> {
    const report = await a.sh(`iperf3 -c ${address} -t 1 -J ${more}`, { timeoutMs: 20_000 });
    // A warning may come first.
    return JSON.parse(report.slice(report.indexOf('{'))).end;
  }

  /** A second of TCP from a to b, or from b to a (-R); gives the bytes that arrived. */
  async function iperf(address: string, more = ''): Promise<number> {
    const { bytes } = (await iperfReport(address, more)).sum_received;
    assert.ok(bytes > 1 << 20, `${bytes} bytes in a second with ${address} ${more}`);
    return bytes;
  }

  /** Both ways: pings over IPv4 and IPv6, and a file. */
  async function assertConnected(mib = 1): Promise<void> {
    await assertPings(a, B, 3);
    await assertPings(b, A, 3);
    assert.match(await a.sh(`ping -6 -c 3 -i 0.1 -w 10 ${ip6Of(B)}`), / 0% packet loss/);
    await assertTransfer(a, A, b, mib);
    await assertTransfer(b, B, a, mib);
  }

  it('is probed as an 82599 with the address that its EEPROM gives', async () => {
    for (const guest of guests) {
      assert.match(await guest.sh('ethtool -i eth0'), /^driver: ixgbe$/m);
      const log = await guest.sh('dmesg | grep ixgbe');
      // ixgbe_mac_82599EB is 2 (ixgbe_type.h).
      assert.match(log, /ixgbe \S+: MAC: 2, PHY: \d+/);
      const address = (await guest.sh('cat /sys/class/net/eth0/address')).trim();
      assert.match(log, new RegExp(`ixgbe \\S+: ${address}`));
      assert.match((await guest.sh('ethtool -P eth0')).trim(), new RegExp(`${address}$`));
    }
    const [first, second] = await both('cat /sys/class/net/eth0/address');
    assert.notEqual(first, second);
  });

  it('has a link of 10 Gb/s', async () => {
    for (const text of await both('ethtool eth0')) {
      assert.match(text, /Speed: 10000Mb\/s/);
      assert.match(text, /Duplex: Full/);
      assert.match(text, /Link detected: yes/);
    }
  });

  it('carries pings and files over IPv4 and IPv6', () => assertConnected());

  it('carries pings that IP fragments', async () => {
    assert.match(await a.sh(`ping -c 3 -i 0.1 -w 10 -s 20000 ${ipOf(B)}`), / 0% packet loss/);
  });

  for (const [name, features] of Object.entries(OFFLOADS)) {
    it(`carries TCP both ways; offloads: ${name}`, async () => {
      await both(`ethtool -K eth0 ${features}`);
      await assertTransfer(a, A, b, FILE_MIB);
      await assertTransfer(b, B, a, FILE_MIB);
      await iperf(ipOf(B));
      await iperf(ip6Of(B), '-R');
      for (const guest of guests) {
        const counters = await statistics(guest);
        for (const counter of ['rx_csum_offload_errors', 'rx_crc_errors', 'rx_length_errors', 'tx_timeout_count']) {
          assert.equal(counters[counter], 0, `${counter} of ${guest.name}`);
        }
        assert.equal(await wrongChecksums(guest), 0, guest.name);
      }
    });
  }

  it('carries UDP, whole and in fragments, with offloaded checksums', async () => {
    await both(`ethtool -K eth0 ${OFFLOADS['checksums and segmentation']}`);
    for (const length of [1400, 8000]) {
      const { packets, lost_packets } = (await iperfReport(ipOf(B), `-u -b 10M -l ${length}`)).sum;
      assert.ok(packets > 50 && lost_packets < packets / 10, `${lost_packets} of ${packets} were lost`);
    }
  });

  it('counts what it carries (ethtool -S)', async () => {
    const before = await Promise.all([statistics(a), statistics(b)]);
    await a.sh(`ping -c 50 -i 0.02 -s 1000 -w 20 ${ipOf(B)}`);
    // The driver fetches the card's own counters every two seconds, and at each ethtool -S.
    const after = await Promise.all([statistics(a), statistics(b)]);
    for (const end of [0, 1] as const) {
      for (const way of ['rx', 'tx'] as const) {
        for (const [counter, least] of [
          [`${way}_packets`, 50],
          [`${way}_pkts_nic`, 50],
          [`${way}_bytes_nic`, 52_100],
        ] as const) {
          const grown = after[end]![counter]! - before[end]![counter]!;
          assert.ok(grown >= least && grown < 2 * least, `${counter} of ${guests[end]!.name} grew by ${grown}`);
        }
      }
    }
  });

  it('tells of itself (ethtool -k, -g, -c, -a, -d)', async () => {
    const features = await a.sh('ethtool -k eth0');
    for (const feature of ['rx-checksumming', 'tx-checksumming', 'tcp-segmentation-offload', 'rx-vlan-offload']) {
      assert.match(features, new RegExp(`^${feature}: on`, 'm'));
    }
    assert.match(await a.sh('ethtool -g eth0'), /RX:\s+512\b/);
    assert.match(await a.sh('ethtool -c eth0'), /rx-usecs:\s+\d+/);
    assert.match(await a.sh('ethtool -a eth0'), /RX:\s+on/);
    const registers = await a.sh('ethtool -d eth0');
    assert.match(
      registers,
      /LINKS \(Link Status register\)\s+0x7[0-9A-F]{7}\n\s+Link Status:\s+up\n\s+Link Speed:\s+10G/i,
    );
    assert.match(registers, /RDLEN\d*.*0x0*2000\b/);
  });

  it('spreads flows over its queues, as the indirection table says (ethtool -l, -x, -X)', async () => {
    assert.match(await b.sh('ethtool -l eth0'), /Current hardware settings:[\s\S]*Combined:\s+2\b/);
    assert.match(
      await b.sh('ethtool -x eth0'),
      /with 2 RX ring[\s\S]*\n +0: +0 +1 +0 +1[\s\S]*hash key:\n([0-9a-f]{2}:){39}/,
    );
    const grown = async (): Promise<number[]> => {
      const before = await statistics(b);
      await iperf(ipOf(B), '-P 4');
      await fetchOften();
      const after = await statistics(b);
      return [0, 1].map((queue) => after[`rx_queue_${queue}_packets`]! - before[`rx_queue_${queue}_packets`]!);
    };
    const spread = await grown();
    assert.ok(
      spread.every((packets) => packets > 0),
      `${spread}`,
    );
    // Without it the Flow Director would bring flows to where their answers come from.
    await b.sh('ethtool -K eth0 ntuple on && ethtool -X eth0 equal 1');
    const [all, none] = await grown();
    assert.ok(all! > 0 && none === 0, `${all} and ${none}`);
    await b.sh('ethtool -X eth0 default && ethtool -K eth0 ntuple off');
  });

  it('brings flows to where their answers come from, and by rule to a queue (Flow Director; ethtool -N)', async () => {
    const grown = async (traffic: () => Promise<unknown>): Promise<Record<string, number>> => {
      const before = await statistics(b);
      await traffic();
      const after = await statistics(b);
      return Object.fromEntries(Object.keys(after).map((name) => [name, after[name]! - before[name]!]));
    };
    // Filters by signature, which the driver adds as it sends.
    const { fdir_match: matched } = await grown(() => iperf(ipOf(B)));
    assert.ok(matched! > 100, `${matched} packets found their filter`);
    await b.sh('ethtool -K eth0 ntuple on');
    await Promise.all(guests.map((guest) => untilCarrier(guest, true)));
    for (const queue of [0, 1]) {
      const added = await b.sh(`ethtool -N eth0 flow-type tcp4 dst-port 8080 action ${queue}`);
      assert.match(
        await b.sh('ethtool -n eth0'),
        new RegExp(`Dest port: 8080[\\s\\S]*Action: Direct to queue ${queue}\\b`),
      );
      const counts = await grown(fetchOften);
      const [wanted, other] = [counts[`rx_queue_${queue}_packets`]!, counts[`rx_queue_${1 - queue}_packets`]!];
      // At least SYN, the request and FIN of each; besides there are ARP and the like.
      assert.ok(
        wanted >= 3 * SMALL_FETCHES && other < SMALL_FETCHES,
        `${wanted} on queue ${queue}, ${other} on the other`,
      );
      assert.ok(counts.fdir_match! >= 3 * SMALL_FETCHES, `${counts.fdir_match} matched`);
      await b.sh(`ethtool -N eth0 delete ${/ID (\d+)/.exec(added)![1]}`);
    }
    const { fdir_match: after } = await grown(fetchOften);
    assert.equal(after, 0, 'the rules are gone');
    await b.sh('ethtool -K eth0 ntuple off');
    await Promise.all(guests.map((guest) => untilCarrier(guest, true)));
  });

  /** Many short connections from a to b, each a flow of its own. */
  const fetchOften = (): Promise<string> =>
    a.sh(`for i in $(seq ${SMALL_FETCHES}); do wget -q -O /dev/null http://${ipOf(B)}:8080/small; done`);

  it('takes other numbers of queues and descriptors (ethtool -L, -G)', async () => {
    for (const change of [
      '-L eth0 combined 1',
      '-L eth0 combined 2',
      '-G eth0 rx 64 tx 64',
      '-G eth0 rx 4096 tx 4096',
    ]) {
      await b.sh(`ethtool ${change}`);
      await Promise.all(guests.map((guest) => untilCarrier(guest, true)));
      await assertTransfer(a, A, b, 1);
      await assertTransfer(b, B, a, 1);
    }
    await b.sh('ethtool -G eth0 rx 512 tx 512');
    await Promise.all(guests.map((guest) => untilCarrier(guest, true)));
  });

  it('carries VLANs, whoever puts in and takes out the tags', async () => {
    const ip = (number: number): string => `10.79.0.${number}`;
    for (const [guest, number] of [
      [a, A],
      [b, B],
    ] as const) {
      await guest.sh(`set -e
        vconfig add eth0 42
        ip address add ${ip(number)}/24 dev eth0.42
        ip link set eth0.42 up`);
    }
    for (const features of [
      'rxvlan on txvlan on',
      'rxvlan on txvlan off',
      'rxvlan off txvlan on',
      'rxvlan off txvlan off',
    ]) {
      await both(`ethtool -K eth0 ${features}`);
      await Promise.all(guests.map((guest) => untilCarrier(guest, true)));
      assert.match(await a.sh(`ping -c 3 -i 0.1 -w 10 ${ip(B)}`), / 0% packet loss/, features);
      const sent = await a.sh('sha256sum < /tmp/www/file');
      assert.equal(await b.sh(`wget -q -O - http://${ip(A)}:8080/file | sha256sum`), sent, features);
    }
    await both('ethtool -K eth0 rxvlan on txvlan on && vconfig rem eth0.42');
  });

  it('keeps frames of other VLANs away, unless it is promiscuous', async () => {
    const mac = (await b.sh('cat /sys/class/net/eth0/address')).trim();
    await a.sh(`set -e
      vconfig add eth0 43
      ip address add 10.80.0.1/24 dev eth0.43
      ip link set eth0.43 up
      arp -s 10.80.0.2 ${mac} -i eth0.43`);
    const grown = async (): Promise<number> => {
      const before = await statistics(b);
      assert.equal((await a.run('ping -c 30 -i 0.02 -W 1 -w 5 10.80.0.2')).status, 1);
      return (await statistics(b)).rx_packets! - before.rx_packets!;
    };
    const kept = await grown();
    assert.ok(kept < 15, `${kept} frames came through`);
    await b.sh('ip link set eth0 promisc on');
    const all = await grown();
    assert.ok(all >= 30, `${all} frames came through`);
    await b.sh('ip link set eth0 promisc off');
    await a.sh('vconfig rem eth0.43');
  });

  it('carries frames of 9000 bytes', async () => {
    await both('ip link set eth0 mtu 9000');
    await Promise.all(guests.map((guest) => untilCarrier(guest, true)));
    const before = await statistics(b);
    assert.match(await a.sh(`ping -c 10 -i 0.05 -w 10 -s 8900 ${ipOf(B)}`), / 0% packet loss/);
    const grown = (await statistics(b)).rx_packets! - before.rx_packets!;
    assert.ok(grown >= 10 && grown < 20, `${grown} frames for 10 pings`);
    await assertTransfer(a, A, b, FILE_MIB);
    await assertTransfer(b, B, a, FILE_MIB);
    await both('ip link set eth0 mtu 1500');
    await Promise.all(guests.map((guest) => untilCarrier(guest, true)));
    await assertConnected();
  });

  it('passes the self-test of its driver (ethtool -t)', async () => {
    const report = await a.sh('ethtool -t eth0 offline', { timeoutMs: 60_000 });
    assert.match(report, /The test result is PASS/, report);
    await Promise.all(guests.map((guest) => untilCarrier(guest, true)));
    await assertConnected();
  });

  it(`goes down and up ${ROUNDS} times`, async () => {
    for (let round = 0; round < ROUNDS; round++) {
      await b.sh('ip link set eth0 down && ip link set eth0 up');
      await untilCarrier(b, true);
      await assertPings(b, A, 2);
    }
    await assertConnected();
  });

  it(`has its driver removed and loaded ${ROUNDS} times, and the other end sees its light go and come`, async () => {
    for (let round = 0; round < ROUNDS; round++) {
      await b.sh('rmmod ixgbe');
      await untilCarrier(a, false);
      await b.sh('modprobe ixgbe');
      await bringUp(b, B);
      await Promise.all(guests.map((guest) => untilCarrier(guest, true)));
      await assertPings(a, B, 2);
    }
    await assertConnected();
  });

  it('is there again after a reset of the machine', async () => {
    await b.reboot();
    await bringUp(b, B);
    await Promise.all(guests.map((guest) => untilCarrier(guest, true)));
    await assertConnected();
  });
});

/** The part `end` of what `iperf3 -J` prints. */
interface IperfReport {
  sum_received: { bytes: number };
  /** Of UDP alone. */
  sum: { packets: number; lost_packets: number };
}

/** TCP segments that the guest's kernel has found to have a wrong checksum. */
async function wrongChecksums(guest: Machine): Promise<number> {
  const [names, values] = (await guest.sh('grep ^Tcp: /proc/net/snmp')).split('\n').map((line) => line.split(' '));
  return Number(values![names!.indexOf('InCsumErrors')]);
}
