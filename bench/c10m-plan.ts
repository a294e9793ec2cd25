/** What the two ends of the ten million connections and their parent agree on. */

/** What the parent asks for. */
export type Task =
  | { what: 'listen' }
  | { what: 'open'; count: number; inFlight: number }
  | { what: 'echo'; samples: number }
  | { what: 'exchange'; connections: number; inFlight: number }
  | { what: 'close'; inFlight: number }
  | { what: 'resident' }
  | { what: 'counts' };

export interface Counts {
  connections: number;
  timeWaits: number;
  accepted: number;
  closed: number;
  failed: number;
}

export const SERVER_PORTS = 16;
export const FIRST_PORT = 1024;
export const PORTS = 65_536 - FIRST_PORT;
export const CLIENT_ADDRESSES = 10;
