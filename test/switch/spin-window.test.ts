import assert from 'node:assert/strict';
import { SpinWindow } from '../../switch/spin-window.ts';

describe('SpinWindow', () => {
  it('grows while sleeps are short, up to the longest', () => {
    const spin = new SpinWindow(400);
    const lengths = [spin.length];
    for (let i = 0; i < 5; i++) {
      spin.slept(399);
      lengths.push(spin.length);
    }
    assert.deepEqual(lengths, [50, 100, 200, 400, 400, 400]);
    assert.equal(spin.hasGrown, true);
  });

  it('begins anew after a long sleep', () => {
    const spin = new SpinWindow(400);
    spin.slept(1);
    spin.slept(1);
    spin.slept(400);
    assert.equal(spin.length, 50);
    assert.equal(spin.hasGrown, false);
  });

  it('never waits where it may not', () => {
    const spin = new SpinWindow(0);
    spin.slept(0);
    assert.equal(spin.length, 0);
  });
});
