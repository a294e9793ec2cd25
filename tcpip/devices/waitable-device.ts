/** A frame device that a program can also sleep on: what stands between the protocols' {@link FrameDevice} and poll(2). */
import type { FrameDevice } from '../frame-device.ts';

export interface WaitableDevice extends FrameDevice {
  /** Descriptors that get readable when something comes, after {@link enableNotification}. They may change: ask before each sleep. */
  readonly fds: readonly number[];
  /**
   * Asks to be woken by what comes next: a frame, or room where {@link FrameDevice.reserve} had none. True: something has
   * come already, so poll again instead of sleeping.
   */
  enableNotification(): boolean;
  /** This side polls again: no wake-ups, please. Also takes back those that have come. */
  disableNotification(): void;
  /** Lets go of all that it holds. */
  close(): void;
}
