/**
 * What programs see of TCP, at its lowest and fastest: calls of {@link TcpUser} with connections as plain numbers, and
 * callbacks. `sockets/` builds everything comfortable on it.
 */

/** A connection: a number from {@link TcpUser.connect} or onAccept until onClosed was called for it. Then it means nothing. */
export type Connection = number;

/** Errors have Node's codes: ECONNREFUSED, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ECONNABORTED, EPIPE, … */
export class TcpError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = 'TcpError';
    this.code = code;
  }
}

/** A program's callbacks; one object may serve any number of connections. All are called from within stack calls. */
export interface TcpHandler {
  /** A connection of {@link TcpUser.connect} is established. (Accepted ones come to {@link ListenOptions.onAccept}.) */
  onConnected(connection: Connection): void;
  /** Bytes came, in order: `bytes[start, end)`, which are valid during the call only. Not called while paused. */
  onData(connection: Connection, bytes: Uint8Array, start: number, end: number): void;
  /** The other side will send no more (FIN), after all data was given. */
  onEnd(connection: Connection): void;
  /** After {@link TcpUser.write} said that more should wait: now there is room. */
  onWritable(connection: Connection): void;
  /** All over: `error` is null after an orderly end on both sides. Called once, last; nothing of the connection is left. */
  onClosed(connection: Connection, error: TcpError | null): void;
  /** Urgent data is announced up to this many bytes from the next byte that onData gives (RFC 6093: it stays in line). */
  onUrgent?(connection: Connection, bytes: number): void;
}

export type CongestionControlName = 'cubic' | 'newreno' | 'bbr';

export interface ConnectionOptions {
  /** 'cubic' unless told otherwise. */
  congestion?: CongestionControlName;
  /** Send small segments at once (no Nagle, RFC 9293 §3.7.4). */
  noDelay?: boolean;
  /** Keepalive probes (RFC 9293 §3.8.4) after so many ms of silence; 0: none, the default. */
  keepAliveMs?: number;
  keepAliveIntervalMs?: number;
  keepAliveProbes?: number;
  /** Give up when data stays unacknowledged for so long (RFC 5482), in ms; 0: what RFC 1122 asks (some 15 minutes). */
  userTimeoutMs?: number;
  /** Bytes of the receive buffer; grows by itself up to the stack's limit when not given. */
  receiveBuffer?: number;
  sendBuffer?: number;
  /** Type of service or traffic class, without the ECN bits. */
  trafficClass?: number;
  /** Ask for ECN (RFC 3168); a listener takes it where the other side asks, unless this is false. */
  ecn?: boolean;
  /** Spread what is sent over the round trip instead of sending bursts; BBR always does. */
  pacing?: boolean;
}

export interface ConnectOptions extends ConnectionOptions {
  /** Addresses are 4 or 16 bytes. */
  address: Uint8Array;
  port: number;
  localAddress?: Uint8Array;
  localPort?: number;
  handler: TcpHandler;
  /** TCP Fast Open (RFC 7413): data to send in the SYN where a cookie is known; else behind the handshake. */
  fastOpenData?: Uint8Array;
}

export interface ListenOptions extends ConnectionOptions {
  /** One of ours; any when not given. */
  address?: Uint8Array;
  /** 0: any free one, see {@link Listener.port}. */
  port: number;
  /** Connections that may wait for their last ACK; beyond, SYN cookies answer (RFC 4987 §3.6). 511 by default. */
  backlog?: number;
  /** Whether SYNs may carry data (RFC 7413). */
  fastOpen?: boolean;
  /** Only IPv6, for a listener without an address. */
  ipv6Only?: boolean;
  /** A connection is established; gives who serves it, or null to reset it. */
  onAccept(connection: Connection, listener: Listener): TcpHandler | null;
}

export interface Listener {
  readonly address: Uint8Array | null;
  readonly port: number;
  /** Without an address: whether only IPv6 is taken. */
  readonly ipv6Only: boolean;
  /** Half-open connections of it that wait now, and how many may. */
  readonly waiting: number;
  readonly backlog: number;
  /** Takes no new connections; accepted ones stay. */
  close(): void;
}

/** One end of a connection. */
export interface Endpoint {
  address: Uint8Array;
  port: number;
}

/** What `ringswitch sockets` shows, as `ss -ti` does. Times in ms, sizes in bytes. */
export interface TcpInfo {
  state: string;
  local: Endpoint;
  remote: Endpoint;
  congestion: CongestionControlName;
  options: string[];
  rto: number;
  rtt: number;
  rttVariation: number;
  minRtt: number;
  mss: number;
  pathMtu: number;
  cwnd: number;
  ssthresh: number;
  inFlight: number;
  sendQueue: number;
  receiveQueue: number;
  sendWindow: number;
  receiveWindow: number;
  retransmitted: number;
  lost: number;
  bytesSent: number;
  bytesAcknowledged: number;
  bytesReceived: number;
  pacingRate: number;
}

export interface TcpUser {
  /**
   * Called when a call from outside of the stack's own callbacks left something to send: poll the stack soon. Whoever runs
   * the stack sets it.
   */
  onWork: () => void;
  /** Throws TcpError EADDRINUSE, EADDRNOTAVAIL, ENETUNREACH, EINVAL, ENFILE (the table is full). */
  connect(options: ConnectOptions): Connection;
  /** Throws TcpError EADDRINUSE, EADDRNOTAVAIL, EINVAL. */
  listen(options: ListenOptions): Listener;
  /**
   * Takes all of `bytes`, which must not be written to before they are acknowledged (small ones are copied at once).
   * False: it is enough; wait for onWritable. Before onConnected data waits for the handshake. Throws TcpError EPIPE
   * after {@link shutdown}.
   */
  write(connection: Connection, bytes: Uint8Array): boolean;
  /** {@link write}, and the last byte is urgent, as with MSG_OOB of Linux (RFC 6093). */
  writeUrgent(connection: Connection, bytes: Uint8Array): boolean;
  /** Sends FIN behind all that was written. */
  shutdown(connection: Connection): void;
  /**
   * As close(2): what was written still goes out, then FIN; what comes is thrown away (and answered with RST, RFC 1122
   * §4.2.2.13). No callback is made any more, and the number means nothing from now on.
   */
  close(connection: Connection): void;
  /** RST, and no callback any more: the number means nothing from now on. */
  abort(connection: Connection): void;
  /** No onData until {@link resume}; what comes fills the receive buffer, then the window closes. */
  pause(connection: Connection): void;
  resume(connection: Connection): void;
  setNoDelay(connection: Connection, on: boolean): void;
  /** While on, only full segments leave, 200 ms at most (TCP_CORK). */
  setCork(connection: Connection, on: boolean): void;
  setKeepAlive(connection: Connection, afterMs: number, intervalMs?: number, probes?: number): void;
  setUserTimeout(connection: Connection, ms: number): void;
  info(connection: Connection): TcpInfo;
  localEndpoint(connection: Connection): Endpoint;
  remoteEndpoint(connection: Connection): Endpoint;
  /** All connections (not TIME_WAIT), for listings. */
  forEach(visit: (connection: Connection) => void): void;
  /** All listeners, for listings. */
  forEachListener(visit: (listener: Listener) => void): void;
}
