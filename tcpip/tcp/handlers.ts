/**
 * The programs' handlers, by number, so that a connection has four bytes for its own. One handler may serve millions of
 * connections, and is known here once.
 */
import type { TcpHandler } from './api.ts';

/** Of connections that no program knows of yet, or not any more. */
export const NO_HANDLER = 0;

export class Handlers {
  readonly #rows: (TcpHandler | null)[] = [null];
  readonly #users: number[] = [0];
  readonly #numbers = new Map<TcpHandler, number>();
  readonly #free: number[] = [];

  get(number: number): TcpHandler {
    return this.#rows[number]!;
  }

  /** The handler's number, for one connection more. */
  hold(handler: TcpHandler): number {
    const known = this.#numbers.get(handler);
    if (known !== undefined) {
      this.#users[known]!++;
      return known;
    }
    const number = this.#free.pop() ?? this.#rows.length;
    this.#rows[number] = handler;
    this.#users[number] = 1;
    this.#numbers.set(handler, number);
    return number;
  }

  letGo(number: number): void {
    if (number === NO_HANDLER || --this.#users[number]! > 0) return;
    this.#numbers.delete(this.#rows[number]!);
    this.#rows[number] = null;
    this.#free.push(number);
  }
}
