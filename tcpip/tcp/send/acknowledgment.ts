/** What an ACK says, for the Sender: one object a stack, filled anew for each. The caller has seen that its number is sane. */
const MAX_SACK_BLOCKS = 4;

export class Acknowledgment {
  /** SEG.ACK. */
  una = 0;
  /** The segment has data, SYN or FIN: then it is no duplicate ACK (RFC 5681 §2). */
  hasData = false;
  windowChanged = false;
  /** ECN-Echo on a connection with ECN. */
  ece = false;
  /** Age of the echoed timestamp in µs, of a clock of ms; -1 without. */
  rtt = -1;
  sackCount = 0;
  readonly sackStart = new Uint32Array(MAX_SACK_BLOCKS);
  readonly sackEnd = new Uint32Array(MAX_SACK_BLOCKS);
  /** The first block tells of a duplicate (RFC 2883 §4). */
  dsack = false;
}
