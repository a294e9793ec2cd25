/** libpcap as the judge of filters: what it says of a frame is right. */
import { addressOf, libraryFunctions } from '../../linux/libc.ts';
import type { BpfInstruction } from '../../packet/bpf.ts';

const INSN_BYTES = 8;
/** struct pcap_pkthdr { struct timeval ts; bpf_u_int32 caplen, len; } */
const PKTHDR_BYTES = 24;

let offlineFilter: ((program: Uint8Array, header: Uint8Array, packet: Uint8Array) => number) | undefined;

/** What pcap_offline_filter(3PCAP) gives for a program and a whole frame. */
export function verdictOfLibpcap(instructions: readonly BpfInstruction[], frame: Uint8Array): number {
  offlineFilter ??= libraryFunctions('libpcap.so.0.8')(
    'uint32_t pcap_offline_filter(const void *program, const void *header, const void *packet)',
  ) as unknown as NonNullable<typeof offlineFilter>;
  const insns = new DataView(new ArrayBuffer(instructions.length * INSN_BYTES));
  for (const [i, [code, jt, jf, k]] of instructions.entries()) {
    insns.setUint16(i * INSN_BYTES, code, true);
    insns.setUint8(i * INSN_BYTES + 2, jt);
    insns.setUint8(i * INSN_BYTES + 3, jf);
    insns.setUint32(i * INSN_BYTES + 4, k, true);
  }
  const program = new DataView(new ArrayBuffer(16));
  program.setUint32(0, instructions.length, true);
  program.setBigUint64(8, BigInt(addressOf(insns)), true);
  const header = new DataView(new ArrayBuffer(PKTHDR_BYTES));
  header.setUint32(16, frame.length, true);
  header.setUint32(20, frame.length, true);
  // A frame of no bytes has no address.
  const bytes = frame.length > 0 ? frame : new Uint8Array(1);
  const verdict = offlineFilter(new Uint8Array(program.buffer), new Uint8Array(header.buffer), bytes);
  // Alive until here: `program` has only its address.
  return insns.byteLength > 0 ? verdict : 0;
}
