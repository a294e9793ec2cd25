/**
 * The receive window: what is advertised, and how large its buffer gets.
 *
 *             RCV.NXT                      rcvEdge
 *     ── held ──┼──── the window offered ────┼──── room that is not worth a word yet ──
 *               │◄──────── receiveBuffer - held, at the most ────────►│
 *
 * The right edge never moves back (RFC 9293 §3.8.6), and forward by something worth it only: silly window avoidance of the
 * receiver (§3.8.6.2.2).
 */

import type { TcpCore } from './core.ts';
import { TCP_MAX_WINDOW } from './segment.ts';
import { distance, plus } from './sequence.ts';
import type { Transfer } from './transfer.ts';

/** A round trip's data may fit this many times: the other side may double its window meanwhile. */
const HEADROOM = 2;
/** How large a segment is while none has come. */
const ASSUMED_MSS = 536;

/** The window to put into a segment now, scaled; moves the right edge along. */
export function advertise(core: TcpCore, c: number, transfer: Transfer | null): number {
  const { rcvNxt, rcvEdge, rcvScale } = core.connections;
  const nxt = rcvNxt[c]!;
  const offered = distance(rcvEdge[c]!, nxt);
  const room = transfer === null ? idleBuffer(core, c) : roomFor(core, transfer);
  let window = Math.max(0, offered);
  if (room - window >= (transfer === null ? 0 : worthwhile(transfer))) window = room;
  const scale = rcvScale[c]!;
  // What was offered is rounded up, so that the edge does not move back; what is new, down. Up by less than one step beyond
  // the room, or each small segment would move the edge on: then down, and what was offered is taken all the same (RFC 7323
  // §2.4).
  const up = (window + (1 << scale) - 1) >>> scale;
  const isDown = window > offered || up << scale >= room + (1 << scale);
  const field = Math.min(isDown ? window >>> scale : up, TCP_MAX_WINDOW);
  const edge = plus(nxt, field << scale);
  if (distance(edge, rcvEdge[c]!) > 0) rcvEdge[c] = edge;
  return field;
}

/** Whether the other side should hear that there is room again: by two segments or half of the buffer, or at all. */
export function isUpdateDue(core: TcpCore, c: number, transfer: Transfer): boolean {
  const { rcvNxt, rcvEdge } = core.connections;
  const offered = Math.max(0, distance(rcvEdge[c]!, rcvNxt[c]!));
  const more = roomFor(core, transfer) - offered;
  if (more <= 0) return false;
  return more >= transfer.receiveBuffer >>> 1 || (more >= 2 * segmentOf(transfer) && offered < more);
}

function segmentOf(transfer: Transfer): number {
  return transfer.receiveMss || ASSUMED_MSS;
}

function worthwhile(transfer: Transfer): number {
  return Math.min(segmentOf(transfer), transfer.receiveBuffer >>> 1);
}

/** Bytes that may come from RCV.NXT on. None while all connections together hold too much. */
function roomFor(core: TcpCore, transfer: Transfer): number {
  if (core.receiveMemory >= core.options.receiveMemory) return 0;
  return Math.max(0, transfer.receiveBuffer - transfer.received.held);
}

/** What a connection without data offers. */
export function idleBuffer(core: TcpCore, c: number): number {
  return core.settingsOf(c).receiveBuffer || core.initialReceiveBuffer;
}

/**
 * The program took data: once a round trip, lets the buffer hold twice of what was taken in it. So it follows what really
 * flows, as Linux does it (dynamic right-sizing), and a slow program does not get a large one.
 */
export function tuneBuffer(core: TcpCore, c: number, transfer: Transfer): void {
  const { connections, now } = core;
  const rtt = transfer.receiverRtt || connections.srtt[c]!;
  if (rtt === 0 || now - transfer.measuredSince < rtt) return;
  const taken = distance(connections.rcvNxt[c]!, transfer.measuredFrom) - transfer.received.held;
  transfer.measuredSince = now;
  transfer.measuredFrom = connections.rcvNxt[c]!;
  if (core.settingsOf(c).receiveBuffer !== 0) return;
  const most = Math.min(core.options.maxReceiveBuffer, TCP_MAX_WINDOW << connections.rcvScale[c]!);
  const wanted = Math.min(HEADROOM * taken, most);
  if (wanted > transfer.receiveBuffer) transfer.receiveBuffer = wanted;
}
