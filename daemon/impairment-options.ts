/**
 * An impairment in words: what `ringswitch port set`, the configuration and `show ports` call it.
 *
 *     --loss 1% --delay 20ms --jitter 5ms --rate 100mbit --seed 7        loss: 1%        "loss 1%, delay 20ms ±5ms, …"
 *
 * Units are those of tc(8), without the ones that mean bytes.
 */
import {
  DEFAULT_IMPAIRMENT_LIMIT,
  IMPAIRED_DIRECTIONS,
  type ImpairedDirection,
  type Impairment,
} from '../switch/impairment.ts';

const MS_BY_UNIT: Record<string, number> = { us: 1e-3, ms: 1, s: 1e3 };
const BITS_BY_UNIT: Record<string, number> = { bit: 1, kbit: 1e3, mbit: 1e6, gbit: 1e9 };
export const MAX_DELAY_MS = 60_000;
export const MIN_BITS_PER_SECOND = 1e3;
export const MAX_BITS_PER_SECOND = 1e12;
export const MAX_IMPAIRMENT_LIMIT = 100_000;
export const MAX_SEED = 0xffff_ffff;

const SHARE = 'a share of the frames such as 1% or 0.01%, from 0% to 100%';
const DURATION = 'a time such as 20ms, 500us or 1.5s, up to 60s';
const RATE = 'a rate such as 100mbit, 1.5gbit or 64kbit, from 1kbit to 1000gbit';
const LIMIT = `a number of frames from 1 to ${MAX_IMPAIRMENT_LIMIT}`;
const SEED = `a whole number from 0 to ${MAX_SEED}`;

export type ImpairmentWord =
  | 'loss'
  | 'delay'
  | 'jitter'
  | 'reorder'
  | 'duplicate'
  | 'corrupt'
  | 'rate'
  | 'limit'
  | 'seed';

/** One option: its argument's name and what that may be, what it does, and the field of the impairment that it sets. */
interface WordMeaning {
  argument: string;
  expected: string;
  help: string;
  field: keyof Impairment;
  parse: (text: string) => number | undefined;
}

export const IMPAIRMENT_WORDS: Record<ImpairmentWord, WordMeaning> = {
  loss: { argument: 'share', expected: SHARE, help: 'frames that are lost', field: 'loss', parse: parseShare },
  delay: { argument: 'time', expected: DURATION, help: 'what every frame is late', field: 'delayMs', parse: parseTime },
  jitter: {
    argument: 'time',
    expected: DURATION,
    help: 'by how much the delay varies at the most, up or down',
    field: 'jitterMs',
    parse: parseTime,
  },
  reorder: {
    argument: 'share',
    expected: SHARE,
    help: 'frames that go without delay, ahead of others',
    field: 'reorder',
    parse: parseShare,
  },
  duplicate: {
    argument: 'share',
    expected: SHARE,
    help: 'frames that come twice',
    field: 'duplicate',
    parse: parseShare,
  },
  corrupt: {
    argument: 'share',
    expected: SHARE,
    help: 'frames with one bit flipped behind the Ethernet header',
    field: 'corrupt',
    parse: parseShare,
  },
  rate: {
    argument: 'rate',
    expected: RATE,
    help: 'what the wire carries, with preamble, FCS and gap of each frame',
    field: 'bitsPerSecond',
    parse: parseRate,
  },
  limit: {
    argument: 'frames',
    expected: LIMIT,
    help: `frames that are held at the most, for each queue (default: ${DEFAULT_IMPAIRMENT_LIMIT})`,
    field: 'limit',
    parse: (text) => parseWhole(text, 1, MAX_IMPAIRMENT_LIMIT),
  },
  seed: {
    argument: 'number',
    expected: SEED,
    help: 'of the random numbers: with the same one a run repeats (default: a new one, which show ports tells)',
    field: 'seed',
    parse: (text) => parseWhole(text, 0, MAX_SEED),
  },
};
export const IMPAIRMENT_NAMES = Object.keys(IMPAIRMENT_WORDS) as ImpairmentWord[];
/** Those that impair anything by themselves. */
const EFFECTS = ['loss', 'delay', 'reorder', 'duplicate', 'corrupt', 'rate'] satisfies ImpairmentWord[];

/** One that is asked for: without a seed one is drawn. */
export type ImpairmentRequest = Omit<Impairment, 'seed'> & { seed?: number };
/** What shall change: null ends the impairment of a direction. */
export type ImpairmentRequests = { [Direction in ImpairedDirection]?: ImpairmentRequest | null };

/** What is not given does nothing. */
export const NO_IMPAIRMENT: ImpairmentRequest = {
  loss: 0,
  duplicate: 0,
  corrupt: 0,
  reorder: 0,
  delayMs: 0,
  jitterMs: 0,
  bitsPerSecond: 0,
  limit: DEFAULT_IMPAIRMENT_LIMIT,
};

/** Puts together what was parsed word by word. */
export function impairmentOf(values: { [Word in ImpairmentWord]?: number }): ImpairmentRequest {
  const request: ImpairmentRequest = { ...NO_IMPAIRMENT };
  for (const word of IMPAIRMENT_NAMES) {
    const value = values[word];
    if (value !== undefined) request[IMPAIRMENT_WORDS[word].field] = value;
  }
  return request;
}

/** What is wrong with values that are each right; null when nothing is. */
export function problemOf(request: ImpairmentRequest): string | null {
  const { delayMs, jitterMs, reorder } = request;
  if (jitterMs > delayMs) {
    const delay = delayMs === 0 ? 'there is no delay' : `the delay is ${formatTime(delayMs)}`;
    return `a jitter of ${formatTime(jitterMs)} is too much where ${delay}: no frame comes before it was sent`;
  }
  if (reorder > 0 && delayMs === 0) return 'reorder needs a delay: it is the frames without delay that overtake others';
  if (EFFECTS.every((word) => request[IMPAIRMENT_WORDS[word].field] === 0)) {
    return `it impairs nothing: give at least one of ${EFFECTS.join(', ')}`;
  }
  return null;
}

/** `1%` → 0.01; undefined for what is no share. */
export function parseShare(text: string): number | undefined {
  const found = /^(\d+(?:\.\d+)?)%$/.exec(text);
  if (!found) return undefined;
  const percent = Number(found[1]);
  return percent <= 100 ? exact(percent / 100) : undefined;
}

/** `20ms` → 20; undefined for what is no time, or too long a time. */
export function parseTime(text: string): number | undefined {
  const ms = parseQuantity(text, MS_BY_UNIT);
  return ms !== undefined && ms <= MAX_DELAY_MS ? ms : undefined;
}

/** `100mbit` → 1e8; undefined for what is no rate, or none that can be had. */
export function parseRate(text: string): number | undefined {
  const bits = parseQuantity(text, BITS_BY_UNIT);
  return bits !== undefined && bits >= MIN_BITS_PER_SECOND && bits <= MAX_BITS_PER_SECOND ? bits : undefined;
}

function parseQuantity(text: string, units: Record<string, number>): number | undefined {
  const found = /^(\d+(?:\.\d+)?)([a-z]+)$/i.exec(text);
  const factor = found && Object.hasOwn(units, found[2]!.toLowerCase()) ? units[found[2]!.toLowerCase()] : undefined;
  return factor === undefined ? undefined : exact(Number(found![1]) * factor);
}

function parseWhole(text: string, min: number, max: number): number | undefined {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  return value >= min && value <= max ? value : undefined;
}

/** Without what binary fractions add to decimal ones. */
const exact = (value: number): number => Number(value.toPrecision(12));

// ---- for people

/** As it may be written to `port set`: `loss 1%, delay 20ms ±5ms, rate 100mbit, limit 1000, seed 7`. */
export function formatImpairment(impairment: Impairment): string {
  const { loss, delayMs, jitterMs, reorder, duplicate, corrupt, bitsPerSecond, limit, seed } = impairment;
  const parts: string[] = [];
  if (loss > 0) parts.push(`loss ${formatShare(loss)}`);
  if (delayMs > 0) parts.push(`delay ${formatTime(delayMs)}${jitterMs > 0 ? ` ±${formatTime(jitterMs)}` : ''}`);
  if (reorder > 0) parts.push(`reorder ${formatShare(reorder)}`);
  if (duplicate > 0) parts.push(`duplicate ${formatShare(duplicate)}`);
  if (corrupt > 0) parts.push(`corrupt ${formatShare(corrupt)}`);
  if (bitsPerSecond > 0) parts.push(`rate ${formatRate(bitsPerSecond)}`);
  return [...parts, `limit ${limit}`, `seed ${seed}`].join(', ');
}

/** A line for each impaired direction, or one for both that are alike. */
export function formatImpairments(both: Record<ImpairedDirection, Impairment | null>): string[] {
  const texts = IMPAIRED_DIRECTIONS.map((direction) => both[direction] && formatImpairment(both[direction]));
  if (texts[0] !== null && texts[0] === texts[1]) return [`impaired in both directions: ${texts[0]}`];
  return IMPAIRED_DIRECTIONS.flatMap((direction, i) =>
    texts[i] === null ? [] : [`impaired ${direction} the port: ${texts[i]}`],
  );
}

const formatShare = (share: number): string => `${exact(share * 100)}%`;

function formatTime(ms: number): string {
  if (ms >= 1000) return `${exact(ms / 1000)}s`;
  return ms > 0 && ms < 1 ? `${exact(ms * 1000)}us` : `${exact(ms)}ms`;
}

function formatRate(bits: number): string {
  const unit = bits >= 1e9 ? 'gbit' : bits >= 1e6 ? 'mbit' : 'kbit';
  return `${exact(bits / BITS_BY_UNIT[unit]!)}${unit}`;
}
