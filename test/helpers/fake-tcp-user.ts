/**
 * TCP without packets: hosts of one process whose connections hand each other what they write, a turn of the event loop
 * later. For tests of what stands on TcpUser.
 */
import {
  type Connection,
  type ConnectOptions,
  type Endpoint,
  type Listener,
  type ListenOptions,
  TcpError,
  type TcpHandler,
  type TcpInfo,
  type TcpUser,
} from '../../tcpip/tcp/api.ts';

/** Bytes on the way of one direction, before write() says that it is enough. */
const WINDOW = 1 << 16;
const FIRST_PORT = 40_000;
const FIN = Symbol('FIN');

interface Row {
  id: Connection;
  owner: FakeTcpUser;
  handler: TcpHandler;
  local: Endpoint;
  remote: Endpoint;
  peer: Row | null;
  established: boolean;
  inbox: (Uint8Array | typeof FIN)[];
  /** Bytes written that the other side did not take yet. */
  onTheWay: number;
  wantsWritable: boolean;
  paused: boolean;
  finSent: boolean;
  finReceived: boolean;
  /** The program has closed it: no callbacks. */
  orphan: boolean;
  scheduled: boolean;
}

/** Hosts that reach each other. */
export class FakeNetwork {
  readonly hosts = new Map<string, FakeTcpUser>();
  /** What is asked of options, for tests that look: `noDelay 1 true` and so on. */
  readonly asked: string[] = [];

  host(...address: number[]): FakeTcpUser {
    const made = new FakeTcpUser(this, Uint8Array.from(address));
    this.hosts.set(address.join('.'), made);
    return made;
  }
}

export class FakeTcpUser implements TcpUser {
  onWork = (): void => {};
  readonly address: Uint8Array;
  readonly listeners = new Map<number, ListenOptions & { listener: Listener }>();
  readonly #network: FakeNetwork;
  readonly #rows = new Map<Connection, Row>();
  #next = 0;
  #port = FIRST_PORT;

  constructor(network: FakeNetwork, address: Uint8Array) {
    this.#network = network;
    this.address = address;
  }

  get open(): number {
    return this.#rows.size;
  }

  connect({ address, port, localAddress, localPort, handler }: ConnectOptions): Connection {
    if (localAddress !== undefined && localAddress.join('.') !== this.address.join('.')) {
      throw new TcpError('EADDRNOTAVAIL', 'not ours');
    }
    const host = this.#network.hosts.get(address.join('.'));
    if (host === undefined) throw new TcpError('ENETUNREACH', 'no such host');
    const row = this.#row(handler, localPort ?? this.#port++, { address, port });
    setImmediate(() => {
      if (!this.#rows.has(row.id)) return;
      const listening = host.listeners.get(port);
      if (listening === undefined) this.#end(row, new TcpError('ECONNREFUSED', 'refused'));
      else host.#offer(listening, row);
    });
    return row.id;
  }

  #row(handler: TcpHandler, port: number, remote: Endpoint): Row {
    const row: Row = {
      id: this.#next++,
      owner: this,
      handler,
      local: { address: this.address, port },
      remote,
      peer: null,
      established: false,
      inbox: [],
      onTheWay: 0,
      wantsWritable: false,
      paused: false,
      finSent: false,
      finReceived: false,
      orphan: false,
      scheduled: false,
    };
    this.#rows.set(row.id, row);
    return row;
  }

  #offer(listening: ListenOptions & { listener: Listener }, from: Row): void {
    const row = this.#row(NOBODY, listening.port || listening.listener.port, from.local);
    row.peer = from;
    from.peer = row;
    row.established = true;
    from.established = true;
    from.handler.onConnected(from.id);
    const handler = listening.onAccept(row.id, listening.listener);
    if (handler === null) {
      this.#rows.delete(row.id);
      from.owner.#reset(from);
      return;
    }
    row.handler = handler;
    this.#schedule(row);
  }

  listen(options: ListenOptions): Listener {
    const port = options.port || this.#port++;
    if (this.listeners.has(port)) throw new TcpError('EADDRINUSE', 'taken');
    if (options.address !== undefined && options.address.join('.') !== this.address.join('.')) {
      throw new TcpError('EADDRNOTAVAIL', 'not ours');
    }
    const listener: Listener = {
      address: options.address ?? null,
      port,
      ipv6Only: options.ipv6Only === true,
      waiting: 0,
      backlog: options.backlog ?? 511,
      close: () => void this.listeners.delete(port),
    };
    this.listeners.set(port, { ...options, listener });
    return listener;
  }

  write(connection: Connection, bytes: Uint8Array): boolean {
    const row = this.#get(connection);
    if (row.finSent) throw new TcpError('EPIPE', 'shut down');
    if (row.peer !== null) {
      row.peer.inbox.push(bytes.slice());
      row.onTheWay += bytes.length;
      this.#schedule(row.peer);
    }
    row.wantsWritable = row.onTheWay >= WINDOW;
    return !row.wantsWritable;
  }

  writeUrgent(connection: Connection, bytes: Uint8Array): boolean {
    return this.write(connection, bytes);
  }

  shutdown(connection: Connection): void {
    const row = this.#get(connection);
    if (row.finSent) return;
    row.finSent = true;
    if (row.peer !== null) {
      row.peer.inbox.push(FIN);
      this.#schedule(row.peer);
    }
  }

  close(connection: Connection): void {
    const row = this.#get(connection);
    row.orphan = true;
    if (!row.finSent) this.shutdown(connection);
    this.#rows.delete(connection);
    if (row.peer !== null && row.inbox.some((item) => item !== FIN)) row.peer.owner.#reset(row.peer);
  }

  abort(connection: Connection): void {
    const row = this.#get(connection);
    row.orphan = true;
    this.#rows.delete(connection);
    if (row.peer !== null) row.peer.owner.#reset(row.peer);
  }

  /** A RST overtakes what waits. */
  #reset(row: Row): void {
    setImmediate(() => this.#end(row, new TcpError('ECONNRESET', 'reset')));
  }

  #end(row: Row, error: TcpError | null): void {
    if (!this.#rows.delete(row.id) || row.orphan) return;
    row.orphan = true;
    row.handler.onClosed(row.id, error);
  }

  pause(connection: Connection): void {
    this.#get(connection).paused = true;
  }

  resume(connection: Connection): void {
    const row = this.#get(connection);
    row.paused = false;
    this.#schedule(row);
  }

  #schedule(row: Row): void {
    if (row.scheduled) return;
    row.scheduled = true;
    setImmediate(() => {
      row.scheduled = false;
      row.owner.#deliver(row);
    });
  }

  #deliver(row: Row): void {
    while (!row.paused && row.inbox.length > 0) {
      const item = row.inbox.shift()!;
      if (row.orphan) {
        if (item !== FIN && row.peer !== null) row.peer.owner.#reset(row.peer);
        continue;
      }
      if (item === FIN) {
        row.finReceived = true;
        row.handler.onEnd(row.id);
      } else {
        row.handler.onData(row.id, item, 0, item.length);
        this.#acknowledge(row.peer!, item.length);
      }
    }
    this.#closeIfOver(row);
    if (row.peer !== null) row.peer.owner.#closeIfOver(row.peer);
  }

  #closeIfOver(row: Row): void {
    const { peer } = row;
    if (row.finSent && row.finReceived && (peer === null || peer.finReceived || peer.orphan)) this.#end(row, null);
  }

  #acknowledge(row: Row, bytes: number): void {
    row.onTheWay -= bytes;
    if (!row.wantsWritable || row.onTheWay > WINDOW / 2 || row.orphan) return;
    row.wantsWritable = false;
    row.handler.onWritable(row.id);
  }

  setNoDelay(connection: Connection, on: boolean): void {
    this.#asked(connection, `noDelay ${on}`);
  }

  setCork(connection: Connection, on: boolean): void {
    this.#asked(connection, `cork ${on}`);
  }

  setKeepAlive(connection: Connection, afterMs: number): void {
    this.#asked(connection, `keepAlive ${afterMs}`);
  }

  setUserTimeout(connection: Connection, ms: number): void {
    this.#asked(connection, `userTimeout ${ms}`);
  }

  #asked(connection: Connection, what: string): void {
    this.#get(connection);
    this.#network.asked.push(what);
  }

  info(connection: Connection): TcpInfo {
    const { local, remote } = this.#get(connection);
    return {
      state: 'ESTABLISHED',
      local,
      remote,
      congestion: 'cubic',
      options: ['ts', 'sack', 'wscale:7,7'],
      rto: 204,
      rtt: 3.5,
      rttVariation: 1.25,
      minRtt: 3,
      mss: 1448,
      pathMtu: 1500,
      cwnd: 14_480,
      ssthresh: 0,
      inFlight: 1448,
      sendQueue: 2000,
      receiveQueue: 7,
      sendWindow: 65_536,
      receiveWindow: 131_072,
      retransmitted: 2,
      lost: 1,
      bytesSent: 5000,
      bytesAcknowledged: 3552,
      bytesReceived: 12,
      pacingRate: 0,
    };
  }

  localEndpoint(connection: Connection): Endpoint {
    return this.#get(connection).local;
  }

  remoteEndpoint(connection: Connection): Endpoint {
    return this.#get(connection).remote;
  }

  forEach(visit: (connection: Connection) => void): void {
    for (const connection of this.#rows.keys()) visit(connection);
  }

  forEachListener(visit: (listener: Listener) => void): void {
    for (const { listener } of this.listeners.values()) visit(listener);
  }

  #get(connection: Connection): Row {
    const row = this.#rows.get(connection);
    if (row === undefined) throw new TcpError('ENOTCONN', `no connection ${connection}`);
    return row;
  }
}

const NOBODY: TcpHandler = {
  onConnected() {},
  onData() {
    throw new Error('data before its connection was taken');
  },
  onEnd() {},
  onWritable() {},
  onClosed() {},
};
