/** The driver on the clones of a daemon in another process, as a TCP/IP stack uses it. */
import assert from 'node:assert/strict';
import type { DaemonProcess } from '../../lab/daemon.ts';
import { eventfd } from '../../linux/eventfd.ts';
import { close, O_RDWR, open } from '../../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, ifreq, TUNSETIFF } from '../../linux/if-tun.ts';
import { ioctl } from '../../linux/ioctl.ts';
import { DRIVER_FEATURES, DriverDevice, openVhostNet } from '../../vhost/driver-device.ts';
import { featureSet, VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_RING_F_EVENT_IDX } from '../../vhost/virtio.ts';
import { withDaemon } from '../helpers/daemon-fixture.ts';
import { DriverPort, openClones } from '../helpers/driver-port.ts';
import { broadcastFrame } from '../helpers/tun-client.ts';
import { untilPorts } from '../helpers/until.ts';

const SETS = [
  DRIVER_FEATURES,
  featureSet(VIRTIO_F_VERSION_1),
  featureSet(VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF),
  featureSet(VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX),
];

describe('DriverDevice on the clones', function () {
  this.timeout(20_000);
  let daemon: DaemonProcess;
  withDaemon((started) => {
    daemon = started;
  });

  for (const features of SETS) {
    it(`exchanges frames of every length with another (features 0x${features.toString(16)})`, async () => {
      using a = new DriverPort(daemon, 'drive-a', { features });
      using b = new DriverPort(daemon, 'drive-b', { rxNum: 64, txNum: 16 });
      assert.equal(a.device.features, features);
      assert.equal(b.device.features, DRIVER_FEATURES);
      for (const [seed, length] of [60, 14, 1514, 4084, 4085, 9014, 65_550].entries()) {
        const [there, back] = [broadcastFrame(length, seed), broadcastFrame(length, seed + 100)];
        a.send(there);
        assert.deepEqual(b.receive(), there);
        b.send(back);
        assert.deepEqual(a.receive(), back);
      }
      for (let i = 0; i < 600; i++) {
        a.send(broadcastFrame(60 + (i % 1400), i));
        assert.deepEqual(b.receive(), broadcastFrame(60 + (i % 1400), i));
      }
      assert.equal((await daemon.port('drive-a')).path, 'vhost');
    });
  }

  it('begins anew after a stop, and loses nothing that comes after the start', () => {
    using a = new DriverPort(daemon, 'drive-a');
    using b = new DriverPort(daemon, 'drive-b');
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < 40; i++) a.send(broadcastFrame(100, i));
      for (let i = 0; i < 40; i++) assert.deepEqual(b.receive(), broadcastFrame(100, i));
      for (const { device } of [a, b]) {
        assert.equal(device.running, true);
        device.stop();
        device.stop();
        assert.equal(device.running, false);
        device.start();
      }
    }
  });

  it('leaves nothing behind in the daemon', async () => {
    {
      using _a = new DriverPort(daemon, 'drive-a');
      assert.equal((await daemon.rings()).length, 2);
    }
    await untilPorts(daemon);
  });

  describe('refuses', () => {
    it('a vhost-net file that has an owner', () => {
      using a = new DriverPort(daemon, 'drive-a');
      assert.throws(() => new DriverDevice(a.files), {
        name: 'DriverDeviceError',
        code: 'EBUSY',
        message: 'vhost-net: VHOST_SET_OWNER failed with EBUSY: this vhost-net file is in use already; open another',
      });
    });

    it('a tun file without an interface, and files of the wrong kind', () => {
      const vhost = openVhostNet(daemon.vhostNet);
      const tun = open(daemon.tun, O_RDWR);
      const event = eventfd();
      try {
        assert.throws(
          () => new DriverDevice({ vhost, tun }),
          /TUNGETIFF failed with EBADFD: the tun file has no interface, or not any more/,
        );
        assert.throws(() => new DriverDevice({ vhost, tun: event }), /TUNGETIFF failed with ENOTTY: .* is no tun file/);
        ioctl(tun, TUNSETIFF, ifreq('drive-a', IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), 'TUNSETIFF');
        assert.throws(
          () => new DriverDevice({ vhost: event, tun }),
          /VHOST_SET_OWNER failed with ENOTTY: the descriptor is no vhost-net file/,
        );
        // None of this has used the files up.
        new DriverDevice({ vhost, tun }).close();
      } finally {
        for (const fd of [vhost, tun, event]) close(fd);
      }
    });

    it('a tap whose frames have no header, and says which flags it wants', () => {
      const vhost = openVhostNet(daemon.vhostNet);
      const tun = open(daemon.tun, O_RDWR);
      try {
        ioctl(tun, TUNSETIFF, ifreq('plain-a', IFF_TAP | IFF_NO_PI), 'TUNSETIFF');
        assert.throws(
          () => new DriverDevice({ vhost, tun }),
          /plain-a has the flags 0x1002; open it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR/,
        );
      } finally {
        close(vhost);
        close(tun);
      }
    });

    it('to work without VERSION_1', () => {
      const files = openClones(daemon, 'drive-a');
      try {
        const features = featureSet(VIRTIO_NET_F_MRG_RXBUF);
        assert.throws(
          () => new DriverDevice({ ...files, features }),
          /VERSION_1 is needed; wanted: MRG_RXBUF; offered: .*VERSION_1/,
        );
      } finally {
        close(files.vhost);
        close(files.tun);
      }
    });

    it('a ring of a size that cannot be', () => {
      const files = openClones(daemon, 'drive-a');
      try {
        assert.throws(
          () => new DriverDevice({ ...files, rxNum: 100 }),
          /virtqueue of 100 entries: give a power of two/,
        );
      } finally {
        close(files.vhost);
        close(files.tun);
      }
    });
  });
});
