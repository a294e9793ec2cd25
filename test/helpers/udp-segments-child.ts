/**
 * Linux's UDP with segmentation offload (udp(7): UDP_SEGMENT), one end a process:
 *
 *     receive PORT           says `ready`, then answers each message of SEGMENTS datagrams with the SHA-256 of their bytes
 *     send HOST PORT ROUNDS  sends ROUNDS messages, each in one call, and ends with 0 when every answer was right
 */
import { createHash } from 'node:crypto';
import dgram from 'node:dgram';
import { once } from 'node:events';
import { check, libcFunction } from '../../linux/libc.ts';
import { frameBytes } from './frame-bytes.ts';

const SEGMENT_BYTES = 1400;
const SEGMENTS = 40;
const ANSWER_TIMEOUT_MS = 3000;
// <sys/socket.h>, <linux/udp.h>
const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_DGRAM = 2;
const SOL_UDP = 17;
const UDP_SEGMENT = 103;

const makeSocket = libcFunction('int socket(int domain, int type, int protocol)');
const setsockopt = libcFunction('int setsockopt(int fd, int level, int name, void *value, uint32_t length)');

const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

async function receive(port: number): Promise<void> {
  const socket = dgram.createSocket('udp6');
  let datagrams: Buffer[] = [];
  socket.on('message', (bytes, { address, port: from }) => {
    datagrams.push(bytes);
    if (datagrams.length < SEGMENTS) return;
    const whole = datagrams.every(({ length }) => length === SEGMENT_BYTES);
    const answer = whole ? hashOf(Buffer.concat(datagrams)) : `${datagrams.map(({ length }) => length)}`;
    datagrams = [];
    socket.send(answer, from, address);
  });
  socket.bind(port);
  await once(socket, 'listening');
  console.log('ready');
}

async function send(host: string, port: number, rounds: number): Promise<void> {
  const isIpv6 = host.includes(':');
  const fd = check(makeSocket(isIpv6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0), 'socket', {});
  check(setsockopt(fd, SOL_UDP, UDP_SEGMENT, Int32Array.of(SEGMENT_BYTES), 4), 'setsockopt', { name: 'UDP_SEGMENT' });
  const socket = dgram.createSocket(isIpv6 ? 'udp6' : 'udp4');
  await Promise.all([once(socket, 'listening'), socket.bind({ fd })]);
  for (let round = 0; round < rounds; round++) {
    const bytes = frameBytes(SEGMENTS * SEGMENT_BYTES, round);
    socket.send(bytes, port, host);
    const [answer] = await once(socket, 'message', { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
    if (`${answer}` !== hashOf(bytes)) throw new Error(`round ${round}: the receiver got something else: ${answer}`);
  }
  socket.close();
}

const [role, ...words] = process.argv.slice(2);
if (role === 'receive') await receive(Number(words[0]));
else await send(words[0]!, Number(words[1]), Number(words[2]));
