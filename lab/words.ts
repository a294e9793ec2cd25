/** Text from and for programs: what they printed last, and words for a shell. */

/**
 * The last `lines` lines of a console or log, for the end of an error message: terminal escapes, carriage returns and
 * empty lines are left out. Says so when there is nothing.
 */
export function tail(text: string, lines = 25): string {
  const plain = text
    // biome-ignore lint/suspicious/noControlCharactersInRegex: ECMA-48 control sequences and a firmware's `ESC c`
    .replace(/\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_c])/g, '')
    .split(/\r*\n|\r/)
    .map((line) => line.trimEnd())
    .filter((line) => line !== '');
  return plain.length === 0 ? '(nothing was printed)' : plain.slice(-lines).join('\n');
}

/** `text` as one word of a POSIX shell. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
