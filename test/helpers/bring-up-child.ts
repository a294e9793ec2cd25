/**
 * A client that attaches as a guest does, and says so on the way: `node bring-up-child.ts TUN VHOST_NET NAME STEP`
 * prints a dot as it comes to its STEPth request (from 0), and goes on. At the end it prints `up`, and waits to be killed.
 */
import fs from 'node:fs';
import { VhostClient } from './vhost-client.ts';

const [tun, vhostNet, name, at] = process.argv.slice(2) as [string, string, string, string];
let steps = 0;
const client = new VhostClient({
  tun,
  vhostNet,
  name,
  onStep: () => {
    if (steps++ === Number(at)) fs.writeSync(1, '.');
  },
});
fs.writeSync(1, 'up');
// The client is used here, so that it lives, and its files with it.
setInterval(() => client.fds.length, 1000);
