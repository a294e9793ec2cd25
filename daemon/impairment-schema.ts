/** How an impairment is checked: in numbers, as the control API has it, and in words, as the configuration has it. */
import { z } from 'zod';
import {
  IMPAIRMENT_NAMES,
  IMPAIRMENT_WORDS,
  type ImpairmentRequest,
  type ImpairmentWord,
  impairmentOf,
  MAX_BITS_PER_SECOND,
  MAX_DELAY_MS,
  MAX_IMPAIRMENT_LIMIT,
  MAX_SEED,
  MIN_BITS_PER_SECOND,
  NO_IMPAIRMENT,
  problemOf,
} from './impairment-options.ts';

const between = (what: string, min: number, max: number) => {
  const expected = `expected ${what} from ${min} to ${max}`;
  return z.number(expected).min(min, expected).max(max, expected);
};
const share = between('a share', 0, 1).default(0);
const milliseconds = between('milliseconds', 0, MAX_DELAY_MS).default(0);
const RATE = `expected 0 for no limit, or bits per second from ${MIN_BITS_PER_SECOND} to ${MAX_BITS_PER_SECOND}`;
const NUMBERS = {
  loss: share,
  duplicate: share,
  corrupt: share,
  reorder: share,
  delayMs: milliseconds,
  jitterMs: milliseconds,
  bitsPerSecond: z
    .number(RATE)
    .refine((bits) => bits === 0 || (bits >= MIN_BITS_PER_SECOND && bits <= MAX_BITS_PER_SECOND), RATE)
    .default(0),
  limit: between('a whole number of frames', 1, MAX_IMPAIRMENT_LIMIT)
    .int(`expected a whole number of frames from 1 to ${MAX_IMPAIRMENT_LIMIT}`)
    .default(NO_IMPAIRMENT.limit),
  seed: between('a whole number', 0, MAX_SEED).int(`expected a whole number from 0 to ${MAX_SEED}`).optional(),
};

/** Refuses, as one thing that is wrong, what does not go together. */
function refuse(request: ImpairmentRequest, context: z.RefinementCtx): void {
  const problem = problemOf(request);
  if (problem !== null) context.addIssue({ code: 'custom', message: problem });
}

const numbers = z
  .strictObject(NUMBERS, {
    error: ({ code, keys }) =>
      code === 'unrecognized_keys'
        ? `unknown key ${(keys as string[]).join(', ')}; known are ${Object.keys(NUMBERS).join(', ')}`
        : `expected null, or an object with the keys ${Object.keys(NUMBERS).join(', ')}`,
  })
  .superRefine(refuse)
  .nullable()
  .optional();

/** `{ to: { loss: 0.01 }, from: null }`. */
export const impairmentNumbers = z.strictObject(
  { to: numbers, from: numbers },
  'expected an object with the keys to, from',
);

/** A word's value: text with its unit, or a plain number where there is none. */
const wordSchema = (word: ImpairmentWord) => {
  const { parse, expected } = IMPAIRMENT_WORDS[word];
  const message = `expected ${expected}`;
  return z
    .union([z.string(), z.number()], message)
    .transform((value, context) => {
      const parsed = parse(String(value).trim());
      if (parsed !== undefined) return parsed;
      context.addIssue({ code: 'custom', message });
      return z.NEVER;
    })
    .optional();
};
const WORDS = Object.fromEntries(IMPAIRMENT_NAMES.map((word) => [word, wordSchema(word)])) as Record<
  ImpairmentWord,
  ReturnType<typeof wordSchema>
>;
const words = z
  .strictObject(WORDS, 'expected a mapping')
  .transform((values, context) => {
    const request = impairmentOf(values);
    refuse(request, context);
    return request;
  })
  .optional();

/** `{ both: { loss: 1% } }`, or `to` and `from` by themselves. */
export const impairmentWords = z
  .strictObject({ to: words, from: words, both: words }, 'expected a mapping')
  .refine(
    ({ to, from, both }) => both === undefined || (to === undefined && from === undefined),
    'expected either both, or to and from',
  )
  .transform(({ to, from, both }) => ({ to: both ?? to, from: both ?? from }));
