/**
 * Register writes from a lane's thread: doorbells, and asking for interrupts. Hot: allocates nothing.
 *
 * Descriptors are written before the tail that announces them: x86 keeps stores to memory and to registers in order, and V8
 * moves none past another.
 */
import { viewMemory } from '../../linux/libc.ts';
import type { RegisterAccess } from '../pci/pci-device.ts';
import { postRegisterWrite } from '../vfio-user/post-write.ts';

export interface RegisterWriter {
  /** Writes a 32-bit register of BAR 0 by its byte offset. */
  write32(offset: number, value: number): void;
}

/** A way to write the card's registers from this thread. */
export function registerWriter(access: RegisterAccess): RegisterWriter {
  return access.kind === 'mapped' ? new MappedWriter(access.address, access.length) : new PostingWriter(access.socket);
}

class MappedWriter implements RegisterWriter {
  readonly #words: Uint32Array;

  constructor(address: number, length: number) {
    this.#words = new Uint32Array(viewMemory(address, length));
  }

  write32(offset: number, value: number): void {
    this.#words[offset >>> 2] = value;
  }
}

class PostingWriter implements RegisterWriter {
  readonly #socket: number;

  constructor(socket: number) {
    this.#socket = socket;
  }

  write32(offset: number, value: number): void {
    postRegisterWrite(this.#socket, offset, value);
  }
}
