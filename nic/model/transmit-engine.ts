/** The transmit side of the card (82599 datasheet §7.2): its queues, and the registers that all of them share. */
import {
  DMATXCTL,
  DMATXCTL_VT_SHIFT,
  DTXMXSZRQ,
  DTXTCPFLGH,
  DTXTCPFLGL,
  MTQC,
  QUEUES,
  RTTDCS,
  SECTXBUFFAF,
  SECTXCTRL,
  SECTXMINIFG,
  SECTXSTAT,
  SECTXSTAT_SECTX_RDY,
  TXPBSIZE,
  TXPBTHRESH,
} from '../registers.ts';
import type { EngineHost } from './engine-host.ts';
import { TransmitQueue } from './transmit-queue.ts';

const TAG_TYPE = 0x8100;
/** FIN and PSH only on the last segment, CWR only on the first (§8.2.3.9.4, §8.2.3.9.5): low 12 bits first, then middle. */
const FLAGS_LOW_INITIAL = 0x0f760ff6;
const FLAGS_HIGH_INITIAL = 0xf7f;
const PACKET_BUFFERS = 8;
/** 160 KiB, in KiB from bit 10 on. */
const PACKET_BUFFER_INITIAL = 0xa0 << 10;

export class TransmitEngine {
  readonly #queues: TransmitQueue[] = [];
  readonly #mac: EngineHost['mac'];
  /** Those that found the MAC without room, longest first. */
  readonly #stalled = new Set<TransmitQueue>();

  constructor(host: EngineHost) {
    const { registers } = host;
    this.#mac = host.mac;
    registers.define(DMATXCTL, { initial: (TAG_TYPE << DMATXCTL_VT_SHIFT) >>> 0 });
    registers.define(DTXTCPFLGL, { initial: FLAGS_LOW_INITIAL });
    registers.define(DTXTCPFLGH, { initial: FLAGS_HIGH_INITIAL });
    registers.define(DTXMXSZRQ, { initial: 0x10 });
    registers.define(MTQC);
    registers.define(RTTDCS);
    registers.define(SECTXCTRL);
    registers.define(SECTXSTAT, { read: () => SECTXSTAT_SECTX_RDY });
    registers.define(SECTXBUFFAF, { initial: 0x250 });
    registers.define(SECTXMINIFG, { initial: 0x1 });
    for (let n = 0; n < PACKET_BUFFERS; n++) {
      registers.define(TXPBSIZE(n), { initial: n === 0 ? PACKET_BUFFER_INITIAL : 0 });
      registers.define(TXPBTHRESH(n), { initial: n === 0 ? 0x96 : 0 });
    }
    for (let n = 0; n < QUEUES; n++) this.#queues.push(new TransmitQueue(n, host, (queue) => this.#stalled.add(queue)));
    host.mac.onReady = () => this.#resume();
    registers.onWrite(DMATXCTL, () => {
      for (const queue of this.#queues) queue.run();
    });
  }

  /** The MAC has room again: each may send until there is none. */
  #resume(): void {
    for (const queue of this.#stalled) {
      if (!this.#mac.ready) return;
      // One that fills it again is the last in turn then, and not looked at in this loop: there is no room.
      this.#stalled.delete(queue);
      queue.run();
    }
  }

  /** As after a reset of the card: the registers are the register file's to reset. */
  reset(): void {
    this.#stalled.clear();
    for (const queue of this.#queues) queue.reset();
  }
}
