/** Frame devices on the ports of a daemon: its clones, and vhost-user. */
import assert from 'node:assert/strict';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { DaemonProcess } from '../../../lab/daemon.ts';
import { run } from '../../../lab/program.ts';
import { MAX_FRAME_BYTES } from '../../../memory/frame-batch.ts';
import { fold, sum } from '../../../packet/checksum.ts';
import { openVhostNetDevice } from '../../../tcpip/devices/open-vhost-net.ts';
import { openVhostUserDevice } from '../../../tcpip/devices/open-vhost-user.ts';
import type { RingDevice } from '../../../tcpip/devices/ring-device.ts';
import { TRANSMIT_CHECKSUM, TRANSMIT_TSO4, TRANSMIT_TSO6 } from '../../../tcpip/frame-device.ts';
import { descriptorsOf } from '../../helpers/descriptors.ts';
import { checksumsVerify, type Packet, packet } from '../../helpers/plain-packet.ts';

const DELIVERY_MS = 5000;
const ALL_OFFLOADS = 0b11_1111;
const PAYLOAD = 20_000;
const GSO_SIZE = 1400;

describe('frame devices on a daemon', function () {
  this.timeout(20_000);
  let daemon: DaemonProcess;
  let user: RingDevice;
  let clone: RingDevice;
  const links: string[] = [];
  before(async () => {
    daemon = await DaemonProcess.start();
    const socket = path.join(daemon.directory, 'stack.sock');
    await daemon.client.post('/v1/ports', { kind: 'vhost-user', name: 'user', path: socket });
    user = await openVhostUserDevice({ path: socket, reconnectMs: 0, onLink: (_, reason) => links.push(reason) });
    clone = openVhostNetDevice({ name: 'clone', tun: daemon.tun, vhostNet: daemon.vhostNet });
  });
  after(async () => {
    user?.close();
    clone?.close();
    await daemon?.dispose();
  });

  const macs = (from: RingDevice, to: RingDevice) => ({ from: from.address, to: to.address });

  /** A TCP super-frame with a partial checksum. */
  function sendBig(from: RingDevice, to: RingDevice): { payload: Uint8Array; shape: Packet } {
    const payload = Uint8Array.from({ length: PAYLOAD }, (_, i) => (i * 13) & 0xff);
    const shape = packet({ ipVersion: 4, isTcp: true, payload, macs: macs(from, to) });
    const { bytes, transport, payload: data, csumOffset } = shape;
    from.tx.set(bytes, from.reserve(bytes.length));
    from.send(bytes.length, 1, 1, data, GSO_SIZE, transport, csumOffset);
    from.flush();
    return { payload, shape };
  }

  /** Frames until so many bytes have come. */
  async function receive(device: RingDevice, bytes: number): Promise<{ frames: Uint8Array[]; gso: number[] }> {
    const frames: Uint8Array[] = [];
    const gso: number[] = [];
    let total = 0;
    for (const deadline = Date.now() + DELIVERY_MS; total < bytes; await delay(1)) {
      const count = device.receive();
      for (let i = 0; i < count; i++) {
        const frame = device.rx.slice(device.rxOffset[i], device.rxOffset[i]! + device.rxLength[i]!);
        // Announcements of new ports are of no interest.
        if (frame[12] !== 8 || frame[13] !== 0) continue;
        frames.push(frame);
        gso.push(device.rxGsoSize[i]!);
        total += frame.length;
      }
      device.release();
      assert.ok(Date.now() < deadline, `${total} bytes of ${bytes} came`);
    }
    return { frames, gso };
  }

  it('have what was negotiated: all over vhost-user, and on clones what needs no TUNSETOFFLOAD', () => {
    assert.equal(user.offloads, ALL_OFFLOADS);
    assert.equal(clone.offloads, TRANSMIT_CHECKSUM | TRANSMIT_TSO4 | TRANSMIT_TSO6);
  });

  it('sum what they get by themselves, where nobody else does', async () => {
    assert.equal(user.sum, undefined);
    const { payload } = sendBig(user, clone);
    await receive(clone, payload.length);
    for (const bytes of [clone.rx, clone.tx]) {
      for (const end of [5000, MAX_FRAME_BYTES]) {
        assert.equal(fold(clone.sum!(bytes, 13, end, 99)), fold(sum(bytes, 13, end, 99)));
      }
    }
  });

  it('pass super-frames on whole where they may be, and cut with sums where not', async () => {
    const { payload, shape } = sendBig(clone, user);
    const whole = await receive(user, payload.length);
    assert.deepEqual([whole.frames.length, whole.gso], [1, [GSO_SIZE]]);
    assert.deepEqual(whole.frames[0]!.subarray(54), payload);
    sendBig(user, clone);
    const { frames, gso } = await receive(clone, payload.length);
    assert.equal(frames.length, Math.ceil(PAYLOAD / GSO_SIZE));
    assert.ok(gso.every((size) => size === 0));
    for (const frame of frames) assert.ok(checksumsVerify(frame, shape, true));
    assert.ok(Buffer.concat(frames.map((frame) => frame.subarray(54))).equals(payload));
  });

  it('have all offloads on clones under `ringswitch exec`', async () => {
    const module = new URL('../../../tcpip/devices/open-vhost-net.ts', import.meta.url).href;
    const program = `
      import { openVhostNetDevice } from '${module}';
      const device = openVhostNetDevice({ name: 'child' });
      console.log(device.offloads);
      device.close();
    `;
    const words = [process.execPath, '--input-type=module', '-e', program];
    assert.equal(await run([...daemon.exec, ...words]), `${ALL_OFFLOADS}\n`);
  });

  it('leave nothing open', async () => {
    const before = descriptorsOf(process.pid);
    openVhostNetDevice({ name: 'other', tun: daemon.tun, vhostNet: daemon.vhostNet }).close();
    assert.throws(
      () => openVhostNetDevice({ name: 'other', tun: daemon.tun, vhostNet: '/dev/null' }),
      /VHOST_SET_OWNER/,
    );
    const group = Uint8Array.of(1, 0, 0, 0, 0, 1);
    const options = { name: 'other', tun: daemon.tun, vhostNet: daemon.vhostNet, address: group };
    assert.throws(() => openVhostNetDevice(options), /no address of a station/);
    const socket = path.join(daemon.directory, 'other.sock');
    await daemon.client.post('/v1/ports', { kind: 'vhost-user', name: 'second', path: socket });
    await assert.rejects(openVhostUserDevice({ path: socket, address: group }), /no address of a station/);
    await assert.rejects(openVhostUserDevice({ path: path.join(daemon.directory, 'none') }), { code: 'ENOENT' });
    assert.deepEqual(descriptorsOf(process.pid), before);
  });

  it('tell when the switch goes', async () => {
    await daemon.client.delete('/v1/ports/user');
    for (const deadline = Date.now() + DELIVERY_MS; links.length === 0; await delay(5))
      assert.ok(Date.now() < deadline);
    assert.deepEqual(links, ['vhost-user: the back-end has closed the connection']);
  });
});
