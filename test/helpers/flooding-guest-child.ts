/** A guest with private memory that sends frames without end, until it is killed. Arguments: tun, vhost-net, name. */
import { broadcastFrame } from './tun-client.ts';
import { VhostGuest } from './vhost-guest.ts';

const [tun, vhostNet, name] = process.argv.slice(2);
if (name !== undefined) {
  const guest = new VhostGuest({ tun: tun!, vhostNet: vhostNet!, name, privately: true });
  for (let i = 0; ; i++) guest.send(broadcastFrame(60 + (i % 3000), i));
}
