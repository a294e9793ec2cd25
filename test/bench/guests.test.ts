import assert from 'node:assert/strict';
import { demandRing } from '../../bench/guests.ts';

// As DPDK 22.11 logs it: VIRTIO_F_RING_PACKED is bit 34.
const SPLIT = 'virtio_ethdev_negotiate_features(): features after negotiate = 910018020\n';
const PACKED = 'virtio_ethdev_negotiate_features(): features after negotiate = d10018020\n';

describe('the rings that the guests negotiated', () => {
  it('are those asked for', () => {
    demandRing(SPLIT + SPLIT, 2, 'split');
    demandRing(PACKED + PACKED, 2, 'packed');
  });

  it('are refused when a port has others', () => {
    assert.throws(
      () => demandRing(PACKED + SPLIT, 2, 'packed'),
      /port 1 negotiated split rings, not packed: the switch does not offer VIRTIO_F_RING_PACKED/,
    );
    assert.throws(() => demandRing(PACKED + PACKED, 2, 'split'), /port 0 negotiated packed rings, not split/);
  });

  it('are refused when a port told none, with what testpmd said', () => {
    assert.throws(
      () => demandRing(`${SPLIT}vdev_probe(): failed to initialize net_virtio_user1 device\n`, 2, 'split'),
      /only 1 of 2 ports .* It said:\n(.*\n)*.*failed to initialize net_virtio_user1/,
    );
  });
});
