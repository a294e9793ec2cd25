/**
 * Ordering of memory between processors, where an Atomics.store would do more than is needed: each of them waits for its own
 * cache line, one after the other.
 */
const word = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));

/**
 * What this thread has stored is visible to every processor before anything that it stores from now on. x86-64 keeps stores
 * in order by itself; what remains is the compiler, which moves nothing over an Atomics operation.
 */
export function releaseFence(): void {
  Atomics.load(word, 0);
}

/** What this thread has stored is visible to every processor before it loads anything from now on. */
export function fullFence(): void {
  Atomics.exchange(word, 0, 0);
}
