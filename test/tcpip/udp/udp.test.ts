import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { Time } from '../../../tcpip/network.ts';
import { NOT_LOCAL } from '../../../tcpip/packet.ts';
import { Stack } from '../../../tcpip/stack.ts';
import { UdpError, type UdpMessage, type UdpOptions, type UdpSocket } from '../../../tcpip/udp/api.ts';
import { MAX_DATA_IPV4, Udp } from '../../../tcpip/udp/udp.ts';
import {
  bytesOf,
  checksum,
  EVERYBODY,
  frame,
  icmp,
  ipv4,
  OURS,
  THEIR_MAC,
  THEIRS,
  takeSent,
  udp,
} from '../../helpers/tcpip-packets.ts';
import { MemoryDevice, type MemoryDeviceOptions, seconds, seeded } from '../../helpers/tcpip-wire.ts';

const ETHERTYPE_IPV4 = 0x0800;
const GROUP = [239, 1, 2, 3];

interface Got {
  data: number[];
  source: number[];
  destination: number[];
  port: number;
  local: number;
}

describe('UDP', () => {
  let device: MemoryDevice;
  let stack: Stack;
  let theUdp: Udp;
  let now: Time;
  let local: number;

  function make(options: MemoryDeviceOptions = {}): void {
    device = new MemoryDevice(options);
    stack = new Stack({ device, random: seeded(5) });
    now = seconds(1);
    stack.advance(now);
    theUdp = new Udp(stack, seeded(6));
    theUdp.onError = (error) => {
      throw error;
    };
    stack.addTransport(17, theUdp);
    local = stack.locals.add(Uint8Array.from(OURS), 24);
    stack.neighbours.setPermanent(
      stack.neighbours.entry(4, Uint8Array.from(THEIRS), 0),
      Uint8Array.from(THEIR_MAC),
      now,
    );
    stack.poll(now);
  }

  beforeEach(() => make());

  function read(message: UdpMessage): Got {
    const { bytes, start, end, source, destination, port, local: at, family } = message;
    const length = family === 4 ? 4 : 16;
    return {
      data: Array.from(bytes.slice(start, end)),
      source: Array.from(bytes.slice(source, source + length)),
      destination: Array.from(bytes.slice(destination, destination + length)),
      port,
      local: at,
    };
  }

  /** A socket that notes what it gets. */
  function open(options: Partial<UdpOptions> = {}): {
    socket: UdpSocket;
    got: Got[];
    errors: string[];
    writable: () => number;
  } {
    const got: Got[] = [];
    const errors: string[] = [];
    let writable = 0;
    const socket = theUdp.open({
      family: 4,
      handler: {
        onMessage: (_socket, message) => void got.push(read(message)),
        onError: (_socket, error) => void errors.push(error.code),
        onWritable: () => void writable++,
      },
      ...options,
    });
    return { socket, got, errors, writable: () => writable };
  }

  const give = (...packets: Uint8Array[]): Uint8Array[] => {
    for (const packet of packets) device.give(frame(packet));
    stack.poll(now);
    return takeSent(device, ETHERTYPE_IPV4);
  };

  const throwsCode = (code: string, run: () => unknown): void => {
    assert.throws(
      run,
      (error) => error instanceof UdpError && error.code === code && error.message.startsWith('udp: '),
    );
  };

  describe('gives datagrams', () => {
    it('to the socket of their port, with who sent them', () => {
      const { got } = open({ port: 5000 });
      const other = open({ port: 5001 });
      give(ipv4(udp([1, 2, 3])), ipv4(udp([])));
      assert.deepEqual(got, [
        { data: [1, 2, 3], source: THEIRS, destination: OURS, port: 4000, local },
        { data: [], source: THEIRS, destination: OURS, port: 4000, local },
      ]);
      assert.deepEqual(other.got, []);
      assert.equal(theUdp.counters.inDatagrams, 2);
    });

    it('shorter than the packet that they came in', () => {
      const { got } = open({ port: 5000 });
      give(ipv4([...udp([1, 2, 3]), 9, 9]));
      assert.deepEqual(got[0]!.data, [1, 2, 3]);
    });

    it('without a checksum (RFC 768)', () => {
      const { got } = open({ port: 5000 });
      give(ipv4(udp([1, 2, 3], { checksum: 0 })));
      assert.equal(got.length, 1);
    });

    it('not with a wrong one, and not with lengths that cannot be', () => {
      const { got } = open({ port: 5000 });
      const right = udp([1, 2, 3]);
      give(ipv4(right.map((byte, i) => (i === 9 ? byte ^ 1 : byte))));
      assert.deepEqual([theUdp.counters.inCsumErrors, theUdp.counters.inErrors], [1, 1]);
      assert.deepEqual(
        give(ipv4(udp([1], { length: 7 })), ipv4(udp([1], { length: 10 })), ipv4(right.slice(0, 7))),
        [],
      );
      assert.equal(theUdp.counters.inErrors, 4);
      assert.equal(got.length, 0);
    });

    it('whose checksum the device has seen, or that has none yet', () => {
      const { got } = open({ port: 5000 });
      for (const flags of [1, 2]) device.give(frame(ipv4(udp([1], { checksum: 0x1234 }))), { flags });
      stack.poll(now);
      assert.equal(got.length, 2);
    });

    it('of a super-frame one by one', () => {
      const { got } = open({ port: 5000 });
      device.give(frame(ipv4(udp([1, 2, 3, 4, 5]))), { flags: 1, gsoType: 5, gsoSize: 2 });
      stack.poll(now);
      assert.deepEqual(
        got.map(({ data }) => data),
        [[1, 2], [3, 4], [5]],
      );
    });

    it('to nobody, and says so (RFC 1122 §4.1.3.1)', () => {
      const packet = ipv4(udp([1, 2, 3]));
      const [answer] = give(packet);
      assert.deepEqual(answer!.slice(20), icmp(3, 3, [0, 0, 0, 0], packet));
      assert.equal(theUdp.counters.noPorts, 1);
      device.give(
        frame(ipv4(udp([1], { destination: [10, 0, 0, 255] }), { destination: [10, 0, 0, 255] }), { to: EVERYBODY }),
      );
      stack.poll(now);
      assert.deepEqual(takeSent(device, ETHERTYPE_IPV4), []);
    });

    it('to the socket that fits best: connected, bound to the address, bound to the port', () => {
      const anywhere = open({ port: 5000, reuseAddress: true });
      const bound = open({ port: 5000, address: Uint8Array.from(OURS), reuseAddress: true });
      const connected = open({ port: 5000, reuseAddress: true });
      connected.socket.connect(Uint8Array.from(THEIRS), 4000);
      stack.locals.add(Uint8Array.of(10, 0, 0, 5), 24);
      give(ipv4(udp([1])), ipv4(udp([2], { from: 4001 })));
      give(ipv4(udp([3], { destination: [10, 0, 0, 5] }), { destination: [10, 0, 0, 5] }));
      assert.deepEqual(
        connected.got.map(({ data }) => data),
        [[1]],
      );
      assert.deepEqual(
        bound.got.map(({ data }) => data),
        [[2]],
      );
      assert.deepEqual(
        anywhere.got.map(({ data }) => data),
        [[3]],
      );
      connected.socket.disconnect();
      bound.socket.close();
      give(ipv4(udp([4])));
      assert.deepEqual(connected.got.length + anywhere.got.length, 3);
    });

    it('for everybody to all sockets that are bound to no address', () => {
      const sockets = [open({ port: 5000, reuseAddress: true }), open({ port: 5000, reuseAddress: true })];
      const bound = open({ port: 5000, address: Uint8Array.from(OURS), reuseAddress: true });
      const destination = [10, 0, 0, 255];
      device.give(frame(ipv4(udp([1], { destination }), { destination }), { to: EVERYBODY }));
      stack.poll(now);
      for (const { got } of sockets) assert.deepEqual([got[0]!.data, got[0]!.local], [[1], NOT_LOCAL]);
      assert.equal(bound.got.length, 0);
    });

    it('for a group to those that take part', () => {
      const joined: string[] = [];
      stack.ipv4.groups = { has: () => true };
      const part = open({ port: 5000, reuseAddress: true });
      const alsoPart = open({ port: 5000, reuseAddress: true, address: Uint8Array.from(GROUP) });
      const noPart = open({ port: 5000, reuseAddress: true });
      const group = Uint8Array.from(GROUP);
      throwsCode('ENODEV', () => part.socket.join(group));
      theUdp.setGroups(4, {
        join: (which) => joined.push(`+${which.join('.')}`),
        leave: (which) => joined.push(`-${which.join('.')}`),
      });
      part.socket.join(group);
      alsoPart.socket.join(group);
      throwsCode('EADDRINUSE', () => part.socket.join(group));
      throwsCode('EINVAL', () => part.socket.join(Uint8Array.from(THEIRS)));
      give(ipv4(udp([1], { destination: GROUP }), { destination: GROUP }));
      assert.deepEqual([part.got.length, alsoPart.got.length, noPart.got.length], [1, 1, 0]);
      part.socket.leave(group);
      throwsCode('EADDRNOTAVAIL', () => part.socket.leave(group));
      assert.deepEqual(joined, ['+239.1.2.3']);
      alsoPart.socket.close();
      assert.deepEqual(joined, ['+239.1.2.3', '-239.1.2.3']);
    });

    it('later, when the socket is paused, as many as there is room for', () => {
      const { socket, got } = open({ port: 5000, receiveBuffer: 3000 });
      socket.pause();
      for (let i = 0; i < 30; i++) give(ipv4(udp([i])));
      assert.equal(got.length, 0);
      const dropped = theUdp.counters.rcvbufErrors;
      assert.ok(dropped > 15 && dropped < 25);
      socket.resume();
      assert.deepEqual(
        got,
        Array.from({ length: 30 - dropped }, (_, i) => ({
          data: [i],
          source: THEIRS,
          destination: OURS,
          port: 4000,
          local,
        })),
      );
      give(ipv4(udp([99])));
      assert.deepEqual(got.pop()!.data, [99]);
    });

    it('that are cut to pieces, whole', () => {
      const { got } = open({ port: 5000 });
      const datagram = udp(bytesOf(3000));
      const pieces = [0, 1480, 2960].map((at) =>
        ipv4(datagram.slice(at, at + 1480), { id: 5, fragment: (at / 8) | (at < 2960 ? 0x2000 : 0) }),
      );
      give(...pieces);
      assert.deepEqual(got[0]!.data, Array.from(bytesOf(3000)));
    });
  });

  describe('sends datagrams', () => {
    const sent = (): { bytes: Uint8Array; right: boolean } => {
      const [packet] = takeSent(device, ETHERTYPE_IPV4);
      const bytes = packet!;
      const data = bytes.slice(20);
      const pseudo = [...bytes.slice(12, 20), 0, 17, data.length >> 8, data.length & 0xff];
      return { bytes, right: checksum([...pseudo, ...data]) === 0 };
    };

    it('to whom they are for', () => {
      const { socket } = open({ port: 5000, trafficClass: 0x28, hopLimit: 7 });
      for (const size of [0, 1, 100, 500, 1472]) {
        assert.equal(
          socket.send(Uint8Array.of(9, ...bytesOf(size), 9), 1, 1 + size, Uint8Array.from(THEIRS), 4000),
          true,
        );
        const { bytes, right } = sent();
        assert.ok(right);
        const expected = ipv4(udp(bytesOf(size), { from: 5000, to: 4000, source: OURS, destination: THEIRS }), {
          source: OURS,
          destination: THEIRS,
          tos: 0x28,
          ttl: 7,
          fragment: 0x4000,
        });
        assert.deepEqual(bytes, expected);
      }
      assert.equal(theUdp.counters.outDatagrams, 5);
      assert.equal(stack.destinations.four.holders[stack.destinations.find(4, Uint8Array.from(THEIRS), 0) >> 1], 0);
    });

    it('without a checksum, if told so', () => {
      const { socket } = open({ checksum: false });
      socket.send(bytesOf(5), 0, 5, Uint8Array.from(THEIRS), 4000);
      assert.deepEqual(Array.from(sent().bytes.slice(26, 28)), [0, 0]);
    });

    it('of a connected socket without an address', () => {
      const { socket, got } = open();
      throwsCode('EDESTADDRREQ', () => socket.send(bytesOf(5), 0, 5));
      socket.connect(Uint8Array.from(THEIRS), 4000);
      assert.deepEqual([Array.from(socket.remoteAddress!), socket.remotePort], [THEIRS, 4000]);
      socket.send(bytesOf(5), 0, 5);
      assert.ok(sent().right);
      // Only that host's come now.
      give(ipv4(udp([1], { from: 4001, to: socket.port })), ipv4(udp([2], { from: 4000, to: socket.port })));
      assert.deepEqual(
        got.map(({ data }) => data),
        [[2]],
      );
      socket.disconnect();
      assert.equal(socket.remoteAddress, null);
      throwsCode('EDESTADDRREQ', () => socket.send(bytesOf(5), 0, 5));
    });

    it('from the address that a message came to', () => {
      const second = stack.locals.add(Uint8Array.of(10, 0, 0, 5), 24);
      const { socket } = open();
      socket.send(bytesOf(5), 0, 5, Uint8Array.from(THEIRS), 4000, second);
      assert.deepEqual(Array.from(sent().bytes.slice(12, 16)), [10, 0, 0, 5]);
    });

    it('for everybody only when it may', () => {
      const { socket } = open();
      for (const address of [
        [255, 255, 255, 255],
        [10, 0, 0, 255],
      ]) {
        throwsCode('EACCES', () => socket.send(bytesOf(5), 0, 5, Uint8Array.from(address), 4000));
        throwsCode('EACCES', () => socket.connect(Uint8Array.from(address), 4000));
      }
      socket.broadcast = true;
      assert.ok(socket.send(bytesOf(5), 0, 5, Uint8Array.of(10, 0, 0, 255), 4000));
      assert.deepEqual(Array.from(device.sent[0]!.bytes.slice(0, 6)), EVERYBODY);
    });

    it('to groups with a hop limit of their own', () => {
      const { socket } = open({ hopLimit: 9 });
      const group = Uint8Array.from(GROUP);
      socket.send(bytesOf(5), 0, 5, group, 4000);
      socket.multicastHopLimit = 3;
      socket.send(bytesOf(5), 0, 5, group, 4000);
      assert.deepEqual(
        takeSent(device, ETHERTYPE_IPV4).map((packet) => packet[8]),
        [9, 3],
      );
    });

    it('in pieces, or not at all, if told so', () => {
      const { socket } = open();
      const to = Uint8Array.from(THEIRS);
      socket.send(bytesOf(4000), 0, 4000, to, 4000);
      assert.equal(takeSent(device, ETHERTYPE_IPV4).length, 3);
      socket.dontFragment = true;
      throwsCode('EMSGSIZE', () => socket.send(bytesOf(4000), 0, 1473, to, 4000));
      assert.ok(socket.send(bytesOf(4000), 0, 1472, to, 4000));
      socket.dontFragment = false;
      throwsCode('EMSGSIZE', () => socket.send(bytesOf(70_000), 0, MAX_DATA_IPV4 + 1, to, 4000));
      assert.ok(socket.send(bytesOf(70_000), 0, MAX_DATA_IPV4, to, 4000));
    });

    it('not to nowhere', () => {
      const { socket } = open();
      throwsCode('ENETUNREACH', () => socket.send(bytesOf(5), 0, 5, Uint8Array.of(192, 0, 2, 1), 4000));
      throwsCode('ENETUNREACH', () => socket.connect(Uint8Array.of(192, 0, 2, 1), 4000));
      throwsCode('EINVAL', () => socket.send(bytesOf(5), 0, 6, Uint8Array.from(THEIRS), 4000));
      throwsCode('EINVAL', () => socket.send(bytesOf(5), 0, 5, Uint8Array.from(THEIRS), 0));
      throwsCode('EINVAL', () => socket.send(bytesOf(5), 0, 5, Uint8Array.from(THEIRS)));
      throwsCode('EINVAL', () => socket.send(bytesOf(5), 0, 5, Uint8Array.of(1, 2, 3), 4000));
      throwsCode('EINVAL', () => socket.send(bytesOf(5), 0, 5, new Uint8Array(16), 4000));
      throwsCode('EINVAL', () => socket.connect(Uint8Array.from(THEIRS), 65_536));
      assert.equal(device.sent.length, 0);
    });

    it('later, when the device is full', () => {
      make({ capacity: 1 });
      const { socket, writable } = open();
      const to = Uint8Array.from(THEIRS);
      assert.equal(socket.send(bytesOf(5), 0, 5, to, 4000), true);
      assert.equal(socket.send(bytesOf(5), 0, 5, to, 4000), false);
      device.room = 1;
      stack.poll(now);
      assert.equal(writable(), 1);
      assert.equal(socket.send(bytesOf(5), 0, 5, to, 4000), true);
      assert.deepEqual([theUdp.counters.outDatagrams, theUdp.counters.sndbufErrors], [2, 1]);
    });
  });

  describe('binds sockets', () => {
    it('to ports that are free', () => {
      open({ port: 5000 });
      const address = Uint8Array.from(OURS);
      throwsCode('EADDRINUSE', () => open({ port: 5000 }));
      throwsCode('EADDRINUSE', () => open({ port: 5000, address }));
      throwsCode('EADDRINUSE', () => open({ port: 5000, reuseAddress: true }));
      throwsCode('EADDRINUSE', () => open({ port: 5000, family: 6 }));
      open({ port: 5000, family: 6, ipv6Only: true });
      stack.locals.add(Uint8Array.of(10, 0, 0, 5), 24);
      open({ port: 6000, address }).socket.close();
      open({ port: 6000, address });
      open({ port: 6000, address: Uint8Array.of(10, 0, 0, 5) });
      throwsCode('EADDRINUSE', () => open({ port: 6000 }));
      assert.equal(theUdp.socketCount, 4);
    });

    it('to addresses that are ours, or groups', () => {
      throwsCode('EADDRNOTAVAIL', () => open({ address: Uint8Array.from(THEIRS) }));
      throwsCode('EINVAL', () => open({ address: new Uint8Array(16) }));
      throwsCode('EINVAL', () => open({ port: 65_536 }));
      throwsCode('EINVAL', () => open({ port: 1.5 }));
      open({ address: Uint8Array.from(GROUP) });
    });

    it('to random ports, as long as there are any (RFC 6056)', () => {
      const ports = new Set<number>();
      for (let i = 0; i < 300; i++) ports.add(open().socket.port);
      assert.equal(ports.size, 300);
      const sorted = [...ports].sort((x, y) => x - y);
      assert.ok(sorted[0]! >= 32_768 && sorted[299]! <= 60_999);
      assert.ok(sorted[299]! - sorted[0]! > 20_000);
    });

    it('and no call is made for closed ones', () => {
      const { socket, got } = open({ port: 5000 });
      socket.close();
      socket.close();
      assert.equal(give(ipv4(udp([1]))).length, 1, 'port unreachable');
      assert.equal(got.length, 0);
      throwsCode('EBADF', () => socket.send(bytesOf(1), 0, 1, Uint8Array.from(THEIRS), 4000));
      throwsCode('EBADF', () => socket.connect(Uint8Array.from(THEIRS), 4000));
      const seen: UdpSocket[] = [];
      theUdp.forEach((one) => void seen.push(one));
      assert.deepEqual(seen, []);
    });

    it('that may close themselves in a callback', () => {
      const { socket } = open({
        port: 5000,
        handler: {
          onMessage: (self) => self.close(),
        },
      });
      give(ipv4(udp([1])), ipv4(udp([2])));
      assert.equal(theUdp.socketCount, 0);
      assert.ok(socket);
    });

    it('whose errors do not harm the stack', () => {
      const thrown: unknown[] = [];
      theUdp.onError = (error) => thrown.push(error);
      const problem = new Error('mine');
      open({
        port: 5000,
        handler: {
          onMessage: () => {
            throw problem;
          },
        },
      });
      const { got } = open({ port: 5001 });
      give(ipv4(udp([1])), ipv4(udp([1], { to: 5001 })));
      assert.deepEqual(thrown, [problem]);
      assert.equal(got.length, 1);
    });
  });

  describe('tells connected sockets of ICMP errors', () => {
    const quote = (rest: { from?: number; to?: number } = {}): Uint8Array =>
      ipv4(udp(bytesOf(20), { from: 5000, to: 4000, source: OURS, destination: THEIRS, ...rest }), {
        source: OURS,
        destination: THEIRS,
        fragment: 0x4000,
      });
    const errorOf = (type: number, code: number, rest = [0, 0, 0, 0], quoted = quote()): Uint8Array =>
      ipv4(icmp(type, code, rest, quoted), { protocol: 1 });

    const kinds: [number, number, string][] = [
      [3, 0, 'ENETUNREACH'],
      [3, 1, 'EHOSTUNREACH'],
      [3, 2, 'ENOPROTOOPT'],
      [3, 3, 'ECONNREFUSED'],
      [3, 13, 'EACCES'],
      [11, 0, 'EHOSTUNREACH'],
      [12, 0, 'EPROTO'],
    ];
    for (const [type, code, expected] of kinds) {
      it(`type ${type} code ${code}: ${expected}`, () => {
        const { socket, errors } = open({ port: 5000 });
        socket.connect(Uint8Array.from(THEIRS), 4000);
        give(errorOf(type, code));
        assert.deepEqual(errors, [expected]);
      });
    }

    it('and nobody else', () => {
      const { socket, errors } = open({ port: 5000 });
      give(errorOf(3, 3));
      socket.connect(Uint8Array.from(THEIRS), 4000);
      give(errorOf(3, 3, [0, 0, 0, 0], quote({ to: 4001 })), errorOf(3, 3, [0, 0, 0, 0], quote({ from: 5001 })));
      assert.deepEqual(errors, []);
    });

    it('and learns the path MTU where somebody may have sent it', () => {
      const destination = stack.destinations.hold(4, Uint8Array.from(THEIRS), 0);
      give(errorOf(3, 4, [0, 0, 1000 >> 8, 1000 & 0xff]));
      assert.equal(stack.destinations.pathMtu(destination), 1500);
      const { socket, errors } = open({ port: 5000 });
      give(errorOf(3, 4, [0, 0, 1400 >> 8, 1400 & 0xff]));
      assert.equal(stack.destinations.pathMtu(destination), 1400);
      socket.connect(Uint8Array.from(THEIRS), 4000);
      give(errorOf(3, 4, [0, 0, 1300 >> 8, 1300 & 0xff]));
      assert.deepEqual(errors, []);
      socket.dontFragment = true;
      give(errorOf(3, 4, [0, 0, 1200 >> 8, 1200 & 0xff]));
      assert.deepEqual(errors, ['EMSGSIZE']);
      assert.equal(stack.destinations.pathMtu(destination), 1200);
    });

    it('and of neighbours that do not answer', () => {
      const { socket, errors } = open({ port: 5000 });
      socket.connect(Uint8Array.of(10, 0, 0, 77), 4000);
      socket.send(bytesOf(5), 0, 5);
      for (let i = 0; i < 5; i++) {
        now += seconds(1);
        stack.poll(now);
      }
      assert.deepEqual(errors, ['EHOSTUNREACH']);
    });
  });

  it('is not harmed by anything', () => {
    open({ port: 5000 }).socket.connect(Uint8Array.from(THEIRS), 4000);
    open({ port: 5001 });
    const any = fc.record({
      from: fc.constantFrom(4000, 0),
      to: fc.constantFrom(5000, 5001, 0),
      length: fc.nat(80),
      checksum: fc.constantFrom(undefined, 0, 7),
    });
    fc.assert(
      fc.property(any, fc.uint8Array({ maxLength: 64 }), fc.nat(80), (shape, data, cut) => {
        give(ipv4(udp(data, shape).slice(0, cut)));
        now += seconds(1);
      }),
    );
  });
});
