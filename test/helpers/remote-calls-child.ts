/**
 * Makes system calls for test/helpers/remote-calls.ts: a line of JSON comes in, `[call, ...arguments]`, a line of JSON
 * goes out, `{result, bytes}`, with the negative errno as result of a call that failed, and bytes in hexadecimal.
 */
import { createInterface } from 'node:readline';
import { close, open, tryRead, tryWrite } from '../../linux/file.ts';
import { tryIoctl } from '../../linux/ioctl.ts';
import { SystemError } from '../../linux/libc.ts';
import { POLLIN, PollSet } from '../../linux/poll.ts';

const calls: Record<string, (...args: never[]) => { result: number; bytes?: Buffer }> = {
  open: (path: string, flags: number) => ({ result: open(path, flags) }),
  close: (fd: number) => {
    close(fd);
    return { result: 0 };
  },
  ioctl: (fd: number, request: number, argument: number | string) => {
    if (typeof argument === 'number') return { result: tryIoctl(fd, request, argument) };
    const bytes = Buffer.from(argument, 'hex');
    return { result: tryIoctl(fd, request, bytes), bytes };
  },
  read: (fd: number, count: number) => {
    const bytes = Buffer.alloc(count);
    const result = tryRead(fd, bytes);
    return { result, bytes: bytes.subarray(0, Math.max(result, 0)) };
  },
  write: (fd: number, hex: string) => ({ result: tryWrite(fd, Buffer.from(hex, 'hex')) }),
  poll: (fd: number, timeoutMs: number) => {
    const poll = new PollSet();
    poll.add(fd, POLLIN);
    poll.wait(timeoutMs);
    return { result: poll.revents(0) };
  },
};

// A signal interrupts the call that it finds, and is nothing more.
process.on('SIGUSR2', () => {});

console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const [call, ...args] = JSON.parse(line) as [string, ...never[]];
  let answer: { result: number; bytes?: Buffer };
  try {
    answer = calls[call]!(...args);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    answer = { result: -error.errno };
  }
  console.log(JSON.stringify({ result: answer.result, bytes: answer.bytes?.toString('hex') ?? '' }));
}
