/**
 * Offloads between Linux guests, and between guests and a tap: whatever a sender leaves undone and whatever its receiver
 * takes, the bytes arrive, with right checksums, and the switch drops nothing.
 *
 *     lane 0   sender  eth0   all that QEMU has; tx and tso as each test says
 *              full    eth0   all that QEMU has; TUNSETOFFLOAD at run time by VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
 *     lane 1   bare    eth1   the same guest: takes neither checksums nor super-frames to be done
 *              tap            in a network namespace
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { DaemonProcess } from '../../lab/daemon.ts';
import { Machine } from '../../lab/machine.ts';
import { NetworkNamespace } from '../../lab/namespace.ts';
import type { Program } from '../../lab/program.ts';
import { virtioNet } from '../../lab/virtio-net.ts';
import { frameBytes } from '../helpers/frame-bytes.ts';

const FILE_BYTES = 3 << 20;
const HTTP_PORT = 8080;
/** The longest frame without segmentation: an MTU of 1500 and the Ethernet header. */
const ETH_FRAME_LEN = 1514;

/** Arguments of `ethtool -K`: what a sender leaves to others. Changing it for the switch is all that is wanted. */
const SENDERS = {
  'checksums and segmentation': 'tx on tso on',
  'checksums alone': 'tx on tso off',
  nothing: 'tx off',
} as const;
type Leaves = keyof typeof SENDERS;

/** What a card takes: its network, how to set it up, and the offloads that the switch then has for its port. */
interface Receiver {
  port: 'full' | 'bare';
  ifname: string;
  /** The last octet but one of its IPv4 addresses, the second word of its IPv6 addresses. */
  net: number;
  groHw?: 'on' | 'off';
  csum: boolean;
  tso: boolean;
}
const RECEIVERS: Record<string, Receiver> = {
  everything: { port: 'full', ifname: 'eth0', net: 1, groHw: 'on', csum: true, tso: true },
  'checksums alone': { port: 'full', ifname: 'eth0', net: 1, groHw: 'off', csum: true, tso: false },
  nothing: { port: 'bare', ifname: 'eth1', net: 2, csum: false, tso: false },
};
const NETS = [1, 2] as const;
const [SENDER, RECEIVER, TAP] = [1, 2, 9] as const;

const addressesOf = (net: number, host: number): string[] => [`10.78.${net}.${host}`, `fd78:${net}::${host}`];
/** IPv4, then IPv6. */
const urlsOf = (net: number, host: number): string[] => {
  const [v4, v6] = addressesOf(net, host);
  return [`http://${v4}:${HTTP_PORT}/file`, `http://[${v6}]:${HTTP_PORT}/file`];
};

const bytes = Buffer.from(frameBytes(FILE_BYTES, 1));
const hash = createHash('sha256').update(bytes).digest('hex');

describe('offloads between guests', function () {
  this.timeout(120_000);
  let daemon: DaemonProcess;
  let sender: Machine;
  let receiver: Machine;
  let namespace: NetworkNamespace;
  let server: Program;
  const machines: Machine[] = [];

  before(async () => {
    daemon = await DaemonProcess.start({ config: { lane: { count: 2, placement: { bare: 1, offtap: 1, '*': 0 } } } });
    const card = (ifname: string, number: number, device?: string): string[] =>
      virtioNet({ id: ifname, ifname, mac: `52:54:00:78:01:0${number}`, vhost: true, device });
    const nothing = 'guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off';
    const boot = async (name: string, netdevs: string[][]): Promise<Machine> => {
      const machine = await Machine.start({ name, launcher: daemon.exec, netdevs });
      machines.push(machine);
      return machine;
    };
    const booted = await Promise.allSettled([
      boot('sender', [card('sender', 1)]),
      boot('receiver', [card('full', 2), card('bare', 3, nothing)]),
    ]);
    for (const result of booted) if (result.status === 'rejected') throw result.reason;
    [sender, receiver] = booted.map((result) => (result as PromiseFulfilledResult<Machine>).value) as [
      Machine,
      Machine,
    ];
    namespace = await NetworkNamespace.create('offloads');
    await daemon.addTap('offtap');
    await namespace.moveIn('offtap');

    await setUp(sender, SENDER, { eth0: [...NETS] });
    await setUp(receiver, RECEIVER, { eth0: [1], eth1: [2] });
    await namespace.exec(['sysctl', '-qw', 'net.ipv6.conf.all.accept_dad=0', 'net.ipv6.conf.default.accept_dad=0']);
    for (const net of NETS) {
      const [v4, v6] = addressesOf(net, TAP);
      await namespace.address('offtap', `${v4}/24`);
      await namespace.exec(['ip', 'address', 'add', `${v6}/64`, 'dev', 'offtap', 'nodad']);
    }
    const directory = path.join(daemon.directory, 'www');
    fs.mkdirSync(directory);
    fs.writeFileSync(path.join(directory, 'file'), bytes);
    server = namespace.spawn(['busybox', 'httpd', '-f', '-p', `${HTTP_PORT}`, '-h', directory]);
    // The file that all guests serve is the tap's.
    for (const machine of machines) {
      await machine.sh(`mkdir /tmp/www && wget -q -O /tmp/www/file ${urlsOf(1, TAP)[0]}`, { timeoutMs: 60_000 });
      await machine.sh(`httpd -p ${HTTP_PORT} -h /tmp/www`);
    }
  });

  after(async () => {
    await Promise.all(machines.map((machine) => machine.stop()));
    await server?.stop();
    await namespace?.dispose();
    await daemon?.dispose();
  });

  /** Gives a guest its addresses. Two cards on one wire: each answers for its own addresses only. */
  async function setUp(machine: Machine, host: number, cards: Record<string, number[]>): Promise<void> {
    const commands = ['cd /proc/sys/net', 'echo 1 > ipv4/conf/all/arp_ignore', 'echo 2 > ipv4/conf/all/arp_announce'];
    for (const [ifname, nets] of Object.entries(cards)) {
      commands.push(`echo 0 > ipv6/conf/${ifname}/accept_dad`);
      for (const net of nets) {
        const [v4, v6] = addressesOf(net, host);
        commands.push(`ip address add ${v4}/24 dev ${ifname}`, `ip address add ${v6}/64 dev ${ifname}`);
      }
      commands.push(`ip link set ${ifname} up`);
    }
    await machine.sh(commands.join(' && '));
  }

  /** What a host does to fetch the file, and finds in it. */
  const fetchCommand = (url: string): string => `wget -q -O - '${url}' | sha256sum | cut -d' ' -f1`;
  const guestFetches = async (machine: Machine, url: string): Promise<void> => {
    const got = await machine.sh(fetchCommand(url), { timeoutMs: 60_000 });
    assert.equal(got.trim(), hash, `${machine.name} fetched ${url}`);
  };
  const tapFetches = async (url: string): Promise<void> => {
    const command = fetchCommand(url).replace('wget', 'busybox wget');
    const got = await namespace.exec(['sh', '-c', command], { timeoutMs: 60_000 });
    assert.equal(got.trim(), hash, `the tap fetched ${url}`);
  };

  type Counters = Record<string, Record<string, number>>;
  const counters = async (): Promise<Counters> =>
    Object.fromEntries((await daemon.ports()).map(({ name, counters }) => [name, counters]));
  const wrongChecksums = async (): Promise<number[]> => {
    const snmp = [...(await Promise.all(machines.map((machine) => machine.sh('cat /proc/net/snmp'))))];
    snmp.push(await namespace.exec(['cat', '/proc/net/snmp']));
    return snmp.map((text) => {
      const [names, values] = text.split('\n').filter((line) => line.startsWith('Tcp:'));
      const at = names!.split(' ').indexOf('InCsumErrors');
      assert.ok(at > 0, text);
      return Number(values!.split(' ')[at]);
    });
  };

  /** Mean lengths of the frames that a port sent to the switch, and got from it, meanwhile. */
  interface Means {
    sent: number;
    got: number;
  }

  /** Runs a transfer, which must cost no frame but for want of buffers, and no checksum. */
  async function watched(from: string, to: string, transfer: () => Promise<void>): Promise<Means> {
    const before = await counters();
    await transfer();
    const after = await counters();
    const grown = (port: string, name: string): number => after[port]![name]! - before[port]![name]!;
    for (const port of Object.keys(after)) {
      for (const name of Object.keys(after[port]!)) {
        if (!name.includes('_drop_') || name === 'tx_drop_no_buffers') continue;
        assert.equal(grown(port, name), 0, `${name} of ${port}`);
      }
    }
    return {
      sent: grown(from, 'rx_bytes') / grown(from, 'rx_frames'),
      got: grown(to, 'tx_bytes') / grown(to, 'tx_frames'),
    };
  }

  /** The frames were of the forms that the test is about: super-frames, or none. */
  function assertForms({ sent, got }: Means, sendsSuper: boolean, takesSuper: boolean): void {
    const isSuper = (mean: number): boolean => mean > ETH_FRAME_LEN;
    const means = `frames of ${Math.round(sent)} bytes sent, of ${Math.round(got)} got`;
    assert.deepEqual([isSuper(sent), isSuper(got)], [sendsSuper, sendsSuper && takesSuper], means);
  }

  async function setReceiver({ port, ifname, groHw, csum, tso }: Receiver): Promise<void> {
    if (groHw) await receiver.sh(`ethtool -K ${ifname} rx-gro-hw ${groHw}`);
    const { offloads } = await daemon.port(port);
    const has = (name: string): boolean => offloads.includes(name);
    assert.deepEqual([has('csum'), has('tso4'), has('tso6')], [csum, tso, tso], `${port} takes ${offloads}`);
  }

  afterEach(async () => {
    assert.deepEqual(await wrongChecksums(), [0, 0, 0], 'TCP segments with wrong checksums: sender, receiver, tap');
    assert.deepEqual(
      (await daemon.rings()).filter(({ error }) => error !== null),
      [],
    );
  });

  for (const leaves of Object.keys(SENDERS) as Leaves[]) {
    for (const [takes, to] of Object.entries(RECEIVERS)) {
      it(`from a guest that leaves ${leaves} to one that takes ${takes}, and back`, async () => {
        await sender.sh(`ethtool -K eth0 ${SENDERS[leaves]}`);
        await setReceiver(to);
        for (const url of urlsOf(to.net, SENDER)) {
          const means = await watched('sender', to.port, () => guestFetches(receiver, url));
          assertForms(means, leaves === 'checksums and segmentation', to.tso);
        }
        for (const url of urlsOf(to.net, RECEIVER)) {
          const means = await watched(to.port, 'sender', () => guestFetches(sender, url));
          assertForms(means, true, true);
        }
      });
    }
  }

  for (const leaves of Object.keys(SENDERS) as Leaves[]) {
    for (const takes of ['everything', 'nothing'] as const) {
      it(`from a tap that leaves ${leaves} to a guest that takes ${takes}, and back`, async () => {
        const to = RECEIVERS[takes]!;
        await namespace.exec(['ethtool', '-K', 'offtap', ...SENDERS[leaves].split(' ')]);
        await setReceiver(to);
        for (const url of urlsOf(to.net, TAP)) {
          const means = await watched('offtap', to.port, () => guestFetches(receiver, url));
          assertForms(means, leaves === 'checksums and segmentation', to.tso);
        }
        for (const url of urlsOf(to.net, RECEIVER)) {
          const means = await watched(to.port, 'offtap', () => tapFetches(url));
          assertForms(means, true, true);
        }
      });
    }
  }
});
