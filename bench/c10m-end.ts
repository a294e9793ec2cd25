/**
 * One end of the ten million connections: a stack in a process of its own. The parent says what to do, a message each; the
 * answer is a message, too.
 *
 * Connection `i` goes from client address i mod ADDRESSES and a port of its own to one of the server's ports, so that every
 * 4-tuple is another.
 */
import fs from 'node:fs';
import type { NetworkStack } from '../sockets/network-stack.ts';
import { openStack } from '../sockets/open.ts';
import type { TcpHandler, TcpUser } from '../tcpip/tcp/api.ts';

import { CLIENT_ADDRESSES, type Counts, FIRST_PORT, SERVER_PORTS, type Task } from './c10m-plan.ts';

const SERVER_ADDRESS = Uint8Array.of(10, 2, 0, 1);
const MESSAGE_BYTES = 16;

const [role, socket, most] = process.argv.slice(2) as [string, string, string];
const capacity = Number(most);

const isServer = role === 'server';
const stack: NetworkStack = await openStack({
  vhostUser: { path: socket, ringSize: 1024 },
  mac: isServer ? '02:00:00:00:00:02' : '02:00:00:00:00:01',
  addresses: isServer ? ['10.2.0.1/8'] : Array.from({ length: CLIENT_ADDRESSES }, (_, i) => `10.1.0.${i + 1}/8`),
  ipv6: false,
  control: false,
  tcp: { maxConnections: capacity + 1024, maxTimeWait: capacity + 1024, ephemeralPorts: [FIRST_PORT, 65_535] },
});
stack.hold();
const tcp = stack.tcp;

// ---- the server

let accepted = 0;
let closed = 0;
let failed = 0;

const echo: TcpHandler = {
  onConnected() {},
  onWritable() {},
  onData: (c, bytes, start, end) => {
    tcp.write(c, bytes.slice(start, end));
  },
  onEnd: (c) => tcp.shutdown(c),
  onClosed: (_c, error) => {
    closed++;
    if (error !== null) failed++;
  },
};

// ---- the client

/** Connections by number, for picking some. */
let open = new Int32Array(0);
let opened = 0;
let begun = 0;
let target = 0;
let finish: () => void = () => {};
const message = new Uint8Array(MESSAGE_BYTES).fill(0x2a);
let onAnswer: (bytes: number) => void = () => {};

function connectNext(user: TcpUser): void {
  const i = begun++;
  const address = i % CLIENT_ADDRESSES;
  const rest = Math.floor(i / CLIENT_ADDRESSES);
  user.connect({
    address: SERVER_ADDRESS,
    port: 1 + (rest % SERVER_PORTS),
    localAddress: Uint8Array.of(10, 1, 0, 1 + address),
    localPort: FIRST_PORT + Math.floor(rest / SERVER_PORTS),
    handler: client,
  });
}

const client: TcpHandler = {
  onConnected: (c) => {
    open[opened++] = c;
    if (begun < target) connectNext(tcp);
    else if (opened === target) finish();
  },
  onWritable() {},
  onData: (_c, _bytes, start, end) => onAnswer(end - start),
  onEnd() {},
  onClosed: (_c, error) => {
    closed++;
    if (error !== null) failed++;
    closeNext();
    if (closed === target) finish();
  },
};

let nextToClose = 0;
function closeNext(): void {
  if (nextToClose < opened) tcp.shutdown(open[nextToClose++]!);
}

function openTo(count: number, inFlight: number): Promise<void> {
  const grown = new Int32Array(count);
  grown.set(open.subarray(0, opened));
  open = grown;
  target = count;
  return new Promise((resolve) => {
    finish = resolve;
    const user = stack.tcp;
    for (let i = 0; i < inFlight && begun < target; i++) connectNext(user);
  });
}

/** Round trips of single messages on connections picked at random, one at a time: µs, sorted. */
async function echoes(samples: number): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < samples; i++) {
    const c = open[Math.floor(Math.random() * opened)]!;
    const start = performance.now();
    await new Promise<void>((resolve) => {
      onAnswer = () => resolve();
      stack.tcp.write(c, message);
    });
    times.push((performance.now() - start) * 1000);
  }
  return times.sort((a, b) => a - b);
}

/** A message and its answer on so many connections, each picked at random, `inFlight` at a time. Gives seconds. */
async function exchange(connections: number, inFlight: number): Promise<number> {
  const start = performance.now();
  let answered = 0;
  let sent = 0;
  await new Promise<void>((resolve) => {
    const send = (user: TcpUser): void => {
      sent++;
      user.write(open[Math.floor(Math.random() * opened)]!, message);
    };
    onAnswer = (bytes) => {
      // One that was picked twice may answer both at once.
      for (let left = bytes; left > 0; left -= MESSAGE_BYTES) {
        answered++;
        if (sent < connections) send(tcp);
      }
      if (answered === connections) resolve();
    };
    const user = stack.tcp;
    for (let i = 0; i < inFlight; i++) send(user);
  });
  return (performance.now() - start) / 1000;
}

function closeAll(inFlight: number): Promise<void> {
  target = opened;
  closed = 0;
  return new Promise((resolve) => {
    finish = resolve;
    const user = stack.tcp;
    for (let i = 0; i < inFlight && nextToClose < opened; i++) user.shutdown(open[nextToClose++]!);
  });
}

// ---- the parent

/** Resident bytes, by kind: memory of our own, and rings that we share with the switch. */
function resident(): { own: number; shared: number } {
  const status = fs.readFileSync('/proc/self/status', 'utf8');
  const bytes = (name: string): number => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)![1]);
  return { own: bytes('RssAnon') + bytes('RssFile'), shared: bytes('RssShmem') };
}

async function run(task: Task): Promise<unknown> {
  switch (task.what) {
    case 'listen':
      for (let port = 1; port <= SERVER_PORTS; port++) {
        stack.tcp.listen({
          port,
          backlog: 16_384,
          onAccept: () => {
            accepted++;
            return echo;
          },
        });
      }
      return null;
    case 'open': {
      const start = performance.now();
      await openTo(task.count, task.inFlight);
      return (performance.now() - start) / 1000;
    }
    case 'echo':
      return await echoes(task.samples);
    case 'exchange':
      return await exchange(task.connections, task.inFlight);
    case 'close': {
      const start = performance.now();
      await closeAll(task.inFlight);
      return (performance.now() - start) / 1000;
    }
    case 'resident':
      return resident();
    case 'counts':
      return {
        connections: (tcp as unknown as { connectionCount: number }).connectionCount,
        timeWaits: (tcp as unknown as { timeWaitCount: number }).timeWaitCount,
        accepted,
        closed,
        failed,
      } satisfies Counts;
  }
}

process.on('message', (task: Task) => {
  run(task).then(
    (result) => process.send!({ result }),
    (error: Error) => process.send!({ error: error.stack }),
  );
});
process.on('disconnect', () => process.exit());
process.send!({ result: 'ready' });
