/**
 * The I2C bus to the SFP+ module, which software drives bit by bit (82599 datasheet §8.2.3.1.6; the bus: UM10204 §3.1).
 *
 *     SDA falls while SCL is high: start      rises: stop      bits are taken as SCL rises, and change while it is low
 *
 * The lines are open-drain: what software reads is low when either side pulls it low.
 */
import { I2CCTL, I2CCTL_CLK_IN, I2CCTL_CLK_OUT, I2CCTL_DATA_IN, I2CCTL_DATA_OUT } from '../registers.ts';
import type { RegisterFile } from './register-file.ts';
import { SFP_ADDRESS, SFP_DIAGNOSTICS_ADDRESS, sfpDiagnostics, sfpModule } from './sfp-module.ts';

const IDLE = 'idle';
/** The module takes the address, an offset or data; or sends data. */
const ADDRESS = 'address';
const RECEIVE = 'receive';
const SEND = 'send';
const READ = 1;
const BITS = 8;

export class I2cBus {
  readonly #pages = new Map([
    [SFP_ADDRESS, sfpModule()],
    [SFP_DIAGNOSTICS_ADDRESS, sfpDiagnostics()],
  ]);
  #page = this.#pages.get(SFP_ADDRESS)!;
  #clock = true;
  #data = true;
  /** The module pulls SDA low. */
  #pulls = false;
  #state: typeof IDLE | typeof ADDRESS | typeof RECEIVE | typeof SEND = IDLE;
  #bits = 0;
  #byte = 0;
  /** Where the module reads next. */
  #offset = 0;
  #offsetKnown = false;

  constructor(registers: RegisterFile) {
    registers.define(I2CCTL, {
      initial: I2CCTL_CLK_OUT | I2CCTL_DATA_OUT,
      read: (stored) =>
        (stored & (I2CCTL_CLK_OUT | I2CCTL_DATA_OUT)) |
        (this.#clock ? I2CCTL_CLK_IN : 0) |
        (this.#data && !this.#pulls ? I2CCTL_DATA_IN : 0),
      write: (value) => {
        this.#drive((value & I2CCTL_CLK_OUT) !== 0, (value & I2CCTL_DATA_OUT) !== 0);
        return value;
      },
    });
  }

  /** The lines float high, and the module waits for a start. */
  reset(): void {
    this.#clock = true;
    this.#data = true;
    this.#release();
  }

  #drive(clock: boolean, data: boolean): void {
    const wasHigh = this.#clock;
    if (wasHigh && clock && data !== this.#data) {
      this.#data = data;
      if (data) this.#release();
      else this.#start();
      return;
    }
    this.#data = data;
    this.#clock = clock;
    if (!wasHigh && clock) this.#rise();
    else if (wasHigh && !clock) this.#fall();
  }

  #start(): void {
    this.#state = ADDRESS;
    this.#bits = 0;
    this.#byte = 0;
    this.#pulls = false;
    // Where to read stays known from the write before; a further write says it anew.
    this.#offsetKnown = false;
  }

  #release(): void {
    this.#state = IDLE;
    this.#pulls = false;
    this.#offsetKnown = false;
  }

  #rise(): void {
    if (this.#state === IDLE) return;
    if (this.#bits < BITS) {
      if (this.#state !== SEND) this.#byte = ((this.#byte << 1) | (this.#data ? 1 : 0)) & 0xff;
    } else if (this.#state === SEND && this.#data) {
      // Not acknowledged: the master has had enough.
      this.#state = IDLE;
    }
    this.#bits++;
  }

  #fall(): void {
    if (this.#state === IDLE) {
      this.#pulls = false;
      return;
    }
    if (this.#bits > BITS) {
      this.#nextByte();
      return;
    }
    if (this.#state === SEND) {
      this.#pulls = this.#bits < BITS && (this.#byte & (0x80 >> this.#bits)) === 0;
      return;
    }
    if (this.#bits === BITS) this.#take();
  }

  /** Eight bits have come: acknowledges them, unless they are another device's address. */
  #take(): void {
    if (this.#state === ADDRESS) {
      const page = this.#pages.get(this.#byte & ~READ);
      if (page === undefined) {
        this.#state = IDLE;
        return;
      }
      this.#page = page;
    }
    this.#pulls = true;
    if (this.#state !== RECEIVE) return;
    // The first byte says where; others would write, and the page cannot be written.
    if (!this.#offsetKnown) this.#offset = this.#byte;
    this.#offsetKnown = true;
  }

  #nextByte(): void {
    const sends = this.#state === SEND || (this.#state === ADDRESS && (this.#byte & READ) !== 0);
    this.#state = sends ? SEND : RECEIVE;
    this.#bits = 0;
    this.#pulls = false;
    this.#byte = 0;
    if (!sends) return;
    this.#byte = this.#page[this.#offset]!;
    this.#offset = (this.#offset + 1) & 0xff;
    this.#pulls = (this.#byte & 0x80) === 0;
  }
}
