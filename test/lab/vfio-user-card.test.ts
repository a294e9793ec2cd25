import assert from 'node:assert/strict';
import { vfioUserCard } from '../../lab/vfio-user-card.ts';

describe('vfioUserCard', () => {
  it("says the socket and more properties in QEMU's words", () => {
    const [option, json, ...more] = vfioUserCard({ socket: '/run/a,b', device: { addr: '6.0' } });
    assert.equal(option, '-device');
    assert.deepEqual(JSON.parse(json!), {
      driver: 'vfio-user-pci',
      socket: { type: 'unix', path: '/run/a,b' },
      addr: '6.0',
    });
    assert.deepEqual(more, []);
  });
});
