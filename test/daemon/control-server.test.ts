import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { ControlError } from '../../daemon/control.ts';
import { ControlClient } from '../../daemon/control-client.ts';
import { ControlServer } from '../../daemon/control-server.ts';
import { NO_IMPAIRMENT } from '../../daemon/impairment-options.ts';
import { run } from '../../lab/program.ts';
import {
  captureRow,
  cardPort,
  FakeControl,
  goodRing,
  guestPort,
  tapPort,
  vhostUserPort,
} from '../helpers/fake-control.ts';
import { until } from '../helpers/until.ts';

const DOCUMENT = path.join(import.meta.dirname, '../../docs/control-api.md');
const MAX_BODY_BYTES = 65_536;

interface Answer {
  status: number;
  headers: http.IncomingHttpHeaders;
  text: string;
}

function ask(socketPath: string, method: string, target: string, body?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, method, path: target, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part) => {
        text += part;
      });
      response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers, text }));
    });
    request.on('error', reject);
    request.end(body);
  });
}

describe('the control API', () => {
  let directory: string;
  let socket: string;
  let control: FakeControl;
  let server: ControlServer;
  let client: ControlClient;
  let logged: string[];
  const note = (message: string): void => void logged.push(message);
  const log = { debug: note, info: note, warn: note, error: note };

  /** What is refused, as status, code and message. */
  async function refusal(method: string, target: string, body?: string): Promise<[number, string, string]> {
    const { status, text } = await ask(socket, method, target, body);
    const { error } = JSON.parse(text);
    return [status, error.code, error.message];
  }

  beforeEach(async () => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-control-'));
    socket = path.join(directory, 'run/control.sock');
    logged = [];
    control = new FakeControl();
    server = await ControlServer.start(socket, control, log);
    client = new ControlClient(socket);
  });

  afterEach(async () => {
    await server.stop();
    fs.rmSync(directory, { recursive: true });
  });

  describe('answers', () => {
    it('what the daemon says', async () => {
      assert.deepEqual(await client.get('/v1/status'), control.status());
      assert.deepEqual(await client.get('/v1/ports'), [guestPort()]);
      assert.deepEqual(await client.get('/v1/ports/web1'), guestPort());
      assert.deepEqual(await client.get('/v1/fdb'), [{ mac: '52:54:00:12:34:56', port: 'web1', ageSeconds: 3 }]);
      assert.deepEqual(await client.get('/v1/rings'), [goodRing()]);
      assert.deepEqual(await client.get('/v1/memory'), [{ table: 1, mappedBytes: 2 ** 30, rings: 2 }]);
    });

    it('what is changed', async () => {
      assert.deepEqual(await client.post('/v1/ports', { kind: 'tap', name: 'host0' }), tapPort('host0', false));
      await client.post('/v1/ports', { kind: 'tap', name: 'host1', persistent: true });
      const vhostUser = { name: 'vm1', path: '/run/vm1.sock', mode: 'client', queues: 2 } as const;
      assert.deepEqual(await client.post('/v1/ports', { kind: 'vhost-user', ...vhostUser }), vhostUserPort(vhostUser));
      await client.post('/v1/ports', { kind: 'vhost-user', name: 'vm2', path: '/run/vm2.sock' });
      const card = { name: 'up1', device: '01:00.0', queues: 2, descriptors: 64, mtu: 9000, withoutIommu: true };
      assert.deepEqual(await client.post('/v1/ports', { kind: 'nic', ...card }), cardPort(card));
      assert.equal(await client.delete('/v1/ports/host0'), null);
      assert.deepEqual(await client.patch('/v1/ports/web1', { link: 'down' }), { ...guestPort(), link: 'down' });
      await client.patch('/v1/ports/web1', { impairment: { from: { delayMs: 20 }, to: null } });
      assert.equal(await client.put('/v1/log', { level: 'debug' }), null);
      assert.equal(await client.put('/v1/fdb', { aging: 60 }), null);
      assert.equal(await client.post('/v1/exec/listeners', { pid: 77, fd: 5 }), null);
      assert.deepEqual(control.asked, [
        ['addTap', { name: 'host0', persistent: false }],
        ['addTap', { name: 'host1', persistent: true }],
        ['addVhostUser', vhostUser],
        ['addVhostUser', { name: 'vm2', path: '/run/vm2.sock', mode: 'server', queues: 1 }],
        ['addCard', card],
        ['removePort', 'host0'],
        ['setPort', 'web1', { link: 'down' }],
        ['setPort', 'web1', { impairment: { from: { ...NO_IMPAIRMENT, delayMs: 20 }, to: null } }],
        ['setLogLevel', 'debug'],
        ['setAging', 60],
        ['adoptListener', 77, 5],
      ]);
    });

    it('with the status that says what came of it', async () => {
      assert.equal((await ask(socket, 'POST', '/v1/ports', '{"kind":"tap","name":"host0"}')).status, 201);
      assert.equal((await ask(socket, 'DELETE', '/v1/ports/host0')).status, 204);
      const { status, headers, text } = await ask(socket, 'GET', '/v1/memory');
      assert.equal(status, 200);
      assert.equal(headers['content-type'], 'application/json');
      assert.ok(text.endsWith(']\n'));
    });

    it('for names that must be percent-encoded', async () => {
      await client.delete(`/v1/ports/${encodeURIComponent('ä#?')}`);
      assert.deepEqual(control.asked, [['removePort', 'ä#?']]);
    });

    it('as its document says', async () => {
      const document = fs.readFileSync(DOCUMENT, 'utf8');
      const examples = [...document.matchAll(/```sh\n(curl [^`]+)\n```\n(?:\n```json\n([^`]+)```\n)?/g)];
      assert.equal(examples.length, 19);
      for (const [, command, answer] of examples) {
        // What curl makes of it; not every machine has curl.
        const words =
          /^curl --unix-socket \/run\/ringswitch\/control\.sock (?:-X ([A-Z]+) )?(?:-d '([^']+)' )?http:\/\/localhost(\/\S+)$/;
        const [, method = 'GET', body, target] = words.exec(command!) ?? assert.fail(command);
        const { status, text } = await ask(socket, method, target!, body);
        assert.equal(status, answer === undefined ? 204 : method === 'POST' ? 201 : 200, command);
        if (answer === undefined) assert.equal(text, '', command);
        else assert.deepEqual(JSON.parse(text), JSON.parse(answer), command);
      }
    });
  });

  describe('an answer that goes on', () => {
    const path = '/v1/ports/web1/captures';
    const first = { id: 1, port: 'web1', pid: 1042, memoryFd: 31, wakeFd: 32, lanes: 1, ringBytes: 2 ** 24 };
    /** Follows one, and notes what comes. */
    const follow = async (): Promise<{ heard: unknown[]; ended: Promise<void>; first: unknown; close(): void }> => {
      const heard: unknown[] = [];
      const ended = Promise.withResolvers<void>();
      const live = await client.follow(path, {}, (line) => heard.push(line), ended.resolve);
      return { ...live, heard, ended: ended.promise };
    };

    it('has one line at once, and one in the end', async () => {
      const live = await follow();
      assert.deepEqual(live.first, first);
      assert.deepEqual(control.asked, [
        ['capture', 'web1', { snaplen: 65_550, direction: 'both', ringBytes: 2 ** 24, filter: null }],
      ]);
      control.captureEnd.resolve({ end: 'port-removed' });
      await until('the first line', () => live.heard.length > 0);
      assert.deepEqual(live.heard, [{ end: 'port-removed' }]);
      assert.equal(control.capturesLeft, 0, 'the client ends it');
      live.close();
      await live.ended;
      await until('the end of the capture', () => control.capturesLeft > 0);
      assert.deepEqual(await client.get('/v1/captures'), [captureRow()]);
    });

    it('ends with its client, whenever that leaves', async () => {
      const live = await follow();
      live.close();
      await until('the end of the capture', () => control.capturesLeft > 0);
      control.captureEnd.resolve({ end: 'stopped' });
      // Gone before the daemon has an answer.
      const asked = http.request({ socketPath: socket, method: 'POST', path, agent: false });
      asked.on('error', () => {});
      const { capture } = control;
      const answer = Promise.withResolvers<void>();
      control.capture = async (...args) => {
        asked.destroy();
        await answer.promise;
        return await capture.apply(control, args);
      };
      asked.end('{}');
      await delay(50);
      answer.resolve();
      await until('the end of the capture', () => control.capturesLeft > 1);
      assert.equal(control.capturesLeft, 2);
      assert.deepEqual(logged, []);
    });

    it('ends with the daemon', async () => {
      const live = await follow();
      await server.stop();
      await live.ended;
      assert.deepEqual(live.heard, []);
      server = await ControlServer.start(socket, control, log);
    });

    it('is refused like any other', async () => {
      control.fault = new ControlError(404, 'ENODEV', 'there is no port web2; there are: web1');
      await assert.rejects(follow(), { message: 'there is no port web2; there are: web1' });
      const stranger = http.createServer((_, response) => response.end('<html>')).listen(`${socket}2`);
      try {
        await once(stranger, 'listening');
        const other = new ControlClient(`${socket}2`);
        await assert.rejects(
          other.follow(
            path,
            {},
            () => {},
            () => {},
          ),
          /control\.sock2 is no ringswitch daemon$/,
        );
      } finally {
        stranger.close();
      }
    });
  });

  describe('refuses', () => {
    it('what the daemon refuses, in its words', async () => {
      const body = '{"kind":"tap","name":"web1"}';
      assert.deepEqual(await refusal('POST', '/v1/ports', body), [409, 'EEXIST', 'there is a port web1 already']);
      await assert.rejects(client.post('/v1/ports', JSON.parse(body)), { message: 'there is a port web1 already' });
    });

    it('a port that is not there', async () => {
      const message = 'there is no port web2; there are: web1';
      assert.deepEqual(await refusal('GET', '/v1/ports/web2'), [404, 'ENODEV', message]);
    });

    it('an unknown route, and lists those that are', async () => {
      for (const target of ['/', '/v1', '/v1/ports/', '/v1/ports/a/b', '/v2/status', '/v1/status/']) {
        // A slash at the end asks for a port without a name.
        const [status, code, message] = await refusal('GET', target);
        assert.equal(status, 404, target);
        if (target === '/v1/ports/') continue;
        assert.equal(code, 'ENOENT', target);
        assert.match(message, /GET\|POST \/v1\/ports, GET\|PATCH\|DELETE \/v1\/ports\/NAME, .*\/v1\/exec\/listeners/);
      }
    });

    it('a wrong method, and says which are right', async () => {
      const { status, headers, text } = await ask(socket, 'PUT', '/v1/ports');
      assert.equal(status, 405);
      assert.equal(headers.allow, 'GET, POST');
      assert.equal(JSON.parse(text).error.message, 'PUT /v1/ports: only GET, POST');
      assert.equal((await ask(socket, 'GET', '/v1/log')).headers.allow, 'PUT');
      // A name that every object has is no method.
      assert.equal((await ask(socket, 'OPTIONS', '/v1/status')).status, 405);
    });

    const bad: [method: string, target: string, body: string, message: RegExp][] = [
      ['POST', '/v1/ports', '', /^body: expected a JSON object with the key kind$/],
      ['POST', '/v1/ports', '[]', /^body: expected a JSON object/],
      ['POST', '/v1/ports', '{"kind":', /^the body is no JSON: /],
      ['POST', '/v1/ports', '{"kind":"veth","name":"x"}', /^kind: expected "tap", "vhost-user" or "nic"$/],
      ['POST', '/v1/ports', '{"kind":"vhost-user","name":"x"}', /^path: expected an absolute path$/],
      [
        'POST',
        '/v1/ports',
        '{"kind":"vhost-user","name":"x","path":"/x","mode":"peer"}',
        /^mode: expected one of server, client$/,
      ],
      [
        'POST',
        '/v1/ports',
        '{"kind":"vhost-user","name":"x","path":"/x","queues":0}',
        /^queues: expected a number of queue pairs from 1 to 128$/,
      ],
      [
        'POST',
        '/v1/ports',
        '{"kind":"vhost-user","name":"x","path":"/x","persistent":true}',
        /unknown key persistent; known are kind, name, path, mode, queues/,
      ],
      ['POST', '/v1/ports', '{"kind":"tap"}', /^name: expected an interface name of 1 to 15 bytes/],
      ['POST', '/v1/ports', '{"kind":"tap","name":"a/b"}', /^name: expected an interface name/],
      ['POST', '/v1/ports', '{"kind":"tap","name":"ääääääää"}', /^name: expected an interface name/],
      ['POST', '/v1/ports', '{"kind":"tap","name":"x","persistent":1}', /^persistent: expected true or false$/],
      ['POST', '/v1/ports', '{"kind":"tap","name":"x","mtu":9}', /^body: unknown key mtu; known are kind, name, pers/],
      [
        'POST',
        '/v1/ports',
        '{"kind":"nic","name":"x"}',
        /^device: expected a PCI address such as 0000:01:00.0, or vfio-u/,
      ],
      ['POST', '/v1/ports', '{"kind":"nic","name":"x","device":"eth0"}', /^device: expected a PCI address/],
      [
        'POST',
        '/v1/ports',
        '{"kind":"nic","name":"x","device":"01:00.0","queues":17}',
        /^queues: expected a number of/,
      ],
      ['POST', '/v1/ports/web1/captures', '{"snaplen":0}', /^snaplen: expected a number of bytes from 1 to 262144$/],
      ['POST', '/v1/ports/web1/captures', '{"direction":"up"}', /^direction: expected "in", "out" or "both"$/],
      ['POST', '/v1/ports/web1/captures', '{"ringBytes":300000}', /^ringBytes: expected a power of two from 262144 to/],
      ['POST', '/v1/ports/web1/captures', '{"filter":"icmp"}', /^filter: expected a list of 1 to 4096 instructions/],
      [
        'POST',
        '/v1/ports/web1/captures',
        '{"filter":[[6,0,0]]}',
        /^filter.0: expected a list of 1 to 4096 instructions/,
      ],
      ['POST', '/v1/ports/web1/captures', '{"filter":[[6,0,0,-1]]}', /^filter.0.3: expected a list of 1 to 4096/],
      ['PATCH', '/v1/ports/web1', '{"link":"sideways"}', /^link: expected "up" or "down"$/],
      ['PATCH', '/v1/ports/web1', '{"impairment":7}', /^impairment: expected an object with the keys to, from$/],
      [
        'PATCH',
        '/v1/ports/web1',
        '{"impairment":{"to":{"loss":2}}}',
        /^impairment.to.loss: expected a share from 0 to 1$/,
      ],
      [
        'PATCH',
        '/v1/ports/web1',
        '{"impairment":{"to":{"bitsPerSecond":5}}}',
        /^impairment.to.bitsPerSecond: expected 0 for/,
      ],
      [
        'PATCH',
        '/v1/ports/web1',
        '{"impairment":{"from":{"limit":0.5,"loss":1}}}',
        /^impairment.from.limit: expected a whole/,
      ],
      [
        'PATCH',
        '/v1/ports/web1',
        '{"impairment":{"from":{"rate":1}}}',
        /^impairment.from: unknown key rate; known are loss,/,
      ],
      [
        'PATCH',
        '/v1/ports/web1',
        '{"impairment":{"from":{"seed":1}}}',
        /^impairment.from: it impairs nothing: give at least/,
      ],
      [
        'PATCH',
        '/v1/ports/web1',
        '{"impairment":{"to":{"jitterMs":1}}}',
        /^impairment.to: a jitter of 1ms is too much/,
      ],
      ['PUT', '/v1/log', '{"level":"loud"}', /^level: expected one of error, warn, info, debug$/],
      ['PUT', '/v1/fdb', '{"aging":9}', /^aging: expected a number of seconds from 10 to 1000000$/],
      ['PUT', '/v1/fdb', '{"aging":"60"}', /^aging: expected a number of seconds/],
      ['POST', '/v1/exec/listeners', '{"pid":0,"fd":-1}', /^pid: expected the id of a process; fd: expected the num/],
      ['POST', '/v1/exec/listeners', '{"pid":1.5,"fd":3}', /^pid: expected the id of a process$/],
      ['DELETE', '/v1/ports/%ff', '', /^%ff is not percent-encoded UTF-8$/],
    ];
    for (const [method, target, body, message] of bad) {
      it(`${method} ${target} with ${body || 'nothing'}`, async () => {
        const [status, code, said] = await refusal(method, target, body);
        assert.deepEqual([status, code], [400, 'EINVAL']);
        assert.match(said, message);
        assert.deepEqual(control.asked, []);
      });
    }

    it('a body that is too long, and answers all the same', async () => {
      const body = (length: number): string => `{"level":"info"}`.padEnd(length);
      assert.equal((await ask(socket, 'PUT', '/v1/log', body(MAX_BODY_BYTES))).status, 204);
      const message = `the body is longer than ${MAX_BODY_BYTES} bytes`;
      assert.deepEqual(await refusal('PUT', '/v1/log', body(MAX_BODY_BYTES + 1)), [413, 'EMSGSIZE', message]);
      assert.deepEqual(await refusal('PUT', '/v1/log', body(20 * MAX_BODY_BYTES)), [413, 'EMSGSIZE', message]);
      assert.deepEqual(control.asked, [['setLogLevel', 'info']]);
    });

    it('what fails inside, and logs it', async () => {
      control.fault = new Error('the lane has stopped');
      assert.deepEqual(await refusal('GET', '/v1/rings'), [500, 'EIO', 'the lane has stopped']);
      assert.match(logged[0]!, /^control: GET \/v1\/rings: Error: the lane has stopped\n {4}at /);
      control.fault = new ControlError(404, 'ENODEV', 'gone');
      await assert.rejects(client.delete('/v1/ports/web1'), { message: 'gone' });
      assert.equal(logged.length, 1);
    });
  });

  describe('its socket', () => {
    it("is its owner's alone, from the first moment", async () => {
      assert.equal(fs.statSync(socket).mode & 0o777, 0o600);
      const second = path.join(directory, 'second.sock');
      // With the mask that lets most through, and looked at before anything else can run.
      const umask = process.umask(0);
      const starting = ControlServer.start(second, control, log);
      try {
        for (let turns = 0; turns < 1000 && !fs.existsSync(second); turns++) await null;
        assert.equal(fs.statSync(second).mode & 0o777, 0o600);
        await (await starting).stop();
        assert.equal(process.umask(), 0);
      } finally {
        process.umask(umask);
      }
    });

    it('of a daemon that was killed is replaced', async () => {
      await server.stop();
      const script = `require('net').createServer().listen(${JSON.stringify(socket)}, () => process.kill(process.pid, 'SIGKILL'))`;
      await assert.rejects(run([process.execPath, '-e', script]), /SIGKILL/);
      assert.ok(fs.existsSync(socket));
      await assert.rejects(client.get('/v1/status'), /^Error: no daemon answers at/);
      server = await ControlServer.start(socket, control, log);
      assert.equal((await ask(socket, 'GET', '/v1/status')).status, 200);
    });

    it('of a daemon that lives is left alone', async () => {
      await assert.rejects(ControlServer.start(socket, control, log), {
        message: `another daemon listens on ${socket}; stop it, or set control.socket to another path`,
      });
      assert.equal((await ask(socket, 'GET', '/v1/status')).status, 200);
    });

    it('does not replace a file', async () => {
      const file = path.join(directory, 'precious');
      fs.writeFileSync(file, 'data');
      await assert.rejects(ControlServer.start(file, control, log), /precious exists and is no socket; remove it, or/);
      assert.equal(fs.readFileSync(file, 'utf8'), 'data');
    });

    it('tells why it cannot be made', async () => {
      const tooLong = path.join(directory, 'x'.repeat(120));
      await assert.rejects(ControlServer.start(tooLong, control, log), /cannot listen on the control socket/);
    });

    it('goes when the server stops, and cuts connections that idle', async () => {
      const idle = net.connect(socket);
      await once(idle, 'connect');
      const closed = once(idle, 'close');
      await server.stop();
      await closed;
      assert.ok(!fs.existsSync(socket));
      server = await ControlServer.start(socket, control, log);
    });
  });

  describe('its client', () => {
    it('says that no daemon runs', async () => {
      const nowhere = path.join(directory, 'nowhere.sock');
      await assert.rejects(new ControlClient(nowhere).get('/v1/status'), {
        message: `no daemon answers at the control socket ${nowhere}: start one (ringswitch daemon), or name its socket (--socket)`,
      });
    });

    it('says that something else answers', async () => {
      const other = path.join(directory, 'other.sock');
      const stranger = http.createServer((_, response) => response.end('<html>')).listen(other);
      try {
        await once(stranger, 'listening');
        await assert.rejects(new ControlClient(other).get('/v1/status'), /other\.sock is no ringswitch daemon$/);
      } finally {
        stranger.close();
      }
    });

    it('says that the connection broke', async () => {
      const other = path.join(directory, 'other.sock');
      const stranger = net
        .createServer((connection) => connection.once('data', () => connection.destroy()))
        .listen(other);
      try {
        await once(stranger, 'listening');
        await assert.rejects(
          new ControlClient(other).get('/v1/status'),
          /^Error: the control socket .*: (socket hang up|.*ECONNRESET)/,
        );
      } finally {
        stranger.close();
      }
    });

    it('says who may ask', async function () {
      if (process.getuid!() !== 0) this.skip(); // Only root can become somebody else.
      fs.chmodSync(directory, 0o755);
      process.seteuid!(65534);
      try {
        await assert.rejects(client.get('/v1/status'), /^Error: no permission for the control socket .*run as root$/);
      } finally {
        process.seteuid!(0);
      }
    });
  });
});
