/** Descriptor rings in a lane's arena: the kernels that run their loops, and where they stand. */
import type { Address } from '../../linux/libc.ts';
import type { Arena } from '../../memory/arena.ts';
import type { WasmKernels } from '../../memory/kernels.ts';

export interface RingKernels {
  wasm: WasmKernels;
  /** Of the descriptors. */
  ring: Address;
}

/** The kernels for a ring at `ring` and a table at `table`; undefined where the arena does not hold both. */
export function ringKernels(arena: Arena, ring: Address, table: Address): RingKernels | undefined {
  if (arena.wasm === null || !arena.holds(ring) || !arena.holds(table)) return undefined;
  return { wasm: arena.wasm, ring };
}
