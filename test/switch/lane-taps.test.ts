/** A lane's taps over vhost: the clones of a daemon in another process stand for the kernel's. */
import assert from 'node:assert/strict';
import type { DaemonProcess } from '../../lab/daemon.ts';
import { eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, IFF_VNET_HDR } from '../../linux/if-tun.ts';
import { newCounters, readCounters } from '../../switch/counters.ts';
import { Lane, type LaneEvent } from '../../switch/lane.ts';
import { withDaemon } from '../helpers/daemon-fixture.ts';
import { type DriverFiles, openClones } from '../helpers/driver-port.ts';
import { broadcastFrame, DELIVERY_MS, TunClient } from '../helpers/tun-client.ts';

const HEADER_BYTES = 12;

describe('a lane with taps over vhost', function () {
  this.timeout(20_000);
  let daemon: DaemonProcess;
  let lane: Lane;
  let wakeFd: number;
  let events: LaneEvent[];
  let files: DriverFiles;

  withDaemon((started) => {
    daemon = started;
  });
  beforeEach(() => {
    events = [];
    wakeFd = eventfd();
    const options = { seed: 3, agingSeconds: 300, fdbCapacity: 1000, fdbPerPort: 500, spinMs: 0, wakeFd };
    lane = new Lane({ ...options, now: () => performance.now() }, (event) => events.push(event));
    files = openClones(daemon, 'over-vhost');
  });
  afterEach(() => {
    lane.stop();
    for (const fd of [files.vhost, files.tun, wakeFd]) close(fd);
  });

  it('takes frames from one and drops them where there is nobody, and counts both', () => {
    const counters = newCounters();
    lane.addTapPort(1, 'over-vhost', counters, files.tun, 0, files.vhost);
    using peer = new TunClient(daemon.tun, { flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, headerBytes: HEADER_BYTES });
    for (let i = 0; i < 500; i++) {
      assert.equal(peer.write(new Uint8Array(HEADER_BYTES), broadcastFrame(100, i)), HEADER_BYTES + 100);
      for (const deadline = performance.now() + DELIVERY_MS; lane.breathe() === 0; ) {
        assert(performance.now() < deadline, `frame ${i} did not come`);
      }
    }
    assert.equal(readCounters(counters).rx_frames, 500);
    assert.equal(lane.fdb().length, 256, 'an address for each last byte');
    lane.removePort(1);
    assert.deepEqual(events, []);
  });

  it('makes no port of a file that cannot serve it, and can read and write that tap instead', () => {
    assert.throws(
      () => lane.addTapPort(1, 'over-vhost', newCounters(), files.tun, 0, wakeFd),
      /VHOST_SET_OWNER failed with ENOTTY: the descriptor is no vhost-net file/,
    );
    assert.throws(() => lane.removePort(1), /no port 1/);
    const counters = newCounters();
    lane.addTapPort(1, 'over-vhost', counters, files.tun, 0, -1);
    using peer = new TunClient(daemon.tun, { flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, headerBytes: HEADER_BYTES });
    peer.write(new Uint8Array(HEADER_BYTES), broadcastFrame(100));
    for (const deadline = performance.now() + DELIVERY_MS; lane.breathe() === 0; ) {
      assert(performance.now() < deadline, 'the frame did not come');
    }
    assert.equal(readCounters(counters).rx_frames, 1);
  });
});
