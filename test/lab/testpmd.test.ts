import assert from 'node:assert/strict';
import { answerTo } from '../../lab/testpmd.ts';

describe("testpmd's answer to a command", () => {
  it('is what stands between its echo and the next prompt', () => {
    assert.equal(
      answerTo('stop', 'stop\r\nTelling cores to stop...\nDone.\ntestpmd> '),
      'Telling cores to stop...\nDone.\n',
    );
    assert.equal(answerTo('set txpkts 64', 'set txpkts 64\r\ntestpmd> '), '');
  });

  it('may be followed by an event', () => {
    const output = 'show x\r\nIt is\ntestpmd> \nPort 0: link state change event\n';
    assert.equal(answerTo('show x', output), 'It is\n');
  });

  it('has not come without the prompt, or without the echo', () => {
    assert.equal(answerTo('stop', 'stop\r\nTelling cores to stop...\n'), undefined);
    assert.equal(answerTo('stop', '\nPort 0: link state change event\ntestpmd> '), undefined);
  });
});
