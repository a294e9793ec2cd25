/**
 * Filter expressions (pcap-filter(7)) made into programs by libpcap: `<pcap/pcap.h>`.
 *
 * The library is loaded when the first expression comes: nothing else needs it.
 */
import { type CFunction, libraryFunctions, viewMemory } from './libc.ts';

/** struct bpf_insn: code, jt, jf, k. */
type Instruction = [code: number, jt: number, jf: number, k: number];

const LIBRARY = 'libpcap.so.0.8';
const PACKAGE = 'libpcap0.8';
/** Link-layer header type of Ethernet frames. */
const DLT_EN10MB = 1;
/** No address stands for "the" network: `ip broadcast` cannot be asked for. */
const PCAP_NETMASK_UNKNOWN = 0xffff_ffff;
const OPTIMIZE = 1;
/** struct bpf_program { u_int bf_len; struct bpf_insn *bf_insns; } */
const PROGRAM_BYTES = 16;
const INSNS_OFFSET = 8;
const INSN_BYTES = 8;

interface Libpcap {
  pcap_open_dead: CFunction;
  pcap_close: CFunction;
  pcap_compile: CFunction;
  pcap_freecode: CFunction;
  pcap_geterr: (pcap: number) => string;
}

let loaded: Libpcap | undefined;

function libpcap(): Libpcap {
  if (loaded) return loaded;
  let declare: (prototype: string) => CFunction;
  try {
    declare = libraryFunctions(LIBRARY);
  } catch (error) {
    const { message } = error as Error;
    throw new Error(`a filter takes ${LIBRARY} (Debian's package ${PACKAGE}), which cannot be loaded: ${message}`);
  }
  loaded = {
    pcap_open_dead: declare('uintptr_t pcap_open_dead(int linktype, int snaplen)'),
    pcap_close: declare('void pcap_close(uintptr_t p)'),
    pcap_compile: declare(
      'int pcap_compile(uintptr_t p, void *program, const char *expression, int optimize, uint32_t netmask)',
    ),
    pcap_freecode: declare('void pcap_freecode(void *program)'),
    pcap_geterr: declare('const char *pcap_geterr(uintptr_t p)') as unknown as (pcap: number) => string,
  };
  return loaded;
}

/**
 * The program of an expression for Ethernet frames, which gives `snaplen` for frames that match and 0 for others
 * (pcap_compile(3PCAP)). May ask the name service for hosts that the expression names. Throws an Error with libpcap's own
 * words for a bad expression, and another one without libpcap.
 */
export function compileFilter(expression: string, snaplen: number): Instruction[] {
  const { pcap_open_dead, pcap_close, pcap_compile, pcap_freecode, pcap_geterr } = libpcap();
  if (expression.includes('\0')) throw new Error(`filter: NUL in ${JSON.stringify(expression)}`);
  const pcap = pcap_open_dead(DLT_EN10MB, snaplen);
  const program = new Uint8Array(PROGRAM_BYTES);
  try {
    if (pcap_compile(pcap, program, expression, OPTIMIZE, PCAP_NETMASK_UNKNOWN) !== 0) {
      throw new Error(`filter ${JSON.stringify(expression)}: ${pcap_geterr(pcap)}; pcap-filter(7) has the language`);
    }
    try {
      return readProgram(program);
    } finally {
      pcap_freecode(program);
    }
  } finally {
    pcap_close(pcap);
  }
}

function readProgram(program: Uint8Array): Instruction[] {
  const view = new DataView(program.buffer);
  const count = view.getUint32(0, true);
  const insns = new DataView(viewMemory(Number(view.getBigUint64(INSNS_OFFSET, true)), count * INSN_BYTES));
  return Array.from({ length: count }, (_, i) => {
    const at = i * INSN_BYTES;
    return [insns.getUint16(at, true), insns.getUint8(at + 2), insns.getUint8(at + 3), insns.getUint32(at + 4, true)];
  });
}
