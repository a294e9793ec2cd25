/**
 * The other process of a case: makes ioctls, given by their numbers, with the address of zeros on the descriptor 3 that
 * it has inherited, and prints the answers with spaces between.
 */
import { tryIoctl } from '../../linux/ioctl.ts';
import { answer } from './bench.ts';

const INHERITED_FD = 3;
const answers = process.argv
  .slice(2)
  .map((request) => answer(tryIoctl(INHERITED_FD, Number(request), Buffer.alloc(64))));
process.stdout.write(`${answers.join(' ')}\n`);
