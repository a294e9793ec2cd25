/** Checks of arguments that throw what Node throws, word for word. */
import { inspect } from 'node:util';
import { nodeError } from './errors.ts';

const MAX_PORT = 65_535;

function received(value: unknown): string {
  if (value === null || value === undefined) return `${value}`;
  return `type ${typeof value} (${inspect(value, { colors: false, depth: 0 }).slice(0, 28)})`;
}

/** ERR_SOCKET_BAD_PORT, unless it is a number, or a string of one, from 0 to 65,535. */
export function checkPort(port: unknown, name: string): number {
  const isText = typeof port === 'string' && port.trim() !== '';
  const number = typeof port === 'number' || isText ? Number(port) : Number.NaN;
  if (number === number >>> 0 && number <= MAX_PORT) return number;
  const error = new RangeError(`${name} should be >= 0 and < 65536. Received ${received(port)}.`);
  throw nodeError(error, 'ERR_SOCKET_BAD_PORT');
}

export function checkFunction(value: unknown, name: string): void {
  if (typeof value === 'function') return;
  const what = name.includes('.') ? 'property' : 'argument';
  const error = new TypeError(`The "${name}" ${what} must be of type function. Received ${received(value)}`);
  throw nodeError(error, 'ERR_INVALID_ARG_TYPE');
}

/** Milliseconds for a timer. */
export function checkDuration(ms: unknown, name: string): void {
  if (typeof ms !== 'number') {
    const error = new TypeError(`The "${name}" argument must be of type number. Received ${received(ms)}`);
    throw nodeError(error, 'ERR_INVALID_ARG_TYPE');
  }
  if (ms >= 0 && Number.isFinite(ms)) return;
  const words = `The value of "${name}" is out of range. It must be a non-negative finite number. Received ${ms}`;
  throw nodeError(new RangeError(words), 'ERR_OUT_OF_RANGE');
}
