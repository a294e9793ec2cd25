/**
 * Classic BPF: the programs that libpcap makes of a filter expression (bpf(4); McCanne and Jacobson, "The BSD Packet
 * Filter", 1993, §3), checked once and then run on one frame after the other.
 *
 *     instruction   u16 code, u8 jt, u8 jf, u32 k          registers A and X, 16 words of scratch memory M
 *
 * A program that passes {@link BpfProgram.check} ends: jumps only go forward, and the last instruction is a return. What it
 * loads from beyond the frame's end refuses the frame.
 *
 * Hot: {@link BpfProgram.run} allocates nothing.
 */

/** struct bpf_insn of `<pcap/bpf.h>`: code, jt, jf, k. */
export type BpfInstruction = readonly [code: number, jt: number, jf: number, k: number];

/** Instructions of a program at the most (BPF_MAXINSNS of `<linux/bpf_common.h>`). */
export const BPF_MAXINSNS = 4096;
const BPF_MEMWORDS = 16;
/** Offsets from here on ask Linux for more than the packet's bytes (SKF_LL_OFF of `<linux/filter.h>`, -0x200000). */
const SKF_LL_OFF = 0xffe0_0000;

// Instruction classes, in the lowest three bits of the code.
const BPF_LD = 0x00;
const BPF_LDX = 0x01;
const BPF_ST = 0x02;
const BPF_STX = 0x03;
const BPF_ALU = 0x04;
const BPF_JMP = 0x05;
const BPF_RET = 0x06;
const BPF_MISC = 0x07;
// Sizes of loads.
const BPF_W = 0x00;
const BPF_H = 0x08;
const BPF_B = 0x10;
// Modes of loads.
const BPF_IMM = 0x00;
const BPF_ABS = 0x20;
const BPF_IND = 0x40;
const BPF_MEM = 0x60;
const BPF_LEN = 0x80;
const BPF_MSH = 0xa0;
// Arithmetic.
const BPF_ADD = 0x00;
const BPF_SUB = 0x10;
const BPF_MUL = 0x20;
const BPF_DIV = 0x30;
const BPF_OR = 0x40;
const BPF_AND = 0x50;
const BPF_LSH = 0x60;
const BPF_RSH = 0x70;
const BPF_NEG = 0x80;
const BPF_MOD = 0x90;
const BPF_XOR = 0xa0;
// Jumps.
const BPF_JA = 0x00;
const BPF_JEQ = 0x10;
const BPF_JGT = 0x20;
const BPF_JGE = 0x30;
const BPF_JSET = 0x40;
// Where an operand, or what a return gives, comes from.
const BPF_K = 0x00;
const BPF_X = 0x08;
const BPF_A = 0x10;
// Moves between A and X.
const BPF_TAX = 0x00;
const BPF_TXA = 0x80;

const ARITHMETIC = [BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_MOD, BPF_XOR];
const CONDITIONS = [BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET];
const CLASS_MASK = 0x07;
const MODE_MASK = 0xe0;
const WORD_BITS = 32;
const UINT32 = 2 ** 32;
/** k of a jump, where it is meant to be negative. */
const BACKWARDS = 2 ** 31;

/** Every code that a program may have. */
const CODES: ReadonlySet<number> = new Set([
  ...[BPF_W, BPF_H, BPF_B].flatMap((size) => [BPF_LD | BPF_ABS | size, BPF_LD | BPF_IND | size]),
  ...[BPF_LD, BPF_LDX].flatMap((load) => [load | BPF_IMM, load | BPF_MEM, load | BPF_W | BPF_LEN]),
  BPF_LDX | BPF_MSH | BPF_B,
  BPF_ST,
  BPF_STX,
  ...ARITHMETIC.flatMap((operation) => [BPF_ALU | operation | BPF_K, BPF_ALU | operation | BPF_X]),
  BPF_ALU | BPF_NEG,
  BPF_JMP | BPF_JA,
  ...CONDITIONS.flatMap((condition) => [BPF_JMP | condition | BPF_K, BPF_JMP | condition | BPF_X]),
  BPF_RET | BPF_K,
  BPF_RET | BPF_A,
  BPF_MISC | BPF_TAX,
  BPF_MISC | BPF_TXA,
]);

/** A program that is none: `instruction` says which one is wrong, counted from 0. */
export class BpfError extends Error {
  readonly instruction: number;

  constructor(instruction: number, problem: string) {
    super(`instruction ${instruction} of the filter: ${problem}`);
    this.name = 'BpfError';
    this.instruction = instruction;
  }
}

export class BpfProgram {
  readonly #code: Uint16Array;
  readonly #jt: Uint8Array;
  readonly #jf: Uint8Array;
  readonly #k: Uint32Array;
  readonly #memory = new Uint32Array(BPF_MEMWORDS);
  /** After a {@link run} that gave MORE: bytes of the frame that it takes to go on. */
  needed = 0;

  /** Throws {@link BpfError} with the first instruction that is not to be run. */
  static check(instructions: readonly BpfInstruction[]): void {
    const count = instructions.length;
    if (count === 0 || count > BPF_MAXINSNS) {
      throw new BpfError(0, `a program has 1 to ${BPF_MAXINSNS} instructions, this one ${count}`);
    }
    for (const [i, [code, jt, jf, k]] of instructions.entries()) {
      if (!CODES.has(code)) throw new BpfError(i, `there is no code 0x${code.toString(16)}`);
      if (!isUint(jt, 8) || !isUint(jf, 8) || !isUint(k, WORD_BITS)) {
        throw new BpfError(i, `jt ${jt} and jf ${jf} are of 8 bits, k ${k} of 32`);
      }
      const kind = code & CLASS_MASK;
      if (kind === BPF_JMP) {
        const farthest = code === (BPF_JMP | BPF_JA) ? k : Math.max(jt, jf);
        if (farthest >= BACKWARDS) throw new BpfError(i, 'it jumps back (as "protochain" does): a filter has no loops');
        if (i + 1 + farthest >= count) throw new BpfError(i, `it jumps beyond the last one, ${count - 1}`);
      }
      if (usesMemory(code) && k >= BPF_MEMWORDS) {
        throw new BpfError(i, `there are ${BPF_MEMWORDS} words of memory, no word ${k}`);
      }
      if ((code & (CLASS_MASK | MODE_MASK)) === (BPF_LD | BPF_ABS) && k >= SKF_LL_OFF) {
        throw new BpfError(
          i,
          `it asks for what is no byte of a frame; for "inbound" and "outbound" there is --direction`,
        );
      }
      if ((code === (BPF_ALU | BPF_DIV | BPF_K) || code === (BPF_ALU | BPF_MOD | BPF_K)) && k === 0) {
        throw new BpfError(i, 'it divides by 0');
      }
    }
    const last = instructions[count - 1]!;
    if ((last[0] & CLASS_MASK) !== BPF_RET) throw new BpfError(count - 1, 'the last one is no return');
  }

  /** Throws {@link BpfError}. */
  constructor(instructions: readonly BpfInstruction[]) {
    BpfProgram.check(instructions);
    this.#code = Uint16Array.from(instructions, ([code]) => code);
    this.#jt = Uint8Array.from(instructions, ([, jt]) => jt);
    this.#jf = Uint8Array.from(instructions, ([, , jf]) => jf);
    this.#k = Uint32Array.from(instructions, ([, , , k]) => k);
  }

  /**
   * Runs on a frame of `length` bytes, of which the first `present` stand in `bytes` from `start` on. Gives how many bytes
   * of it are wanted: 0 when it does not match. Gives {@link MORE} when the answer depends on bytes that are not present:
   * come again with {@link needed} of them at the least.
   */
  run(bytes: Uint8Array, start: number, present: number, length: number): number {
    const code = this.#code;
    const memory = this.#memory;
    let a = 0;
    let x = 0;
    let next = 0;
    memory.fill(0);
    for (;;) {
      const k = this.#k[next]!;
      const at = next++;
      switch (code[at]!) {
        case BPF_RET | BPF_K:
          return k;
        case BPF_RET | BPF_A:
          return a;

        case BPF_LD | BPF_W | BPF_ABS:
        case BPF_LD | BPF_W | BPF_IND: {
          // Exact: both are below 2^32, so their sum never wraps here.
          const from = code[at] === (BPF_LD | BPF_W | BPF_ABS) ? k : x + k;
          if (from + 4 > present) {
            if (from + 4 > length) return 0;
            return this.#more(from + 4);
          }
          const i = start + from;
          a = ((bytes[i]! << 24) | (bytes[i + 1]! << 16) | (bytes[i + 2]! << 8) | bytes[i + 3]!) >>> 0;
          break;
        }
        case BPF_LD | BPF_H | BPF_ABS:
        case BPF_LD | BPF_H | BPF_IND: {
          const from = code[at] === (BPF_LD | BPF_H | BPF_ABS) ? k : x + k;
          if (from + 2 > present) {
            if (from + 2 > length) return 0;
            return this.#more(from + 2);
          }
          a = (bytes[start + from]! << 8) | bytes[start + from + 1]!;
          break;
        }
        case BPF_LD | BPF_B | BPF_ABS:
        case BPF_LD | BPF_B | BPF_IND: {
          const from = code[at] === (BPF_LD | BPF_B | BPF_ABS) ? k : x + k;
          if (from >= present) {
            if (from >= length) return 0;
            return this.#more(from + 1);
          }
          a = bytes[start + from]!;
          break;
        }
        case BPF_LDX | BPF_MSH | BPF_B:
          // The length of an IPv4 header, in bytes, of its first byte.
          if (k >= present) {
            if (k >= length) return 0;
            return this.#more(k + 1);
          }
          x = (bytes[start + k]! & 0xf) << 2;
          break;

        case BPF_LD | BPF_W | BPF_LEN:
          a = length;
          break;
        case BPF_LDX | BPF_W | BPF_LEN:
          x = length;
          break;
        case BPF_LD | BPF_IMM:
          a = k;
          break;
        case BPF_LDX | BPF_IMM:
          x = k;
          break;
        case BPF_LD | BPF_MEM:
          a = memory[k]!;
          break;
        case BPF_LDX | BPF_MEM:
          x = memory[k]!;
          break;
        case BPF_ST:
          memory[k] = a;
          break;
        case BPF_STX:
          memory[k] = x;
          break;
        case BPF_MISC | BPF_TAX:
          x = a;
          break;
        case BPF_MISC | BPF_TXA:
          a = x;
          break;

        case BPF_JMP | BPF_JA:
          next += k;
          break;
        case BPF_JMP | BPF_JEQ | BPF_K:
          next += a === k ? this.#jt[at]! : this.#jf[at]!;
          break;
        case BPF_JMP | BPF_JGT | BPF_K:
          next += a > k ? this.#jt[at]! : this.#jf[at]!;
          break;
        case BPF_JMP | BPF_JGE | BPF_K:
          next += a >= k ? this.#jt[at]! : this.#jf[at]!;
          break;
        case BPF_JMP | BPF_JSET | BPF_K:
          next += (a & k) !== 0 ? this.#jt[at]! : this.#jf[at]!;
          break;
        case BPF_JMP | BPF_JEQ | BPF_X:
          next += a === x ? this.#jt[at]! : this.#jf[at]!;
          break;
        case BPF_JMP | BPF_JGT | BPF_X:
          next += a > x ? this.#jt[at]! : this.#jf[at]!;
          break;
        case BPF_JMP | BPF_JGE | BPF_X:
          next += a >= x ? this.#jt[at]! : this.#jf[at]!;
          break;
        case BPF_JMP | BPF_JSET | BPF_X:
          next += (a & x) !== 0 ? this.#jt[at]! : this.#jf[at]!;
          break;

        case BPF_ALU | BPF_NEG:
          a = -a >>> 0;
          break;
        default: {
          const operand = (code[at]! & BPF_X) !== 0 ? x : k;
          const operation = code[at]! & ~(CLASS_MASK | BPF_X);
          // A constant divisor is not 0; a computed one that is refuses the frame.
          if (operand === 0 && (operation === BPF_DIV || operation === BPF_MOD)) return 0;
          a = calculate(operation, a, operand);
        }
      }
    }
  }

  #more(needed: number): number {
    this.needed = needed;
    return MORE;
  }
}

/** What {@link BpfProgram.run} gives when it needs more of the frame. */
export const MORE = -1;

/** `a` and `b` are unsigned words, and so is the result; `b` is not 0 where it divides. */
function calculate(operation: number, a: number, b: number): number {
  switch (operation) {
    case BPF_ADD:
      return (a + b) >>> 0;
    case BPF_SUB:
      return (a - b) >>> 0;
    case BPF_MUL:
      return Math.imul(a, b) >>> 0;
    case BPF_DIV:
      return Math.floor(a / b);
    case BPF_MOD:
      return a % b;
    case BPF_OR:
      return (a | b) >>> 0;
    case BPF_AND:
      return (a & b) >>> 0;
    case BPF_XOR:
      return (a ^ b) >>> 0;
    // A shift by 32 or more leaves nothing; JavaScript's would begin anew.
    case BPF_LSH:
      return b < WORD_BITS ? (a << b) >>> 0 : 0;
    default:
      return b < WORD_BITS ? a >>> b : 0;
  }
}

function usesMemory(code: number): boolean {
  return code === (BPF_LD | BPF_MEM) || code === (BPF_LDX | BPF_MEM) || code === BPF_ST || code === BPF_STX;
}

function isUint(value: number, bits: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < (bits === WORD_BITS ? UINT32 : 2 ** bits);
}
