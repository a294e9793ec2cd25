import assert from 'node:assert/strict';
import { memcpy } from '../../linux/mman.ts';
import { memoryAreas } from '../../linux/process.ts';
import { pages, SharedBuffer } from '../../memory/shared-buffer.ts';

describe('SharedBuffer', () => {
  it('rounds up to whole pages', () => {
    assert.deepEqual([0, 1, 4095, 4096, 4097].map(pages), [0, 4096, 4096, 4096, 8192]);
    const buffer = new SharedBuffer(5000);
    assert.equal(buffer.length, 8192);
    assert.equal(buffer.bytes.byteLength, 8192);
    buffer.free();
  });

  it('is zeroed memory at its address', () => {
    const buffer = new SharedBuffer(4096);
    const bytes = new Uint8Array(buffer.bytes);
    assert(bytes.every((byte) => byte === 0));
    bytes.set([1, 2, 3]);
    memcpy(buffer.address + 100, buffer.address, 3);
    assert.deepEqual([...bytes.subarray(99, 104)], [0, 1, 2, 3, 0]);
    buffer.free();
  });

  it('is gone after free, and frees once', () => {
    const buffer = new SharedBuffer(4096);
    const { address } = buffer;
    const mapped = (): boolean => memoryAreas(process.pid).some((one) => one.start <= address && address < one.end);
    assert.equal(mapped(), true);
    buffer.free();
    assert.equal(mapped(), false);
    buffer.free();
  });

  it('says which call the kernel refused', () => {
    assert.throws(() => new SharedBuffer(2 ** 50), { name: 'SystemError', syscall: 'mmap', code: 'ENOMEM' });
  });
});
