/** Configuration space (PCI Local Bus 3.0 §6.1) behind a file: little-endian, 1, 2 or 4 bytes at their own alignment. */

/** Command register (§6.2.2). */
export const PCI_COMMAND = 0x04;
export const PCI_COMMAND_MEMORY = 1 << 1;
export const PCI_COMMAND_MASTER = 1 << 2;
export const PCI_COMMAND_INTX_DISABLE = 1 << 10;
const COMMAND_GONE = 0xffff;

/** pread(2) and pwrite(2) of what holds the configuration space. */
export interface ConfigFile {
  pread(buffer: Uint8Array, offset: number): number;
  pwrite(buffer: Uint8Array, offset: number): number;
}

export class ConfigSpace {
  readonly #name: string;
  readonly #file: ConfigFile;
  readonly #size: number;

  /** `name` is the card's, for messages; `size` in bytes. */
  constructor(name: string, file: ConfigFile, size: number) {
    this.#name = name;
    this.#file = file;
    this.#size = size;
  }

  /** Throws Error for an offset outside or across words, SystemError where the kernel refuses. */
  read(offset: number, bytes: 1 | 2 | 4): number {
    this.#check(offset, bytes);
    const buffer = Buffer.alloc(bytes);
    const done = this.#file.pread(buffer, offset);
    if (done !== bytes) throw this.#short('read', offset, bytes, done);
    return buffer.readUIntLE(0, bytes);
  }

  write(offset: number, bytes: 1 | 2 | 4, value: number): void {
    this.#check(offset, bytes);
    if (!Number.isInteger(value) || value < 0 || value >= 2 ** (8 * bytes)) {
      throw new Error(
        `${this.#name}: configuration space at 0x${offset.toString(16)}: ${value} is not of ${bytes} bytes`,
      );
    }
    const buffer = Buffer.alloc(bytes);
    buffer.writeUIntLE(value, 0, bytes);
    const done = this.#file.pwrite(buffer, offset);
    if (done !== bytes) throw this.#short('write', offset, bytes, done);
  }

  /** Sets or clears bits of the Command register. Throws Error when the card is gone. */
  changeCommand(bits: number, on: boolean): void {
    const command = this.read(PCI_COMMAND, 2);
    if (command === COMMAND_GONE) {
      throw new Error(`${this.#name}: the card does not answer: its Command register reads as all ones`);
    }
    const wanted = on ? command | bits : command & ~bits;
    if (wanted !== command) this.write(PCI_COMMAND, 2, wanted);
  }

  #check(offset: number, bytes: number): void {
    if (
      ![1, 2, 4].includes(bytes) ||
      !Number.isInteger(offset) ||
      offset < 0 ||
      offset % bytes !== 0 ||
      offset + bytes > this.#size
    ) {
      throw new Error(
        `${this.#name}: no ${bytes} bytes at 0x${offset.toString(16)} of a configuration space of ${this.#size} bytes`,
      );
    }
  }

  #short(what: string, offset: number, bytes: number, done: number): Error {
    return new Error(
      `${this.#name}: configuration space at 0x${offset.toString(16)}: ${what} ${done} of ${bytes} bytes: is the card still there?`,
    );
  }
}
