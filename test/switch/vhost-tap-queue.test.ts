/**
 * VhostTapQueue over the clones of a daemon, which are a vhost-net as good as the kernel's: on the other side of that
 * switch a plain client of the tun clone. The kernel's own is met in test/vm/vhost-driver.test.ts.
 */
import assert from 'node:assert/strict';
import type { DaemonProcess } from '../../lab/daemon.ts';
import { drainEventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, IFF_VNET_HDR } from '../../linux/if-tun.ts';
import { POLLIN, PollSet } from '../../linux/poll.ts';
import { BATCH_FRAMES, MAX_FRAME_BYTES } from '../../memory/frame-batch.ts';
import { TX_DROP_NO_BUFFERS, TX_DROP_RING_BROKEN } from '../../switch/counters.ts';
import { VhostTapQueue } from '../../switch/vhost-tap-queue.ts';
import type { DriverError } from '../../vhost/driver-error.ts';
import { ARENAS, emptyBatch } from '../helpers/arenas.ts';
import { withDaemon } from '../helpers/daemon-fixture.ts';
import { type DriverFiles, openClones } from '../helpers/driver-port.ts';
import { appendFrame, cut, frameOf } from '../helpers/frame-bytes.ts';
import { onesSum } from '../helpers/plain-packet.ts';
import { broadcastFrame, DELIVERY_MS, TunClient } from '../helpers/tun-client.ts';

const HEADER_BYTES = 12;
const CSUM_START = 14;
const CSUM_OFFSET = 2;
/** A checksum left to whoever takes the frame (virtio 1.2 §5.1.6): VIRTIO_NET_HDR_F_NEEDS_CSUM and where it is. */
const PARTIAL = Uint8Array.of(1, 0, 0, 0, 0, 0, CSUM_START, 0, CSUM_OFFSET, 0, 0, 0);

for (const { name, arena } of ARENAS) {
  describe(`VhostTapQueue ${name}`, function () {
    this.timeout(20_000);
    let daemon: DaemonProcess;
    let files: DriverFiles;
    let queue: VhostTapQueue;
    let peer: TunClient;

    withDaemon((started) => {
      daemon = started;
    });
    beforeEach(() => {
      files = openClones(daemon, 'tapped');
      queue = new VhostTapQueue(files.tun, files.vhost, arena());
      const flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
      peer = new TunClient(daemon.tun, { name: 'peer', flags, headerBytes: HEADER_BYTES });
    });
    afterEach(() => {
      peer.close();
      queue.close();
      close(files.vhost);
      close(files.tun);
    });

    const send = (frame: Uint8Array): void => {
      assert.equal(peer.write(new Uint8Array(HEADER_BYTES), frame), HEADER_BYTES + frame.length);
    };
    /** Receives until there are `count` frames, without releasing any. */
    const receive = (count: number) => {
      const batch = emptyBatch(arena());
      for (const deadline = performance.now() + DELIVERY_MS; ; ) {
        batch.clear();
        assert.equal(queue.receive(batch), batch.count);
        if (batch.count >= count) return batch;
        if (performance.now() > deadline) throw new Error(`${batch.count} frames of ${count}`);
      }
    };
    const bytesOf = (batch: ReturnType<typeof receive>): Buffer[] =>
      Array.from({ length: batch.count }, (_, i) => Buffer.from(frameOf(batch, i)));
    /** Appends frames whose bytes lie in pieces of these lengths, and offers them all. */
    const transmit = (frames: Uint8Array[], pieces: number[] = [], header = new Uint8Array(HEADER_BYTES)): number => {
      const batch = emptyBatch(arena(), 1);
      for (const frame of frames) {
        const parts = [header, ...cut(frame, pieces)];
        appendFrame(batch, parts, HEADER_BYTES);
      }
      return queue.transmit(batch, 0, batch.count);
    };

    it('receives frames of every length, over one buffer and several', () => {
      for (const [seed, length] of [14, 60, 1514, 4084, 4085, 9014, MAX_FRAME_BYTES].entries()) {
        const frame = broadcastFrame(length, seed);
        send(frame);
        assert.deepEqual(bytesOf(receive(1)), [frame]);
        queue.release(1);
        queue.flush();
      }
      assert.equal(queue.malformed, 0);
    });

    it('receives short and long frames in one batch, in order, again until they are released', () => {
      const sent = [60, 5000, 61, 62, 9000, 1514].map((length, seed) => broadcastFrame(length, seed));
      for (const frame of sent) send(frame);
      assert.deepEqual(bytesOf(receive(6)), sent);
      queue.release(2);
      assert.deepEqual(bytesOf(receive(4)), sent.slice(2));
      queue.release(4);
      assert.equal(queue.receive(emptyBatch(arena())), 0);
    });

    it('receives thousands: buffers come back', () => {
      for (let i = 0; i < 3000; i += 20) {
        for (let j = i; j < i + 20; j++) send(broadcastFrame(60 + (j % 1000), j));
        const frames = bytesOf(receive(20));
        for (let j = 0; j < 20; j++) assert.deepEqual(frames[j], broadcastFrame(60 + ((i + j) % 1000), i + j));
        queue.release(20);
        queue.flush();
      }
    });

    it('transmits the fields of the header: the switch completes a checksum that was left to do', () => {
      const frame = broadcastFrame(61, 5);
      assert.equal(transmit([frame], [], PARTIAL), 1);
      queue.flush();
      const whole = Uint8Array.from(frame);
      new DataView(whole.buffer).setUint16(CSUM_START + CSUM_OFFSET, 0xffff - onesSum(whole.subarray(CSUM_START)));
      assert.deepEqual(new Uint8Array(peer.receive().subarray(HEADER_BYTES)), whole);
    });

    it('transmits frames of every length, wherever their pieces lie', () => {
      for (const pieces of [[], [14], [127, 1], [1, 1, 1, 1000, 7]]) {
        for (const [seed, length] of [14, 60, 128, 129, 1514, 9014, MAX_FRAME_BYTES].entries()) {
          const frame = broadcastFrame(length, seed);
          assert.equal(transmit([frame], pieces), 1);
          queue.flush();
          assert.deepEqual(peer.receive().subarray(HEADER_BYTES), frame);
        }
      }
    });

    it('transmits whole batches with num_buffers 0, and takes its slots back', () => {
      for (let round = 0; round < 40; round++) {
        const frames = Array.from({ length: BATCH_FRAMES }, (_, i) => broadcastFrame(60 + i, round + i));
        assert.equal(transmit(frames), BATCH_FRAMES);
        queue.flush();
        for (const frame of frames) assert.deepEqual(peer.receive().subarray(HEADER_BYTES), frame);
      }
      const { tx, memory } = queue.device;
      const words = new Uint16Array(memory.view(tx.slotAddress(0), tx.slotsBytes));
      for (let slot = 0; slot < tx.num; slot++) assert.equal(words[(tx.slotOffset(slot) >> 1) + 5], 0);
    });

    it('shows nothing before the flush', () => {
      assert.equal(transmit([broadcastFrame(60)]), 1);
      assert(peer.silent);
      queue.flush();
      assert.equal(peer.receive().length, HEADER_BYTES + 60);
    });

    it('has no buffers while all slots are on their way, and some when they came back', () => {
      const { num } = queue.device.tx;
      const frames = Array.from({ length: BATCH_FRAMES }, (_, i) => broadcastFrame(60, i));
      for (let sent = 0; sent < num; sent += BATCH_FRAMES) assert.equal(transmit(frames), BATCH_FRAMES);
      assert.equal(transmit(frames), 0);
      assert.equal(queue.refusal, TX_DROP_NO_BUFFERS);
      queue.flush();
      for (const deadline = performance.now() + DELIVERY_MS; transmit(frames.slice(0, 1)) === 0; ) {
        assert.equal(queue.refusal, TX_DROP_NO_BUFFERS);
        assert(performance.now() < deadline);
      }
      assert.equal(queue.refusal, 0);
    });

    it('sleeps on its call eventfds: for frames unless they are held, for buffers when stalled', () => {
      const fds: number[] = [];
      queue.addPollFds({ addEventfd: (fd) => fds.push(fd), addReadable: () => assert.fail('they are eventfds') });
      assert.deepEqual(fds, [queue.device.rxCall, queue.device.txCall]);
      const called = (fd: number, timeoutMs: number): boolean => {
        const poll = new PollSet();
        poll.add(fd, POLLIN);
        return poll.wait(timeoutMs) > 0 && drainEventfd(fd);
      };
      const [rxCall, txCall] = fds as [number, number];
      // The first used entry of a ring is always announced: let it pass.
      send(broadcastFrame(60));
      receive(1);
      queue.release(1);
      queue.flush();
      called(rxCall, 100);
      send(broadcastFrame(60));
      receive(1);
      assert.equal(called(rxCall, 50), false, 'it polls');
      queue.release(1);
      assert.equal(queue.enableNotification(false, false), false);
      send(broadcastFrame(60));
      assert.equal(called(rxCall, DELIVERY_MS), true);
      assert.equal(queue.enableNotification(false, false), true, 'look again');
      assert.equal(queue.enableNotification(true, false), false, 'frames wait for somebody else');
      queue.disableNotification();
      assert.equal(transmit([broadcastFrame(60)]), 1);
      queue.flush();
      peer.receive();
      called(txCall, 100);
      assert.equal(queue.enableNotification(true, true), true, 'a slot came back');
    });

    it('a ring that the device breaks is told of once; the port is not ready then', () => {
      const errors: DriverError[] = [];
      queue.onBroken = (error) => errors.push(error);
      const { rx, memory } = queue.device;
      const used = new Uint16Array(memory.view(rx.addresses.used, 4));
      used[1] = 0x7fff;
      const batch = emptyBatch(arena());
      assert.equal(queue.receive(batch), 0);
      assert.equal(queue.receive(batch), 0);
      assert.deepEqual(
        errors.map(({ code, value }) => [code, value]),
        [['USED_IDX_JUMPED', 0x7fff]],
      );
      assert.equal(queue.ready, false);
      assert.equal(transmit([broadcastFrame(60)]), 0);
      assert.equal(queue.refusal, TX_DROP_RING_BROKEN);
      queue.addPollFds({ addEventfd: () => assert.fail(), addReadable: () => assert.fail() });
      assert.equal(queue.enableNotification(false, true), false);
    });

    it('counts what is no frame as malformed, and goes on', () => {
      const { rx, memory } = queue.device;
      const frame = broadcastFrame(60);
      send(frame);
      send(frame);
      const batch = receive(2);
      queue.release(2);
      queue.flush();
      batch.clear();
      // As a device would that writes a header and 13 bytes: the length of the next used entry, before it is read.
      const [before] = new Uint16Array(memory.view(rx.addresses.used, 4)).subarray(1);
      send(frame);
      send(frame);
      const idx = new Uint16Array(memory.view(rx.addresses.used, 4));
      for (const deadline = performance.now() + DELIVERY_MS; ((idx[1]! - before!) & 0xffff) < 2; ) {
        assert(performance.now() < deadline);
      }
      const lengths = new Uint32Array(memory.view(rx.addresses.used + 4, 8 * rx.num));
      lengths[2 * (before! % rx.num) + 1] = HEADER_BYTES + 13;
      assert.equal(queue.receive(batch), 0);
      assert.equal(queue.malformed, 1);
      assert.equal(queue.receive(batch), 1);
      assert.equal(queue.malformed, 1);
      queue.release(1);
    });

    it('throws what its device throws, and leaves nothing behind', () => {
      assert.throws(() => new VhostTapQueue(files.tun, files.vhost, arena()), /VHOST_SET_OWNER failed with EBUSY/);
    });
  });
}
