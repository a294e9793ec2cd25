/**
 * A stack of ours and a Linux host in a network namespace, for tests that set one against the other:
 *
 *     stack ══ tap ══ host                                    (no routers)
 *     stack ══ tap ══ router ══ veth ══ router ══ veth ══ host
 *
 * The host serves `test/helpers/linux-peer-child.ts`; `serve` does the same on the stack.
 */
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { NetworkNamespace } from '../../lab/namespace.ts';
import type { Program } from '../../lab/program.ts';
import { quote } from '../../lab/words.ts';
import { parseIp } from '../../packet/ip-text.ts';
import type { NetworkStack, NetworkStackOptions } from '../../sockets/network-stack.ts';
import { openStack } from '../../sockets/open.ts';
import type { Connection, ConnectionOptions, ConnectOptions, Listener, TcpInfo } from '../../tcpip/tcp/api.ts';
import type { TcpCounters } from '../../tcpip/tcp/counters.ts';
import type { Tcp } from '../../tcpip/tcp/tcp.ts';

/** Ports of the peers: both hosts have all three. RFC 862, 863, 864 have the numbers, for about the same. */
export const ECHO = 7;
/** Reads to the end, and answers with the SHA-256 of it in hexadecimal digits. */
export const SINK = 9;
/** Sends the file, and ends. */
export const SOURCE = 19;

const PEER_CHILD = new URL('./linux-peer-child.ts', import.meta.url).pathname;
const READY_MS = 10_000;
const TRANSFER_MS = 30_000;

export interface WorldOptions extends Pick<NetworkStackOptions, 'tcp'> {
  /** Bytes of the file that the peers send. Default 1,000,000. */
  bytes?: number;
  /** Whether two routers are between the stack and the host. */
  routed?: boolean;
}

export type Family = 4 | 6;
export const FAMILIES: readonly Family[] = [4, 6];

/** What one connection of ours was like. */
export interface Exchange {
  received: Buffer;
  /** As it was at the other side's FIN. */
  info: TcpInfo;
}

export const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export class LinuxStackWorld implements AsyncDisposable {
  readonly bytes: Buffer;
  readonly hash: string;
  /** Of the whole test; goes with the world. */
  readonly directory: string;
  /** Holds {@link bytes}. */
  readonly file: string;
  readonly ours: Record<Family, string> = { 4: '10.11.0.2', 6: 'fd11::2' };
  readonly linux: Record<Family, string>;
  /** From the stack to the host. */
  readonly routers: NetworkNamespace[] = [];
  host!: NetworkNamespace;
  stack!: NetworkStack;
  /** The host's interface. */
  ifname = '';
  /** What connections to our SINKs were like at Linux's FIN, the newest last. */
  readonly sunk: TcpInfo[] = [];
  readonly #undo: (() => unknown)[] = [];
  readonly #options: WorldOptions;

  static async create(options: WorldOptions = {}): Promise<LinuxStackWorld> {
    const world = new LinuxStackWorld(options);
    try {
      await world.#build();
    } catch (error) {
      await world.dispose();
      throw error;
    }
    return world;
  }

  private constructor(options: WorldOptions) {
    this.#options = options;
    this.bytes = randomBytes(options.bytes ?? 1_000_000);
    this.hash = hashOf(this.bytes);
    this.linux = options.routed ? { 4: '10.11.2.1', 6: 'fd11:2::1' } : { 4: '10.11.0.1', 6: 'fd11::1' };
    this.directory = fs.mkdtempSync(path.join(os.tmpdir(), 'linux-stack-'));
    this.file = path.join(this.directory, 'file');
    fs.writeFileSync(this.file, this.bytes);
    this.undo(() => fs.rmSync(this.directory, { recursive: true }));
  }

  async #build(): Promise<void> {
    const { routed = false, tcp } = this.#options;
    const tap = `rs${randomBytes(4).toString('hex')}`;
    this.host = await this.#namespace('host');
    const first = routed ? await this.#namespace('router') : this.host;
    this.stack = await openStack({
      tap,
      addresses: [`${this.ours[4]}/24`, `${this.ours[6]}/64`],
      gateways: routed ? ['10.11.0.1', 'fd11::1'] : [],
      ipv6: { dadTransmits: 0 },
      tcp,
      control: false,
    });
    this.undo(() => this.stack.close());
    await first.moveIn(tap);
    await this.#address(first, tap, '10.11.0.1/24', 'fd11::1/64');
    if (routed) await this.#route(first);
    else this.ifname = tap;
    await this.#serveOnHost();
  }

  async #namespace(name: string): Promise<NetworkNamespace> {
    const made = await NetworkNamespace.create(name);
    this.undo(() => made.dispose());
    // Nobody waits for the detection of duplicate addresses.
    const dad = ['net.ipv6.conf.default.accept_dad=0', 'net.ipv6.conf.default.dad_transmits=0'];
    await this.sysctl(dad, made);
    return made;
  }

  async #address(where: NetworkNamespace, ifname: string, ipv4: string, ipv6: string): Promise<void> {
    await where.exec(['ip', 'address', 'add', ipv6, 'dev', ifname, 'nodad']);
    await where.address(ifname, ipv4);
  }

  async #route(first: NetworkNamespace): Promise<void> {
    const second = await this.#namespace('router');
    this.routers.push(first, second);
    await first.exec(['ip', 'link', 'add', 'narrow', 'type', 'veth', 'peer', 'narrow', 'netns', second.name]);
    await second.exec(['ip', 'link', 'add', 'far', 'type', 'veth', 'peer', 'far', 'netns', this.host.name]);
    this.ifname = 'far';
    for (const router of this.routers) {
      await router.exec(['sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1']);
    }
    await this.#address(first, 'narrow', '10.11.1.1/24', 'fd11:1::1/64');
    await this.#address(second, 'narrow', '10.11.1.2/24', 'fd11:1::2/64');
    await this.#address(second, 'far', '10.11.2.2/24', 'fd11:2::2/64');
    await this.#address(this.host, 'far', `${this.linux[4]}/24`, `${this.linux[6]}/64`);
    const route = (where: NetworkNamespace, to: string, via: string): Promise<string> =>
      where.exec(['ip', 'route', 'add', to, 'via', via]);
    await route(first, '10.11.2.0/24', '10.11.1.2');
    await route(first, 'fd11:2::/64', 'fd11:1::2');
    await route(second, '10.11.0.0/24', '10.11.1.1');
    await route(second, 'fd11::/64', 'fd11:1::1');
    await route(this.host, 'default', '10.11.2.2');
    await route(this.host, 'default', 'fd11:2::2');
  }

  async #serveOnHost(): Promise<void> {
    const peer = this.host.spawn([process.execPath, PEER_CHILD, this.file]);
    await peer.waitFor('ready', READY_MS, () => peer.stdout.includes('ready') || undefined);
  }

  /** Runs at the end, before what was put here earlier. */
  undo(action: () => unknown): void {
    this.#undo.push(action);
  }

  async dispose(): Promise<void> {
    for (const one of this.#undo.splice(0).reverse()) await one();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  // ---- Linux's side

  /** Sets variables such as `net.ipv4.tcp_sack=0` of the host, or of another namespace. */
  async sysctl(words: readonly string[], where = this.host): Promise<void> {
    if (words.length > 0) await where.exec(['sysctl', '-qw', ...words]);
  }

  /** Runs rules of nft, `{ … }` of a table of its own, in the host or another namespace; they go with the namespace. */
  async nft(rules: string, where = this.host): Promise<void> {
    await where.exec(['nft', `table inet test ${rules}`]);
  }

  /** Takes them away. */
  async forgetNft(where = this.host): Promise<void> {
    await where.exec(['nft', 'flush', 'ruleset']);
  }

  /** Runs a line of `sh` on the host. */
  shell(line: string, timeoutMs = TRANSFER_MS): Promise<string> {
    return this.host.exec(['sh', '-ec', line], { timeoutMs });
  }

  /** Starts a JavaScript program on the host, which prints `ready` when it is. */
  async program(source: string, ...words: (string | number)[]): Promise<Program> {
    const made = this.host.spawn([process.execPath, '-e', source, '--', ...words.map(String)], { interactive: true });
    this.undo(() => made.stop());
    await made.waitFor('ready', READY_MS, () => made.stdout.includes('ready') || undefined);
    return made;
  }

  /** One of the host's counters, by nstat's name. */
  async nstat(name: string): Promise<number> {
    const words = await this.host.exec(['nstat', '-asz', name]);
    const line = words.split('\n').find((one) => one.startsWith(name));
    if (line === undefined) throw new Error(`nstat does not know ${name}:\n${words}`);
    return Number(line.split(/ +/)[1]);
  }

  /** The SHA-256 of what the host gets from our SOURCE. */
  async linuxDownloads(family: Family, port = SOURCE): Promise<string> {
    return (await this.shell(`nc -d ${this.ours[family]} ${port} </dev/null | sha256sum`)).slice(0, 64);
  }

  /** The SHA-256 that our SINK answers when the host sends it the file. */
  async linuxUploads(family: Family, port = SINK): Promise<string> {
    return (await this.shell(`nc -N ${this.ours[family]} ${port} <${quote(this.file)}`)).trim();
  }

  // ---- ours

  get counters(): Readonly<TcpCounters> {
    return (this.stack.tcp as Tcp).counters;
  }

  /** Listens on SOURCE, SINK and ECHO, or `base` above them; gives the other ports' way to end. */
  serve(settings: ConnectionOptions & { backlog?: number } = {}, base = 0): { close(): void } {
    const { stack, bytes, sunk } = this;
    const nothing = { onConnected() {}, onWritable() {}, onClosed() {} };
    const end = (c: Connection): void => stack.tcp.shutdown(c);
    const listeners: Listener[] = [
      stack.tcp.listen({
        ...settings,
        port: base + SOURCE,
        onAccept(c) {
          stack.tcp.write(c, bytes);
          end(c);
          return { ...nothing, onData() {}, onEnd() {} };
        },
      }),
      stack.tcp.listen({
        ...settings,
        port: base + SINK,
        onAccept() {
          const hash = createHash('sha256');
          return {
            ...nothing,
            onData: (_, data, from, to) => void hash.update(data.subarray(from, to)),
            onEnd(c) {
              sunk.push(stack.tcp.info(c));
              stack.tcp.write(c, Buffer.from(hash.digest('hex')));
              end(c);
            },
          };
        },
      }),
      stack.tcp.listen({
        ...settings,
        port: base + ECHO,
        onAccept: () => ({
          ...nothing,
          onData: (c, data, from, to) => void stack.tcp.write(c, data.slice(from, to)),
          onEnd: end,
        }),
      }),
    ];
    return {
      close: () => {
        for (const one of listeners) one.close();
      },
    };
  }

  /** Connects to the host, sends `bytes` (unless they are in the SYN), and FIN, and reads to its end. */
  exchange(
    family: Family,
    port: number,
    bytes: Uint8Array,
    settings: Partial<ConnectOptions> = {},
    onConnected: (c: Connection) => Promise<unknown> = async () => {},
  ): Promise<Exchange> {
    const { promise, resolve, reject } = Promise.withResolvers<Exchange>();
    const { stack } = this;
    const parts: Buffer[] = [];
    let info: TcpInfo | undefined;
    stack.hold();
    const timer = setTimeout(() => {
      const words = info === undefined ? JSON.stringify(stack.tcp.info(connection)) : '';
      reject(new Error(`no end after ${TRANSFER_MS} ms: ${words}`));
    }, TRANSFER_MS);
    const connection = stack.tcp.connect({
      ...settings,
      address: parseIp(this.linux[family])!,
      port,
      handler: {
        onConnected: (c) => void connected(c).catch(reject),
        onData: (_, data, from, to) => void parts.push(Buffer.from(data.slice(from, to))),
        onEnd: (c) => {
          info = stack.tcp.info(c);
        },
        onWritable() {},
        onClosed(_, error) {
          if (error !== null) reject(error);
          else if (info === undefined) reject(new Error('over before the other side’s FIN'));
          else resolve({ received: Buffer.concat(parts), info });
        },
      },
    });
    async function connected(c: Connection): Promise<void> {
      await onConnected(c);
      if (bytes.length > 0) stack.tcp.write(c, bytes);
      stack.tcp.shutdown(c);
    }
    return promise.finally(() => {
      clearTimeout(timer);
      stack.letGo();
    });
  }

  /** The SHA-256 of what we get from the host's SOURCE, and what the connection was like. */
  async download(family: Family, settings?: ConnectionOptions): Promise<{ hash: string; info: TcpInfo }> {
    const { received, info } = await this.exchange(family, SOURCE, new Uint8Array(0), settings);
    return { hash: hashOf(received), info };
  }

  /** The SHA-256 that the host's SINK answers when we send it the file, and what the connection was like. */
  async upload(family: Family, settings?: ConnectionOptions): Promise<{ hash: string; info: TcpInfo }> {
    const { received, info } = await this.exchange(family, SINK, this.bytes, settings);
    return { hash: received.toString(), info };
  }
}
