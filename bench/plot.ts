/** A bar chart of what `bench forward --json` wrote, as SVG: one panel for each frame size, one group for each ring. */
import type { ForwardResult } from './forward.ts';
import { SWITCHES, type SwitchName } from './switches.ts';

/** Readable on white and on dark alike. */
const COLORS: Record<SwitchName, string> = { ringswitch: '#2f81f7', 'ovs-dpdk': '#d9730d', 'testpmd-io': '#8b949e' };
const TEXT = '#7d8590';
const LINE = '#7d859055';

const PANEL_WIDTH = 250;
const PANEL_HEIGHT = 200;
const BAR_WIDTH = 26;
const BAR_GAP = 4;
const MARGIN = { left: 16, top: 64, bottom: 56 };
/** Room between the highest bar and the panel's title, for its figure. */
const HEAD = 24;

type Median = ForwardResult['medians'][number];

/** Throws an Error when there is nothing to draw. */
export function plotForward(result: Pick<ForwardResult, 'medians' | 'machine'>): string {
  const { medians } = result;
  if (medians.length === 0) throw new Error('the results hold no medians: nothing to draw. Run bench forward again.');
  const sizes = [...new Set(medians.map((row) => row.size))].sort((a, b) => a - b);
  const width = 2 * MARGIN.left + sizes.length * PANEL_WIDTH;
  const height = MARGIN.top + PANEL_HEIGHT + MARGIN.bottom;
  const panels = sizes.map((size, i) => panel(size, medians, MARGIN.left + i * PANEL_WIDTH));
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ` +
      'font-family="system-ui, sans-serif" font-size="12" role="img">',
    `<title>Forwarding between two guests, million frames a second: ${escapeText(describe(medians))}</title>`,
    text(MARGIN.left, 22, 'Forwarding between two guests on one core, Mpps (median; busy ns a frame below)', {
      size: 14,
    }),
    legend(medians),
    ...panels,
    text(MARGIN.left, height - 8, `${result.machine.cpu}, Linux ${result.machine.kernel}`, { size: 10 }),
    '</svg>',
    '',
  ].join('\n');
}

function describe(medians: Median[]): string {
  return medians.map((row) => `${row.switch} ${row.size} B ${row.ring} ${row.mpps.toFixed(2)}`).join(', ');
}

function legend(medians: Median[]): string {
  const names = SWITCHES.filter((name) => medians.some((row) => row.switch === name));
  const step = 110;
  return names
    .map((name, i) => {
      const x = MARGIN.left + i * step;
      return `<rect x="${x}" y="34" width="10" height="10" rx="2" fill="${COLORS[name]}"/>${text(x + 15, 43, name)}`;
    })
    .join('\n');
}

/** The bars of one frame size, on a scale of its own: a frame of 1514 bytes cannot look well beside one of 64. */
function panel(size: number, medians: Median[], left: number): string {
  const rows = medians.filter((row) => row.size === size);
  const rings = [...new Set(rows.map((row) => row.ring))];
  const highest = Math.max(...rows.map((row) => row.mpps));
  const base = MARGIN.top + PANEL_HEIGHT;
  const scale = (PANEL_HEIGHT - HEAD - 20) / highest;
  const parts = [
    text(left, MARGIN.top + 8, `${size} B`, { weight: 600 }),
    `<line x1="${left}" y1="${base}" x2="${left + PANEL_WIDTH - 16}" y2="${base}" stroke="${LINE}"/>`,
  ];
  const groupWidth = (PANEL_WIDTH - 16) / rings.length;
  for (const [group, ring] of rings.entries()) {
    const bars = SWITCHES.flatMap((name) => rows.filter((row) => row.ring === ring && row.switch === name));
    const barsWidth = bars.length * (BAR_WIDTH + BAR_GAP) - BAR_GAP;
    const start = left + group * groupWidth + (groupWidth - barsWidth) / 2;
    for (const [i, row] of bars.entries()) {
      const x = start + i * (BAR_WIDTH + BAR_GAP);
      const high = row.mpps * scale;
      const middle = x + BAR_WIDTH / 2;
      parts.push(
        `<rect x="${x.toFixed(1)}" y="${(base - high).toFixed(1)}" width="${BAR_WIDTH}" height="${high.toFixed(1)}" rx="2" fill="${COLORS[row.switch]}"/>`,
        text(middle, base - high - 5, row.mpps.toFixed(1), { anchor: 'middle', size: 11 }),
      );
      if (row.busy_ns_per_frame !== null) {
        parts.push(text(middle, base + 13, row.busy_ns_per_frame.toFixed(0), { anchor: 'middle', size: 10 }));
      }
    }
    parts.push(text(start + barsWidth / 2, base + 28, ring, { anchor: 'middle' }));
  }
  return parts.join('\n');
}

interface TextStyle {
  anchor?: 'start' | 'middle';
  size?: number;
  weight?: number;
}

function text(
  x: number,
  y: number,
  words: string,
  { anchor = 'start', size = 12, weight = 400 }: TextStyle = {},
): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" fill="${TEXT}" text-anchor="${anchor}" font-size="${size}" font-weight="${weight}">${escapeText(words)}</text>`;
}

function escapeText(words: string): string {
  return words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
