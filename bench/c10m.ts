/**
 * Ten million connections at once: two stacks, each in a process of its own, on two vhost-user ports of a switch.
 *
 *     client stack ══ rings ══ switch ══ rings ══ server stack
 */
import path from 'node:path';
import { DaemonProcess } from '../lab/daemon.ts';
import { CLIENT_ADDRESSES, type Counts, PORTS, SERVER_PORTS } from './c10m-plan.ts';
import { Child } from './child.ts';

/** What the JSON file has. */
export interface C10mResult {
  established: number;
  /** Resident memory of a stack's process, all of it, for each connection: the larger of the two ends. */
  resident_bytes_per_end: number;
  open_per_s: number;
  close_per_s: number;
  /** Connections that exchanged a message and its answer, a second. */
  exchanges_per_s: number;
  /** Median round trip of a message on one connection of so many. */
  echo_p50_us: Record<string, number>;
  /** Connections in TIME-WAIT when all were closed. */
  time_waits: number;
  failed: number;
}

export interface C10mOptions {
  connections: number;
  exchanges: number;
  report: (line: string) => void;
}

export const MOST_CONNECTIONS = CLIENT_ADDRESSES * SERVER_PORTS * PORTS;
const FEW = 1000;
const SAMPLES = 2000;
const OPENING = 512;
const END = new URL('./c10m-end.ts', import.meta.url);

export async function c10m({ connections, exchanges, report }: C10mOptions): Promise<C10mResult> {
  if (connections <= FEW || connections > MOST_CONNECTIONS) {
    throw new RangeError(`${connections} connections: give more than ${FEW}, and ${MOST_CONNECTIONS} at the most`);
  }
  await using daemon = await DaemonProcess.start({ config: { log: { level: 'warn' } } });
  const sockets: string[] = [];
  for (const name of ['server', 'client']) {
    const socket = path.join(daemon.directory, `${name}.sock`);
    await daemon.client.post('/v1/ports', { kind: 'vhost-user', name, path: socket });
    sockets.push(socket);
  }
  using server = await Child.start(END, ['server', sockets[0]!, String(connections)]);
  using client = await Child.start(END, ['client', sockets[1]!, String(connections)]);
  await server.ask({ what: 'listen' });
  const median = async (): Promise<number> => {
    const times = await client.ask<number[]>({ what: 'echo', samples: SAMPLES });
    return times[times.length >> 1]!;
  };

  await client.ask({ what: 'open', count: FEW, inFlight: OPENING });
  await median();
  const few = await median();
  report(`a message and its answer among ${FEW}: ${few.toFixed(0)} µs`);
  const opening = await client.ask<number>({ what: 'open', count: connections, inFlight: OPENING });
  const open = (connections - FEW) / opening;
  const counts = await server.ask<Counts>({ what: 'counts' });
  report(`${counts.connections} connections are established, ${open.toFixed(0)} a second`);
  const residents = await Promise.all([server, client].map((end) => end.ask<{ own: number }>({ what: 'resident' })));
  const bytes = Math.max(...residents.map(({ own }) => own)) / connections;
  report(
    `${residents.map(({ own }) => (own / 2 ** 20).toFixed(0)).join(' and ')} MiB are resident: ${bytes.toFixed(0)} bytes an end`,
  );
  const many = await median();
  report(`a message and its answer among ${connections}: ${many.toFixed(0)} µs`);
  const exchanging = await client.ask<number>({ what: 'exchange', connections: exchanges, inFlight: OPENING });
  report(`${exchanges} messages and answers at random: ${(exchanges / exchanging).toFixed(0)} a second`);
  const closing = await client.ask<number>({ what: 'close', inFlight: OPENING });
  const after = await client.ask<Counts>({ what: 'counts' });
  const left = await server.ask<Counts>({ what: 'counts' });
  report(`all are closed, ${(connections / closing).toFixed(0)} a second; ${after.timeWaits} wait in TIME-WAIT`);
  return {
    established: counts.connections,
    resident_bytes_per_end: bytes,
    open_per_s: open,
    close_per_s: connections / closing,
    exchanges_per_s: exchanges / exchanging,
    echo_p50_us: { [FEW]: few, [connections]: many },
    time_waits: after.timeWaits,
    failed: after.failed + left.failed,
  };
}
