import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { quote, tail } from '../../lab/words.ts';

describe('the tail of a console', () => {
  it('is its last lines, without empty ones and carriage returns', () => {
    assert.equal(tail('a\r\nb\r\n\r\n   \nc  \r\r\nd', 2), 'c\nd');
  });

  it('loses the escapes that a firmware draws with', () => {
    assert.equal(tail('\x1bc\x1b[?7l\x1b[2J\x1b[1;33mSeaBIOS\x1b[0m (version 1.16)\r\n'), 'SeaBIOS (version 1.16)');
  });

  it('says that there is nothing', () => {
    assert.equal(tail('\r\n\x1b[0m\n'), '(nothing was printed)');
  });
});

describe('a quoted word', () => {
  it('reaches a program through a shell as it is', () => {
    for (const word of ['', "it's", '$(false) `x` "y" \\', 'two\nlines', "'", '* ?']) {
      assert.equal(execFileSync('/bin/sh', ['-c', `printf %s ${quote(word)}`], { encoding: 'utf8' }), word);
    }
  });
});
