/** Watching a descriptor from Node's event loop. */
import koffi from 'koffi';

/** A running watch; keep it, or it is collected and the loop hears nothing more. */
export interface Watch {
  close(): void;
}

/** Calls `onReadable` whenever `fd` has something to read (level-triggered). */
export function watchReadable(fd: number, onReadable: () => void): Watch {
  return koffi.node.poll(fd, { readable: true, disconnect: true }, onReadable);
}
