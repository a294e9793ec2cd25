/** One daemon for all tests of a describe. */
import { DaemonProcess } from '../../lab/daemon.ts';

/** Hooks: starts a daemon before the tests and hands it over; ends it after them, and it must end well. */
export function withDaemon(take: (daemon: DaemonProcess) => void): void {
  let daemon: DaemonProcess | undefined;

  before(async () => {
    daemon = await DaemonProcess.start();
    take(daemon);
  });

  after(async () => {
    try {
      await daemon?.stop();
    } finally {
      await daemon?.dispose();
    }
  });
}
