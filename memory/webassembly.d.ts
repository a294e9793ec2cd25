/** The part of the WebAssembly JavaScript API that memory/ uses: TypeScript declares it with the browser's types only. */
declare namespace WebAssembly {
  class Module {
    constructor(bytes: Uint8Array);
  }
  class Instance {
    readonly exports: unknown;
    constructor(module: Module, imports: Record<string, unknown>);
  }
  class Memory {
    readonly buffer: ArrayBuffer;
    /** Sizes in pages of 64 KiB; bigint with `address: 'i64'`. */
    constructor(descriptor: { initial: bigint; maximum: bigint; address: 'i64' });
  }
  class Global {
    constructor(descriptor: { value: 'i64' }, value: bigint);
  }
}
