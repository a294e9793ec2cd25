/** Time as the model sees it, so that a test can replay it. */
export interface Clock {
  /** Microseconds of a clock that never goes back. */
  now(): number;
  /** Calls back once, `us` microseconds from now or a little later. Gives what takes the call back. */
  after(us: number, callback: () => void): () => void;
}
