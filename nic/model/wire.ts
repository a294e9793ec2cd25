/**
 * One end of a cable. Frames are whole Ethernet frames without preamble and CRC; they are the receiver's to keep only
 * during the call.
 */
export interface WireEnd {
  /** Sends a frame to the other end. It is lost when nothing is connected there, or its link is down. */
  send(frame: Uint8Array): void;
  /** Whether the cable takes frames now. What is sent all the same is on its way too, up to some bound. */
  readonly ready: boolean;
  /** Called when {@link ready} is true again. */
  onReady: () => void;
  /** Called for each frame from the other end. */
  onFrame: (frame: Uint8Array) => void;
  /** Whether there is light: the other end is there and sends. */
  readonly carrier: boolean;
  /** Called whenever {@link carrier} changes. */
  onCarrier: () => void;
  /** Says whether this end sends light: what the other end sees as its {@link carrier}. */
  setTransmitting(on: boolean): void;
}
