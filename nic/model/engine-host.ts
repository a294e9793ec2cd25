/** What the frame engines need of the card's other blocks. */
import type { Clock } from './clock.ts';
import type { HostBus } from './host-bus.ts';
import type { RegisterFile } from './register-file.ts';

export interface EngineHost {
  registers: RegisterFile;
  bus: HostBus;
  interrupts: {
    /** Causes in EICR that do not come from a queue. */
    raise(causes: number): void;
    /** Something was received on a queue, or sent. */
    receive(queue: number): void;
    transmit(queue: number): void;
    /** µs from now to the end of the EITR interval of what a transmit queue interrupts by; -1 where none is set. */
    transmitDelay(queue: number): number;
  };
  clock: Clock;
  statistics: {
    /** A frame passed the filters. */
    received(frame: Uint8Array): void;
    queueReceived(queue: number, bytes: number): void;
    queueTransmitted(queue: number, bytes: number): void;
    queueDropped(queue: number): void;
    /** A frame that found no room in the packet buffer. */
    missed(): void;
    /** A frame whose checksum was wrong. */
    checksumError(): void;
  };
  mac: {
    /** A whole frame without its CRC goes out, or waits: one looks at {@link ready} before. */
    transmit(frame: Uint8Array): void;
    /** Whether there is room for frames to wait; {@link onReady} is called when there is again. */
    readonly ready: boolean;
    onReady: () => void;
    /** So many bytes wait in the receive packet buffer. */
    bufferLevel(bytes: number): void;
    /** Called for each frame that comes in, without its CRC; it is the receiver's only during the call. One of MAC control is none of the good frames. */
    onFrame: (frame: Uint8Array, loopback: boolean, isControl?: boolean) => void;
  };
  /**
   * The host gave the card what it cannot work with: told each time that a queue stops, with its index and the address, and for
   * the first bad frame of a transmit queue since it was disabled.
   */
  onFault: (message: string) => void;
}
