import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { ConfigError, loadConfig, parseConfig } from '../../daemon/config.ts';
import { NO_IMPAIRMENT } from '../../daemon/impairment-options.ts';

const README = path.join(import.meta.dirname, '../../README.md');

const SHARE = 'a share of the frames such as 1% or 0.01%, from 0% to 100%';
const DEFAULTS = {
  mount: { path: '/run/ringswitch/dev', uid: 0, gid: 0, mode: 0o660 },
  control: { socket: '/run/ringswitch/control.sock' },
  log: { level: 'info', format: 'auto' },
  fdb: { aging: 300, capacity: 16384, perPort: 4096 },
  lane: { spin: 400, count: 1, cpus: [], placement: {}, wasm: true },
  taps: [],
  ports: [],
  impairment: {},
};

/** Every line of what is refused. */
function problems(text: string): string[] {
  try {
    parseConfig(text, 'ringswitch.yaml');
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    return error.message.split('\n');
  }
  return assert.fail(`taken: ${text}`);
}

describe('the configuration', () => {
  it('has a default for everything', () => {
    assert.deepEqual(loadConfig(), DEFAULTS);
    for (const text of ['', '# nothing\n', '---\n', '{}']) assert.deepEqual(parseConfig(text, 'x'), DEFAULTS);
  });

  it('takes sections whose keys are all commented out', () => {
    assert.deepEqual(parseConfig('fdb:\n  # aging: 60\ntaps:\nlog: {level: debug}\n', 'x'), {
      ...DEFAULTS,
      log: { level: 'debug', format: 'auto' },
    });
  });

  it('is what the README shows', () => {
    const [, text] = /```yaml\n([^`]+)```/.exec(fs.readFileSync(README, 'utf8')) ?? assert.fail('no YAML there');
    assert.deepEqual(parseConfig(text!, 'README.md'), {
      ...DEFAULTS,
      taps: [{ name: 'host0', persistent: false }],
      ports: [
        { name: 'vm1', vhostUser: { path: '/run/ringswitch/vm1.sock', mode: 'server', queues: 4 } },
        {
          name: 'uplink',
          nic: { device: '0000:01:00.0', queues: 1, descriptors: 512, mtu: 1500, withoutIommu: false },
        },
      ],
      impairment: { vm1: { to: { ...NO_IMPAIRMENT, loss: 0.01, delayMs: 20 }, from: undefined } },
    });
  });

  it('takes every key', () => {
    const text = `
mount: {path: ' /tmp/dev ', uid: 1000, gid: 4294967294, mode: '0600'}
control: {socket: /tmp/control.sock}
log: {level: error, format: json}
fdb: {aging: 1000000, capacity: 4194304, perPort: 1}
lane: {spin: 0.5, count: 2, cpus: [1, 0], placement: {vm1: 1, 'tap*': 0}, wasm: false}
taps:
  - {name: host0, persistent: true}
  - name: fifteen-bytes-0
ports:
  - {name: vm1, vhostUser: {path: /run/vm1, mode: client, queues: 128}}
  - name: vm2
    vhostUser:
      path: /run/vm2
impairment:
  vm1: {to: {loss: 1%, delay: 20ms, jitter: 5ms, reorder: 0.5%, seed: 7}, from: {rate: 1gbit, limit: 10}}
  vm2: {both: {duplicate: 0.1%, corrupt: 0.01%}}
`;
    assert.deepEqual(parseConfig(text, 'x'), {
      mount: { path: '/tmp/dev', uid: 1000, gid: 4294967294, mode: 0o600 },
      control: { socket: '/tmp/control.sock' },
      log: { level: 'error', format: 'json' },
      fdb: { aging: 1000000, capacity: 4194304, perPort: 1 },
      lane: { spin: 0.5, count: 2, cpus: [1, 0], placement: { vm1: 1, 'tap*': 0 }, wasm: false },
      taps: [
        { name: 'host0', persistent: true },
        { name: 'fifteen-bytes-0', persistent: false },
      ],
      ports: [
        { name: 'vm1', vhostUser: { path: '/run/vm1', mode: 'client', queues: 128 } },
        { name: 'vm2', vhostUser: { path: '/run/vm2', mode: 'server', queues: 1 } },
      ],
      impairment: {
        vm1: {
          to: { ...NO_IMPAIRMENT, loss: 0.01, delayMs: 20, jitterMs: 5, reorder: 0.005, seed: 7 },
          from: { ...NO_IMPAIRMENT, bitsPerSecond: 1e9, limit: 10 },
        },
        vm2: {
          to: { ...NO_IMPAIRMENT, duplicate: 0.001, corrupt: 0.0001 },
          from: { ...NO_IMPAIRMENT, duplicate: 0.001, corrupt: 0.0001 },
        },
      },
    });
  });

  it('takes a mode by its octal digits, in quotes or not', () => {
    for (const written of ['0640', '640', "'0640'", '"640"', '0o640']) {
      assert.equal(parseConfig(`mount: {mode: ${written}}`, 'x').mount.mode, 0o640, written);
    }
  });

  const refused: [text: string, ...told: string[]][] = [
    ['fdb:\n  aging: soon', '2:10: fdb.aging: expected a number of seconds from 10 to 1000000, got "soon"'],
    ['fdb: {aging: 9}', '1:14: fdb.aging: expected a number of seconds from 10 to 1000000, got 9'],
    ['fdb: {aging: 1000001}', '1:14: fdb.aging: expected a number of seconds from 10 to 1000000, got 1000001'],
    ['fdb: {aging: }', '1:14: fdb.aging: expected a number of seconds from 10 to 1000000, got nothing'],
    [
      'fdb: {capacity: .inf}',
      '1:17: fdb.capacity: expected a whole number of addresses from 1 to 4194304, got Infinity',
    ],
    ['fdb: {capacity: .nan}', '1:17: fdb.capacity: expected a whole number of addresses from 1 to 4194304, got NaN'],
    ['fdb: {perPort: 1.5}', '1:16: fdb.perPort: expected a whole number of addresses from 1 to 4194304, got 1.5'],
    ['fdb: [1]', '1:6: fdb: expected a mapping, got [1]'],
    ['lane: {count: 17}', '1:15: lane.count: expected a number of lanes from 1 to 16, got 17'],
    ['lane: {count: 2, cpus: [0]}', '1:24: lane.cpus: expected a processor for each of the 2 lanes, got [0]'],
    ['lane: {placement: {a: 1}}', '1:23: lane.placement.a: expected a lane below 1, got 1'],
    ['lane: {spin: -1}', '1:14: lane.spin: expected a number of microseconds from 0 to 1000000, got -1'],
    ['mount: {uid: -1}', '1:14: mount.uid: expected an id from 0 to 4294967294, got -1'],
    ['mount: {gid: 4294967295}', '1:14: mount.gid: expected an id from 0 to 4294967294, got 4294967295'],
    ['mount: {path: dev}', '1:15: mount.path: expected an absolute path, got "dev"'],
    ['mount: {mode: 0680}', '1:15: mount.mode: expected octal permission bits, such as \'0660\', got "0680"'],
    ['mount: {mode: 4755}', '1:15: mount.mode: expected octal permission bits, such as \'0660\', got "4755"'],
    ['mount: {mode: [0660]}', "1:15: mount.mode: expected octal permission bits, such as '0660', got [660]"],
    ['log: {level: loud}', '1:14: log.level: expected one of error, warn, info, debug, got "loud"'],
    ['log: {format: xml}', '1:15: log.format: expected one of auto, text, json, got "xml"'],
    ['log: {colour: 1}', '1:7: log.colour: unknown key; known are level, format'],
    ['spin: 50', '1:1: spin: unknown key; known are mount, control, log, fdb, lane, taps, ports, impairment'],
    ['__proto__: {}', '1:1: __proto__: unknown key; known are mount, control, log, fdb, lane, taps, ports, impairment'],
    ['taps: {}', '1:7: taps: expected a list of taps, got {}'],
    ['taps: [host0]', '1:8: taps[0]: expected a mapping, got "host0"'],
    ['taps: [{name: x, mtu: 9}]', '1:18: taps[0].mtu: unknown key; known are name, persistent'],
    ['taps: [{name: x, persistent: 1}]', '1:30: taps[0].persistent: expected true or false, got 1'],
    ['ports: {}', '1:8: ports: expected a list of ports, got {}'],
    [
      'ports: [{name: x}]',
      '1:9: ports[0]: expected either vhostUser or nic, which says what the port is, got {"name":"x"}',
    ],
    ['ports: [{name: x, vhostUser: {}}]', '1:30: ports[0].vhostUser.path: expected an absolute path, got nothing'],
    [
      'ports: [{name: x, vhostUser: {path: /x, mode: peer}}]',
      '1:47: ports[0].vhostUser.mode: expected one of server, client, got "peer"',
    ],
    [
      'ports: [{name: x, vhostUser: {path: /x, queues: 129}}]',
      '1:49: ports[0].vhostUser.queues: expected a number of queue pairs from 1 to 128, got 129',
    ],
    [
      'ports: [{name: x, vhostUser: {path: /x, reconnect: 1}}]',
      '1:41: ports[0].vhostUser.reconnect: unknown key; known are path, mode, queues',
    ],
    [
      'ports: [{name: x, vhostUser: {path: /x}}, {name: x, vhostUser: {path: /y}}]',
      '1:50: ports[1].name: expected a name of its own, got "x"',
    ],
    [
      'ports: [{name: x, nic: {device: eth0}}]',
      '1:33: ports[0].nic.device: expected a PCI address such as 0000:01:00.0, or vfio-user: and the absolute path of a ' +
        'socket, got "eth0"',
    ],
    [
      'ports: [{name: x, nic: {device: "01:00.0", queues: 17, descriptors: 500, mtu: 67}}]',
      '1:52: ports[0].nic.queues: expected a number of queue pairs from 1 to 16, got 17',
      '1:69: ports[0].nic.descriptors: expected a power of two from 64 to 4096, got 500',
      '1:79: ports[0].nic.mtu: expected a number of bytes from 68 to 9710, got 67',
    ],
    ['impairment: {web1: {to: {loss: 1}}}', `1:32: impairment.web1.to.loss: expected ${SHARE}, got 1`],
    ['impairment: {web1: {to: {loss: 101%}}}', `1:32: impairment.web1.to.loss: expected ${SHARE}, got "101%"`],
    [
      'impairment: {web1: {to: {loss: 1%, lag: 5ms}}}',
      '1:36: impairment.web1.to.lag: unknown key; known are loss, delay, jitter, reorder, duplicate, corrupt, rate, limit, seed',
    ],
    ['impairment: {web1: {up: {}}}', '1:21: impairment.web1.up: unknown key; known are to, from, both'],
    [
      'impairment: {web1: {to: {delay: 1ms, jitter: 2ms}}}',
      '1:25: impairment.web1.to: a jitter of 2ms is too much where the delay is 1ms: no frame comes before it was sent, ' +
        'got {"delay":"1ms","jitter":"2ms"}',
    ],
    [
      'impairment: {web1: {both: {loss: 1%}, to: {loss: 1%}}}',
      '1:20: impairment.web1: expected either both, or to and from, got {"both":{"loss":"1%"},"to":{"loss":"1%"}}',
    ],
    ['- a', '1:1: the configuration: expected a mapping, got ["a"]'],
    ['a: [1\nb: 2', '2:1: Flow sequence in block collection must be sufficiently indented and end with a ]'],
    ['log: {}\nlog: {}', '2:1: Map keys must be unique'],
    ['log: *level', '1:1: Unresolved alias (the anchor must be set before the alias): level'],
  ];
  for (const [text, ...told] of refused) {
    it(`refuses ${JSON.stringify(text)}`, () => {
      assert.deepEqual(
        problems(text),
        told.map((line) => `ringswitch.yaml:${line}`),
      );
    });
  }

  const INTERFACE_NAME = 'expected an interface name of 1 to 15 bytes without / : % and white space';
  for (const name of ['', 'sixteen-bytes-00', 'ääääääää', 'a/b', 'a:b', 'tap%d', 'a b', '.', '..']) {
    it(`refuses a tap named ${JSON.stringify(name)}`, () => {
      const text = `taps:\n  - name: ok\n  - name: ${JSON.stringify(name)}`;
      assert.deepEqual(problems(text), [
        `ringswitch.yaml:3:11: taps[1].name: ${INTERFACE_NAME}, got ${JSON.stringify(name)}`,
      ]);
    });
  }

  it('refuses a tap without a name, where it stands', () => {
    assert.deepEqual(problems('taps:\n  - persistent: true'), [
      `ringswitch.yaml:2:5: taps[0].name: ${INTERFACE_NAME}, got nothing`,
    ]);
  });

  it('refuses two taps of one name', () => {
    assert.deepEqual(problems('taps:\n  - name: a\n  - name: b\n  - {persistent: true, name: a}'), [
      'ringswitch.yaml:4:30: taps[2].name: expected a name of its own, got "a"',
    ]);
  });

  it('refuses a socket that no address can hold', () => {
    const socket = `/${'x'.repeat(106)}`;
    assert.equal(parseConfig(`control: {socket: ${socket}}`, 'x').control.socket, socket);
    assert.deepEqual(problems(`control: {socket: ${socket}x}`), [
      `ringswitch.yaml:1:19: control.socket: expected a path of at most 107 bytes, got "${socket}x"`,
    ]);
  });

  it('tells all that is wrong', () => {
    const told = problems('mount:\n  uid: root\nfdb:\n  ageing: 1\n  aging: soon\ntaps:\n  - {name: a b}\n');
    assert.deepEqual(told.map((line) => line.split(': ').slice(0, 2).join(' ')).sort(), [
      'ringswitch.yaml:2:8 mount.uid',
      'ringswitch.yaml:4:3 fdb.ageing',
      'ringswitch.yaml:5:10 fdb.aging',
      'ringswitch.yaml:7:12 taps[0].name',
    ]);
  });

  describe('in a file', () => {
    let directory: string;

    beforeEach(() => {
      directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-config-'));
    });

    afterEach(() => fs.rmSync(directory, { recursive: true }));

    it('is read, and errors name the file', () => {
      const file = path.join(directory, 'ringswitch.yaml');
      fs.writeFileSync(file, 'fdb: {aging: 60}');
      assert.equal(loadConfig(file).fdb.aging, 60);
      fs.writeFileSync(file, 'fdb: {aging: 6}');
      assert.throws(
        () => loadConfig(file),
        (error: Error) => error.name === 'ConfigError' && error.message.startsWith(`${file}:1:14: fdb.aging: `),
      );
    });

    it('is missed when it is not there, or is none', () => {
      const nowhere = path.join(directory, 'nowhere.yaml');
      assert.throws(() => loadConfig(nowhere), {
        name: 'ConfigError',
        message: /nowhere\.yaml: cannot be read: ENOENT/,
      });
      assert.throws(() => loadConfig(directory), { name: 'ConfigError', message: /: cannot be read: EISDIR/ });
    });
  });
});
