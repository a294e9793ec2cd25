/** Our clones give the answers that the kernel gives, but for the differences that the cases name. */
import type { DaemonProcess } from '../../lab/daemon.ts';
import { run } from '../../lab/program.ts';
import { withDaemon } from '../helpers/daemon-fixture.ts';
import { tunCases, vhostCases } from '../ioctl/cases.ts';
import { conforms, parseTranscripts, probeCommand, type Transcripts } from '../ioctl/suite.ts';

const PROBE_MS = 60_000;
const cases = [...tunCases, ...vhostCases];

describe('ioctls of our clones', function () {
  this.timeout(2 * PROBE_MS);
  let daemon: DaemonProcess;

  withDaemon((started) => {
    daemon = started;
  });

  describe('in a program that opens them where they are mounted', () => {
    let transcripts: Transcripts;

    before(async () => {
      transcripts = parseTranscripts(
        await run(probeCommand('clone', daemon.tun, daemon.vhostNet), { timeoutMs: PROBE_MS }),
      );
    });

    conforms(cases, 'clone', () => transcripts);
  });

  describe('in a program under ringswitch exec', () => {
    let transcripts: Transcripts;

    before(async () => {
      const probe = probeCommand('exec', '/dev/net/tun', '/dev/vhost-net');
      transcripts = parseTranscripts(await run([...daemon.exec, ...probe], { timeoutMs: PROBE_MS }));
    });

    conforms(cases, 'exec', () => transcripts);
  });
});
