/** Impairments for tests: what is not given does nothing. */
import { DEFAULT_IMPAIRMENT_LIMIT, type Impairment } from '../../switch/impairment.ts';

export function impairment(given: Partial<Impairment> = {}): Impairment {
  return {
    loss: 0,
    duplicate: 0,
    corrupt: 0,
    reorder: 0,
    delayMs: 0,
    jitterMs: 0,
    bitsPerSecond: 0,
    limit: DEFAULT_IMPAIRMENT_LIMIT,
    seed: 1,
    ...given,
  };
}
