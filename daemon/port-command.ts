/** `ringswitch port set`: its options, and what they ask of the control API. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { IMPAIRED_DIRECTIONS, type ImpairedDirection } from '../switch/impairment.ts';
import type { PortChange } from './control.ts';
import {
  IMPAIRMENT_NAMES,
  IMPAIRMENT_WORDS,
  type ImpairmentWord,
  impairmentOf,
  problemOf,
} from './impairment-options.ts';

const DIRECTIONS = [...IMPAIRED_DIRECTIONS, 'both'] as const;

/** What the command line has, as commander names it. */
export type PortSetOptions = { [Word in ImpairmentWord]?: number } & {
  link?: 'up' | 'down';
  direction?: (typeof DIRECTIONS)[number];
  clear?: boolean;
};

/** Adds the options. A value that is none makes commander refuse it by the option's name. */
export function addPortSetOptions(command: Command): Command {
  command.addOption(
    new Option('--link <state>', 'frames from and for a port that is down are dropped').choices(['up', 'down']),
  );
  for (const word of IMPAIRMENT_NAMES) {
    const { argument, help, expected, parse } = IMPAIRMENT_WORDS[word];
    command.option(`--${word} <${argument}>`, help, (text: string) => {
      const value = parse(text);
      if (value === undefined) throw new InvalidArgumentError(`It is ${expected}.`);
      return value;
    });
  }
  return command
    .addOption(
      new Option('--direction <direction>', 'frames to the port, from it, or both (the default)').choices(DIRECTIONS),
    )
    .option('--clear', 'impair nothing any more; what is under way goes out at once');
}

/** The body of PATCH /v1/ports/NAME. Throws Error where the options do not go together. */
export function portSetBody({ link, direction, clear = false, ...values }: PortSetOptions): PortChange {
  const change: PortChange = {};
  if (link !== undefined) change.link = link;
  const given = IMPAIRMENT_NAMES.filter((word) => values[word] !== undefined).map((word) => `--${word}`);
  if (clear && given.length > 0)
    throw new Error(`--clear ends an impairment, and ${given.join(', ')} begins one: give one`);
  if (clear || given.length > 0) {
    const request = clear ? null : impairmentOf(values);
    const problem = request && problemOf(request);
    if (problem !== null) throw new Error(`${given.join(', ')}: ${problem}`);
    const directions: readonly ImpairedDirection[] =
      direction === undefined || direction === 'both' ? IMPAIRED_DIRECTIONS : [direction];
    change.impairment = Object.fromEntries(directions.map((one) => [one, request]));
  } else if (direction !== undefined) {
    throw new Error('--direction says where to impair, and nothing says how: give --loss, --delay, …, or --clear');
  }
  if (Object.keys(change).length === 0) {
    throw new Error('nothing to set: give --link, or --loss, --delay and what else --help tells, or --clear');
  }
  return change;
}
