/** The expected answers of the tun cases are those of this machine's own kernel. */
import { run } from '../../lab/program.ts';
import { tunCases } from '../ioctl/cases.ts';
import { conforms, parseTranscripts, probeCommand, type Transcripts } from '../ioctl/suite.ts';

describe("ioctls of the host's own /dev/net/tun", function () {
  this.timeout(60_000);
  let transcripts: Transcripts;

  before(async () => {
    transcripts = parseTranscripts(await run(probeCommand('kernel', '/dev/net/tun')));
  });

  conforms(tunCases, 'kernel', () => transcripts);
});
