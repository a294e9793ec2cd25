/**
 * How large segments may be: what ICMP says of the path (RFC 1191, RFC 8201, believed by RFC 5927's rules), and what shows
 * by itself where ICMP is swallowed (RFC 4821): a segment size that nothing gets through with is halved.
 */
import { MICROSECONDS_PER_SECOND } from '../network.ts';
import type { TcpCore } from './core.ts';
import { PADDED_TIMESTAMPS_LENGTH } from './segment.ts';
import type { Transfer } from './transfer.ts';

/** RFC 1191 §7.1: plateaus, for routers that do not say their MTU. */
const PLATEAUS = [65_535, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
/** The least that every path takes: RFC 8200 §5; for IPv4 what Linux goes down to (min_pmtu). */
const MIN_MTU_IPV6 = 1280;
const MIN_MTU_IPV4 = 552;
/** RFC 4821 §7.2: where the search begins, and ends. */
const BASE_MSS = 1024;
const LEAST_MSS = 512;
/** A path may have become wider after ten minutes (RFC 1191 §6.3). */
const RETRY_TIME = 600 * MICROSECONDS_PER_SECOND;

export class PathMtu {
  readonly #core: TcpCore;
  /** The path to a destination has shown itself to be narrower: its other connections should not have to find out. */
  onNarrow: (destination: number) => void = () => {};

  constructor(core: TcpCore) {
    this.#core = core;
  }

  /**
   * A router could not pass on a segment of this connection, which is in flight. `mtu`: what it takes, or 0. True: the
   * path is narrower than we thought.
   */
  tooBig(c: number, mtu: number): boolean {
    const core = this.#core;
    const { connections, network } = core;
    const remote = connections.remote[c]!;
    const { destinations } = network;
    const known = destinations.pathMtu(remote);
    const least = destinations.family(remote) === 4 ? MIN_MTU_IPV4 : MIN_MTU_IPV6;
    const told = mtu > 0 ? mtu : PLATEAUS.find((plateau) => plateau < known)!;
    const narrow = Math.max(told, least);
    // Another connection may have heard it before.
    if (narrow > known) return false;
    this.#shrink(c, narrow - core.headerBytes(remote));
    return narrow < known;
  }

  /** Time-outs in a row, and no word from the path. */
  blackHole(c: number, transfer: Transfer): void {
    const { mss } = this.#core.connections;
    if (mss[c]! <= LEAST_MSS) return;
    transfer.blackHoleTries = 0;
    if (transfer.fullMss === 0) transfer.fullMss = mss[c]!;
    transfer.blackHoles++;
    // The first one may have been an outage: then the full size is tried again as soon as something gets through.
    transfer.retryFullAt = transfer.blackHoles === 1 ? this.#core.now : this.#core.now + RETRY_TIME;
    this.#shrink(c, mss[c]! > BASE_MSS ? BASE_MSS : Math.max(LEAST_MSS, mss[c]! >>> 1));
    if (transfer.blackHoles > 1) this.#remember(c);
  }

  /** No outage, then: whoever goes there too begins with what is left of the path, for a while (RFC 4821 §5.2). */
  #remember(c: number): void {
    const { connections, network, now } = this.#core;
    const remote = connections.remote[c]!;
    const mtu = connections.mss[c]! + this.#core.headerBytes(remote);
    if (mtu >= network.destinations.pathMtu(remote)) return;
    network.destinations.setPathMtu(remote, mtu, now);
    this.onNarrow(remote);
  }

  /** Something got through in small segments: perhaps large ones do, too (RFC 4821 §7.4, with the full size as the probe). */
  retryFull(c: number, transfer: Transfer): void {
    const core = this.#core;
    const { mss } = core.connections;
    mss[c] = Math.max(mss[c]!, transfer.fullMss);
    transfer.fullMss = 0;
    transfer.sender.growMss(core.payloadMss(c));
  }

  /** What is in flight in larger pieces is lost, and goes again in smaller ones. */
  #shrink(c: number, mss: number): void {
    const core = this.#core;
    const { connections } = core;
    if (mss >= connections.mss[c]!) return;
    connections.mss[c] = Math.max(mss, PADDED_TIMESTAMPS_LENGTH + 1);
    const transfer = core.transferOf(c);
    if (transfer !== null) transfer.sender.shrinkMss(core.payloadMss(c), core.now);
    core.touch(c);
  }
}
