/**
 * Runs the conformance cases and prints their transcripts as one JSON object, `{caseName: ["label: answer", ...]}`.
 *
 *     node test/ioctl/probe.ts --tun PATH [--vhost PATH] [--kernel | --clone | --exec] [--case TEXT]
 *
 * Without --vhost only the cases for tun files are run. --kernel (the default) says that the paths are the kernel's
 * own files: the program then enters a network namespace of its own, so that the interfaces touch nobody. --clone says
 * that they are clones; --exec that they are clones and that this program runs under `ringswitch exec`. --case takes
 * only the cases whose name contains a text.
 *
 * Files are opened non-blocking: no call waits. On standard error stands which case is being run, for the day when one
 * does.
 */
import { parseArgs } from 'node:util';
import { CLONE_NEWNET, unshare } from '../../linux/mount.ts';
import { Bench, silenceIpv6 } from './bench.ts';
import { runsOn, type Step, type Target, type Transcript } from './case.ts';
import { tunCases, vhostCases } from './cases.ts';

const { values } = parseArgs({
  options: {
    tun: { type: 'string' },
    vhost: { type: 'string' },
    kernel: { type: 'boolean' },
    clone: { type: 'boolean' },
    exec: { type: 'boolean' },
    case: { type: 'string', default: '' },
  },
});
if (values.tun === undefined) throw new Error('The probe needs the path of a tun file: --tun PATH.');
const target: Target = values.exec ? 'exec' : values.clone ? 'clone' : 'kernel';
if (target === 'kernel') {
  unshare(CLONE_NEWNET);
  silenceIpv6();
}

const bench = new Bench(target, { tun: values.tun, vhost: values.vhost });
const transcripts: Record<string, Transcript> = {};
for (const conformanceCase of values.vhost === undefined ? tunCases : [...tunCases, ...vhostCases]) {
  const { name, rows } = conformanceCase;
  if (!name.includes(values.case) || !runsOn(conformanceCase, target)) continue;
  process.stderr.write(`${name}\n`);
  transcripts[name] = rows.map(([step]) => `${step.label}: ${attempt(step)}`);
  bench.clear();
}
process.stdout.write(`${JSON.stringify(transcripts, null, 1)}\n`);

/** What could not even be tried is an answer too, and the other cases go on. */
function attempt(step: Step): string {
  try {
    return step.run(bench);
  } catch (error) {
    return `failed: ${error instanceof Error ? error.message : error}`;
  }
}
