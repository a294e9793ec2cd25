/**
 * What a conformance case is: calls against freshly opened device files, each beside its expected answer.
 *
 * The answers are those of Linux, found by running the cases on it: 6.18 for /dev/net/tun, 6.1 for /dev/net/tun and
 * /dev/vhost-net. An answer is the result, with the bytes that came back where they matter, or the name of the errno.
 */
import type { Bench } from './bench.ts';

/** Where cases run: a kernel's own files; our clones; our clones in a program under `ringswitch exec`. */
export type Target = 'kernel' | 'clone' | 'exec';

/** One call. The label says which, so that a transcript can be read alone. */
export interface Step {
  label: string;
  run(bench: Bench): string;
}

/** The answer to a step; with a reason where not everybody gives the same. */
export type Expected =
  | string
  | {
      /** Of Linux; several where its versions differ. */
      kernel: string | string[];
      /** Of the clones. Default: as Linux, any version. */
      clone?: string;
      why: string;
    };

export type Row = [step: Step, expected: Expected];

/** One independent case: nothing of it outlives it. */
export interface Case {
  name: string;
  rows: Row[];
  /** Uses ioctls whose value stands in the argument itself: FUSE fails them unless `ringswitch exec` helps. */
  needsExec?: boolean;
  /** Where alone it makes sense. Default: everywhere. */
  only?: Target;
}

/** Lines `label: answer`, one a step. */
export type Transcript = string[];

/** Whether a case is run there. */
export function runsOn(conformanceCase: Case, target: Target): boolean {
  if (conformanceCase.only) return conformanceCase.only === target;
  return target !== 'clone' || !conformanceCase.needsExec;
}

/** All answers that are right for a step. */
function allowed(expected: Expected, target: Target): string[] {
  if (typeof expected === 'string') return [expected];
  if (target !== 'kernel' && expected.clone !== undefined) return [expected.clone];
  return [expected.kernel].flat();
}

/** The right transcript: where several answers are right, the one that was given if it is among them. */
export function rightTranscript({ rows }: Case, target: Target, given: Transcript): Transcript {
  return rows.map(([step, expected], index) => {
    const lines = allowed(expected, target).map((answer) => `${step.label}: ${answer}`);
    const line = given[index];
    return line !== undefined && lines.includes(line) ? line : lines.join(' | ');
  });
}
