/** A stack's side of `bench -- tcp`: server and client at once, in a process of its own; `tcp-linux.c` is Linux's. */
import { setTimeout as delay } from 'node:timers/promises';
import { parseIp } from '../packet/ip-text.ts';
import { openStack } from '../sockets/open.ts';
import type { Connection, TcpHandler } from '../tcpip/tcp/api.ts';
import { CHUNK_BYTES, CLOSE, CLOSE_PORTS, ECHO, IN_FLIGHT, MESSAGE_BYTES, SINK, type Task } from './tcp-plan.ts';

const [socket, address] = process.argv.slice(2) as [string, string];
const stack = await openStack({
  vhostUser: { path: socket },
  addresses: [`${address}/24`],
  ipv6: false,
  control: false,
  tcp: { ephemeralPorts: [1024, 65_535], maxTimeWait: 2 ** 21 },
});
stack.hold();
const tcp = stack.tcp;
const chunk = new Uint8Array(CHUNK_BYTES);
const message = new Uint8Array(MESSAGE_BYTES);

function nothing(): void {}

const quiet: TcpHandler = {
  onConnected: nothing,
  onWritable: nothing,
  onData: nothing,
  onEnd: (c) => tcp.shutdown(c),
  onClosed: nothing,
};
const answering: TcpHandler = { ...quiet, onData: (c, bytes, start, end) => tcp.write(c, bytes.slice(start, end)) };

tcp.listen({ port: SINK, onAccept: () => quiet });
tcp.listen({ port: ECHO, noDelay: true, onAccept: () => answering });
for (let i = 0; i < CLOSE_PORTS; i++) tcp.listen({ port: CLOSE + i, backlog: 4096, onAccept: () => quiet });

/** Bytes a second that the other side acknowledged. */
async function bulk(to: Uint8Array, streams: number, seconds: number): Promise<number> {
  let over = false;
  const fill = (c: Connection): void => {
    while (!over && tcp.write(c, chunk)) {}
  };
  const open: Connection[] = [];
  const handler: TcpHandler = { ...quiet, onConnected: fill, onWritable: fill };
  for (let i = 0; i < streams; i++) open.push(stack.tcp.connect({ address: to, port: SINK, handler }));
  const acknowledged = (): number => open.reduce((sum, c) => sum + stack.tcp.info(c).bytesAcknowledged, 0);
  await delay(500);
  const before = acknowledged();
  const start = performance.now();
  await delay(seconds * 1000);
  const rate = (acknowledged() - before) / ((performance.now() - start) / 1000);
  over = true;
  const user = stack.tcp;
  for (const c of open) user.abort(c);
  return rate;
}

/** Median and 99th percentile, in µs. */
async function echo(to: Uint8Array, seconds: number): Promise<[number, number]> {
  const times: number[] = [];
  const end = performance.now() + seconds * 1000;
  await new Promise<void>((resolve) => {
    let start = 0;
    let left = 0;
    const send = (c: Connection): void => {
      start = performance.now();
      left = MESSAGE_BYTES;
      tcp.write(c, message);
    };
    stack.tcp.connect({
      address: to,
      port: ECHO,
      noDelay: true,
      handler: {
        ...quiet,
        onConnected: send,
        onData: (c, _bytes, from, to) => {
          left -= to - from;
          if (left > 0) return;
          const now = performance.now();
          times.push((now - start) * 1000);
          if (now < end) send(c);
          else {
            tcp.abort(c);
            resolve();
          }
        },
      },
    });
  });
  times.sort((a, b) => a - b);
  return [times[times.length >> 1]!, times[Math.floor(times.length * 0.99)]!];
}

/** Connections opened and closed a second. */
async function connects(to: Uint8Array, seconds: number): Promise<number> {
  let next = 0;
  let done = 0;
  let over = false;
  const handler: TcpHandler = {
    ...quiet,
    onConnected: (c) => tcp.shutdown(c),
    onEnd: nothing,
    onClosed: () => {
      done++;
      if (!over) dial();
    },
  };
  const dial = (): void => {
    tcp.connect({ address: to, port: CLOSE + (next++ % CLOSE_PORTS), handler });
  };
  const start = performance.now();
  void stack.tcp;
  for (let i = 0; i < IN_FLIGHT; i++) dial();
  await delay(seconds * 1000);
  over = true;
  return done / ((performance.now() - start) / 1000);
}

function run(task: Task): Promise<unknown> {
  const to = parseIp(task.address)!;
  if (task.what === 'bulk') return bulk(to, task.streams, task.seconds);
  if (task.what === 'echo') return echo(to, task.seconds);
  return connects(to, task.seconds);
}

process.on('message', (task: Task) => {
  run(task).then(
    (result) => process.send!({ result }),
    (error: Error) => process.send!({ error: error.stack }),
  );
});
process.on('disconnect', () => process.exit());
process.send!({ result: 'ready' });
