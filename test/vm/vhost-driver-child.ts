/**
 * Runs in a guest, on its kernel's vhost-net: two taps on a bridge, a DriverDevice on each, frames between them.
 * Prints what it saw as one line of JSON ({@link VhostDriverReport}).
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { openKernelVhostNet, openTap } from '../../daemon/tap.ts';
import { drainEventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { POLLIN, PollSet } from '../../linux/poll.ts';
import { DRIVER_HEADER_BYTES, DriverDevice, openVhostNet } from '../../vhost/driver-device.ts';
import { NO_SLOT } from '../../vhost/driver-virtqueue.ts';
import { featureNames, featureSet, VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF } from '../../vhost/virtio.ts';
import { frameBytes } from '../helpers/frame-bytes.ts';

export interface VhostDriverReport {
  features: string[];
  rounds: { sent: string; received: string; frames: number; kicks: number; kicksSuppressed: number }[];
  /** Messages of the errors that wrong uses gave. */
  errors: string[];
  /** Why the daemon would not use /dev/vhost-net: as it is, without the node, with a file in its place, and again. */
  reasons: string[];
}

const FRAMES = 600;
const MTU = 9000;
const MAX_FRAME = MTU + 14;
const TIMEOUT_MS = 20_000;
const ETHERTYPE_EXPERIMENT = [0x88, 0xb5];

const ip = (...words: string[]): void => {
  execFileSync('ip', words);
};

function frame(seed: number, from: number, to: number): Uint8Array {
  const bytes = frameBytes(seed % 7 === 0 ? MAX_FRAME : 60 + ((seed * 37) % 1455), seed);
  bytes.set([2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, ...ETHERTYPE_EXPERIMENT]);
  return bytes;
}

/** All slots of a ring as bytes. */
const slots = ({ memory }: DriverDevice, ring: DriverDevice['rx']): Uint8Array =>
  new Uint8Array(memory.view(ring.slotAddress(0), ring.slotsBytes));

/** Sends as many frames as there are slots for. */
function send(device: DriverDevice, from: number, to: number, first: number): number {
  const { tx } = device;
  for (let used = tx.poll(); used > 0; used--) tx.giveBack(tx.shift());
  const bytes = slots(device, tx);
  let seed = first;
  for (; seed < FRAMES; seed++) {
    const slot = tx.take();
    if (slot === NO_SLOT) break;
    const content = frame(seed, from, to);
    const at = tx.slotOffset(slot);
    bytes.fill(0, at, at + DRIVER_HEADER_BYTES);
    bytes.set(content, at + DRIVER_HEADER_BYTES);
    tx.offer(slot, DRIVER_HEADER_BYTES + content.length);
  }
  tx.publish();
  return seed - first;
}

/** The frames that wait, without their headers; those of other protocols left out. */
function receive(device: DriverDevice): Buffer[] {
  const { rx, frames } = device;
  const bytes = slots(device, rx);
  const waiting = frames.poll();
  const found: Buffer[] = [];
  let entry = 0;
  for (let f = 0; f < waiting; f++) {
    const parts: Uint8Array[] = [];
    for (let b = frames.buffers(f); b > 0; b--, entry++) {
      const at = rx.slotOffset(rx.usedSlot(entry));
      parts.push(bytes.subarray(at, at + rx.usedLength(entry)));
    }
    const content = Buffer.concat(parts).subarray(DRIVER_HEADER_BYTES);
    if (content[12] === ETHERTYPE_EXPERIMENT[0] && content[13] === ETHERTYPE_EXPERIMENT[1]) found.push(content);
  }
  frames.release(waiting);
  rx.publish();
  for (const { error } of [device.rx, device.tx]) if (error) throw new Error(error.message);
  return found;
}

/** Frames from one device to the other, woken by calls alone. */
function exchange(from: DriverDevice, to: DriverDevice, numbers: [number, number]): VhostDriverReport['rounds'][0] {
  const sent = createHash('sha256');
  const received = createHash('sha256');
  const poll = new PollSet();
  poll.add(to.rxCall, POLLIN);
  poll.add(from.txCall, POLLIN);
  const before = { kicks: from.tx.kicks, kicksSuppressed: from.tx.kicksSuppressed };
  let next = 0;
  let frames = 0;
  for (const deadline = Date.now() + TIMEOUT_MS; frames < FRAMES && Date.now() < deadline; ) {
    // No more under way than the receiver has room for: the tap's queue and its ring.
    const count = next - frames < 100 ? send(from, ...numbers, next) : 0;
    for (let seed = next; seed < next + count; seed++) sent.update(frame(seed, ...numbers));
    next += count;
    for (const content of receive(to)) {
      received.update(content);
      frames++;
    }
    if (frames === FRAMES || to.rx.enableCalls() || from.tx.enableCalls()) continue;
    poll.wait(1000);
    drainEventfd(to.rxCall);
    drainEventfd(from.txCall);
    to.rx.disableCalls();
    from.tx.disableCalls();
  }
  const { kicks, kicksSuppressed } = from.tx;
  return {
    sent: sent.digest('hex'),
    received: received.digest('hex'),
    frames,
    kicks: kicks - before.kicks,
    kicksSuppressed: kicksSuppressed - before.kicksSuppressed,
  };
}

function failure(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return (error as Error).message;
  }
  return 'no error';
}

const VHOST_NET = '/dev/vhost-net';
function reason(): string {
  const opened = openKernelVhostNet();
  if ('reason' in opened) return opened.reason;
  close(opened.fd);
  return '';
}

const features =
  process.argv[2] === 'no-event-idx' ? featureSet(VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF) : undefined;
ip('link', 'add', 'br0', 'type', 'bridge', 'mcast_snooping', '0');
const taps = ['drive0', 'drive1'].map((name) => {
  const { fd } = openTap(name, false);
  ip('link', 'set', name, 'mtu', String(MTU), 'master', 'br0');
  ip('link', 'set', name, 'up');
  return fd;
});
ip('link', 'set', 'br0', 'up');
const vhosts = taps.map(() => openVhostNet());
const [a, b] = taps.map((tun, i) => new DriverDevice({ vhost: vhosts[i]!, tun, features }));
const rounds: VhostDriverReport['rounds'] = [];
for (let round = 0; round < 2; round++) {
  a!.start();
  b!.start();
  rounds.push(exchange(a!, b!, [1, 2]), exchange(b!, a!, [2, 1]));
  // The rings begin anew: nothing of the first round may show in the second.
  a!.stop();
  b!.stop();
}
const errors = [failure(() => new DriverDevice({ vhost: vhosts[0]!, tun: taps[0]! }))];
ip('link', 'delete', 'drive1');
errors.push(failure(() => b!.start()));
a!.close();
b!.close();
for (const fd of [...vhosts, ...taps]) close(fd);
ip('link', 'delete', 'br0');
const reasons = [reason()];
fs.renameSync(VHOST_NET, `${VHOST_NET}.away`);
reasons.push(reason());
fs.writeFileSync(VHOST_NET, '');
reasons.push(reason());
fs.renameSync(`${VHOST_NET}.away`, VHOST_NET);
reasons.push(reason());
console.log(
  JSON.stringify({ features: featureNames(a!.features), rounds, errors, reasons } satisfies VhostDriverReport),
);
