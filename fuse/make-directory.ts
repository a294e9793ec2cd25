/** mkdir(1) -p, with an error that says what for. */
import fs from 'node:fs';
import path from 'node:path';

/**
 * Makes a directory and those above it; `what` needs it. Not with Node's `recursive`, which never ends where mkdir(2)
 * answers ENOENT in a directory that is there, as /proc does.
 */
export function makeDirectory(directory: string, what: string): void {
  if (isDirectory(directory)) return;
  makeDirectory(path.dirname(directory), what);
  try {
    fs.mkdirSync(directory);
  } catch (error) {
    if (isDirectory(directory)) return; // Somebody else was faster.
    const { code } = error as NodeJS.ErrnoException;
    throw new Error(`cannot make the directory ${directory} for ${what}: ${code}; set it to another path`);
  }
}

function isDirectory(directory: string): boolean {
  return fs.statSync(directory, { throwIfNoEntry: false })?.isDirectory() ?? false;
}
