import assert from 'node:assert/strict';
import fs from 'node:fs';

describe('docs/tcp.md', () => {
  it('names tests that there are', () => {
    const text = fs.readFileSync(new URL('../../docs/tcp.md', import.meta.url), 'utf8');
    const table = text.slice(text.indexOf('| RFC |'), text.indexOf('## What it does not do'));
    const rows = table.split('\n').filter((line) => /^\| (\d|draft)/.test(line));
    assert.ok(rows.length > 30);
    for (const row of rows) {
      const tests = [...row.split('|')[3]!.matchAll(/`([^`]+)`/g)].map(([, name]) => name!);
      assert.notEqual(tests.length, 0, row);
      for (const name of tests) {
        const file = `${name.replace(/^script\//, 'tcp/script/').replace(/^linux\//, '../sockets/linux/')}.test.ts`;
        assert.ok(fs.existsSync(new URL(file, import.meta.url)), `${row}\nthere is no ${file}`);
      }
    }
  });
});
