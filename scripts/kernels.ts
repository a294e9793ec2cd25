/** Assembles the wasm kernels: `npm run kernels` after every change of memory/kernels/kernels.wat. */
import fs from 'node:fs';
import path from 'node:path';
import wabt from 'wabt';

const TEXT = new URL('../memory/kernels/kernels.wat', import.meta.url);
export const ASSEMBLED = new URL('../memory/kernels/kernels.wasm', import.meta.url);
const FEATURES = { simd: true, memory64: true, bulk_memory: true, sat_float_to_int: true, mutable_globals: true };

/** The bytes that the text stands for. Throws with the assembler's message, which names the line. */
export async function assembleKernels(text = fs.readFileSync(TEXT, 'utf8')): Promise<Uint8Array> {
  const { parseWat } = await wabt();
  const module = parseWat('kernels.wat', text, FEATURES);
  try {
    module.validate();
    return module.toBinary({}).buffer;
  } finally {
    module.destroy();
  }
}

if (import.meta.main) {
  const bytes = await assembleKernels();
  fs.writeFileSync(ASSEMBLED, bytes);
  console.log(`${path.relative(process.cwd(), ASSEMBLED.pathname)}: ${bytes.length} bytes`);
}
