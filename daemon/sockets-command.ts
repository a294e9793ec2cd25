/** `ringswitch sockets`: the sockets of all stacks on this machine, as `ss -tui` shows those of the kernel. */
import fs from 'node:fs';
import path from 'node:path';
import {
  askStack,
  type ConnectionRow,
  type SocketEnd,
  type SocketKind,
  type SocketRow,
  STACK_SOCKET_SUFFIX,
  type StackSockets,
} from '../sockets/stack-control.ts';
import { printable } from './printable.ts';
import { formatTable } from './show.ts';

const BITS_PER_BYTE = 8;
const RATE_UNITS = ['', 'K', 'M', 'G', 'T'];
/** RFC 9293 §3.3.2's states in the words of ss(8). */
const STATES: Record<string, string> = {
  ESTABLISHED: 'ESTAB',
  'SYN-RECEIVED': 'SYN-RECV',
  UNCONNECTED: 'UNCONN',
};

/** Which sockets are asked for, by the options of ss(8). */
export interface SocketSelection {
  tcp?: boolean;
  udp?: boolean;
  /** Only those that wait for somebody; without, only those that have somebody. */
  listening?: boolean;
  /** Both. */
  all?: boolean;
}

/** As ss(8) does it: both protocols unless one is named, and what is connected unless told otherwise. */
export function kindsOf({ tcp = false, udp = false, listening = false, all = false }: SocketSelection): SocketKind[] {
  const protocols = tcp === udp ? (['udp', 'tcp'] as const) : tcp ? (['tcp'] as const) : (['udp'] as const);
  return protocols.flatMap((protocol): SocketKind[] => [
    ...(listening || all ? [`${protocol}-listening` as const] : []),
    ...(!listening || all ? [protocol] : []),
  ]);
}

/** Asks all stacks of the directory, by name. Sockets of dead ones are removed. */
export async function listStacks(directory: string, limit: number, kinds?: SocketKind[]): Promise<StackSockets[]> {
  let names: string[];
  try {
    names = fs.readdirSync(directory).filter((name) => name.endsWith(STACK_SOCKET_SUFFIX));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return [];
    if (code === 'EACCES') throw new Error(`no permission for ${directory}: it is its owner’s; run as root`);
    throw error;
  }
  const answers = await Promise.all(
    names.sort().map(async (name) => {
      const socket = path.join(directory, name);
      const answer = await askStack(socket, limit, kinds);
      if (answer === 'dead') fs.rmSync(socket, { force: true });
      return answer;
    }),
  );
  return answers.filter((answer) => answer !== 'dead');
}

/** @param kinds that were asked for: of one protocol, it is not named */
export function formatStacks(stacks: StackSockets[], kinds = kindsOf({})): string {
  if (stacks.length === 0) return 'no stacks';
  const isMixed = new Set(kinds.map(netid)).size > 1;
  return stacks.map((stack) => formatStack(stack, isMixed)).join('\n\n');
}

function formatStack({ name, pid, total, sockets }: StackSockets, isMixed: boolean): string {
  const title = printable(`${name}, process ${pid}: ${total} ${total === 1 ? 'socket' : 'sockets'}`);
  if (sockets.length === 0) return title;
  const [header, ...rows] = formatTable(
    [...(isMixed ? ['Netid'] : []), 'State', 'Recv-Q', 'Send-Q', 'Local Address:Port', 'Peer Address:Port'],
    sockets.map((row) => [
      ...(isMixed ? [netid(row.kind)] : []),
      STATES[row.state] ?? row.state,
      row.receiveQueue,
      row.sendQueue,
      endpoint(row.local),
      peer(row),
    ]),
  ).split('\n') as [string, ...string[]];
  const lines = rows.flatMap((row, i) => {
    const socket = sockets[i]!;
    return socket.kind === 'tcp' ? [row, `\t ${details(socket)}`] : [row];
  });
  const more = total > sockets.length ? [`… and ${total - sockets.length} more (--limit)`] : [];
  return [title, header, ...lines, ...more].join('\n');
}

const netid = (kind: SocketKind): 'tcp' | 'udp' => (kind.startsWith('tcp') ? 'tcp' : 'udp');

function endpoint({ address, port }: { address: string; port: number | '*' }): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Nobody in particular is any address of the socket's own family. */
function peer({ local, remote }: SocketRow): string {
  return endpoint(remote ?? { address: anyLike(local), port: '*' });
}

function anyLike({ address }: SocketEnd): string {
  if (address === '*') return '*';
  return address.includes(':') ? '::' : '0.0.0.0';
}

/** The line of `ss -i`, in its words and order; cwnd and ssthresh in segments, times in ms. */
function details(row: ConnectionRow): string {
  const segments = (bytes: number): number => Math.round(bytes / row.mss);
  const words = [...row.options, row.congestion];
  const add = (name: string, value: number | string, isShown = true): void => {
    if (isShown) words.push(`${name}:${value}`);
  };
  add('rto', trim(row.rto));
  add('rtt', `${trim(row.rtt)}/${trim(row.rttVariation)}`);
  add('mss', row.mss);
  add('pmtu', row.pathMtu);
  add('cwnd', segments(row.cwnd));
  add('ssthresh', segments(row.ssthresh), row.ssthresh > 0 && Number.isFinite(row.ssthresh));
  add('bytes_sent', row.bytesSent);
  add('bytes_acked', row.bytesAcknowledged);
  add('bytes_received', row.bytesReceived);
  if (row.pacingRate > 0) words.push(`pacing_rate ${formatRate(row.pacingRate)}`);
  add('unacked', Math.ceil(row.inFlight / row.mss), row.inFlight > 0);
  add('retrans', row.retransmitted, row.retransmitted > 0);
  add('lost', row.lost, row.lost > 0);
  add('snd_wnd', row.sendWindow);
  add('rcv_wnd', row.receiveWindow);
  add('minrtt', trim(row.minRtt));
  return words.join(' ');
}

const trim = (ms: number): string => String(Number(ms.toFixed(3)));

/** 1,250,000 bytes a second → `10Mbps`. */
function formatRate(bytesPerSecond: number): string {
  let rate = bytesPerSecond * BITS_PER_BYTE;
  let unit = 0;
  while (rate >= 1000 && unit < RATE_UNITS.length - 1) {
    rate /= 1000;
    unit++;
  }
  return `${Number(rate.toPrecision(3))}${RATE_UNITS[unit]}bps`;
}
