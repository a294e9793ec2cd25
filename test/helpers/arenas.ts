/**
 * Arenas for tests: opened when first asked for and kept for the life of the process, since each one of wasm reserves
 * 16 GiB of address space, and scratch memory is never given back.
 */
import assert from 'node:assert/strict';
import { Arena } from '../../memory/arena.ts';
import { FrameBatch } from '../../memory/frame-batch.ts';

let wasm: Arena | undefined;
let plain: Arena | undefined;

/** The arena with kernels. Fails where wasm does not work: what would the tests test then? */
export function wasmArena(): Arena {
  wasm ??= Arena.open();
  assert.equal(wasm.reason, '');
  return wasm;
}

/** The arena as it is where wasm fails. */
export function plainArena(): Arena {
  plain ??= Arena.open({ wasm: false });
  return plain;
}

/** Both, for suites that must hold in either. */
export const ARENAS: { name: string; arena: () => Arena }[] = [
  { name: 'with wasm', arena: wasmArena },
  { name: 'without wasm', arena: plainArena },
];

const batches = new Map<Arena, FrameBatch[]>();

/** The `number`-th batch of an arena, empty, its columns and slots all zero. */
export function emptyBatch(arena: Arena = wasmArena(), number = 0): FrameBatch {
  const made = batches.get(arena) ?? [];
  batches.set(arena, made);
  while (made.length <= number) made.push(new FrameBatch(arena));
  const batch = made[number]!;
  batch.clear();
  for (const column of Object.values(batch)) if (ArrayBuffer.isView(column)) (column as Uint8Array).fill(0);
  return batch;
}
