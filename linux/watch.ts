/** Watching a descriptor from Node's event loop. */
import koffi from 'koffi';

/** A running watch; keep it, or it is collected and the loop hears nothing more. */
export interface Watch {
  close(): void;
  /** Lets the process end though the watch runs; {@link ref} takes that back. */
  unref(): void;
  ref(): void;
}

/** Calls `onReadable` whenever `fd` has something to read (level-triggered). */
export function watchReadable(fd: number, onReadable: () => void): Watch {
  return koffi.node.poll(fd, { readable: true, disconnect: true }, () => {
    onReadable();
    // koffi calls from outside Node's callback scopes, so nothing runs the promises settled here. An immediate does, in
    // the same turn of the loop.
    setImmediate(settlePromises);
  });
}

function settlePromises(): void {}
