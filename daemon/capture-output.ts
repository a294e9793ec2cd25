/** Where a capture goes: a file, or a pipe to whoever reads it live. */
import fs from 'node:fs';
import net from 'node:net';
import { close } from '../linux/file.ts';
import { duplicateFrom } from '../linux/process.ts';
import { type Watch, watchReadable } from '../linux/watch.ts';

const STDOUT = 1;

export interface CaptureOutput {
  /** Told once when the reader of a pipe has gone. */
  onGone: () => void;
  /** Resolves when all of it is written: true, or false when the reader has gone. The bytes must stay until then. */
  write(bytes: Uint8Array): Promise<boolean>;
  close(): Promise<void>;
}

/**
 * The file of that name, made or emptied; standard output for `-`, and without a name when it is no terminal. Waits for the
 * reader of a named pipe. Throws an Error that says what to do.
 */
export function openOutput(name: string | undefined): CaptureOutput {
  if (name === undefined || name === '-') {
    if (process.stdout.isTTY) {
      throw new Error('a capture is no text for a terminal: give a file (-w FILE), or pipe it (| tshark -i -)');
    }
    return outputTo(STDOUT, '-');
  }
  let fd: number;
  try {
    fd = fs.openSync(name, 'w');
  } catch (error) {
    throw new Error(`-w ${name}: ${(error as Error).message}`);
  }
  return outputTo(fd, name);
}

function outputTo(fd: number, name: string): CaptureOutput {
  const kind = fs.fstatSync(fd);
  return kind.isFIFO() || kind.isSocket() ? new PipeOutput(fd) : new FileOutput(fd, name);
}

class FileOutput implements CaptureOutput {
  onGone: () => void = () => {};
  readonly #fd: number;
  readonly #name: string;

  constructor(fd: number, name: string) {
    this.#fd = fd;
    this.#name = name;
  }

  async write(bytes: Uint8Array): Promise<boolean> {
    try {
      for (let done = 0; done < bytes.length; ) done += fs.writeSync(this.#fd, bytes, done);
    } catch (error) {
      throw new Error(`-w ${this.#name}: ${(error as Error).message}; what is there so far stays`);
    }
    return true;
  }

  async close(): Promise<void> {
    if (this.#fd !== STDOUT) fs.closeSync(this.#fd);
  }
}

/** Never blocks: the process hears signals while its reader sleeps. */
class PipeOutput implements CaptureOutput {
  onGone: () => void = () => {};
  readonly #socket: net.Socket;
  /** The pipe once more: nobody writes to it while the port is quiet, but its reader may go even then. */
  readonly #watched: number;
  #watch: Watch | null;
  #gone = false;

  constructor(fd: number) {
    this.#socket = new net.Socket({ fd, readable: false, writable: true });
    // Each write is told of it too.
    this.#socket.on('error', () => this.#lose());
    this.#watched = duplicateFrom(process.pid, fd);
    this.#watch = watchReadable(this.#watched, () => this.#lose());
  }

  #lose(): void {
    this.#unwatch();
    if (this.#gone) return;
    this.#gone = true;
    this.onGone();
  }

  #unwatch(): void {
    if (this.#watch === null) return;
    this.#watch.close();
    this.#watch = null;
    close(this.#watched);
  }

  write(bytes: Uint8Array): Promise<boolean> {
    return new Promise((resolve) => {
      if (this.#gone) resolve(false);
      else this.#socket.write(bytes, (error) => resolve(!error));
    });
  }

  close(): Promise<void> {
    this.#unwatch();
    return new Promise((resolve) => {
      this.#socket.once('close', () => resolve());
      if (this.#gone) this.#socket.destroy();
      else this.#socket.end();
    });
  }
}
