/** The expected answers are those of a distribution's kernel, which has a /dev/vhost-net too. */
import { Machine } from '../../lab/machine.ts';
import { quote } from '../../lab/words.ts';
import { tunCases, vhostCases } from '../ioctl/cases.ts';
import { conforms, parseTranscripts, probeCommand, type Transcripts } from '../ioctl/suite.ts';

/** The probe takes half a minute on an emulated processor. */
const PROBE_MS = 180_000;

describe("ioctls of a guest's own /dev/net/tun and /dev/vhost-net", function () {
  this.timeout(2 * PROBE_MS);
  let transcripts: Transcripts;

  before(async () => {
    await using machine = await Machine.start({
      name: 'ioctls',
      memoryMiB: 512,
      hostRoot: true,
      modules: ['tun', 'vhost_net'],
    });
    const probe = probeCommand('kernel', '/dev/net/tun', '/dev/vhost-net').map(quote).join(' ');
    // Output comes mixed: standard error is kept apart, for the case of failure.
    const command = `${probe} 2>/tmp/probe.log || { cat /tmp/probe.log; exit 1; }`;
    transcripts = parseTranscripts(await machine.shInHostRoot(command, { timeoutMs: PROBE_MS }));
  });

  conforms([...tunCases, ...vhostCases], 'kernel', () => transcripts);
});
