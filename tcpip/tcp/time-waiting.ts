/**
 * A segment arrives for a connection in TIME-WAIT (RFC 9293 §3.10.7.4, with RFC 6191 and RFC 1337): an entry of the
 * compact table, not a row. It is answered from the entry, or makes way for a new connection.
 */
import { IPPROTO_TCP, TCP_CHECKSUM, TCP_MIN_HEADER_LENGTH } from '../../packet/header-fields.ts';
import { BEGUN } from '../network.ts';
import type { Packet } from '../packet.ts';
import type { TcpCore } from './core.ts';
import { ABSENT, PADDED_TIMESTAMPS_LENGTH, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN } from './segment.ts';
import { after, before, plus } from './sequence.ts';

/** A number beyond whatever the old connection may have sent: a whole window without scaling, and some. */
const BEYOND = 65_537;

export class TimeWaiting {
  readonly #core: TcpCore;

  constructor(core: TcpCore) {
    this.#core = core;
  }

  /**
   * A segment for the entry in `slot`. Gives the ISS for a new connection when it is a SYN that cannot be an old one: the
   * entry is gone then; ABSENT otherwise, and all is done. `hasListener`: somebody would take it.
   */
  input(slot: number, packet: Packet, hasListener: boolean): number {
    const core = this.#core;
    const { segment, timeWait, counters, now } = core;
    // RFC 1337: a RST does not end TIME-WAIT.
    if ((segment.flags & TCP_RST) !== 0) return ABSENT;
    const rcvNxt = timeWait.rcvNxt(slot);
    if ((segment.flags & (TCP_SYN | TCP_ACK)) === TCP_SYN && hasListener) {
      const hasTimestamps = timeWait.hasTimestamps(slot) && segment.hasTimestamps;
      const isNew = hasTimestamps ? after(segment.tsVal, timeWait.tsRecent(slot)) : after(segment.seq, rcvNxt);
      if (isNew) {
        const iss = plus(timeWait.sndNxt(slot), BEYOND);
        this.remove(slot);
        counters.timeWaitsReused++;
        return iss;
      }
    }
    if (timeWait.hasTimestamps(slot) && segment.hasTimestamps && before(segment.tsVal, timeWait.tsRecent(slot))) {
      counters.pawsDropped++;
    } else if ((segment.flags & TCP_FIN) !== 0 && plus(segment.seq, segment.length) === rcvNxt) {
      this.#answer(timeWait.restart(slot, now), packet);
      return ABSENT;
    }
    // An empty ACK that fits needs no answer; anything else hears where we stand.
    if (segment.length === 0 && segment.seq === rcvNxt) return ABSENT;
    this.#answer(slot, packet);
    return ABSENT;
  }

  /** The entry is not needed any more. */
  remove(slot: number): void {
    const { timeWait, network } = this.#core;
    network.destinations.letGo(timeWait.remote(slot));
    timeWait.remove(slot);
  }

  #offset(slot: number): number {
    const { timeWait } = this.#core;
    return timeWait.hasOffset(slot) ? this.#core.timestampOffsetOf(timeWait.local(slot), timeWait.remote(slot)) : 0;
  }

  #answer(slot: number, packet: Packet): void {
    const { segment, network, writer, timeWait, counters, nowMs } = this.#core;
    if (network.beginReply(packet, IPPROTO_TCP, 0, TCP_MIN_HEADER_LENGTH + PADDED_TIMESTAMPS_LENGTH) !== BEGUN) return;
    const { bytes, at } = network.outgoing;
    const seq = timeWait.sndNxt(slot);
    writer.begin(bytes, at, segment.destinationPort, segment.sourcePort, seq, timeWait.rcvNxt(slot), TCP_ACK, 0);
    if (timeWait.hasTimestamps(slot)) {
      writer.timestamps((nowMs + this.#offset(slot)) >>> 0, timeWait.tsRecent(slot));
    }
    network.send(writer.end(), TCP_CHECKSUM);
    counters.outSegs++;
  }
}
