import assert from 'node:assert/strict';
import path from 'node:path';
import { Program, run } from '../../lab/program.ts';

const LOGGER = JSON.stringify(path.join(import.meta.dirname, '../../daemon/logger.ts'));
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

/** A program that logs: its standard error is what is looked at, so it is a process of its own. */
const program = (options: string, script: string): string[] => [
  process.execPath,
  '--input-type=module',
  '-e',
  `import { createLogger } from ${LOGGER}; const log = createLogger(${options}); ${script}`,
];

async function logged(options: string, script: string): Promise<string[]> {
  await using child = new Program(program(options, script));
  assert.equal(await child.ended, 'exited with status 0', child.stderr);
  assert.equal(child.stdout, '');
  return child.stderr.split('\n').slice(0, -1);
}

/** As {@link logged}, on a terminal: util-linux's script(1) makes one. */
async function loggedOnTerminal(options: string, source: string): Promise<string> {
  const quoted = program(options, source).map((word) => `'${word.replaceAll("'", `'\\''`)}'`);
  return await run(['script', '-qec', quoted.join(' '), '/dev/null']);
}

describe('the log', () => {
  it('is one JSON object a line where nobody watches', async () => {
    for (const format of ['auto', 'json']) {
      const lines = await logged(
        `{ level: 'info', format: '${format}' }`,
        `log.info('a: port 1 made', { port: 'a', queue: 2 }); log.error('two\\nlines');`,
      );
      const [first, second] = lines.map((line) => JSON.parse(line));
      assert.equal(lines.length, 2);
      assert.match(first.timestamp, TIME);
      delete first.timestamp;
      delete second.timestamp;
      assert.deepEqual(first, { level: 'info', message: 'a: port 1 made', port: 'a', queue: 2 });
      assert.deepEqual(second, { level: 'error', message: 'two\nlines' });
    }
  });

  it('is text with the fields behind the message when asked for', async () => {
    const [line] = await logged(
      `{ level: 'info', format: 'text' }`,
      `log.warn('a: it broke', { port: 'a', queue: 2, ring: { num: 256 } });`,
    );
    const [time, ...rest] = line!.split(' ');
    assert.match(time!, TIME);
    assert.equal(rest.join(' '), 'warn a: it broke  port=a queue=2 ring={"num":256}');
  });

  it('is coloured text on a terminal', async () => {
    const output = await loggedOnTerminal(`{ level: 'info', format: 'auto' }`, `log.error('oops', { port: 'a' });`);
    assert.match(output.replaceAll('\x1b', 'ESC'), /Z ESC\[31merrorESC\[39m oops {2}port=a\r?\n/);
  });

  it('is JSON on a terminal when asked for', async () => {
    const output = await loggedOnTerminal(`{ level: 'info', format: 'json' }`, `log.error('oops');`);
    assert.equal(JSON.parse(output).message, 'oops');
  });

  it('lets nobody who chooses a name write to the terminal', async () => {
    const [line, ...more] = await logged(
      `{ level: 'info', format: 'text' }`,
      `log.info('\\x1b[2Jname: made', { port: '\\x1b[2J\\x9b\\r' });`,
    );
    assert.ok(line!.endsWith(String.raw` \x1b[2Jname: made  port=\x1b[2J\x9b\x0d`), line);
    assert.deepEqual(more, []);
  });

  it('holds what is as grave as its level, which can change', async () => {
    const lines = await logged(
      `{ level: 'warn', format: 'json' }`,
      `for (const level of ['error', 'info', 'debug']) {
         log.level = level;
         for (const method of ['error', 'warn', 'info', 'debug']) log[method](method + ' at ' + level);
       }`,
    );
    assert.deepEqual(
      lines.map((line) => JSON.parse(line).message),
      [
        'error at error',
        ...['error at info', 'warn at info', 'info at info'],
        ...['error at debug', 'warn at debug', 'info at debug', 'debug at debug'],
      ],
    );
  });

  it('may lose its reader without harm', async () => {
    // The reader is gone before anything is written: every write fails with EPIPE.
    const script = `setTimeout(() => { log.error('lost'); setTimeout(() => { log.error('lost'); console.log('alive'); }, 50); }, 300);`;
    const words = program(`{ level: 'info', format: 'json' }`, script).map(
      (word) => `'${word.replaceAll("'", `'\\''`)}'`,
    );
    const output = await run(['bash', '-c', `set -o pipefail; { ${words.join(' ')} 2>&1 >&3 | true; } 3>&1`]);
    assert.equal(output, 'alive\n');
  });
});
