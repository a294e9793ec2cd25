import assert from 'node:assert/strict';
import { SystemError } from '../../linux/libc.ts';

/** That `act` fails with this code in this call, and that the message names the call, these arguments and the code. */
export function failsWith(code: string, syscall: string, args: string, act: () => unknown): void {
  assert.throws(act, (error: unknown) => {
    assert(error instanceof SystemError, String(error));
    assert.equal(error.code, code);
    assert.equal(error.syscall, syscall);
    assert.equal(error.message, `${syscall}(${args}) failed: ${code}`);
    return true;
  });
}
