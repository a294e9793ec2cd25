/** Frames read and written on the tun clone itself, without vhost: between clients of a real daemon. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { DaemonProcess, RINGSWITCH } from '../../lab/daemon.ts';
import { run } from '../../lab/program.ts';
import { O_RDWR } from '../../linux/file.ts';
import {
  IFF_ATTACH_QUEUE,
  IFF_DETACH_QUEUE,
  IFF_MULTI_QUEUE,
  IFF_NO_CARRIER,
  IFF_NO_PI,
  IFF_TAP,
  IFF_VNET_HDR,
  ifreq,
  TUN_F_CSUM,
  TUN_F_TSO4,
  TUN_PI_BYTES,
  TUN_PKT_STRIP,
  TUNSETCARRIER,
  TUNSETOFFLOAD,
  TUNSETPERSIST,
  TUNSETQUEUE,
} from '../../linux/if-tun.ts';
import { ioctl } from '../../linux/ioctl.ts';
import { POLLIN, POLLOUT, PollSet } from '../../linux/poll.ts';
import { VIRTIO_NET_HDR_BYTES } from '../../vhost/virtio.ts';
import { EdgeTriggered } from '../helpers/epoll.ts';
import { RemoteCalls } from '../helpers/remote-calls.ts';
import { checksumsRight, sequenceOf, TCP_FRAME_HEADERS, tcpFrame, tcpNetHeader } from '../helpers/tcp-frame.ts';
import { broadcastFrame, DELIVERY_MS, TunClient } from '../helpers/tun-client.ts';
import { until, untilPorts } from '../helpers/until.ts';

const readAsync = promisify(fs.read);
const TAP = IFF_TAP | IFF_NO_PI;
const LENGTHS = [14, 15, 60, 128, 129, 1514, 9014, 65_535, 65_550];
const MAX_FRAME_BYTES = 65_550;

describe('a tun file', () => {
  let daemon: DaemonProcess;
  let clients: TunClient[] = [];

  before(async () => {
    daemon = await DaemonProcess.start();
  });

  afterEach(async () => {
    for (const client of clients) client.close();
    clients = [];
    // close(2) does not wait for the daemon: the next test must not meet these ports.
    await untilPorts(daemon);
  });

  after(async () => {
    try {
      await daemon?.stop();
    } finally {
      await daemon?.dispose();
    }
  });

  function client(options: ConstructorParameters<typeof TunClient>[1] = {}): TunClient {
    const made = new TunClient(daemon.tun, options);
    clients.push(made);
    return made;
  }

  describe('carries frames', () => {
    it('byte for byte, from the shortest to the longest, and to everybody but the sender', () => {
      const [a, b, c] = [client(), client(), client()];
      for (const [seed, length] of LENGTHS.entries()) {
        const frame = broadcastFrame(length, seed);
        assert.equal(a.write(frame), length);
        assert.deepEqual(b.receive(), frame);
        assert.deepEqual(c.receive(), frame);
      }
      assert.equal(a.read(), 'EAGAIN');
    });

    it('in order, many at once', () => {
      const [a, b] = [client(), client()];
      const frames = Array.from({ length: 200 }, (_, i) => broadcastFrame(14 + i * 7, i));
      for (const frame of frames) assert.equal(a.write(frame), frame.length);
      for (const frame of frames) assert.deepEqual(b.receive(), frame);
    });

    for (const headerBytes of [10, 12, 1000]) {
      it(`behind a virtio-net header of ${headerBytes} bytes`, () => {
        const flags = TAP | IFF_VNET_HDR;
        const [a, b] = [client({ flags, headerBytes }), client({ flags, headerBytes })];
        for (const [seed, length] of LENGTHS.entries()) {
          const frame = broadcastFrame(length, seed);
          // What stands behind struct virtio_net_hdr is nobody's.
          const header = Buffer.alloc(headerBytes).fill(0xee, VIRTIO_NET_HDR_BYTES);
          assert.equal(a.write(header, frame), headerBytes + length);
          const message = b.receive();
          const expected = Buffer.alloc(headerBytes);
          if (headerBytes >= 12) expected.writeUInt16LE(1, 10); // num_buffers
          assert.deepEqual(message.subarray(0, headerBytes), expected);
          assert.deepEqual(message.subarray(headerBytes), frame);
        }
      });
    }

    it('between clients with different headers', () => {
      const plain = client();
      const ten = client({ flags: TAP | IFF_VNET_HDR });
      const pi = client({ flags: IFF_TAP });
      const frame = broadcastFrame(100);
      plain.write(frame);
      assert.deepEqual(ten.receive(), Buffer.concat([Buffer.alloc(10), frame]));
      assert.deepEqual(pi.receive(), Buffer.concat([Buffer.from('000088b5', 'hex'), frame]));
      pi.write(Buffer.alloc(TUN_PI_BYTES), frame);
      assert.deepEqual(plain.receive(), frame);
    });

    it('behind struct tun_pi and a virtio-net header, in this order', () => {
      const flags = IFF_TAP | IFF_VNET_HDR;
      const [a, b] = [client({ flags }), client({ flags })];
      const frame = broadcastFrame(100);
      assert.equal(a.write(Buffer.alloc(TUN_PI_BYTES), Buffer.alloc(10), frame), 114);
      assert.deepEqual(b.receive(), Buffer.concat([Buffer.from('000088b5', 'hex'), Buffer.alloc(10), frame]));
    });

    it('that are written with writev and read with readv as one message', () => {
      const [a, b] = [client(), client()];
      const frame = broadcastFrame(1514);
      const pieces = [frame.subarray(0, 1), frame.subarray(1, 14), frame.subarray(14, 1000), frame.subarray(1000)];
      assert.equal(fs.writevSync(a.fd, pieces), frame.length);
      assert.ok(b.readable(DELIVERY_MS));
      const into = [Buffer.alloc(14), Buffer.alloc(1), Buffer.alloc(3000)];
      assert.equal(fs.readvSync(b.fd, into), frame.length);
      assert.deepEqual(Buffer.concat(into).subarray(0, frame.length), frame);
    });
  });

  describe('refuses', () => {
    it('reads and writes before TUNSETIFF: EBADFD', () => {
      const file = client({ name: null });
      assert.equal(file.read(), 'EBADFD');
      assert.equal(file.write(broadcastFrame(60)), 'EBADFD');
    });

    it('messages that hold no frame, or more than one can be: EINVAL', () => {
      const plain = client();
      assert.equal(plain.write(Buffer.alloc(13)), 'EINVAL');
      assert.equal(plain.write(Buffer.alloc(MAX_FRAME_BYTES + 1)), 'EINVAL');
      const headers = client({ flags: IFF_TAP | IFF_VNET_HDR, headerBytes: 12 });
      assert.equal(headers.write(Buffer.alloc(TUN_PI_BYTES + 12 + 13)), 'EINVAL');
      assert.equal(headers.write(Buffer.alloc(3)), 'EINVAL');
      assert.equal(headers.write(Buffer.alloc(TUN_PI_BYTES + 12), broadcastFrame(14)), TUN_PI_BYTES + 12 + 14);
    });

    it('a virtio-net header that contradicts its frame: EINVAL, and nobody gets it', () => {
      const [a, b] = [client({ flags: TAP | IFF_VNET_HDR }), client()];
      const beyond = tcpNetHeader();
      assert.equal(a.write(beyond, broadcastFrame(34 + 16 + 1)), 'EINVAL');
      const noSize = tcpNetHeader(1000);
      noSize.writeUInt16LE(0, 4);
      assert.equal(a.write(noSize, tcpFrame(2000)), 'EINVAL');
      assert.ok(b.silent);
    });
  });

  describe('read', () => {
    it('without a frame gives EAGAIN when non-blocking', () => {
      assert.equal(client().read(), 'EAGAIN');
    });

    it('gives what fits of a frame, and drops the rest', () => {
      const [a, b] = [client(), client()];
      const [first, second] = [broadcastFrame(1514, 1), broadcastFrame(60, 2)];
      a.write(first);
      a.write(second);
      assert.deepEqual(b.receive(100), first.subarray(0, 100));
      assert.deepEqual(b.receive(1), second.subarray(0, 1));
      assert.equal(b.read(), 'EAGAIN');
    });

    it('says in struct tun_pi that a frame was cut', () => {
      const [a, b] = [client(), client({ flags: IFF_TAP })];
      a.write(broadcastFrame(100));
      a.write(broadcastFrame(100));
      assert.equal(b.receive(50).readUInt16LE(0), TUN_PKT_STRIP);
      assert.equal(b.receive(TUN_PI_BYTES + 100).readUInt16LE(0), 0);
    });

    it('into less than the headers gives EINVAL, and drops the frame', () => {
      const [a, b] = [client(), client({ flags: TAP | IFF_VNET_HDR, headerBytes: 12 })];
      const [first, second] = [broadcastFrame(60, 1), broadcastFrame(60, 2)];
      a.write(first);
      a.write(second);
      assert.ok(b.readable(DELIVERY_MS));
      assert.equal(b.read(11), 'EINVAL');
      assert.deepEqual(b.receive().subarray(12), second);
    });

    it('waits for a frame when blocking', async () => {
      const [a, b] = [client(), client({ blocking: true })];
      const buffer = Buffer.alloc(2000);
      let done = false;
      const reading = readAsync(b.fd, buffer, 0, buffer.length, null).finally(() => {
        done = true;
      });
      await delay(50);
      assert.equal(done, false);
      const frame = broadcastFrame(700);
      a.write(frame);
      const { bytesRead } = await reading;
      assert.deepEqual(buffer.subarray(0, bytesRead), frame);
    });

    it('gives each frame to one of several that wait', async () => {
      const [a, b] = [client(), client({ blocking: true })];
      const reading = Array.from({ length: 3 }, async () => {
        const { bytesRead, buffer } = await readAsync(b.fd, Buffer.alloc(2000), 0, 2000, null);
        return buffer.subarray(0, bytesRead).toString('hex');
      });
      await delay(50);
      const frames = [1, 2, 3].map((seed) => broadcastFrame(60 + seed, seed));
      for (const frame of frames) a.write(frame);
      assert.deepEqual((await Promise.all(reading)).sort(), frames.map((frame) => frame.toString('hex')).sort());
    });

    it('that waits is ended by a signal with EINTR, and no frame is lost', async () => {
      await using remote = await RemoteCalls.start();
      const fd = await remote.open(daemon.tun, O_RDWR);
      await remote.attach(fd, 'reader');
      const reading = remote.call('read', fd, 2000);
      // One that comes before it reads ends nothing.
      const signals = setInterval(() => remote.program.signal('SIGUSR2'), 100);
      try {
        assert.equal((await reading).result, 'EINTR');
      } finally {
        clearInterval(signals);
      }
      const frame = broadcastFrame(60);
      client().write(frame);
      assert.deepEqual((await remote.call('read', fd, 2000)).bytes, frame);
    });

    it('that waits is ended with its process', async () => {
      const remote = await RemoteCalls.start();
      try {
        const fd = await remote.open(daemon.tun, O_RDWR);
        await remote.attach(fd, 'reader');
        const reading = assert.rejects(remote.call('read', fd, 2000), /SIGKILL/);
        await delay(50);
        remote.program.signal('SIGKILL');
        await reading;
      } finally {
        await remote.program.stop();
      }
      await untilPorts(daemon);
    });
  });

  describe('poll', () => {
    it('says that there is room, and no frame', () => {
      const poll = new PollSet();
      poll.add(client().fd, POLLIN | POLLOUT);
      assert.equal(poll.wait(0), 1);
      assert.equal(poll.revents(0), POLLOUT);
    });

    it('sleeps without a frame, and wakes with one', async () => {
      const [a, b] = [client(), client()];
      assert.ok(b.silent);
      await using remote = await RemoteCalls.start();
      const fd = await remote.open(daemon.tun);
      await remote.attach(fd, 'poller');
      const polling = remote.call('poll', fd, DELIVERY_MS);
      await delay(50);
      a.write(broadcastFrame(60));
      // 0 when its time was over: what woke it was the frame.
      assert.equal((await polling).result, POLLIN);
    });

    it('wakes edge-triggered epoll once for each frame', () => {
      const [a, b] = [client(), client()];
      using edges = new EdgeTriggered(b.fd);
      assert.equal(edges.wait(50), false, 'nothing yet');
      for (let seed = 0; seed < 20; seed++) {
        const frame = broadcastFrame(60, seed);
        a.write(frame);
        assert.ok(edges.wait(DELIVERY_MS), `frame ${seed}`);
        assert.deepEqual(b.read(), frame);
        assert.equal(b.read(), 'EAGAIN');
      }
      // A notification may still be on its way when its frame is read; then there is silence.
      edges.wait(20);
      assert.equal(edges.wait(50), false, 'after the last frame');
    });

    it('leaves edge-triggered epoll asleep while old frames wait', () => {
      const [a, b] = [client(), client()];
      using edges = new EdgeTriggered(b.fd);
      a.write(broadcastFrame(60));
      assert.ok(edges.wait(DELIVERY_MS));
      edges.wait(20);
      assert.equal(edges.wait(50), false);
    });

    it('for something else sleeps while frames wait, without a busy loop', async () => {
      const [a, b] = [client(), client()];
      a.write(broadcastFrame(60));
      assert.ok(b.readable(DELIVERY_MS));
      const ticks = (): number =>
        Number(fs.readFileSync(`/proc/${daemon.pid}/stat`, 'latin1').replace(/.*\) /, '').split(' ')[11]);
      const before = ticks();
      const poll = new PollSet();
      poll.add(b.fd, 0);
      assert.equal(poll.wait(500), 0);
      // Of 50 ticks (10 ms) that a busy loop would burn.
      assert.ok(ticks() - before < 20, `${ticks() - before} ticks of CPU`);
    });
  });

  describe('offloads', () => {
    it('a missing checksum is completed for a client that did not negotiate TUN_F_CSUM', () => {
      const [a, b] = [client({ flags: TAP | IFF_VNET_HDR }), client({ flags: TAP | IFF_VNET_HDR })];
      const sent = tcpFrame(777);
      assert.ok(!checksumsRight(sent));
      a.write(tcpNetHeader(), sent);
      const message = b.receive();
      assert.deepEqual(message.subarray(0, 10), Buffer.alloc(10));
      const frame = message.subarray(10);
      assert.ok(checksumsRight(frame));
      const checksumAt = 34 + 16;
      frame.copyWithin(checksumAt, checksumAt - 2, checksumAt);
      sent.copyWithin(checksumAt, checksumAt - 2, checksumAt);
      assert.deepEqual(frame, sent, 'nothing else has changed');
    });

    it('a super-frame is segmented for a client that did not negotiate TUN_F_TSO4', () => {
      const [a, b] = [client({ flags: TAP | IFF_VNET_HDR }), client()];
      const [gsoSize, payload] = [1400, 60_001];
      const sent = tcpFrame(payload);
      a.write(tcpNetHeader(gsoSize), sent);
      const parts: Buffer[] = [];
      for (let got = 0; got < payload; ) {
        const frame = b.receive();
        assert.ok(checksumsRight(frame));
        assert.equal(sequenceOf(frame), 1 + got);
        const part = frame.subarray(TCP_FRAME_HEADERS);
        assert.equal(part.length, Math.min(gsoSize, payload - got));
        parts.push(part);
        got += part.length;
      }
      assert.deepEqual(Buffer.concat(parts), sent.subarray(TCP_FRAME_HEADERS));
      assert.equal(b.read(), 'EAGAIN');
    });

    it('pass untouched to a client that negotiated them (TUNSETOFFLOAD, under exec)', async () => {
      await using remote = await RemoteCalls.start(daemon.exec);
      const fd = await remote.open('/dev/net/tun', O_RDWR);
      await remote.attach(fd, 'offloads', TAP | IFF_VNET_HDR);
      assert.equal((await remote.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)).result, 0);
      assert.deepEqual((await daemon.port('offloads')).offloads, ['csum', 'tso4']);
      const a = client({ flags: TAP | IFF_VNET_HDR });
      for (const header of [tcpNetHeader(), tcpNetHeader(1400)]) {
        const message = Buffer.concat([header, tcpFrame(30_000)]);
        a.write(message);
        assert.deepEqual((await remote.call('read', fd, 70_000)).bytes, message);
      }
    });
  });

  describe('queues', () => {
    const QUEUE = TAP | IFF_MULTI_QUEUE;
    const setQueue = ({ fd }: TunClient, flags: number): number =>
      ioctl(fd, TUNSETQUEUE, ifreq('', flags), 'TUNSETQUEUE');
    /** Frames of many flows. */
    const flows = (count: number): Buffer[] =>
      Array.from({ length: count }, (_, i) => {
        const frame = tcpFrame(10);
        frame.writeUInt16BE(1000 + i, 34);
        return frame;
      });
    /** How many frames each queue has: waits until they have `total`, and then a little for what is too much. */
    const drain = async (queues: TunClient[], total: number): Promise<number[]> => {
      const counts = queues.map(() => 0);
      const look = (): void => {
        for (const [i, queue] of queues.entries()) while (typeof queue.read() !== 'string') counts[i]!++;
      };
      const sum = (): number => counts.reduce((all, count) => all + count, 0);
      await until(
        `${total} frames`,
        () => {
          look();
          return sum() >= total;
        },
        { instead: () => `${counts}` },
      );
      await delay(50);
      look();
      assert.equal(sum(), total, `${counts}`);
      return counts;
    };

    it('share the flows, each frame once', async () => {
      const a = client();
      const queues = [client({ name: 'mq', flags: QUEUE }), client({ name: 'mq', flags: QUEUE })];
      assert.equal((await daemon.port('mq')).queues, 2);
      for (const frame of flows(100)) a.write(frame);
      const counts = await drain(queues, 100);
      assert.ok(
        counts.every((count) => count > 10),
        `shared as ${counts}`,
      );
    });

    it('that are detached get nothing, and their flows go elsewhere, until they are attached again', async () => {
      const a = client();
      const [first, second] = [client({ name: 'mq', flags: QUEUE }), client({ name: 'mq', flags: QUEUE })];
      setQueue(second, IFF_DETACH_QUEUE);
      for (const frame of flows(50)) a.write(frame);
      assert.deepEqual(await drain([first, second], 50), [50, 0]);
      setQueue(second, IFF_ATTACH_QUEUE);
      for (const frame of flows(50)) a.write(frame);
      const [, two] = await drain([first, second], 50);
      assert.ok(two! > 0);
    });
  });

  describe('the carrier', () => {
    it('is missing after IFF_NO_CARRIER, and frames neither come nor go, until TUNSETCARRIER 1', async () => {
      const [a, b] = [client(), client({ name: 'dark', flags: TAP | IFF_NO_CARRIER })];
      assert.equal((await daemon.port('dark')).carrier, 'down');
      a.write(broadcastFrame(60));
      b.write(broadcastFrame(60));
      assert.ok(b.silent);
      assert.ok(a.silent);
      ioctl(b.fd, TUNSETCARRIER, Int32Array.of(1), 'TUNSETCARRIER');
      assert.equal((await daemon.port('dark')).carrier, 'up');
      const frame = broadcastFrame(60, 7);
      a.write(frame);
      assert.deepEqual(b.receive(), frame);
    });

    it('goes with TUNSETCARRIER 0', async () => {
      const [a, b] = [client(), client({ name: 'dark' })];
      ioctl(b.fd, TUNSETCARRIER, Int32Array.of(0), 'TUNSETCARRIER');
      a.write(broadcastFrame(60));
      assert.ok(b.silent);
      const { carrier, counters } = await daemon.port('dark');
      assert.equal(carrier, 'down');
      assert.ok(
        Object.entries(counters).some(([name, count]) => /drop/i.test(name) && count > 0),
        'the frame is counted as dropped',
      );
    });
  });

  describe('TUNSETPERSIST', () => {
    it('keeps the port after the last close, and `port remove` takes it away', async () => {
      {
        await using remote = await RemoteCalls.start(daemon.exec);
        const fd = await remote.open('/dev/net/tun');
        await remote.attach(fd, 'keeps');
        assert.equal((await remote.ioctl(fd, TUNSETPERSIST, 1)).result, 0);
        // In use it stays.
        await assert.rejects(run([RINGSWITCH, 'port', 'remove', 'keeps', '--socket', daemon.socket]), /in use/);
      }
      await delay(50);
      const { persistent, queues, path } = await daemon.port('keeps');
      assert.deepEqual([persistent, queues, path], [true, 0, 'none']);
      const again = client({ name: 'keeps' });
      const [a, frame] = [client(), broadcastFrame(60)];
      a.write(frame);
      assert.deepEqual(again.receive(), frame);
      again.close();
      await until('no queue', async () => (await daemon.port('keeps')).queues === 0);
      await run([RINGSWITCH, 'port', 'remove', 'keeps', '--socket', daemon.socket]);
      await assert.rejects(daemon.port('keeps'), /no port keeps/);
    });

    it('0 lets the port go with the last close', async () => {
      {
        await using remote = await RemoteCalls.start(daemon.exec);
        const fd = await remote.open('/dev/net/tun');
        await remote.attach(fd, 'goes');
        assert.equal((await remote.ioctl(fd, TUNSETPERSIST, 1)).result, 0);
        assert.equal((await remote.ioctl(fd, TUNSETPERSIST, 0)).result, 0);
      }
      await untilPorts(daemon);
    });
  });
});
