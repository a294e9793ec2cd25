import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Deadlines, NONE } from '../../tcpip/deadlines.ts';
import { NEVER } from '../../tcpip/network.ts';

describe('deadlines', () => {
  it('has none to begin with', () => {
    const deadlines = new Deadlines();
    assert.equal(deadlines.first, NEVER);
    assert.equal(deadlines.due(1e9), NONE);
    assert.equal(deadlines.of(7), NEVER);
    deadlines.cancel(7);
    deadlines.set(3, NEVER);
    assert.equal(deadlines.count, 0);
  });

  it('gives what is due in order, each once', () => {
    const deadlines = new Deadlines(2);
    for (const [id, time] of [
      [5, 50],
      [1, 10],
      [40, 30],
      [2, 20],
    ] as const) {
      deadlines.set(id, time);
    }
    assert.equal(deadlines.first, 10);
    assert.deepEqual([deadlines.due(30), deadlines.due(30), deadlines.due(30), deadlines.due(30)], [1, 2, 40, NONE]);
    assert.equal(deadlines.first, 50);
  });

  it('does as a map would', () => {
    const id = fc.nat(40);
    const step = fc.oneof(
      fc.tuple(fc.constant('set' as const), id, fc.nat(1000)),
      fc.tuple(fc.constant('cancel' as const), id, fc.constant(0)),
      fc.tuple(fc.constant('due' as const), fc.constant(0), fc.nat(1000)),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const deadlines = new Deadlines(1);
        const model = new Map<number, number>();
        for (const [what, which, time] of steps) {
          if (what === 'set') {
            deadlines.set(which, time);
            model.set(which, time);
          } else if (what === 'cancel') {
            deadlines.cancel(which);
            model.delete(which);
          } else {
            const first = Math.min(...model.values());
            const got = deadlines.due(time);
            if (first > time) assert.equal(got, NONE);
            else {
              assert.equal(model.get(got), first);
              model.delete(got);
            }
          }
          assert.equal(deadlines.first, Math.min(...model.values()));
          assert.equal(deadlines.count, model.size);
          assert.equal(deadlines.of(which), model.get(which) ?? NEVER);
        }
      }),
    );
  });
});
