import assert from 'node:assert/strict';
import fc from 'fast-check';
import { close } from '../../../linux/file.ts';
import { addressOf } from '../../../linux/libc.ts';
import { Arena } from '../../../memory/arena.ts';
import { fold, sum } from '../../../packet/checksum.ts';
import { DeviceMemory, deviceArena, sumIn } from '../../../tcpip/devices/device-arena.ts';
import { TapDevice } from '../../../tcpip/devices/tap-device.ts';
import { messagePair } from '../../helpers/message-pair.ts';

const BYTES = 70_000;

describe('memory of devices that make no checksums', () => {
  const opened: (() => void)[] = [];
  afterEach(() => {
    for (const undo of opened.splice(0).reverse()) undo();
  });

  function memoryIn(arena: Arena, bytes: number): DeviceMemory {
    const memory = new DeviceMemory(arena, bytes);
    opened.push(() => memory.close());
    return memory;
  }

  for (const wasm of [true, false]) {
    it(`is summed as all memory is${wasm ? '' : ', without wasm'} (fast-check)`, () => {
      const arena = Arena.open({ wasm });
      assert.equal(arena.wasm !== null, wasm);
      const [rx, tx] = [memoryIn(arena, BYTES), memoryIn(arena, 300)];
      const sumOf = sumIn(arena, rx.bytes, rx.address, tx.bytes, tx.address);
      const other = new Uint8Array(300);
      const all = [rx.bytes, tx.bytes, other];
      const fillings = fc.oneof(fc.constantFrom([0], [0xff]), fc.array(fc.nat(255), { minLength: 1, maxLength: 9 }));
      const place = fc.oneof(fc.nat(300), fc.nat(BYTES + 9));
      fc.assert(
        fc.property(fc.nat(2), fillings, place, place, fc.nat(0x1_fffe), (which, pattern, start, length, initial) => {
          const bytes = all[which]!;
          for (let i = 0; i < bytes.length; i++) bytes[i] = pattern[i % pattern.length]!;
          const end = Math.min(start + length, bytes.length);
          const partial = sumOf(bytes, start, end, initial);
          assert.equal(fold(partial), fold(sum(bytes, start, end, initial)));
          assert.ok(partial <= 0x1_ffff);
        }),
      );
    });
  }

  it('begins as zeros, each time, and ends once', () => {
    const arena = Arena.open();
    const first = new DeviceMemory(arena, BYTES);
    first.bytes.fill(7);
    first.close();
    const second = memoryIn(arena, BYTES);
    assert.equal(second.address, first.address);
    assert.ok(second.bytes.every((byte) => byte === 0));
    second.bytes.fill(8);
    first.close();
    assert.ok(second.bytes.every((byte) => byte === 8));
  });

  it('is a tap’s, if it is told so', () => {
    const [fd, far] = messagePair();
    opened.push(() => close(far));
    const arena = deviceArena();
    assert.equal(deviceArena(), arena);
    const address = Uint8Array.of(2, 0, 0, 0, 0, 1);
    const device = new TapDevice({ name: 'tap9', fd, address, transmitOffloads: false, arena });
    opened.push(() => device.close());
    for (const bytes of [device.rx, device.tx]) {
      bytes.set([1, 2, 3, 4], 100);
      assert.equal(device.sum!(bytes, 100, 104, 5), 0x0102 + 0x0304 + 5);
      assert.ok(arena!.holds(addressOf(bytes)));
    }
  });
});
