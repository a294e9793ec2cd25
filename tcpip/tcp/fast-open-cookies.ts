/** Cookies of TCP Fast Open (RFC 7413 §4.1): those that we give to clients, and those that servers gave us. */
import { MICROSECONDS_PER_SECOND, type Random, type Time } from '../network.ts';
import type { Family } from '../packet.ts';
import { SipHash } from './siphash.ts';

const COOKIE_BYTES = 8;
/** A key serves for an hour, and its cookies for two. */
const KEY_LIFETIME = 3600 * MICROSECONDS_PER_SECOND;
/** Servers that a client remembers. */
const REMEMBERED = 1024;

/** The server's side (§4.1.2): a cookie is a keyed hash of the client's address. */
export class FastOpenServer {
  readonly #random: Random;
  #key: SipHash;
  #keyBefore: SipHash;
  #keyUntil: Time = 0;
  readonly #cookie = new Uint8Array(COOKIE_BYTES);

  constructor(random: Random) {
    this.#random = random;
    this.#key = SipHash.random(random);
    this.#keyBefore = SipHash.random(random);
  }

  /** The cookie for the client whose address is at `at`; valid until the next call. */
  make(bytes: Uint8Array, at: number, family: Family, now: Time): Uint8Array {
    this.#renewKey(now);
    this.#write(this.#key, bytes, at, family);
    return this.#cookie;
  }

  /** Whether `length` bytes at `cookieAt` are the client's cookie. */
  check(bytes: Uint8Array, at: number, family: Family, cookieAt: number, length: number, now: Time): boolean {
    if (length !== COOKIE_BYTES) return false;
    this.#renewKey(now);
    return [this.#key, this.#keyBefore].some((key) => {
      this.#write(key, bytes, at, family);
      return this.#cookie.every((byte, i) => byte === bytes[cookieAt + i]);
    });
  }

  #renewKey(now: Time): void {
    if (now < this.#keyUntil) return;
    if (this.#keyUntil > 0) this.#keyBefore = this.#key;
    if (this.#keyUntil > 0) this.#key = SipHash.random(this.#random);
    this.#keyUntil = now + KEY_LIFETIME;
  }

  #write(key: SipHash, bytes: Uint8Array, at: number, family: Family): void {
    key.hash(bytes, at, at + (family === 4 ? 4 : 16));
    const view = new DataView(this.#cookie.buffer);
    view.setUint32(0, key.low);
    view.setUint32(4, key.high);
  }
}

interface Remembered {
  cookie: Uint8Array;
  mss: number;
}

/** The client's side (§4.1.3): what servers gave us, by address; who was not asked for longest is forgotten first. */
export class FastOpenClient {
  readonly #servers = new Map<string, Remembered>();

  /** What a server gave us, or null. */
  find(address: Uint8Array): Remembered | null {
    const key = address.join('.');
    const known = this.#servers.get(key);
    if (known === undefined) return null;
    this.#servers.delete(key);
    this.#servers.set(key, known);
    return known;
  }

  learn(address: Uint8Array, cookie: Uint8Array, mss: number): void {
    const key = address.join('.');
    this.#servers.delete(key);
    if (this.#servers.size >= REMEMBERED) this.#servers.delete(this.#servers.keys().next().value!);
    this.#servers.set(key, { cookie, mss });
  }

  /** Its SYN with a cookie was lost: perhaps somebody on the way drops them (§4.1.3.1). */
  forget(address: Uint8Array): void {
    this.#servers.delete(address.join('.'));
  }
}
