/** Where a test's rings run: nowhere. */
import type { MemoryTable, RingBackend } from '../../vhost/vhost-device.ts';
import type { RingDescription } from '../../vhost/virtqueue.ts';

/** A lane that runs nothing and remembers everything. */
export class FakeRingBackend implements RingBackend {
  readonly calls: string[] = [];
  readonly started = new Map<number, RingDescription>();
  readonly running = new Set<number>();
  memory: MemoryTable | null = null;
  base = 0;
  /** What the next startRing or setMemory fails with. */
  failure: Error | null = null;

  #fail(): void {
    const { failure } = this;
    this.failure = null;
    if (failure) throw failure;
  }

  async startRing(index: number, memory: MemoryTable, ring: RingDescription): Promise<void> {
    this.calls.push(`start ${index}`);
    this.#fail();
    this.memory = memory;
    this.started.set(index, ring);
    this.running.add(index);
  }

  async stopRing(index: number): Promise<number> {
    this.calls.push(`stop ${index}`);
    this.started.delete(index);
    this.running.delete(index);
    return this.base;
  }

  async ringBase(index: number): Promise<number> {
    this.calls.push(`base ${index}`);
    return this.base;
  }

  async setMemory(memory: MemoryTable): Promise<void> {
    this.calls.push('memory');
    this.#fail();
    this.memory = memory;
  }

  async setRingFds(index: number, fds: { kick: number; call: number; err: number }): Promise<void> {
    this.calls.push(`fds ${index} ${fds.kick} ${fds.call} ${fds.err}`);
  }
}
