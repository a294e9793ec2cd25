import assert from 'node:assert/strict';
import { virtioNet, virtioNetDevice } from '../../lab/virtio-net.ts';

const mac = '52:54:00:00:00:01';

describe("a virtio network card's words for QEMU", () => {
  it('name a tap', () => {
    assert.deepEqual(virtioNet({ id: 'n0', ifname: 'vs0', mac, vhost: true, device: 'mrg_rxbuf=off' }), [
      '-netdev',
      'tap,id=n0,ifname=vs0,script=no,downscript=no,vhost=on',
      '-device',
      `virtio-net-pci,netdev=n0,mac=${mac},romfile=,mrg_rxbuf=off`,
    ]);
  });

  it('leave the name to the device', () => {
    assert.equal(virtioNet({ id: 'n0', mac, vhost: false })[1], 'tap,id=n0,script=no,downscript=no,vhost=off');
  });

  it('have a vector for each queue of several pairs', () => {
    const [, netdev, , device] = virtioNet({
      id: 'n0',
      ifname: 'vs0',
      mac,
      vhost: true,
      queues: 2,
      netdev: 'sndbuf=0',
    });
    assert.equal(netdev, 'tap,id=n0,ifname=vs0,script=no,downscript=no,queues=2,vhost=on,sndbuf=0');
    assert.equal(device, `virtio-net-pci,netdev=n0,mac=${mac},romfile=,mq=on,vectors=6`);
  });

  it('pass opened taps', () => {
    assert.equal(virtioNet({ id: 'n0', fds: [3], mac, vhost: false })[1], 'tap,id=n0,fd=3,vhost=off');
    const [, netdev, , device] = virtioNet({ id: 'n0', fds: [3, 4], mac, vhost: true });
    assert.equal(netdev, 'tap,id=n0,fds=3:4,vhost=on');
    assert.match(device!, /mq=on/);
  });

  it('refuse what QEMU would not take', () => {
    assert.throws(() => virtioNet({ id: 'n0', ifname: 'a', fds: [3], mac, vhost: true }), /both ifname a and fds 3/);
    assert.throws(() => virtioNet({ id: 'n0', fds: [3], queues: 2, mac, vhost: true }), /2 queue pairs and 1 fds/);
    assert.throws(() => virtioNet({ id: 'n0', queues: 0, mac, vhost: true }), /0 queue pairs/);
  });

  it('serve a netdev of any kind', () => {
    assert.deepEqual(virtioNetDevice('x', mac), ['-device', `virtio-net-pci,netdev=x,mac=${mac},romfile=`]);
  });
});
