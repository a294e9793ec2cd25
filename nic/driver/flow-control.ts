/** Pause frames of 802.3x (82599 datasheet §3.7.7.3): obeyed, and sent when the packet buffer fills. */
import {
  FCCFG,
  FCCFG_TFCE_802_3X,
  FCRTH,
  FCRTH_FCEN,
  FCRTL,
  FCRTL_XONE,
  FCRTV,
  FCTTV,
  MFLCN,
  MFLCN_DPF,
  MFLCN_RFCE,
} from '../registers.ts';
import type { CardRegisters } from './card-registers.ts';

export interface FlowControl {
  /** The card stops sending while the other side asks it to. */
  receive: boolean;
  /** It asks the other side to stop when frames find no room. A queue that drops (more than one queue) hardly lets it come to that. */
  send: boolean;
}

/** The longest pause that a frame can ask for, in quanta of 512 bit times; it is asked for again after half of it. */
const PAUSE_QUANTA = 0xffff;
const REFRESH_QUANTA = PAUSE_QUANTA >>> 1;
/** FCTTV has the times of two traffic classes, of which the first counts. */
const BOTH_CLASSES = 0x10001;
/** Room left when a pause is asked for, for frames that are on their way, and when it is taken back. In KiB. */
const HIGH_ROOM_KIB = 64;
const LOW_ROOM_KIB = 128;
const KIB = 1024;

/** Says which way pause frames go, with a packet buffer of `packetBufferKib`. */
export function setFlowControl(
  registers: CardRegisters,
  packetBufferKib: number,
  { receive, send }: FlowControl,
): void {
  // DPF: pause frames end here. To a switch they would be frames to forward.
  registers.write(MFLCN, MFLCN_DPF | (receive ? MFLCN_RFCE : 0));
  registers.write(FCCFG, send ? FCCFG_TFCE_802_3X : 0);
  registers.write(FCTTV(0), PAUSE_QUANTA * BOTH_CLASSES);
  registers.write(FCRTV, REFRESH_QUANTA);
  registers.write(FCRTL(0), send ? (packetBufferKib - LOW_ROOM_KIB) * KIB + FCRTL_XONE : 0);
  registers.write(FCRTH(0), send ? (packetBufferKib - HIGH_ROOM_KIB) * KIB + FCRTH_FCEN : 0);
  registers.check();
}
