/** What testpmd's `show port stats all` says. */

/** A port's counters since its start, and its rates since they were last shown. */
export interface PortStatistics {
  port: number;
  rxPackets: number;
  /** Dropped by the device, for want of a free descriptor. */
  rxMissed: number;
  rxBytes: number;
  rxErrors: number;
  /** Lost for want of a buffer. */
  rxNombuf: number;
  txPackets: number;
  txErrors: number;
  txBytes: number;
  rxPps: number;
  rxBps: number;
  txPps: number;
  txBps: number;
}

const LABELS: Record<Exclude<keyof PortStatistics, 'port'>, string> = {
  rxPackets: 'RX-packets',
  rxMissed: 'RX-missed',
  rxBytes: 'RX-bytes',
  rxErrors: 'RX-errors',
  rxNombuf: 'RX-nombuf',
  txPackets: 'TX-packets',
  txErrors: 'TX-errors',
  txBytes: 'TX-bytes',
  rxPps: 'Rx-pps',
  rxBps: 'Rx-bps',
  txPps: 'Tx-pps',
  txBps: 'Tx-bps',
};

/** The ports in an answer of testpmd, in its order. Throws an Error that names what a port's part lacks. */
export function parsePortStatistics(text: string): PortStatistics[] {
  const [, ...parts] = text.split('NIC statistics for port ');
  if (parts.length === 0) throw new Error(`testpmd showed the statistics of no port, but:\n${text}`);
  return parts.map((part) => {
    const port = Number.parseInt(part, 10);
    const statistics: Record<string, number> = { port };
    for (const [key, label] of Object.entries(LABELS)) {
      const value = new RegExp(`\\b${label}:\\s*(\\d+)`).exec(part)?.[1];
      if (value === undefined) throw new Error(`testpmd's statistics of port ${port} have no ${label}:\n${part}`);
      statistics[key] = Number(value);
    }
    return statistics as unknown as PortStatistics;
  });
}

/** What testpmd's forwarding counted since its start, over all ports (the "accumulated" part of `show fwd stats all`). */
export interface ForwardStatistics {
  rxPackets: number;
  txPackets: number;
  /** Given to a port that had no free descriptor, and thrown away by testpmd. */
  txDropped: number;
  /** With `--record-core-cycles`: cycles spent on bursts that brought frames, the frames counted, cycles a second. */
  cycles?: { busy: number; packets: number; hertz: number };
}

/** Reads `show fwd stats all`, or what `stop` prints. Throws an Error that names what is missing. */
export function parseForwardStatistics(text: string): ForwardStatistics {
  const all = text.split('Accumulated forward statistics for all ports')[1];
  if (all === undefined) throw new Error(`testpmd showed no accumulated forward statistics, but:\n${text}`);
  const value = (label: string) => {
    const found = new RegExp(`\\b${label}:\\s*(\\d+)`).exec(all)?.[1];
    if (found === undefined) throw new Error(`testpmd's forward statistics have no ${label}:\n${all}`);
    return Number(found);
  };
  const statistics = {
    rxPackets: value('RX-packets'),
    txPackets: value('TX-packets'),
    txDropped: value('TX-dropped'),
  };
  const cycles = /total cycles=(\d+) \/ total \w+ packets=(\d+)\) at (\d+) MHz/.exec(all);
  if (!cycles) return statistics;
  const [busy, packets, megahertz] = cycles.slice(1).map(Number);
  return { ...statistics, cycles: { busy: busy!, packets: packets!, hertz: megahertz! * 1e6 } };
}
