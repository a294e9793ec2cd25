/** Assembles the wasm kernels: `npm run kernels` after every change of memory/kernels/kernels.wat. */
import fs from 'node:fs';
import path from 'node:path';
import wabt from 'wabt';

const TEXT = new URL('../memory/kernels/kernels.wat', import.meta.url);
export const ASSEMBLED = new URL('../memory/kernels/kernels.wasm', import.meta.url);
const FEATURES = {
  simd: true,
  memory64: true,
  bulk_memory: true,
  sat_float_to_int: true,
  mutable_globals: true,
  threads: true,
};

/**
 * The text with its constants, which are globals there (`(global $NAME i64 (i64.const 8))`), in their places:
 * `(global.get $NAME)`, and `offset=$NAME` in a load or store. V8 reads a global from memory each time, constant or not, and
 * adds an offset for nothing. Throws for an offset that is no constant.
 */
export function placeConstants(text: string): string {
  const values = new Map<string, string>();
  const withoutGlobals = text.replace(
    /\(global (\$\w+) (i32|i64) \(\2\.const (\w+)\)\)/g,
    (_, name: string, type: string, value: string) => {
      values.set(name, `${type}.const ${value}`);
      return '';
    },
  );
  return withoutGlobals
    .replace(/global\.get (\$\w+)/g, (get, name: string) => values.get(name) ?? get)
    .replace(/offset=(\$\w+)/g, (_, name: string) => {
      const value = values.get(name);
      if (value === undefined) throw new Error(`kernels.wat: offset=${name}, but there is no constant ${name}`);
      return `offset=${value.split(' ')[1]}`;
    });
}

/** The bytes that the text stands for. Throws with the assembler's message, which names the line. */
export async function assembleKernels(text = fs.readFileSync(TEXT, 'utf8')): Promise<Uint8Array> {
  const { parseWat } = await wabt();
  const module = parseWat('kernels.wat', placeConstants(text), FEATURES);
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
