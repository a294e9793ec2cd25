/**
 * A software Intel 82599: its blocks put together.
 *
 *     host ── BAR 0 (registers), configuration space ── card ── wire ── whatever is at the other end
 *     host ◄── HostBus: memory by bus address, MSI-X messages
 */
import type { Clock } from './clock.ts';
import { ConfigSpace } from './config-space.ts';
import { Eeprom } from './eeprom.ts';
import type { EngineHost } from './engine-host.ts';
import { General } from './general.ts';
import type { HostBus } from './host-bus.ts';
import { I2cBus } from './i2c.ts';
import { Interrupts } from './interrupts.ts';
import { Link } from './link.ts';
import { Mac } from './mac.ts';
import { Mdio } from './mdio.ts';
import { ReceiveEngine } from './receive-engine.ts';
import { RegisterFile } from './register-file.ts';
import { Semaphores } from './semaphores.ts';
import { Statistics } from './statistics.ts';
import { TransmitEngine } from './transmit-engine.ts';
import type { WireEnd } from './wire.ts';

export interface Card82599Options {
  bus: HostBus;
  wire: WireEnd;
  clock: Clock;
  /** The address that its EEPROM has: six bytes. */
  mac: Uint8Array;
  /** PCI device id. Default 10fb. */
  deviceId?: number;
  /** Told of what the host gave the card that it cannot work with. */
  onFault?: (message: string) => void;
}

export class Card82599 {
  readonly config: ConfigSpace;
  readonly #registers = new RegisterFile();
  readonly #mac: Uint8Array;
  readonly #link: Link;
  readonly #macBlock: Mac;
  readonly #interrupts: Interrupts;
  readonly #statistics: Statistics;
  readonly #i2c: I2cBus;
  readonly #receive: ReceiveEngine;
  readonly #transmit: TransmitEngine;

  constructor({ bus, wire, clock, mac, deviceId, onFault = () => {} }: Card82599Options) {
    const registers = this.#registers;
    this.#mac = mac;
    this.config = new ConfigSpace({ deviceId });
    this.config.onFunctionReset = () => this.reset();
    // A card that may not master the bus reaches nothing (PCI 3.0 §6.2.2), and sends no message.
    const mastered: HostBus = {
      read: (address, into) => this.config.busMaster && bus.read(address, into),
      write: (address, from) => this.config.busMaster && bus.write(address, from),
      writeWords: (address, words, last) => this.config.busMaster && bus.writeWords(address, words, last),
      interrupt: (vector) => {
        if (this.config.busMaster) bus.interrupt(vector);
      },
    };
    this.#interrupts = new Interrupts(registers, mastered, clock);
    const statistics = new Statistics(registers);
    this.#statistics = statistics;
    this.#link = new Link(registers, wire, this.#interrupts, clock);
    this.#link.onChange = () => {
      if (!this.#link.up) statistics.localFault();
      this.#macBlock.linkChanged();
    };
    this.#macBlock = new Mac({ registers, wire, link: this.#link, statistics, clock });
    new Eeprom(registers, mac);
    new Mdio(registers);
    new Semaphores(registers);
    this.#i2c = new I2cBus(registers);
    const general = new General(registers, this.#link, () => clock.now());
    general.onReset = () => this.#resetDevice();
    const host: EngineHost = {
      registers,
      bus: mastered,
      interrupts: this.#interrupts,
      statistics,
      mac: this.#macBlock,
      clock,
      onFault,
    };
    this.#receive = new ReceiveEngine(host);
    this.#transmit = new TransmitEngine(host);
    this.#receive.filters.load(mac);
  }

  /** Reads a register: 32 bits at a multiple of 4 below 512 KiB. */
  read(offset: number): number {
    return this.#registers.read(offset);
  }

  /** Writes a register. */
  write(offset: number, value: number): void {
    this.#registers.write(offset, value);
  }

  /** The function is reset from outside: as after power-on. */
  reset(): void {
    this.config.reset();
    this.#transmit.reset();
    this.#link.stop();
    this.#resetBlocks();
  }

  /** CTRL.RST (§4.2.1.7): everything but configuration space; the EEPROM is read again, and the link comes up anew. */
  #resetDevice(): void {
    // First: nobody is told that the link goes, for its cause is cleared with all others.
    this.#interrupts.reset();
    // Nor does a queue that waited for the MAC go on because of that.
    this.#transmit.reset();
    this.#link.restart();
    this.#resetBlocks();
  }

  #resetBlocks(): void {
    this.#registers.reset();
    this.#interrupts.reset();
    this.#statistics.reset();
    this.#macBlock.reset();
    this.#i2c.reset();
    this.#receive.reset();
    this.#transmit.reset();
    this.#receive.filters.load(this.#mac);
  }

  /** Switches it off: no light, no timers. */
  close(): void {
    this.#transmit.reset();
    this.#link.stop();
    this.#macBlock.reset();
    this.#interrupts.close();
  }
}
