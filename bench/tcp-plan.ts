/** What `bench -- tcp` measures, and the ports of its servers; `tcp-linux.c` has the same. */
export const SINK = 5001;
export const ECHO = 5002;
export const CLOSE = 6000;
export const CLOSE_PORTS = 16;
/** Connections that are being opened or closed at once. */
export const IN_FLIGHT = 1024;
export const CHUNK_BYTES = 2 ** 18;
export const MESSAGE_BYTES = 64;

export type Task =
  | { what: 'bulk'; address: string; streams: number; seconds: number }
  | { what: 'echo'; address: string; seconds: number }
  | { what: 'connect'; address: string; seconds: number };
