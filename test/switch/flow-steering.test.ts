import assert from 'node:assert/strict';
import { queueForHash } from '../../switch/flow-hash.ts';
import { FlowSteering } from '../../switch/flow-steering.ts';

const HASH = 0x1234_5678;
/** Same bucket of 1024 as HASH, another flow. */
const RIVAL = HASH ^ 0x0010_0000;

describe('FlowSteering', () => {
  it('goes by the hash for a flow that it has not heard of', () => {
    const steering = new FlowSteering();
    for (const hash of [0, HASH, -1, -HASH]) assert.equal(steering.queueOf(hash, 4, 0), queueForHash(hash, 4));
  });

  it('sends a flow back to the queue that it comes from, for three seconds after its last frame', () => {
    const steering = new FlowSteering();
    const other = (queueForHash(HASH, 4) + 1) % 4;
    steering.note(HASH, other, 100);
    assert.equal(steering.queueOf(HASH, 4, 100), other);
    assert.equal(steering.queueOf(HASH, 4, 103), other);
    assert.equal(steering.queueOf(HASH, 4, 104), queueForHash(HASH, 4));
    steering.note(HASH, other, 104);
    assert.equal(steering.queueOf(HASH, 4, 106), other);
  });

  it('follows a flow to another queue', () => {
    const steering = new FlowSteering();
    for (const queue of [3, 0, 2]) {
      steering.note(HASH, queue, 5);
      assert.equal(steering.queueOf(HASH, 4, 5), queue);
    }
  });

  it('never answers for another flow in the same bucket', () => {
    const steering = new FlowSteering();
    const other = (queueForHash(RIVAL, 4) + 1) % 4;
    steering.note(HASH, other, 5);
    assert.equal(steering.queueOf(RIVAL, 4, 5), queueForHash(RIVAL, 4));
    steering.note(RIVAL, 1, 5);
    assert.equal(steering.queueOf(RIVAL, 4, 5), 1);
    assert.equal(steering.queueOf(HASH, 4, 5), queueForHash(HASH, 4), 'it has lost its place');
  });

  it('goes by the hash when the queue is gone', () => {
    const steering = new FlowSteering();
    steering.note(HASH, 3, 5);
    assert.equal(steering.queueOf(HASH, 2, 5), queueForHash(HASH, 2));
  });
});
