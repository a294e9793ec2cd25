/**
 * BBR, version 1 (draft-cardwell-iccrg-bbr-congestion-control-00): a model of the path instead of a reaction to loss.
 *
 *     STARTUP ── rate grows no more ──► DRAIN ── queue is gone ──► PROBE_BW (eight phases a cycle) ◄──► PROBE_RTT
 *
 * Bottleneck bandwidth is the most that was delivered in ten rounds, the round trip the least of ten seconds.
 */
import { MICROSECONDS_PER_SECOND, type Random, type Time } from '../../network.ts';
import { type CongestionControl, type Delivery, initialWindow, type Window } from './congestion-control.ts';

const STARTUP = 0;
const DRAIN = 1;
const PROBE_BW = 2;
const PROBE_RTT = 3;

/** 2/ln(2), §4.2.1. */
const HIGH_GAIN = 2.885;
const CYCLE_GAINS = [1.25, 0.75, 1, 1, 1, 1, 1, 1];
const CWND_GAIN = 2;
/** Rounds over which the most counts. */
const BANDWIDTH_ROUNDS = 10;
const MIN_RTT_TIME = 10 * MICROSECONDS_PER_SECOND;
const PROBE_RTT_TIME = 200_000;
const PROBE_RTT_SEGMENTS = 4;
/** The pipe is full when three rounds did not bring a quarter more. */
const FULL_GROWTH = 1.25;
const FULL_ROUNDS = 3;
/** Sent a little slower than the path could bear, so that queues drain. */
const PACING_MARGIN = 0.99;
const NO_RTT = Number.POSITIVE_INFINITY;

export class Bbr implements CongestionControl {
  readonly name = 'bbr';
  readonly governsRecovery = true;
  pacingRate = 0;
  readonly #random: Random;
  #state = STARTUP;
  /** Most bytes a second of each of the last rounds, by round modulo their number. */
  readonly #rates = new Float64Array(BANDWIDTH_ROUNDS);
  #round = 0;
  #roundEnd = 0;
  #minRtt = NO_RTT;
  #minRttAt: Time = 0;
  #fullRate = 0;
  #fullRounds = 0;
  #isFull = false;
  #cycle = 0;
  #cycleAt: Time = 0;
  #probeRttUntil: Time = -1;
  #priorCwnd = 0;
  /** Packet conservation for the first round of a loss (§4.2.4). */
  #conserveUntil = -1;

  constructor(random: Random) {
    this.#random = random;
  }

  reset(window: Window, now: Time): void {
    this.#state = STARTUP;
    this.#rates.fill(0);
    this.#round = 0;
    this.#roundEnd = 0;
    this.#minRtt = NO_RTT;
    this.#minRttAt = now;
    this.#fullRate = 0;
    this.#fullRounds = 0;
    this.#isFull = false;
    this.#probeRttUntil = -1;
    this.#priorCwnd = 0;
    this.#conserveUntil = -1;
    // Nothing is known: the initial window in a millisecond.
    this.pacingRate = HIGH_GAIN * initialWindow(window.mss) * 1000;
  }

  get #bandwidth(): number {
    let most = 0;
    for (let i = 0; i < BANDWIDTH_ROUNDS; i++) most = Math.max(most, this.#rates[i]!);
    return most;
  }

  /** Bandwidth-delay product times a gain, with what offloads and delayed ACKs need. */
  #target(gain: number, window: Window): number {
    const bandwidth = this.#bandwidth;
    if (bandwidth === 0 || this.#minRtt === NO_RTT) return initialWindow(window.mss);
    return Math.ceil((gain * bandwidth * this.#minRtt) / MICROSECONDS_PER_SECOND) + 3 * window.mss;
  }

  delivered(window: Window, delivery: Delivery, now: Time): void {
    const isNewRound = delivery.priorDelivered >= this.#roundEnd;
    if (isNewRound) {
      this.#roundEnd = delivery.delivered;
      this.#round++;
      this.#rates[this.#round % BANDWIDTH_ROUNDS] = 0;
    }
    const { rate } = delivery;
    const at = this.#round % BANDWIDTH_ROUNDS;
    if (rate > 0 && (!delivery.isAppLimited || rate >= this.#bandwidth))
      this.#rates[at] = Math.max(this.#rates[at]!, rate);
    if (isNewRound && !this.#isFull && !delivery.isAppLimited) this.#lookWhetherFull();
    this.#walk(window, delivery, now);
    this.#noteRtt(window, delivery, now);
    this.#setWindow(window, delivery);
    this.#setRate(delivery);
  }

  #lookWhetherFull(): void {
    if (this.#bandwidth >= this.#fullRate * FULL_GROWTH) {
      this.#fullRate = this.#bandwidth;
      this.#fullRounds = 0;
    } else if (++this.#fullRounds >= FULL_ROUNDS) this.#isFull = true;
  }

  #walk(window: Window, delivery: Delivery, now: Time): void {
    if (this.#state === STARTUP && this.#isFull) this.#state = DRAIN;
    if (this.#state === DRAIN && delivery.inFlight <= this.#target(1, window)) this.#beginProbing(now);
    if (this.#state !== PROBE_BW) return;
    const gain = CYCLE_GAINS[this.#cycle]!;
    const isOver = now - this.#cycleAt > this.#minRtt;
    const target = this.#target(gain, window);
    if (
      gain > 1
        ? isOver && (delivery.lost > 0 || delivery.priorInFlight >= target)
        : isOver || (gain < 1 && delivery.priorInFlight <= this.#target(1, window))
    ) {
      this.#cycle = (this.#cycle + 1) % CYCLE_GAINS.length;
      this.#cycleAt = now;
    }
  }

  /** At a random phase, but not with the one that drains: so that flows do not probe together. */
  #beginProbing(now: Time): void {
    this.#state = PROBE_BW;
    this.#cycle = (CYCLE_GAINS.length - 1 - (this.#random() % (CYCLE_GAINS.length - 1)) + 1) % CYCLE_GAINS.length;
    this.#cycleAt = now;
  }

  #noteRtt(window: Window, delivery: Delivery, now: Time): void {
    const isOld = now > this.#minRttAt + MIN_RTT_TIME;
    if (delivery.rtt >= 0 && (delivery.rtt <= this.#minRtt || isOld)) {
      this.#minRtt = delivery.rtt;
      this.#minRttAt = now;
    }
    if (isOld && this.#state !== PROBE_RTT) {
      this.#state = PROBE_RTT;
      this.#priorCwnd = window.cwnd;
      this.#probeRttUntil = -1;
    }
    if (this.#state !== PROBE_RTT) return;
    const least = PROBE_RTT_SEGMENTS * window.mss;
    if (this.#probeRttUntil < 0 && delivery.inFlight <= least) this.#probeRttUntil = now + PROBE_RTT_TIME;
    else if (this.#probeRttUntil >= 0 && now >= this.#probeRttUntil) {
      this.#minRttAt = now;
      window.cwnd = Math.max(window.cwnd, this.#priorCwnd);
      if (this.#isFull) this.#beginProbing(now);
      else this.#state = STARTUP;
    }
  }

  #setWindow(window: Window, delivery: Delivery): void {
    const least = PROBE_RTT_SEGMENTS * window.mss;
    if (this.#state === PROBE_RTT) {
      window.cwnd = Math.min(window.cwnd, least);
      return;
    }
    if (this.#conserveUntil >= 0) {
      if (delivery.priorDelivered >= this.#conserveUntil) {
        this.#conserveUntil = -1;
        window.cwnd = Math.max(window.cwnd, this.#priorCwnd);
      } else {
        window.cwnd = Math.max(window.cwnd, delivery.inFlight + delivery.bytes);
        return;
      }
    }
    const target = this.#target(this.#state === PROBE_BW ? CWND_GAIN : HIGH_GAIN, window);
    if (this.#isFull) window.cwnd = Math.min(window.cwnd + delivery.bytes, target);
    else if (window.cwnd < target || delivery.delivered < initialWindow(window.mss)) window.cwnd += delivery.bytes;
    window.cwnd = Math.max(window.cwnd, least);
  }

  #setRate(delivery: Delivery): void {
    const bandwidth = this.#bandwidth;
    if (bandwidth === 0) {
      if (delivery.srtt > 0 && this.#round <= 1) return;
      return;
    }
    const gain =
      this.#state === STARTUP
        ? HIGH_GAIN
        : this.#state === DRAIN
          ? 1 / HIGH_GAIN
          : this.#state === PROBE_BW
            ? CYCLE_GAINS[this.#cycle]!
            : 1;
    const rate = gain * bandwidth * PACING_MARGIN;
    if (this.#isFull || rate > this.pacingRate) this.pacingRate = rate;
  }

  /** Loss says nothing about the rate; but the first round sends only what has left the path. */
  congested(window: Window, inFlight: number, _now: Time): void {
    this.#priorCwnd = Math.max(this.#conserveUntil >= 0 ? this.#priorCwnd : 0, window.cwnd);
    this.#conserveUntil = this.#roundEnd;
    window.cwnd = Math.max(inFlight + window.mss, 2 * window.mss);
  }

  timedOut(window: Window): void {
    this.#priorCwnd = Math.max(this.#priorCwnd, window.cwnd);
  }

  undone(window: Window): void {
    window.cwnd = Math.max(window.cwnd, this.#priorCwnd);
    this.#conserveUntil = -1;
  }

  idled(): void {
    this.#minRttAt = Math.max(this.#minRttAt, 0);
  }
}
