/**
 * What a guest broke. It stops its own ring and nothing else: the ring keeps this until it is set up again, `show rings`
 * shows it, and the log says it once.
 */
import { errnoName } from '../linux/errno.ts';

export type RingErrorCode =
  | 'AVAIL_IDX_JUMPED'
  | 'HEAD_OUT_OF_RANGE'
  | 'NEXT_OUT_OF_RANGE'
  | 'CHAIN_TOO_LONG'
  | 'CHAIN_LOOPS'
  | 'CHAIN_NOT_AVAILABLE'
  | 'WRONG_DIRECTION'
  | 'BUFFER_UNMAPPED'
  | 'INDIRECT_NOT_NEGOTIATED'
  | 'INDIRECT_NESTED'
  | 'INDIRECT_WITH_NEXT'
  | 'INDIRECT_LENGTH'
  | 'INDIRECT_UNMAPPED'
  | 'CLIENT_MEMORY_UNREACHABLE';

const EXPLANATIONS: Record<RingErrorCode, string> = {
  AVAIL_IDX_JUMPED: 'avail.idx moved by more than the ring size',
  HEAD_OUT_OF_RANGE: 'an avail entry names a descriptor beyond the ring',
  NEXT_OUT_OF_RANGE: 'desc.next names a descriptor beyond the table',
  CHAIN_TOO_LONG: 'a chain has more buffers than a frame may have',
  CHAIN_LOOPS: 'a chain is longer than its table: it loops',
  CHAIN_NOT_AVAILABLE: 'a chain goes on at a descriptor that the driver has not made available',
  WRONG_DIRECTION: 'a buffer has the wrong VIRTQ_DESC_F_WRITE for this ring',
  BUFFER_UNMAPPED: 'a buffer lies outside the memory of the guest',
  INDIRECT_NOT_NEGOTIATED: 'VIRTQ_DESC_F_INDIRECT without VIRTIO_RING_F_INDIRECT_DESC',
  INDIRECT_NESTED: 'an indirect table inside an indirect table',
  INDIRECT_WITH_NEXT: 'VIRTQ_DESC_F_INDIRECT together with VIRTQ_DESC_F_NEXT',
  INDIRECT_LENGTH: 'an indirect table is empty, too long or no multiple of 16 bytes',
  INDIRECT_UNMAPPED: 'an indirect table lies outside the memory of the guest',
  CLIENT_MEMORY_UNREACHABLE:
    'private memory of the client cannot be read or written (process_vm_readv, process_vm_writev): was it unmapped?',
};

/** A broken ring: code, the place (an index or address) and the value that was found there. Plain data. */
export interface RingError {
  code: RingErrorCode;
  index: number;
  value: number;
  message: string;
}

export function ringError(code: RingErrorCode, index: number, value: number): RingError {
  const where =
    code === 'CLIENT_MEMORY_UNREACHABLE'
      ? `at 0x${index.toString(16)}, ${errnoName(value)}`
      : `at ${index}, value ${value}`;
  return { code, index, value, message: `${EXPLANATIONS[code]} (${where})` };
}
