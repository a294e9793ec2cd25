/** One mocha test for each conformance case, from the transcripts that the probe (probe.ts) gave. */
import assert from 'node:assert/strict';
import path from 'node:path';
import { projectRoot } from '../../lab/artifacts.ts';
import { type Case, rightTranscript, runsOn, type Target, type Transcript } from './case.ts';

/** What the probe prints. */
export type Transcripts = Record<string, Transcript>;

/** Words that run the probe, from the project's folder, with the Node of this process's project. */
export function probeCommand(target: Target, tun: string, vhost?: string): string[] {
  const node = path.join(projectRoot, 'node_modules/.bin/node');
  const words = [node, path.join(projectRoot, 'test/ioctl/probe.ts'), `--${target}`, '--tun', tun];
  return vhost === undefined ? words : [...words, '--vhost', vhost];
}

/** What the probe printed; throws with the text when that is no JSON. */
export function parseTranscripts(output: string): Transcripts {
  try {
    return JSON.parse(output) as Transcripts;
  } catch (error) {
    throw new Error(`The probe's output is no JSON (${(error as Error).message}):\n${output}`);
  }
}

/** Declares the tests for those of `cases` that run on `target`. The transcripts are asked for when a test runs. */
export function conforms(cases: Case[], target: Target, transcripts: () => Transcripts): void {
  for (const conformanceCase of cases) {
    if (!runsOn(conformanceCase, target)) continue;
    it(conformanceCase.name, () => {
      const given = transcripts()[conformanceCase.name];
      assert.ok(given, 'The probe has not run this case.');
      assert.deepEqual(given, rightTranscript(conformanceCase, target, given));
    });
  }
}
