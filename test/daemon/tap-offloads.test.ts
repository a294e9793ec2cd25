/**
 * UDP that Linux leaves to be segmented (USO), between two taps: whole where the receiving tap takes it, and cut by the
 * switch where it does not. Kernels before 6.2 have no USO for taps; they cut the messages themselves.
 */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { DaemonProcess } from '../../lab/daemon.ts';
import { NetworkNamespace } from '../../lab/namespace.ts';

const CHILD = fileURLToPath(new URL('../helpers/udp-segments-child.ts', import.meta.url));
const PORT = 9000;
const ROUNDS = 50;
/** Of a message, as the child sends it. */
const SEGMENTS = 40;
const NAMES = ['usotap0', 'usotap1'] as const;

describe('UDP segmentation between taps', function () {
  this.timeout(60_000);

  let daemon: DaemonProcess;
  const hosts: NetworkNamespace[] = [];

  before(async () => {
    daemon = await DaemonProcess.start();
    for (const [i, name] of NAMES.entries()) {
      const host = await NetworkNamespace.create(name);
      hosts.push(host);
      await daemon.addTap(name);
      await host.moveIn(name);
      await host.address(name, `10.79.0.${i + 1}/24`);
      await host.exec(['ip', 'address', 'add', `fd79::${i + 1}/64`, 'dev', name, 'nodad']);
    }
    const receiver = hosts[1]!.spawn([process.execPath, CHILD, 'receive', `${PORT}`]);
    await receiver.waitFor('its socket', 10_000, () => receiver.stdout.includes('ready'));
  });

  after(async () => {
    for (const host of hosts) await host.dispose();
    await daemon?.dispose();
  });

  /** Frames that the receiver's port got. */
  const received = async (): Promise<number> => (await daemon.port('usotap1')).counters.tx_frames!;
  const send = (to: string) => hosts[0]!.exec([process.execPath, CHILD, 'send', to, `${PORT}`, `${ROUNDS}`]);

  afterEach(() => daemon.client.patch('/v1/ports/usotap1', { impairment: { to: null, from: null } }));

  for (const [family, address, offload] of [
    ['IPv4', '10.79.0.2', 'uso4'],
    ['IPv6', 'fd79::2', 'uso6'],
  ] as const) {
    it(`leaves ${family} whole where the receiver takes it`, async () => {
      const { offloads } = await daemon.port('usotap1');
      const before = await received();
      await send(address);
      const frames = (await received()) - before;
      if (offloads.includes(offload)) assert.ok(frames < 2 * ROUNDS, `${frames} frames for ${ROUNDS} messages`);
      else assert.ok(frames >= SEGMENTS * ROUNDS, `${frames} frames for ${ROUNDS} messages`);
    });

    it(`cuts ${family} where the receiver does not`, async () => {
      // What goes over an impaired wire is cut and summed before.
      await daemon.client.patch('/v1/ports/usotap1', { impairment: { to: { limit: 4096, delayMs: 1 } } });
      const before = await received();
      await send(address);
      assert.ok((await received()) - before >= SEGMENTS * ROUNDS);
      for (const name of NAMES) {
        const { counters } = await daemon.port(name);
        const drops = Object.entries(counters).filter(([key, value]) => key.includes('drop') && value > 0);
        // Multicast that the namespaces sent before the other tap was up.
        assert.deepEqual(
          drops.filter(([key]) => key !== 'tx_drop_link_down'),
          [],
        );
      }
    });
  }
});
