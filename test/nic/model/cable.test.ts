import assert from 'node:assert/strict';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { cable, looseCable } from '../../../nic/model/cable.ts';
import type { WireEnd } from '../../../nic/model/wire.ts';

const FRAME_BYTES = 1514;
/** What may be on the way in one direction, as cable.ts says. */
const CAPACITY_BYTES = 4 * 2 ** 20;

/** Some turns of the event loop: whatever is on the way has come. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await nextTurn();
}

describe('a cable', () => {
  let a: WireEnd;
  let b: WireEnd;
  let atA: Uint8Array[];
  let atB: Uint8Array[];

  beforeEach(() => {
    [a, b] = cable();
    atA = [];
    atB = [];
    a.onFrame = (frame) => atA.push(frame.slice());
    b.onFrame = (frame) => atB.push(frame.slice());
    a.setTransmitting(true);
    b.setTransmitting(true);
  });

  it('carries frames both ways, in order', async () => {
    for (let n = 0; n < 3; n++) a.send(Uint8Array.of(n));
    b.send(Uint8Array.of(9));
    await settle();
    assert.deepEqual(atB, [Uint8Array.of(0), Uint8Array.of(1), Uint8Array.of(2)]);
    assert.deepEqual(atA, [Uint8Array.of(9)]);
  });

  it('carries what was sent, whatever becomes of the buffer then', async () => {
    const buffer = Uint8Array.of(1, 2, 3);
    a.send(buffer.subarray(0, 2));
    buffer.fill(0xff);
    await settle();
    assert.deepEqual(atB, [Uint8Array.of(1, 2)]);
  });

  it('delivers in a later turn, also what is sent while frames arrive', async () => {
    let depth = 0;
    let rounds = 0;
    const bounce = (back: WireEnd) => (frame: Uint8Array) => {
      assert.equal(depth, 0, 'nobody receives within a send');
      depth++;
      if (rounds++ < 10) back.send(frame);
      depth--;
    };
    a.onFrame = bounce(a);
    b.onFrame = bounce(b);
    a.send(Uint8Array.of(1));
    assert.equal(rounds, 0);
    while (rounds <= 10) await nextTurn();
    await settle();
    assert.equal(rounds, 11);
  });

  it('takes some frames at a time, and says when it takes more', async () => {
    let told = 0;
    a.onReady = () => told++;
    let sent = 0;
    for (; a.ready; sent++) a.send(Buffer.alloc(FRAME_BYTES, sent));
    assert.ok(sent > 1 && sent * FRAME_BYTES < 2 * 8192, `${sent} frames`);
    assert.equal(b.ready, true, 'the other direction has room of its own');
    await settle();
    assert.equal(atB.length, sent);
    assert.deepEqual([a.ready, told > 0], [true, true]);
  });

  it('holds so many bytes in each direction, and loses what comes beyond', async () => {
    const room = Math.floor(CAPACITY_BYTES / FRAME_BYTES);
    for (let n = 0; n < room + 100; n++) a.send(Buffer.alloc(FRAME_BYTES, n));
    b.send(Uint8Array.of(1));
    await settle();
    assert.equal(atB.length, room);
    assert.equal(atB.at(-1)![0], (room - 1) & 0xff, 'the first ones come');
    assert.equal(atA.length, 1, 'the other direction has room of its own');
    a.send(Uint8Array.of(7));
    await settle();
    assert.deepEqual(atB.at(-1), Uint8Array.of(7), 'there is room again');
  });

  it('carries light, and tells of it in a later turn', async () => {
    [a, b] = cable();
    const told: string[] = [];
    a.onCarrier = () => told.push(`a ${a.carrier}`);
    b.onCarrier = () => told.push(`b ${b.carrier}`);
    assert.deepEqual([a.carrier, b.carrier], [false, false]);
    a.setTransmitting(true);
    assert.deepEqual([a.carrier, b.carrier, told.length], [false, true, 0]);
    await settle();
    assert.deepEqual(told.splice(0), ['b true']);
    a.setTransmitting(true);
    await settle();
    assert.deepEqual(told, [], 'nothing has changed');
    a.setTransmitting(false);
    b.setTransmitting(true);
    await settle();
    assert.deepEqual(told, ['b false', 'a true']);
  });

  it('carries no frame of an end that is dark', async () => {
    a.setTransmitting(false);
    a.send(Uint8Array.of(1));
    b.send(Uint8Array.of(2));
    await settle();
    assert.deepEqual([atA.length, atB.length], [1, 0]);
  });

  it('that is plugged in nowhere is dark, and takes what is sent', async () => {
    const loose = looseCable();
    loose.onFrame = () => assert.fail('nobody is there');
    loose.onCarrier = () => assert.fail('nobody is there');
    loose.setTransmitting(true);
    loose.send(Uint8Array.of(1));
    await settle();
    assert.equal(loose.carrier, false);
  });
});
