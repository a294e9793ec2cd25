/**
 * Everything that TCP decides about what it has sent: what is lost, what is sent again and when, how much may be in flight.
 * No packet formats, no clock, no IO; one object for a connection that has something in flight, pooled.
 *
 *                    ┌───────── everything up to the recovery point acknowledged ─────────┐
 *                    ▼                                                                     │
 *     OPEN ── RACK finds loss ──► RECOVERY (PRR, RFC 9937) ──┬────────────────────────────┤
 *      └──── RTO ──► LOSS (slow start; F-RTO, RFC 5682) ─────┘── it was spurious ──► undone ┘
 *
 * The caller reports {@link Sender.sent}, {@link Sender.retransmitted}, {@link Sender.acknowledged}, and {@link Sender.tick}
 * when {@link Sender.deadline} has come; asks {@link Sender.nextLost}, {@link Sender.probe} and {@link Sender.allowance}.
 * Without SACK, duplicate ACKs stand for it (RFC 6582, RFC 3042). Hot: allocates nothing but longer records.
 */
import { MICROSECONDS_PER_SECOND, NEVER, type Random, type Time } from '../../network.ts';
import type { CongestionControlName } from '../api.ts';
import { after, atOrAfter, before, distance, plus } from '../sequence.ts';
import type { Acknowledgment } from './acknowledgment.ts';
import { Bbr } from './bbr.ts';
import { type CongestionControl, type Delivery, initialWindow, type Window } from './congestion-control.ts';
import { Cubic } from './cubic.ts';
import { NewReno } from './newreno.ts';
import { AGAIN, APP_LIMITED, LOST, NONE, Records, SACKED } from './records.ts';
import { MAX_RTO, RttEstimator } from './rtt-estimator.ts';

/** What outlives a Sender: a few numbers of the connection's row. µs and bytes; 0 means unknown. */
export interface SavedMetrics {
  srtt: number;
  rttvar: number;
  minRtt: number;
  cwnd: number;
  ssthresh: number;
}

export interface SenderOptions {
  congestion: CongestionControlName;
  pacing: boolean;
  /** Bytes of data in a full segment. */
  mss: number;
  /** SND.UNA and SND.NXT. */
  una: number;
  sack: boolean;
  timestamps: boolean;
  ecn: boolean;
  random: Random;
}

const OPEN = 0;
const RECOVERY = 1;
const LOSS = 2;

/** RFC 5681 §3.2: so many duplicate ACKs mean loss. RFC 8985 §6.2 step 4 has the same threshold for SACKed segments. */
const DUPLICATES = 3;
const MAX_SSTHRESH = 0x7fff_ffff;
/** RFC 8985 §7.2: the other side may delay its ACK so long. */
const MAX_ACK_DELAY = 40_000;
const MIN_PROBE_TIME = 2000;
/** RFC 8985 §6.2: the reordering window goes back after so many recoveries without reordering. */
const REORDERING_ROUNDS = 16;
const MAX_REORDERING_STEPS = 20;
/** The clock of timestamps ticks every ms: closer than this it cannot tell two sendings apart. */
const STAMP_TICKS = 2000;
const MAX_BURST = 65_535;
/** What leaves in one go when sending is paced: about a ms of it, as Linux's TSO autosizing. */
const BURST_TIME_SHARE = 1000;
const MIN_BURST_SEGMENTS = 2;
/** Timers are late by up to a tick: what could have left meanwhile leaves then. */
const PACE_CREDIT = 2000;
const BACKOFF_LIMIT = 16;
// Of the pace, what the window would fill in a round trip: Linux's tcp_pacing_ss_ratio and tcp_pacing_ca_ratio.
const SLOW_START_PACE = 2;
const AVOIDANCE_PACE = 1.2;

export class Sender {
  readonly records = new Records();
  readonly rtts = new RttEstimator();
  readonly window: Window = { mss: 0, cwnd: 0, ssthresh: 0 };
  una = 0;
  nxt = 0;
  /** The range that {@link nextLost} found. */
  lostSeq = 0;
  lostEnd = 0;
  /** A probe is due (TLP, RFC 8985 §7): new data, or the last segment again; then {@link probeSent}. */
  probe = false;
  /** New data is to carry CWR (RFC 3168 §6.1.2). */
  needsCwr = false;
  /** RTOs in a row, and how many there were at all. */
  backoffs = 0;
  timeouts = 0;
  /** Since when data waits for an ACK, or NEVER. */
  unansweredSince: Time = NEVER;
  retransmissions = 0;
  /** Segments found lost; and reductions that turned out to be wrong. */
  losses = 0;
  undos = 0;

  #control: CongestionControl | null = null;
  readonly #controls = new Map<CongestionControlName, CongestionControl>();
  #isPaced = false;
  #hasSack = false;
  #hasEcn = false;
  #state = OPEN;
  #recoveryPoint = 0;

  // Timers.
  #rtoAt: Time = NEVER;
  #probeAt: Time = NEVER;
  #reorderAt: Time = NEVER;
  /** Nothing may leave before; and whether somebody waits for it. */
  #paceAt: Time = 0;
  #isPaceAwaited = false;
  #lastSentAt: Time = 0;

  // RACK (RFC 8985 §5.2): of all that arrived, what was sent last.
  #rackSentAt: Time = -1;
  #rackEnd = 0;
  #rackRtt = 0;
  #fack = 0;
  #hasReordering = false;
  #reorderSteps = 1;
  #reorderRounds = 0;
  #dsackRoundEnd = 0;
  #hasDsackRound = false;

  // TLP.
  #probeEnd = 0;
  #isProbing = false;
  #probeIsAgain = false;

  // Without SACK.
  #duplicates = 0;

  // PRR.
  #prrDelivered = 0;
  #prrSent = 0;
  #prrFlight = 1;

  // Undo.
  #hasUndo = false;
  #undoCwnd = 0;
  #undoSsthresh = 0;
  /** Retransmissions since the reduction that no D-SACK has shown to be needless. */
  #undoAgain = 0;
  #firstAgainAt: Time = NEVER;

  // F-RTO: 0 off, 1 the first segment was sent again, 2 new data was sent.
  #frto = 0;
  #frtoNew = 0;

  // What the window was filled to (RFC 7661).
  #fullUntil = 0;
  #hasBeenFull = false;
  #mostInFlight = 0;

  /** ECN: one reduction a window. */
  #ecnUntil = 0;
  #hasEcnReduced = false;

  // Delivery rate (draft-cheng-iccrg-delivery-rate-estimation).
  #delivered = 0;
  #deliveredAt: Time = 0;
  #firstSentAt: Time = 0;
  #appLimitedUntil = 0;
  #rateSlotDelivered = -1;
  #rateSlotDeliveredAt: Time = 0;
  #rateSentAt: Time = 0;
  #rateFirstSentAt: Time = 0;
  #rateIsAppLimited = false;

  // Of the ACK at hand.
  #newlyDelivered = 0;
  #newlyLost = 0;
  #rttSample = -1;
  #origDelivered = false;

  readonly #delivery: Delivery = {
    bytes: 0,
    delivered: 0,
    priorDelivered: 0,
    priorInFlight: 0,
    inFlight: 0,
    rtt: -1,
    srtt: 0,
    minRtt: 0,
    rate: 0,
    isAppLimited: false,
    isWindowLimited: false,
    lost: 0,
    inRecovery: false,
    una: 0,
    nxt: 0,
  };

  // ---- life

  /** As new, for a connection whose numbers begin at `una`; `saved` is what the row knows from before. */
  reset(options: SenderOptions, now: Time, saved: SavedMetrics | null = null): void {
    const { window } = this;
    this.records.clear();
    this.rtts.reset(saved?.srtt ?? 0, saved?.rttvar ?? 0, saved?.minRtt ?? 0, now);
    window.mss = options.mss;
    // RFC 5681 §4.1: after idling no more than the restart window.
    const initial = initialWindow(options.mss);
    window.cwnd = saved !== null && saved.cwnd > 0 ? Math.min(saved.cwnd, initial) : initial;
    window.ssthresh = saved !== null && saved.ssthresh > 0 ? saved.ssthresh : MAX_SSTHRESH;
    this.una = options.una;
    this.nxt = options.una;
    this.probe = false;
    this.needsCwr = false;
    this.backoffs = 0;
    this.unansweredSince = NEVER;
    this.retransmissions = 0;
    this.losses = 0;
    this.undos = 0;
    this.#isPaced = options.pacing || options.congestion === 'bbr';
    this.#hasSack = options.sack;
    this.#hasEcn = options.ecn;
    this.#state = OPEN;
    this.#rtoAt = NEVER;
    this.#probeAt = NEVER;
    this.#reorderAt = NEVER;
    this.#paceAt = 0;
    this.#isPaceAwaited = false;
    this.#lastSentAt = now;
    this.#rackSentAt = -1;
    this.#rackEnd = options.una;
    this.#rackRtt = 0;
    this.#fack = options.una;
    this.#hasReordering = false;
    this.#reorderSteps = 1;
    this.#reorderRounds = 0;
    this.#hasDsackRound = false;
    this.#isProbing = false;
    this.#duplicates = 0;
    this.#hasUndo = false;
    this.#firstAgainAt = NEVER;
    this.#frto = 0;
    this.#hasBeenFull = false;
    this.#mostInFlight = 0;
    this.#fullUntil = options.una;
    this.#hasEcnReduced = false;
    this.#delivered = 0;
    this.#deliveredAt = now;
    this.#firstSentAt = now;
    this.#appLimitedUntil = 0;
    this.#control = this.#controlOf(options);
    this.#control.reset(window, now);
  }

  #controlOf({ congestion, random }: SenderOptions): CongestionControl {
    let control = this.#controls.get(congestion);
    if (control === undefined) {
      control = congestion === 'bbr' ? new Bbr(random) : congestion === 'newreno' ? new NewReno() : new Cubic();
      this.#controls.set(congestion, control);
    }
    return control;
  }

  /** Writes what a row keeps. */
  save(into: SavedMetrics): void {
    into.srtt = Math.round(this.rtts.srtt);
    into.rttvar = Math.round(this.rtts.rttvar);
    into.minRtt = Math.round(this.rtts.minRtt);
    into.cwnd = this.window.cwnd;
    into.ssthresh = this.window.ssthresh;
  }

  get cwnd(): number {
    return this.window.cwnd;
  }

  get ssthresh(): number {
    return this.window.ssthresh;
  }

  get srtt(): number {
    return this.rtts.srtt;
  }

  get rttvar(): number {
    return this.rtts.rttvar;
  }

  get minRtt(): number {
    return this.rtts.minRtt;
  }

  /** The retransmission time-out, backed off, in µs (RFC 6298 §5.5). */
  get rto(): number {
    return Math.min(MAX_RTO, this.rtts.rto * 2 ** Math.min(this.backoffs, BACKOFF_LIMIT));
  }

  get inFlight(): number {
    return this.records.inFlight;
  }

  /** Bytes per second; 0 when the window alone governs. */
  get pacingRate(): number {
    if (!this.#isPaced) return 0;
    const own = this.#control!.pacingRate;
    if (own > 0) return own;
    if (this.rtts.srtt === 0) return 0;
    const gain = this.window.cwnd < this.window.ssthresh / 2 ? SLOW_START_PACE : AVOIDANCE_PACE;
    return (gain * this.window.cwnd * MICROSECONDS_PER_SECOND) / this.rtts.srtt;
  }

  get deadline(): Time {
    const timers = Math.min(this.#rtoAt, this.#probeAt, this.#reorderAt);
    return this.#isPaceAwaited ? Math.min(timers, this.#paceAt) : timers;
  }

  // ---- what leaves

  /** Numbers `seq` … `end` - 1, which are SND.NXT and following, were sent; several segments at once are several records. */
  sent(seq: number, end: number, now: Time, isAppLimited: boolean): void {
    const { records, window } = this;
    if (records.count === 0) {
      this.unansweredSince = now;
      this.#firstSentAt = now;
      this.#deliveredAt = now;
    }
    const bytes = distance(end, seq);
    if (isAppLimited) this.#appLimitedUntil = this.#delivered + records.inFlight + bytes;
    for (let at = 0; at < bytes; at += window.mss) {
      const length = Math.min(window.mss, bytes - at);
      // FIN rides with the last segment.
      const isTail = bytes - at - length === 1;
      this.#record(plus(seq, at), isTail ? length + 1 : length, now);
      if (isTail) break;
    }
    this.nxt = end;
    this.#paid(bytes, now);
    if (this.#state === RECOVERY) this.#prrSent += bytes;
    if (this.#frtoNew > 0) this.#frtoNew = Math.max(0, this.#frtoNew - bytes);
    this.#noteFull(isAppLimited);
    if (this.#rtoAt === NEVER) this.#rtoAt = now + this.rto;
    this.#armProbe(now);
  }

  #record(seq: number, length: number, now: Time): void {
    const { records } = this;
    const slot = records.slot(records.push(seq, length, now));
    if (this.#appLimitedUntil > this.#delivered) records.flags[slot] = records.flags[slot]! | APP_LIMITED;
    records.delivered[slot] = this.#delivered;
    records.deliveredAt[slot] = this.#deliveredAt;
    records.firstSentAt[slot] = this.#firstSentAt;
  }

  /** Remembers whether the window is the limit: only then may it grow. */
  #noteFull(isAppLimited: boolean): void {
    const { window, records } = this;
    this.#mostInFlight = Math.max(this.#mostInFlight, records.inFlight);
    const isFull = !isAppLimited && records.inFlight + window.mss > window.cwnd;
    if (!isFull && !(records.inFlight >= window.cwnd)) return;
    this.#hasBeenFull = true;
    this.#fullUntil = this.nxt;
  }

  #paid(bytes: number, now: Time): void {
    this.#lastSentAt = now;
    const rate = this.pacingRate;
    if (rate > 0) this.#paceAt = Math.max(this.#paceAt, now - PACE_CREDIT) + (bytes * MICROSECONDS_PER_SECOND) / rate;
  }

  /** Numbers `seq` … `end` - 1 were sent again. */
  retransmitted(seq: number, end: number, now: Time): void {
    const { records } = this;
    for (let position = records.find(seq); position < records.end; position++) {
      const slot = records.slot(position);
      if (!before(records.seq[slot]!, end)) break;
      records.markSentAgain(position, now);
      records.delivered[slot] = this.#delivered;
      records.deliveredAt[slot] = this.#deliveredAt;
      records.firstSentAt[slot] = this.#firstSentAt;
      this.#undoAgain++;
      this.retransmissions++;
    }
    this.#firstAgainAt = Math.min(this.#firstAgainAt, now);
    if (this.#state === RECOVERY) this.#prrSent += distance(end, seq);
    this.#paid(distance(end, seq), now);
    if (this.#rtoAt === NEVER) this.#rtoAt = now + this.rto;
  }

  /** Bytes of new data that may leave now. */
  allowance(now: Time): number {
    const { records, window } = this;
    // The hole goes first; F-RTO wants to see what new data does (RFC 5682 §3.1 step 2b).
    if (this.#frto === 2) return this.#frtoNew;
    if (records.lostBytes > 0 && this.#state !== OPEN) return 0;
    // A duplicate ACK takes a segment out of what is in flight: that is limited transmit (RFC 3042), too.
    const room = window.cwnd - records.inFlight;
    if (room <= 0 || !this.#mayPace(now)) return 0;
    return room;
  }

  #mayPace(now: Time): boolean {
    this.#isPaceAwaited = this.#isPaced && this.#paceAt > now;
    return !this.#isPaceAwaited;
  }

  /** Bytes for one super-frame. */
  burst(_now: Time): number {
    const rate = this.pacingRate;
    if (rate === 0) return MAX_BURST;
    return Math.min(MAX_BURST, Math.max(rate / BURST_TIME_SHARE, MIN_BURST_SEGMENTS * this.window.mss));
  }

  /** Whether something lost may be sent again now: {@link lostSeq} … {@link lostEnd} - 1, a segment at the most. */
  nextLost(now: Time): boolean {
    const { records, window } = this;
    if (records.lostBytes === 0 || this.#frto === 2) return false;
    // The first one always goes: that is the time-out's, and fast retransmit's.
    const isFirst = this.#state === RECOVERY ? this.#prrSent === 0 : records.inFlight === 0;
    if (!isFirst && (records.inFlight + window.mss > window.cwnd || !this.#mayPace(now))) return false;
    for (let position = this.#lostFrom(); position < records.end; position++) {
      if (!records.has(position, LOST)) continue;
      const slot = records.slot(position);
      this.#lostHint = position;
      this.lostSeq = records.seq[slot]!;
      this.lostEnd = plus(this.lostSeq, records.length[slot]!);
      return true;
    }
    return false;
  }

  /** Nothing before is LOST. */
  #lostHint = 0;

  #lostFrom(): number {
    return Math.max(this.#lostHint, this.records.first);
  }

  // ---- TLP, RFC 8985 §7

  #armProbe(now: Time): void {
    const { records, rtts } = this;
    this.#probeAt = NEVER;
    if (!this.#hasSack || this.#state !== OPEN || this.#isProbing || records.sackedBytes > 0 || records.count === 0)
      return;
    if (rtts.srtt === 0) return;
    let time = 2 * rtts.srtt;
    if (records.count === 1) time += MAX_ACK_DELAY;
    const at = now + Math.max(MIN_PROBE_TIME, time);
    if (at < this.#rtoAt) this.#probeAt = at;
  }

  /** The probe that {@link probe} asked for has left: new data, or something again. */
  probeSent(now: Time, isNew: boolean): void {
    this.probe = false;
    this.#isProbing = true;
    this.#probeIsAgain = !isNew;
    this.#probeEnd = this.nxt;
    this.#probeAt = NEVER;
    // §7.3: then it is the time-out's turn.
    this.#rtoAt = now + this.rto;
  }

  // ---- ACKs

  /** An ACK between SND.UNA - MAX.SND.WND and SND.NXT. */
  acknowledged(ack: Acknowledgment, now: Time): void {
    const { records, rtts, window } = this;
    if (after(ack.una, this.nxt)) return;
    const priorUna = this.una;
    const priorInFlight = records.inFlight;
    const advance = distance(ack.una, priorUna);
    this.#newlyDelivered = 0;
    this.#newlyLost = 0;
    this.#rttSample = -1;
    this.#origDelivered = false;
    this.#rateSlotDelivered = -1;
    if (ack.dsack) this.#noteDsack(ack);
    if (advance > 0) this.#takeUna(ack.una, ack, now);
    if (this.#hasSack) this.#takeSack(ack, now);
    else if (advance === 0 && !ack.hasData && !ack.windowChanged && records.count > 0) this.#duplicate();
    else if (advance > 0) this.#duplicates = 0;
    if (this.#rttSample >= 0) rtts.sample(this.#rttSample, now);
    else if (advance > 0 && ack.rtt >= 0 && this.#newlyDelivered > 0) rtts.sample(ack.rtt, now);
    if (advance > 0) {
      this.backoffs = 0;
      this.unansweredSince = records.count > 0 ? now : NEVER;
      this.#rtoAt = records.count > 0 ? now + this.rto : NEVER;
      this.probe = false;
    }
    if (this.#newlyDelivered > 0) {
      this.#delivered += this.#newlyDelivered;
      this.#deliveredAt = now;
      if (this.#delivered > this.#appLimitedUntil) this.#appLimitedUntil = 0;
    }
    if (this.#isProbing) this.#endProbe(ack, now);
    if (ack.ece && this.#hasEcn) this.#reduceForEcn(now);
    this.#detectLoss(now);
    this.#walk(ack, advance, now);
    this.#control!.delivered(window, this.#describe(priorInFlight, advance > 0, now), now);
    if (this.#state === RECOVERY && !this.#control!.governsRecovery) this.#applyPrr(advance > 0);
    if (this.#hasBeenFull && atOrAfter(this.una, this.#fullUntil)) {
      this.#hasBeenFull = false;
      this.#mostInFlight = records.inFlight;
    }
    if (advance > 0 || this.#newlyDelivered > 0) this.#armProbe(now);
  }

  /** SND.UNA moves on: records go. */
  #takeUna(una: number, ack: Acknowledgment, now: Time): void {
    const { records } = this;
    this.una = una;
    while (records.count > 0) {
      const position = records.first;
      const slot = records.slot(position);
      if (records.endsBy(position, una)) {
        if ((records.flags[slot]! & SACKED) === 0) this.#deliver(slot, ack, now);
        records.shift();
        continue;
      }
      const part = distance(una, records.seq[slot]!);
      if (part > 0) {
        if ((records.flags[slot]! & SACKED) === 0) this.#newlyDelivered += part;
        records.trim(part);
      }
      break;
    }
    if (before(this.#fack, una)) this.#fack = una;
    if (this.#lostHint < records.first) this.#lostHint = records.first;
  }

  /** A record has arrived, and it is told for the first time. */
  #deliver(slot: number, ack: Acknowledgment, now: Time): void {
    const { records, rtts } = this;
    const flags = records.flags[slot]!;
    const sentAt = records.sentAt[slot]!;
    const rtt = now - sentAt;
    this.#newlyDelivered += records.length[slot]!;
    const isAgain = (flags & AGAIN) !== 0;
    if (!isAgain) {
      // Karn: of segments that were sent once.
      this.#rttSample = rtt;
      this.#origDelivered = true;
    }
    this.#noteRate(slot, sentAt);
    // RFC 8985 §6.2 step 2: of a segment sent again, only when the ACK cannot be for the first sending.
    if (isAgain) {
      if (ack.rtt >= 0 && now - ack.rtt + STAMP_TICKS < sentAt) return;
      if (rtt < rtts.minRtt) return;
    } else if (before(records.seq[slot]!, this.#fack)) this.#hasReordering = true;
    const end = plus(records.seq[slot]!, records.length[slot]!);
    if (!isAgain && after(end, this.#fack)) this.#fack = end;
    if (sentAt > this.#rackSentAt || (sentAt === this.#rackSentAt && after(end, this.#rackEnd))) {
      this.#rackSentAt = sentAt;
      this.#rackEnd = end;
      this.#rackRtt = rtt;
    }
  }

  #takeSack(ack: Acknowledgment, now: Time): void {
    const { records } = this;
    for (let i = ack.dsack ? 1 : 0; i < ack.sackCount; i++) {
      const start = ack.sackStart[i]!;
      const end = ack.sackEnd[i]!;
      // What was never sent, or lies backwards, is nobody's.
      if (!before(start, end) || before(start, this.una) || after(end, this.nxt)) continue;
      for (let position = records.find(start); position < records.end; position++) {
        if (!records.endsBy(position, end)) break;
        if (records.has(position, SACKED)) continue;
        const slot = records.slot(position);
        this.#deliver(slot, ack, now);
        records.markSacked(position);
      }
    }
  }

  /** RFC 2883: something arrived twice. A sending was needless; and RACK waits longer for what is late (RFC 8985 §6.2). */
  #noteDsack(ack: Acknowledgment): void {
    if (this.#hasUndo && this.#undoAgain > 0) this.#undoAgain--;
    if (this.#isProbing && this.#probeIsAgain && ack.sackEnd[0] === this.#probeEnd) this.#probeIsAgain = false;
    if (this.#hasDsackRound && before(this.una, this.#dsackRoundEnd)) return;
    this.#hasDsackRound = true;
    this.#dsackRoundEnd = this.nxt;
    this.#reorderSteps = Math.min(this.#reorderSteps + 1, MAX_REORDERING_STEPS);
    this.#reorderRounds = REORDERING_ROUNDS;
  }

  /** Without SACK a duplicate ACK says that one segment has left the path. */
  #duplicate(): void {
    const { records } = this;
    this.#duplicates++;
    // The one that was sent last of those that are not counted yet: which does not matter.
    for (let position = records.end - 1; position > records.first; position--) {
      if (records.has(position, SACKED | LOST)) continue;
      this.#newlyDelivered += records.length[records.slot(position)]!;
      records.markSacked(position);
      return;
    }
  }

  // ---- loss

  #detectLoss(now: Time): void {
    this.#reorderAt = NEVER;
    if (!this.#hasSack) {
      this.#detectByDuplicates();
      return;
    }
    if (this.#rackSentAt < 0) return;
    this.#detectByRack(now);
  }

  /** RFC 6582 §3.2: three duplicates, and then every partial ACK, say that the first segment is lost. */
  #detectByDuplicates(): void {
    const { records } = this;
    if (records.count === 0 || this.#state === LOSS) return;
    const first = records.first;
    const isPartial = this.#state === RECOVERY && this.#newlyDelivered > 0 && this.#duplicates === 0;
    if (!isPartial && this.#duplicates < DUPLICATES) return;
    if (records.has(first, SACKED | LOST)) return;
    if (!isPartial && (this.#state === RECOVERY || records.has(first, AGAIN))) return;
    this.#markLost(first);
  }

  /** RFC 8985 §6.2 step 5. */
  #detectByRack(now: Time): void {
    const { records } = this;
    const window = this.#reorderingWindow();
    let position = records.oldest;
    while (position !== NONE) {
      const slot = records.slot(position);
      const sentAt = records.sentAt[slot]!;
      const end = plus(records.seq[slot]!, records.length[slot]!);
      if (sentAt > this.#rackSentAt || (sentAt === this.#rackSentAt && !before(end, this.#rackEnd))) break;
      const next = records.newer(position);
      const lostAt = sentAt + this.#rackRtt + window;
      if (lostAt <= now) this.#markLost(position);
      else this.#reorderAt = Math.min(this.#reorderAt, lostAt);
      position = next;
    }
  }

  #reorderingWindow(): number {
    const { records, rtts, window } = this;
    if (!this.#hasReordering) {
      if (this.#state !== OPEN) return 0;
      if (records.sackedBytes >= DUPLICATES * window.mss) return 0;
    }
    return Math.min((this.#reorderSteps * rtts.minRtt) / 4, rtts.srtt);
  }

  #markLost(position: number): void {
    const { records } = this;
    if (records.has(position, LOST | SACKED)) return;
    this.#newlyLost += records.length[records.slot(position)]!;
    this.losses++;
    records.markLost(position);
    if (position < this.#lostHint) this.#lostHint = position;
  }

  // ---- states

  #walk(ack: Acknowledgment, advance: number, now: Time): void {
    // D-SACK may come when all is repaired.
    const mayUndo = (this.#state !== OPEN && advance > 0) || ack.dsack;
    if (mayUndo && this.#isSpurious(ack, now)) this.#undo(now);
    if (this.#state === LOSS && this.#frto !== 0 && !this.#proceedFrto(advance, now)) return;
    if (this.#state !== OPEN && atOrAfter(this.una, this.#recoveryPoint)) this.#endRecovery();
    if (this.#state !== RECOVERY && this.records.lostBytes > 0 && this.#state !== LOSS) this.#enterRecovery(now);
  }

  #enterRecovery(now: Time): void {
    const { window, records } = this;
    const flight = records.inFlight + records.lostBytes;
    this.#rememberForUndo();
    this.#reduce(flight, now);
    this.#state = RECOVERY;
    this.#recoveryPoint = this.nxt;
    this.#prrDelivered = 0;
    this.#prrSent = 0;
    this.#prrFlight = Math.max(flight, window.mss);
    this.#probeAt = NEVER;
    this.probe = false;
  }

  #reduce(flight: number, now: Time): void {
    this.#control!.congested(this.window, flight, now);
    if (this.#hasEcn) {
      this.needsCwr = true;
      this.#hasEcnReduced = true;
      this.#ecnUntil = this.nxt;
    }
  }

  #rememberForUndo(): void {
    const { window } = this;
    this.#hasUndo = true;
    this.#undoCwnd = window.cwnd;
    this.#undoSsthresh = window.ssthresh;
    this.#undoAgain = 0;
    this.#firstAgainAt = NEVER;
  }

  #endRecovery(): void {
    const { window } = this;
    if (this.#state === RECOVERY && !this.#control!.governsRecovery) {
      window.cwnd = Math.max(2 * window.mss, Math.min(window.cwnd, window.ssthresh));
      // PRR ends at ssthresh; with little in flight there must be no burst, and none is: cwnd is only a bound.
      if (window.ssthresh < MAX_SSTHRESH) window.cwnd = Math.max(window.cwnd, window.ssthresh);
    }
    this.#state = OPEN;
    this.#frto = 0;
    this.#duplicates = 0;
    if (this.#reorderRounds > 0 && --this.#reorderRounds === 0) this.#reorderSteps = 1;
  }

  /** RFC 9937 §6: sends in proportion to what is delivered, and gets to ssthresh by the end. */
  #applyPrr(isAdvance: boolean): void {
    const { window, records } = this;
    if (this.#newlyDelivered === 0 && this.#prrSent > 0) return;
    this.#prrDelivered += this.#newlyDelivered;
    const { inFlight } = records;
    let count: number;
    if (inFlight > window.ssthresh) {
      count = Math.ceil((this.#prrDelivered * window.ssthresh) / this.#prrFlight) - this.#prrSent;
    } else {
      let limit = Math.max(this.#prrDelivered - this.#prrSent, this.#newlyDelivered);
      // Nothing new is lost and the hole is filling: as slow start.
      if (isAdvance && this.#newlyLost === 0) limit += window.mss;
      count = Math.min(window.ssthresh - inFlight, limit);
    }
    // The first retransmission goes in any case.
    count = Math.max(count, this.#prrSent === 0 ? window.mss : 0);
    window.cwnd = Math.max(window.mss, inFlight + count);
  }

  /** ECN-Echo: as loss, without anything to send again, once a window (RFC 3168 §6.1.2). */
  #reduceForEcn(now: Time): void {
    if (this.#state !== OPEN || (this.#hasEcnReduced && before(this.una, this.#ecnUntil))) return;
    this.#hasUndo = false;
    this.#reduce(this.records.inFlight, now);
    const { window } = this;
    if (!this.#control!.governsRecovery) window.cwnd = Math.max(window.mss, Math.min(window.cwnd, window.ssthresh));
  }

  /** CWR has left. */
  cwrSent(): void {
    this.needsCwr = false;
  }

  // ---- undo

  /** All retransmissions were needless (RFC 3708), or the ACK is for the first sending (Eifel, RFC 3522). */
  #isSpurious(ack: Acknowledgment, now: Time): boolean {
    if (!this.#hasUndo || this.#firstAgainAt === NEVER) return false;
    if (this.#undoAgain === 0) return true;
    return ack.rtt >= 0 && now - ack.rtt + STAMP_TICKS < this.#firstAgainAt;
  }

  #undo(now: Time): void {
    const { window, records } = this;
    this.#hasUndo = false;
    this.undos++;
    window.cwnd = Math.max(window.cwnd, this.#undoCwnd);
    window.ssthresh = Math.max(window.ssthresh, this.#undoSsthresh);
    this.#control!.undone(window, now);
    for (let position = records.first; position < records.end; position++) {
      if (records.has(position, LOST)) records.markNotLost(position);
    }
    this.needsCwr = false;
    this.#state = OPEN;
    this.#frto = 0;
  }

  // ---- time

  /** Some deadline has come. */
  tick(now: Time): void {
    if (this.#isPaceAwaited && this.#paceAt <= now) this.#isPaceAwaited = false;
    if (this.#reorderAt <= now) {
      this.#newlyLost = 0;
      this.#newlyDelivered = 0;
      this.#detectLoss(now);
      if (this.records.lostBytes > 0 && this.#state === OPEN) {
        this.#enterRecovery(now);
        if (!this.#control!.governsRecovery) this.#applyPrr(false);
      }
    }
    if (this.#probeAt <= now) {
      this.#probeAt = NEVER;
      this.probe = true;
      // Should nobody send it.
      this.#rtoAt = Math.max(this.#rtoAt, now);
    }
    if (this.#rtoAt <= now) this.#timeOut(now);
  }

  /** RFC 6298 §5.4 to 5.6, RFC 5681 §3.1 equation 4: everything is lost until the opposite shows. */
  #timeOut(now: Time): void {
    const { records, window } = this;
    if (records.count === 0) {
      this.#rtoAt = NEVER;
      return;
    }
    this.timeouts++;
    const isFirst = this.#state !== LOSS;
    if (isFirst || this.#frto === 0) {
      if (isFirst) {
        this.#rememberForUndo();
        this.#reduce(records.inFlight + records.lostBytes, now);
      }
    }
    this.#control!.timedOut(window, now);
    // RFC 2018 §8: the first one was SACKed and is still there: the other side has thrown it away.
    const isReneged = records.has(records.first, SACKED);
    for (let position = records.first; position < records.end; position++) {
      if (records.has(position, SACKED)) {
        if (isReneged || !this.#hasSack) records.forgetSack(position);
      } else if (!records.has(position, LOST)) this.#markLost(position);
    }
    this.#lostHint = records.first;
    window.cwnd = window.mss;
    this.#state = LOSS;
    this.#recoveryPoint = this.nxt;
    this.#duplicates = 0;
    this.#isProbing = false;
    this.probe = false;
    this.#probeAt = NEVER;
    this.#reorderAt = NEVER;
    // RFC 5682 §3.1: not when it is the second time-out for the same segment.
    this.#frto = this.#hasSack && isFirst ? 1 : 0;
    this.#frtoNew = 0;
    this.backoffs++;
    this.#rtoAt = now + this.rto;
  }

  /** RFC 5682 §3.1 steps 2 and 3. False: nothing else is to be done with this ACK. */
  #proceedFrto(advance: number, now: Time): boolean {
    if (this.#frto === 1) {
      if (advance > 0 && this.#origDelivered && !this.records.has(this.records.first, AGAIN)) {
        // More than what was sent again has arrived: it had been on its way all the time.
        this.#undo(now);
        return true;
      }
      if (advance <= 0 || atOrAfter(this.una, this.#recoveryPoint)) {
        this.#frto = 0;
        return true;
      }
      // Step 2b: two new segments, and see.
      this.#frto = 2;
      this.#frtoNew = 2 * this.window.mss;
      return false;
    }
    if (advance > 0 && this.#origDelivered) {
      this.#undo(now);
      return true;
    }
    this.#frto = 0;
    return true;
  }

  /** RFC 8985 §7.4: was the segment that the probe repeated lost? Then it was congestion. */
  #endProbe(ack: Acknowledgment, now: Time): void {
    if (before(ack.una, this.#probeEnd)) return;
    this.#isProbing = false;
    if (!this.#probeIsAgain) return;
    // Acknowledged, and nobody got it twice: the probe has repaired a loss.
    if (this.#state !== OPEN) return;
    this.#hasUndo = false;
    this.#reduce(this.records.inFlight, now);
    const { window } = this;
    if (!this.#control!.governsRecovery) window.cwnd = Math.max(window.mss, Math.min(window.cwnd, window.ssthresh));
  }

  // ---- for the control

  #noteRate(slot: number, sentAt: Time): void {
    const { records } = this;
    if (records.delivered[slot]! < this.#rateSlotDelivered) return;
    this.#rateSlotDelivered = records.delivered[slot]!;
    this.#rateSlotDeliveredAt = records.deliveredAt[slot]!;
    this.#rateSentAt = sentAt;
    this.#rateFirstSentAt = records.firstSentAt[slot]!;
    this.#rateIsAppLimited = (records.flags[slot]! & APP_LIMITED) !== 0;
    this.#firstSentAt = sentAt;
  }

  #describe(priorInFlight: number, isAdvance: boolean, now: Time): Delivery {
    const { records, rtts, window } = this;
    const delivery = this.#delivery;
    delivery.bytes = this.#newlyDelivered;
    delivery.delivered = this.#delivered;
    delivery.priorInFlight = priorInFlight;
    delivery.inFlight = records.inFlight;
    delivery.rtt = this.#rttSample;
    delivery.srtt = rtts.srtt;
    delivery.minRtt = rtts.minRtt;
    delivery.lost = this.#newlyLost;
    delivery.inRecovery = this.#state === RECOVERY;
    delivery.una = this.una;
    delivery.nxt = this.nxt;
    // In slow start the window may grow to twice of what was in use.
    const isSlowStart = window.cwnd < window.ssthresh;
    // And only with new data acknowledged: a duplicate ACK makes room, and no more (RFC 5681 §3.2).
    delivery.isWindowLimited =
      isAdvance && (this.#hasBeenFull || this.#state === LOSS || (isSlowStart && window.cwnd < 2 * this.#mostInFlight));
    delivery.rate = 0;
    delivery.priorDelivered = this.#rateSlotDelivered;
    delivery.isAppLimited = this.#rateIsAppLimited;
    if (this.#rateSlotDelivered >= 0) {
      const sending = this.#rateSentAt - this.#rateFirstSentAt;
      const acking = now - this.#rateSlotDeliveredAt;
      const interval = Math.max(sending, acking);
      // Shorter than any round trip: it says nothing.
      if (interval > 0 && interval >= rtts.minRtt) {
        delivery.rate = ((this.#delivered - this.#rateSlotDelivered) * MICROSECONDS_PER_SECOND) / interval;
      }
    }
    return delivery;
  }

  /** Segments must be smaller from now on: what is in flight is lost, and goes again in smaller ones (RFC 1191 §6.4). */
  shrinkMss(mss: number, now: Time): void {
    const { records, window } = this;
    if (mss >= window.mss) return;
    window.mss = mss;
    records.recut(mss);
    this.#lostHint = records.first;
    if (records.count === 0) return;
    for (let position = records.first; position < records.end; position++) {
      if (!records.has(position, SACKED | LOST)) records.markLost(position);
    }
    // No congestion: the window stays what it is.
    if (this.#state === OPEN) {
      this.#state = LOSS;
      this.#recoveryPoint = this.nxt;
      this.#frto = 0;
    }
    this.#rtoAt = now + this.rto;
  }

  /** Segments may be larger again; what is in flight stays as it is. */
  growMss(mss: number): void {
    const { window } = this;
    if (mss <= window.mss) return;
    window.cwnd = Math.max(window.cwnd, 2 * mss);
    window.mss = mss;
  }

  /** Longer than a time-out nothing was sent (RFC 5681 §4.1): called before something is. */
  wakeFromIdle(now: Time): void {
    const { window, records } = this;
    if (records.count > 0 || now - this.#lastSentAt <= this.rto) return;
    this.#control!.idled(window, now);
    if (this.#control!.governsRecovery) return;
    window.cwnd = Math.min(window.cwnd, initialWindow(window.mss));
  }
}
