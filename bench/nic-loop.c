/*
 * What bench/nic.ts compares the driver's rings with: the same work on the same rings, in C, written as one would there. And
 * the stub that plays the card for both of them. Datasheet §7.1.6, §7.2.3.
 */
#include <stdint.h>
#include <time.h>
#include <x86intrin.h>

struct ring_words {
  uint32_t word[4];
};

struct rings {
  struct ring_words *rx, *tx;
  uint8_t *buffers;
  volatile uint32_t *rdt, *tdt;
  /* Where the card sees buffer 0. */
  uint64_t bus;
  uint32_t count, frame_bytes;
  /* The card's. */
  uint32_t rdh, tdh;
  /* The driver's: released, looked at, posted and taken back, counted on for ever. */
  uint32_t first, scan, next, done;
  /* Descriptors that ask for a write-back, oldest first. */
  uint32_t mark[4096], mark_first, mark_count;
};

enum {
  BUFFER_BYTES = 2048,
  BUFFER_STRIDE = 2112,
  DD = 1,
  EOP = 2,
  RX_ERROR = 1 << 29,
  TX_EOP = 1 << 24,
  TX_IFCS = 1 << 25,
  TX_RS = 1 << 27,
  TX_DEXT = 1 << 29,
  TX_DATA = 3 << 20,
  TX_PAYLEN_SHIFT = 14,
  MARK_INTERVAL = 32,
  TOUCHED = 48,
};

static void offer(struct rings *r, uint32_t i) {
  const uint64_t address = r->bus + (uint64_t)i * BUFFER_STRIDE;
  r->rx[i].word[0] = (uint32_t)address;
  r->rx[i].word[1] = (uint32_t)(address >> 32);
  r->rx[i].word[2] = 0;
  r->rx[i].word[3] = 0;
}

/* The driver's start: all buffers but one are the card's. */
void ring_reset(struct rings *r) {
  r->rdh = r->tdh = r->first = r->scan = r->next = r->done = r->mark_first = r->mark_count = 0;
  for (uint32_t i = 0; i < r->count; i++) {
    offer(r, i);
    r->tx[i] = (struct ring_words){{0, 0, 0, 0}};
  }
  *r->rdt = r->count - 1;
  *r->tdt = 0;
}

/* The card: sends whatever is announced, and receives `frames` frames. Gives how many it had descriptors for. */
uint32_t stub(struct rings *r, uint32_t frames) {
  const uint32_t mask = r->count - 1;
  for (; r->tdh != *r->tdt; r->tdh = (r->tdh + 1) & mask) {
    if (r->tx[r->tdh].word[2] & TX_RS) r->tx[r->tdh].word[3] = DD;
  }
  uint32_t n = 0;
  for (; n < frames && r->rdh != *r->rdt; n++, r->rdh = (r->rdh + 1) & mask) {
    struct ring_words *d = &r->rx[r->rdh];
    d->word[0] = d->word[1] = 0;
    d->word[3] = r->frame_bytes;
    d->word[2] = DD | EOP;
  }
  return n;
}

static void reclaim(struct rings *r) {
  const uint32_t mask = r->count - 1;
  while (r->mark_count > 0) {
    const uint32_t mark = r->mark[r->mark_first & mask];
    if (!(__atomic_load_n(&r->tx[mark & mask].word[3], __ATOMIC_ACQUIRE) & DD)) break;
    r->done = mark + 1;
    r->mark_first++;
    r->mark_count--;
  }
}

static void set_mark(struct rings *r) {
  const uint32_t mask = r->count - 1;
  r->tx[(r->next - 1) & mask].word[2] |= TX_RS;
  r->mark[(r->mark_first + r->mark_count++) & mask] = r->next - 1;
}

/* One batch: take back what was sent, give its buffers back, receive, touch, send. Gives how many frames there were. */
static uint32_t forward(struct rings *r, uint32_t batch) {
  const uint32_t mask = r->count - 1;
  reclaim(r);
  for (; r->first != r->done; r->first++) offer(r, r->first & mask);
  uint32_t since = 0, n = 0;
  for (; n < batch; n++) {
    const uint32_t i = r->scan & mask;
    const uint32_t status = __atomic_load_n(&r->rx[i].word[2], __ATOMIC_ACQUIRE);
    if ((status & (DD | EOP | RX_ERROR)) != (DD | EOP)) break;
    const uint32_t length = r->rx[i].word[3] & 0xffff;
    if (length > BUFFER_BYTES) break;
    r->buffers[(uint64_t)i * BUFFER_STRIDE + TOUCHED]++;
    const uint64_t address = r->bus + (uint64_t)i * BUFFER_STRIDE;
    struct ring_words *d = &r->tx[r->next & mask];
    d->word[0] = (uint32_t)address;
    d->word[1] = (uint32_t)(address >> 32);
    d->word[2] = length | TX_DATA | TX_EOP | TX_IFCS | TX_DEXT;
    d->word[3] = length << TX_PAYLEN_SHIFT;
    r->scan++;
    r->next++;
    if (++since == MARK_INTERVAL) {
      set_mark(r);
      since = 0;
    }
  }
  if (since > 0) set_mark(r);
  *r->rdt = (r->first + mask) & mask;
  if (n > 0) *r->tdt = r->next & mask;
  return n;
}

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Runs `turns` times: the stub, untimed, then the driver until it finds nothing. Gives the driver's nanoseconds a frame. */
double run_c(struct rings *r, uint32_t turns, uint32_t burst, uint32_t batch) {
  double ns = 0;
  uint64_t frames = 0;
  for (uint32_t t = 0; t < turns; t++) {
    stub(r, burst);
    const double start = now_ns();
    for (uint32_t left = burst; left > 0;) {
      const uint32_t n = forward(r, batch);
      if (n == 0) break;
      frames += n;
      left -= n;
    }
    ns += now_ns() - start;
  }
  return frames == (uint64_t)turns * burst ? ns / frames : -1;
}

/* Ticks of the time stamp counter in a nanosecond. */
double ticks_per_ns(void) {
  const double start = now_ns();
  const uint64_t ticks = __rdtsc();
  while (now_ns() - start < 5e7) {
  }
  return (__rdtsc() - ticks) / (now_ns() - start);
}
