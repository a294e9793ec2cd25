/** The time of this process. */
import type { Clock } from './clock.ts';

const US_PER_MS = 1000;

export const systemClock: Clock = {
  now: () => performance.now() * US_PER_MS,
  after: (us, callback) => {
    // Timers count in ms. What is shorter fires as soon as the event loop has been round once.
    if (us < US_PER_MS) {
      const immediate = setImmediate(callback);
      return () => clearImmediate(immediate);
    }
    const timer = setTimeout(callback, us / US_PER_MS);
    return () => clearTimeout(timer);
  },
};
