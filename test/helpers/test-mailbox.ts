/** The file's side of a guest queue, as the main thread has it: mailbox records in and out of both frame rings. */
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { FrameRing, frameRingBytes } from '../../memory/frame-ring.ts';
import { SharedBuffer } from '../../memory/shared-buffer.ts';
import { INBOX_BYTES, MAILBOX_HEADER_BYTES, type Mailbox, OUTBOX_BYTES } from '../../switch/guest-queue.ts';

/** A virtio-net header of 12 bytes, then the frame. */
export interface MailRecord {
  header: Uint8Array;
  frame: Uint8Array;
}

export class TestMailbox {
  /** What a GuestQueue is made with. */
  readonly mailbox: Mailbox;
  readonly inbox: FrameRing;
  readonly outbox: FrameRing;
  readonly #memory = new SharedBuffer(frameRingBytes(INBOX_BYTES) + frameRingBytes(OUTBOX_BYTES));
  /** Over all the memory, to write and read records at their addresses. */
  readonly #bytes = new Uint8Array(this.#memory.bytes);

  constructor() {
    const inbox = this.#memory.address;
    const outbox = inbox + frameRingBytes(INBOX_BYTES);
    this.mailbox = { inbox, outbox, mailFd: eventfd() };
    this.inbox = new FrameRing(inbox, INBOX_BYTES);
    this.outbox = new FrameRing(outbox, OUTBOX_BYTES);
  }

  /** write(2) of the client. False when the inbox is full. `signal` (of the last write) says that the lane slept. */
  write({ header, frame }: MailRecord): boolean {
    const length = header.length + frame.length;
    const to = this.inbox.reserve(length);
    if (to === 0) return false;
    this.#bytes.set(header, to - this.#memory.address);
    this.#bytes.set(frame, to - this.#memory.address + header.length);
    this.signal = this.inbox.commit(length);
    return true;
  }

  signal = false;

  /** read(2) of the client, or null when nothing waits. */
  read(): MailRecord | null {
    const length = this.outbox.peek();
    if (length < 0) return null;
    const at = this.outbox.address - this.#memory.address;
    const record = this.#bytes.slice(at, at + length);
    this.outbox.consume(length);
    return { header: record.slice(0, MAILBOX_HEADER_BYTES), frame: record.slice(MAILBOX_HEADER_BYTES) };
  }

  /** Everything that waits in the outbox. */
  readAll(): MailRecord[] {
    const records: MailRecord[] = [];
    for (let record = this.read(); record; record = this.read()) records.push(record);
    return records;
  }

  /** Whether the queue signalled mail since the last time. */
  signalled(): boolean {
    return drainEventfd(this.mailbox.mailFd);
  }

  dispose(): void {
    close(this.mailbox.mailFd);
    this.#memory.free();
  }
}
