/**
 * A client's memory that it keeps to itself: reached by asking it (DMA_READ, DMA_WRITE), some bytes at a time. Slow, for every
 * access waits for the client.
 *
 * Some clients (QEMU before 11.1) have the data of these messages elsewhere than the document says, and answer a DMA_WRITE with an empty body.
 * They are found out by a write of no bytes, before the first access, and not asked again.
 */
import {
  checkDmaWriteReply,
  composeDmaAccess,
  MAX_DATA_BYTES,
  parseDmaReadReply,
  VFIO_USER_DMA_READ,
  VFIO_USER_DMA_WRITE,
} from './messages.ts';

/**
 * Sends the client a request, and has `take` look at the reply's body, which is valid during the call. False: the client has
 * answered with an error, or there is no client any more. A reply that `take` throws at ends the connection.
 */
export type AskClient = (command: number, body: Buffer, take: (reply: Buffer) => void) => boolean;

/** Of a client that cannot be asked. */
export const askNobody: AskClient = () => false;

export class RemoteMemory {
  /** Bytes of one transfer at the most: the client's `max_data_xfer_size`. 0: it takes none. */
  maxBytes = MAX_DATA_BYTES;
  readonly #ask: AskClient;
  readonly #warn: (message: string) => void;
  /** Whether the client's messages are the document's. Null: not known yet. */
  #isUsable: boolean | null = null;

  constructor(ask: AskClient, warn: (message: string) => void = () => {}) {
    this.#ask = ask;
    this.#warn = warn;
  }

  #tryOut(address: number): boolean {
    let length = -1;
    this.#ask(VFIO_USER_DMA_WRITE, composeDmaAccess(address, 0), (reply) => {
      length = reply.length;
    });
    if (length !== 0) return true;
    this.#warn(
      'it maps memory without a file, and its DMA_WRITE is not that of the protocol: the card does not reach this memory. ' +
        'Share it (QEMU: a memory backend with share=on)',
    );
    return false;
  }

  /** Fills `into` with what is at a bus address. False: not all could be read. */
  read(address: number, into: Uint8Array): boolean {
    return this.#inParts(address, into.length, (done, count) =>
      this.#ask(VFIO_USER_DMA_READ, composeDmaAccess(address + done, count), (reply) => {
        into.set(parseDmaReadReply(reply, address + done, count), done);
      }),
    );
  }

  /** Writes `from` to a bus address. False: not all could be written. */
  write(address: number, from: Uint8Array): boolean {
    return this.#inParts(address, from.length, (done, count) =>
      this.#ask(
        VFIO_USER_DMA_WRITE,
        composeDmaAccess(address + done, count, from.subarray(done, done + count)),
        (reply) => checkDmaWriteReply(reply, address + done, count),
      ),
    );
  }

  #inParts(address: number, bytes: number, transfer: (done: number, count: number) => boolean): boolean {
    const most = Math.min(this.maxBytes, MAX_DATA_BYTES);
    if (most === 0) return bytes === 0;
    this.#isUsable ??= this.#tryOut(address);
    if (!this.#isUsable) return false;
    for (let done = 0; done < bytes; done += most) {
      if (!transfer(done, Math.min(most, bytes - done))) return false;
    }
    return true;
  }
}
