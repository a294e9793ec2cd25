/**
 * What connections were asked to be like. Few programs ask for much, so equal settings are kept once and a connection has
 * their number (16 bits).
 */
import { type CongestionControlName, type ConnectionOptions, TcpError } from './api.ts';

export interface Settings {
  readonly congestion: CongestionControlName;
  readonly keepAliveMs: number;
  readonly keepAliveIntervalMs: number;
  readonly keepAliveProbes: number;
  readonly userTimeoutMs: number;
  /** Bytes; 0: tuned by the stack. */
  readonly receiveBuffer: number;
  readonly sendBuffer: number;
  readonly trafficClass: number;
  readonly noDelay: boolean;
  readonly ecn: boolean | undefined;
  readonly pacing: boolean;
}

/** RFC 9293 §3.8.4 (MUST-28): two hours, which Linux has too, with nine probes 75 s apart. */
const KEEP_ALIVE_INTERVAL_MS = 75_000;
const KEEP_ALIVE_PROBES = 9;
const MAX_SETTINGS = 0x1_0000;
const MAX_BUFFER = 2 ** 30;
const MAX_MS = 2 ** 31;
/** What a traffic class has beside the two bits of ECN. */
const DSCP_BITS = 0xfc;

/** Reads options; throws TcpError EINVAL, naming the option. */
export function settingsOf(options: ConnectionOptions): Settings {
  const congestion = options.congestion ?? 'cubic';
  if (!['cubic', 'newreno', 'bbr'].includes(congestion)) {
    throw new TcpError('EINVAL', `congestion is ${JSON.stringify(congestion)}: cubic, newreno or bbr`);
  }
  return {
    congestion,
    keepAliveMs: whole('keepAliveMs', options.keepAliveMs ?? 0, MAX_MS),
    keepAliveIntervalMs: whole('keepAliveIntervalMs', options.keepAliveIntervalMs ?? KEEP_ALIVE_INTERVAL_MS, MAX_MS),
    keepAliveProbes: whole('keepAliveProbes', options.keepAliveProbes ?? KEEP_ALIVE_PROBES, 255),
    userTimeoutMs: whole('userTimeoutMs', options.userTimeoutMs ?? 0, MAX_MS),
    receiveBuffer: whole('receiveBuffer', options.receiveBuffer ?? 0, MAX_BUFFER),
    sendBuffer: whole('sendBuffer', options.sendBuffer ?? 0, MAX_BUFFER),
    trafficClass: whole('trafficClass', options.trafficClass ?? 0, 255) & DSCP_BITS,
    noDelay: options.noDelay === true,
    ecn: options.ecn,
    pacing: options.pacing === true,
  };
}

function whole(name: string, value: number, most: number): number {
  if (Number.isInteger(value) && value >= 0 && value <= most) return value;
  throw new TcpError('EINVAL', `${name} is ${value}: a whole number from 0 to ${most}`);
}

export class SettingsTable {
  readonly #rows: Settings[] = [];
  readonly #numbers = new Map<string, number>();
  readonly #plain: number;

  constructor() {
    this.#plain = this.intern(settingsOf({}));
  }

  get(number: number): Settings {
    return this.#rows[number]!;
  }

  /** The number of what is asked for. Throws what {@link settingsOf} and {@link intern} throw. */
  numberOf(options: ConnectionOptions): number {
    return asksForNothing(options) ? this.#plain : this.intern(settingsOf(options));
  }

  /** The number of these settings. Throws TcpError ENFILE beyond 65,536 different ones. */
  intern(settings: Settings): number {
    const key = JSON.stringify(settings);
    const known = this.#numbers.get(key);
    if (known !== undefined) return known;
    if (this.#rows.length === MAX_SETTINGS) {
      throw new TcpError(
        'ENFILE',
        `connections have ${MAX_SETTINGS} different settings already: use some of them again`,
      );
    }
    this.#numbers.set(key, this.#rows.length);
    return this.#rows.push(settings) - 1;
  }
}

/** What nearly all connections are like: not worth a look at each option. */
function asksForNothing(options: ConnectionOptions): boolean {
  return (
    options.congestion === undefined &&
    options.noDelay === undefined &&
    options.keepAliveMs === undefined &&
    options.keepAliveIntervalMs === undefined &&
    options.keepAliveProbes === undefined &&
    options.userTimeoutMs === undefined &&
    options.receiveBuffer === undefined &&
    options.sendBuffer === undefined &&
    options.trafficClass === undefined &&
    options.ecn === undefined &&
    options.pacing === undefined
  );
}
