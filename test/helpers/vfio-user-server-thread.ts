/**
 * A vfio-user server on a thread of its own, for clients that wait for it: the real one with a toy device, or one that
 * carries out some requests and then behaves badly.
 */
import { parentPort, Worker, workerData } from 'node:worker_threads';
import { close } from '../../linux/file.ts';
import { memfd } from '../../linux/mman.ts';
import { POLLIN, PollSet } from '../../linux/poll.ts';
import { receiveDescriptors, sendDescriptors } from '../../linux/socket.ts';
import { acceptUnix, bindUnix, listenUnix } from '../../linux/unix-socket.ts';
import { MAX_MESSAGE_FDS, VfioUserParser } from '../../nic/vfio-user/messages.ts';
import { VfioUserServer } from '../../nic/vfio-user/server.ts';
import { VfioUserSession } from '../../nic/vfio-user/session.ts';
import { ToyDevice } from './toy-vfio-user-device.ts';

/** What a bad server does to the reply. */
export type Fault =
  | 'closes'
  | 'silent'
  | 'garbage'
  | 'wrong id'
  | 'command'
  | 'half'
  | 'short'
  | 'wrong data'
  | 'less data'
  | 'newer'
  | 'descriptors'
  | 'half with descriptors'
  | 'refuses';

/** What the descriptors are called that come with replies, though nobody asked for any. */
export const UNASKED = 'unasked';

interface Options {
  path: string;
  fault?: Fault;
  /** Requests that are carried out well before. */
  after?: number;
}

/** Starts one; resolves when it listens. `stop` ends it at once, as a crash would. */
export async function startServerThread(options: Options): Promise<{ stop(): Promise<void> }> {
  const worker = new Worker(new URL(import.meta.url), { workerData: options });
  await new Promise<void>((resolve, reject) => {
    worker.once('message', () => resolve());
    worker.once('error', reject);
  });
  // A bad one ends by itself when its client goes, perhaps before it is stopped.
  const exited = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
  return {
    stop: async () => {
      worker.postMessage('stop');
      await exited;
    },
  };
}

function serve({ path }: Options): void {
  const server = new VfioUserServer(path, { info: () => {}, warn: () => {} });
  server.serve(new ToyDevice(server));
  parentPort!.once('message', () => server.close());
}

/** Blocking: nothing else happens on this thread. It ends when the client has gone. */
function misbehave({ path, fault, after = 0 }: Options): void {
  const listener = bindUnix(path);
  listenUnix(listener);
  parentPort!.postMessage('listens');
  const wait = (fd: number): void => {
    const poll = new PollSet();
    poll.add(fd, POLLIN);
    poll.wait(5000);
  };
  wait(listener);
  const client = acceptUnix(listener)!;
  const nowhere = { read: () => false, write: () => false, writeWords: () => false, interrupt: () => {} };
  const session = new VfioUserSession(new ToyDevice(nowhere), () => {});
  const parser = new VfioUserParser();
  try {
    for (let handled = 0; ; ) {
      wait(client);
      const received = receiveDescriptors(client, parser.room, MAX_MESSAGE_FDS);
      if (received === null) continue;
      if (received.length === 0) return;
      const message = parser.take(received.length, received.fds);
      if (message === null) continue;
      const reply = session.handle(message);
      if (reply === null) continue;
      const isSpoilt = handled++ >= after;
      const bytes = isSpoilt ? spoilt(reply, fault!) : reply;
      if (bytes === null) return;
      const fds = isSpoilt && fault!.endsWith('descriptors') ? [memfd(UNASKED, 0), memfd(UNASKED, 0)] : [];
      try {
        if (bytes.length > 0) sendDescriptors(client, bytes, fds);
      } finally {
        for (const fd of fds) close(fd);
      }
    }
  } finally {
    session.close();
    close(client);
    close(listener);
  }
}

/** A reply as `fault` has it; null closes the connection, empty is silence. */
function spoilt(reply: Buffer, fault: Fault): Buffer | null {
  const bytes = Buffer.from(reply);
  switch (fault) {
    case 'closes':
      return null;
    case 'silent':
      return Buffer.alloc(0);
    case 'garbage':
      return Buffer.alloc(64, 0xa5);
    case 'wrong id':
      bytes.writeUInt16LE(bytes.readUInt16LE(0) ^ 1, 0);
      return bytes;
    case 'command':
      bytes.writeUInt32LE(0, 8);
      return bytes;
    case 'descriptors':
      return bytes;
    case 'half with descriptors':
    case 'half':
      return bytes.subarray(0, 20);
    case 'short':
      bytes.writeUInt32LE(16, 4);
      return bytes.subarray(0, 16);
    case 'wrong data':
      return bytes.fill(0xff, 16);
    case 'less data':
      bytes.writeUInt32LE(34, 4);
      bytes.writeUInt32LE(2, 28);
      return bytes.subarray(0, 34);
    case 'newer':
      bytes.writeUInt16LE(1, 16);
      return bytes;
    case 'refuses':
      bytes.writeUInt32LE(16, 4);
      bytes.writeUInt32LE(0x21, 8);
      bytes.writeUInt32LE(22, 12);
      return bytes.subarray(0, 16);
  }
}

if (parentPort !== null && typeof workerData?.path === 'string') {
  const options = workerData as Options;
  if (options.fault === undefined) {
    serve(options);
    parentPort.postMessage('listens');
  } else {
    misbehave(options);
  }
}
