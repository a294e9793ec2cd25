/** Where sockets are: Node's own, and those of stacks. What a test says of sockets must hold in each. */
import net from 'node:net';
import { type Net, netOf } from '../../sockets/net.ts';
import { NetworkStack } from '../../sockets/network-stack.ts';
import { CableDevice, type CableOptions } from './cable-device.ts';
import { FakeNetwork } from './fake-tcp-user.ts';

export interface SocketWorld {
  name: string;
  /** Of two hosts that reach each other; `there` is where `server` listens. */
  make(): Promise<SocketHosts>;
}

export interface SocketHosts {
  client: Net;
  server: Net;
  /** Of the server. */
  host: string;
  /** A host that is not there at all: connecting to it gives `missingCode`. */
  close(): Promise<void> | void;
}

const none = { lookup: null, hold() {}, letGo() {}, attach() {}, detach() {} };

export const nodeWorld: SocketWorld = {
  name: "Node's own sockets",
  async make() {
    const own = net as unknown as Net;
    return { client: own, server: own, host: '127.0.0.1', close() {} };
  },
};

export const fakeWorld: SocketWorld = {
  name: 'sockets over a TCP without packets',
  async make() {
    const network = new FakeNetwork();
    return {
      client: netOf({ tcp: network.host(10, 0, 0, 1), ...none }),
      server: netOf({ tcp: network.host(10, 0, 0, 2), ...none }),
      host: '10.0.0.2',
      close() {},
    };
  },
};

/** Two stacks with a cable between them; `options`: what the cable is like. */
export const stackWorld = (name: string, options: CableOptions = {}): SocketWorld => ({
  name,
  async make() {
    const [a, b] = CableDevice.pair(options);
    const client = await NetworkStack.start(a, { name: 'client', addresses: ['10.0.0.1/24'], control: false });
    const server = await NetworkStack.start(b, { name: 'server', addresses: ['10.0.0.2/24'], control: false });
    return {
      client: client.net,
      server: server.net,
      host: '10.0.0.2',
      close() {
        client.destroy();
        server.destroy();
      },
    };
  },
});
