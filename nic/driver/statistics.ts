/**
 * The card's counters (82599 datasheet §8.2.3.23), which clear as they are read, added up: under the names that users of
 * `ethtool -S` know. Poll often enough: 32 bits of frames are full in five minutes at 10 Gb/s; of bytes there are 36.
 */
import {
  BPRC,
  BPTC,
  CRCERRS,
  ERRBC,
  GORCH,
  GORCL,
  GOTCH,
  GOTCL,
  GPRC,
  GPTC,
  ILLERRC,
  LXOFFRXCNT,
  LXOFFTXC,
  LXONRXCNT,
  LXONTXC,
  MLFC,
  MPC,
  MPRC,
  MPTC,
  MRFC,
  PRC64,
  PRC127,
  PRC255,
  PRC511,
  PRC1023,
  PRC1522,
  PTC64,
  PTC127,
  PTC255,
  PTC511,
  PTC1023,
  PTC1522,
  QBRC_H,
  QBRC_L,
  QBTC_H,
  QBTC_L,
  QPRC,
  QPRDC,
  QPTC,
  RFC,
  RJC,
  RLEC,
  ROC,
  RQSMR,
  RUC,
  TQSM,
  XEC,
} from '../registers.ts';
import type { CardRegisters } from './card-registers.ts';

const COUNTERS: Record<string, number> = {
  // Before those that they are subtracted from.
  tx_flow_control_xon: LXONTXC,
  tx_flow_control_xoff: LXOFFTXC,
  rx_packets: GPRC,
  tx_packets: GPTC,
  rx_broadcast: BPRC,
  tx_broadcast: BPTC,
  rx_multicast: MPRC,
  tx_multicast: MPTC,
  rx_crc_errors: CRCERRS,
  rx_illegal_byte_errors: ILLERRC,
  rx_error_bytes: ERRBC,
  rx_length_errors: RLEC,
  rx_undersize: RUC,
  rx_fragments: RFC,
  rx_oversize: ROC,
  rx_jabber: RJC,
  rx_csum_errors: XEC,
  rx_flow_control_xon: LXONRXCNT,
  rx_flow_control_xoff: LXOFFRXCNT,
  mac_local_faults: MLFC,
  mac_remote_faults: MRFC,
  rx_64: PRC64,
  rx_65_to_127: PRC127,
  rx_128_to_255: PRC255,
  rx_256_to_511: PRC511,
  rx_512_to_1023: PRC1023,
  rx_1024_and_more: PRC1522,
  tx_64: PTC64,
  tx_65_to_127: PTC127,
  tx_128_to_255: PTC255,
  tx_256_to_511: PTC511,
  tx_512_to_1023: PTC1023,
  tx_1024_and_more: PTC1522,
};
const PACKET_BUFFERS = 8;
const QUEUE_COUNTERS = 16;
const HIGH_MASK = 0xf;
/** What the card counts its own pause frames in, too. */
const SENT_WITH_PAUSES = ['tx_packets', 'tx_multicast', 'tx_64'];
const PAUSE_BYTES = 64;

export class CardStatistics {
  readonly #registers: CardRegisters;
  readonly #queues: number;
  readonly #totals = new Map<string, number>();

  /** Counts `queues` queues, 16 at the most, each by itself. */
  constructor(registers: CardRegisters, queues: number) {
    this.#registers = registers;
    this.#queues = Math.min(queues, QUEUE_COUNTERS);
  }

  /** Gives each queue its own counter, and forgets what was counted: the card was reset. */
  reset(): void {
    for (let n = 0; n < QUEUE_COUNTERS; n += 4) {
      const map = n | ((n + 1) << 8) | ((n + 2) << 16) | ((n + 3) << 24);
      this.#registers.write(RQSMR(n / 4), map);
      this.#registers.write(TQSM(n / 4), map);
    }
    this.poll();
    this.#totals.clear();
  }

  /** Reads all counters, and gives the sums since {@link reset}. Doubles hold them exactly to 2^53. */
  poll(): Record<string, number> {
    let missed = 0;
    for (let n = 0; n < PACKET_BUFFERS; n++) missed += this.#registers.read(MPC(n));
    this.#add('rx_missed', missed);
    let pauses = 0;
    for (const [name, offset] of Object.entries(COUNTERS)) {
      const count = this.#registers.read(offset);
      this.#add(name, count);
      if (offset === LXONTXC || offset === LXOFFTXC) pauses += count;
    }
    this.#addWide('rx_bytes', GORCL, GORCH);
    this.#addWide('tx_bytes', GOTCL, GOTCH);
    // As Linux's ixgbe finds it: pause frames are among what was sent, and frames that found no room among what came.
    for (const name of SENT_WITH_PAUSES) this.#add(name, -pauses);
    this.#add('tx_bytes', -pauses * PAUSE_BYTES);
    this.#add('rx_packets', -missed);
    for (let n = 0; n < this.#queues; n++) {
      this.#add(`rx_queue_${n}_packets`, this.#registers.read(QPRC(n)));
      const drops = this.#registers.read(QPRDC(n));
      this.#add(`rx_queue_${n}_drops`, drops);
      this.#add('rx_no_dma_resources', drops);
      this.#addWide(`rx_queue_${n}_bytes`, QBRC_L(n), QBRC_H(n));
      this.#add(`tx_queue_${n}_packets`, this.#registers.read(QPTC(n)));
      this.#addWide(`tx_queue_${n}_bytes`, QBTC_L(n), QBTC_H(n));
    }
    return Object.fromEntries(this.#totals);
  }

  #add(name: string, count: number): void {
    this.#totals.set(name, (this.#totals.get(name) ?? 0) + count);
  }

  /** 36 bits: the low word is read first, and the high one clears both. */
  #addWide(name: string, low: number, high: number): void {
    const bytes = this.#registers.read(low);
    this.#add(name, bytes + (this.#registers.read(high) & HIGH_MASK) * 2 ** 32);
  }
}
