/** `npm run bench -- NAME [options]`: the benchmarks. Figures are this machine's; compare within one call only. */
import fs from 'node:fs';
import { InvalidArgumentError, program } from 'commander';
import { MAX_CAPACITY } from '../switch/learning-table.ts';
import { c10m, MOST_CONNECTIONS } from './c10m.ts';
import { FULL_CPU, forward, summaryLines } from './forward.ts';
import { gso } from './gso.ts';
import { RINGS } from './guests.ts';
import { LATENCY_MODES, latency } from './latency.ts';
import { nic } from './nic.ts';
import { interrupt } from './pause.ts';
import { plotForward } from './plot.ts';
import { scale } from './scale.ts';
import { starts } from './starts.ts';
import { spreadLine, steady } from './steady.ts';
import { SWITCHES } from './switches.ts';
import { PATHS, tcp } from './tcp.ts';

const STARVED = 'share of its processor under which a switch counts as starved, and the round is repeated';
const print = (line: string) => console.log(line);

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interrupt(signal));

program.name('bench').description('Measures ringswitch. Needs root, and two processors that do nothing else.');

program
  .command('forward')
  .description(
    'two DPDK virtio-user guests, known unicast in a closed loop (macswap): ringswitch and its peers in turn',
  )
  .option('--json <file>', 'write the results here')
  .option('--rounds <n>', 'runs of each kind', count, 3)
  .option('--seconds <n>', 'seconds measured in each run', seconds, 3)
  .option('--sizes <list>', 'bytes of a frame, without the checksum', frameSizes, [64, 512, 1514])
  .option('--rings <list>', RINGS.join(', '), (text: string) => oneOf(RINGS, text), [...RINGS])
  .option('--switches <list>', SWITCHES.join(', '), (text: string) => oneOf(SWITCHES, text), [...SWITCHES])
  .option('--starved <share>', STARVED, share, FULL_CPU)
  .action(async ({ json, ...options }) => {
    const result = await forward({ ...options, report: print });
    print('');
    for (const line of summaryLines(result)) print(line);
    write(json, result);
    if (result.runs.length === 0) process.exitCode = 1;
  });

program
  .command('steady')
  .description('many daemons at 64 bytes, in turns: how far apart are they?')
  .option('--json <file>', 'write the results here')
  .option('--runs <n>', 'daemons', count, 10)
  .option('--seconds <n>', 'seconds measured in each run', seconds, 3)
  .option('--ring <kind>', RINGS.join(' or '), (text: string) => oneOf(RINGS, text)[0]!, 'split')
  .option('--starved <share>', STARVED, share, FULL_CPU)
  .action(async ({ json, ...options }) => {
    const result = await steady({ ...options, report: print });
    print(spreadLine(result));
    write(json, result);
  });

program
  .command('starts')
  .description('guests that start again and again before one daemon: does every start pass traffic?')
  .option('--json <file>', 'write the results here')
  .option('--count <n>', 'how often', count, 100)
  .option('--ring <kind>', RINGS.join(' or '), (text: string) => oneOf(RINGS, text)[0]!, 'split')
  .action(async ({ json, ...options }) => {
    const result = await starts(options.count, options.ring, print);
    const { failed, slowest_ms: slowest } = result;
    print(`${result.starts} starts, ${failed.length} without traffic; the slowest took ${slowest.toFixed(0)} ms`);
    write(json, result);
    if (failed.length > 0) process.exitCode = 1;
  });

program
  .command('gso')
  .description('bulk TCP between two namespaces, with segmentation offload and without: ringswitch with taps, and veth')
  .option('--json <file>', 'write the results here')
  .option('--rounds <n>', 'runs of each kind', count, 3)
  .option('--seconds <n>', 'seconds of each run', count, 5)
  .action(async ({ json, ...options }) => {
    const result = await gso({ ...options, report: print });
    for (const [tso, ratio] of Object.entries(result.ratio))
      print(`ringswitch / veth, TSO ${tso}: ${ratio.toFixed(2)}`);
    write(json, result);
  });

program
  .command('scale')
  .description('ringswitch by its ports, its lanes, and the addresses it knows')
  .option('--json <file>', 'write the results here')
  .option('--seconds <n>', 'seconds measured in each run', seconds, 3)
  .option('--ports <list>', 'guests, in pairs', evenNumbers(64), [2, 4, 8, 16, 32, 64])
  .option('--lanes <list>', 'lanes', numbers, [1, 2, 4])
  .option('--macs <list>', 'addresses in the table', evenNumbers(MAX_CAPACITY), [16, 256, 4096, 65_536, 1_000_000])
  .action(async ({ json, ...options }) => {
    write(json, await scale({ ...options, report: print }));
  });

program
  .command('latency')
  .description('round trips between two guests: the lane asleep, now and then, and beside a closed loop')
  .option('--json <file>', 'write the results here')
  .option('--seconds <n>', 'seconds measured in each mode', seconds, 5)
  .option('--modes <list>', LATENCY_MODES.join(', '), (text: string) => oneOf(LATENCY_MODES, text), [...LATENCY_MODES])
  .action(async ({ json, ...options }) => {
    write(json, await latency({ ...options, report: print }));
  });

program
  .command('nic')
  .description("the 82599 driver's own cost a frame, against the same loop in C")
  .option('--json <file>', 'write the results here')
  .option('--rounds <n>', 'measurements of each kind', count, 9)
  .option('--no-wasm', "the rings' loops in TypeScript, as where there are no kernels")
  .action(async ({ json, ...options }) => {
    write(json, await nic({ ...options, report: print }));
  });

program
  .command('tcp')
  .description("our stack's TCP and Linux's over the same switch: bulk, round trips, connections a second")
  .option('--json <file>', 'write the results here')
  .option('--rounds <n>', 'runs of each path', count, 3)
  .option('--seconds <n>', 'seconds of each measurement', seconds, 3)
  .option('--paths <list>', PATHS.join(', '), (text: string) => oneOf(PATHS, text), [...PATHS])
  .action(async ({ json, ...options }) => {
    const result = await tcp({ ...options, report: print });
    print(`ours to Linux's: ${JSON.stringify(result.ratio)}`);
    write(json, result);
  });

program
  .command('c10m')
  .description('ten million connections between two stacks, both on this machine')
  .option('--json <file>', 'write the results here')
  .option('--connections <n>', `how many, up to ${MOST_CONNECTIONS}`, count, 10_000_000)
  .option('--exchanges <n>', 'messages that go to and fro on some of them', count, 1_000_000)
  .action(async ({ json, ...options }) => {
    write(json, await c10m({ ...options, report: print }));
  });

program
  .command('plot')
  .description('a bar chart of what "forward --json" wrote')
  .argument('<results>', 'JSON of forward')
  .argument('<svg>', 'the file to write')
  .action((results: string, svg: string) => {
    fs.writeFileSync(svg, plotForward(JSON.parse(fs.readFileSync(results, 'utf8'))));
  });

function write(file: string | undefined, result: object): void {
  if (file !== undefined) fs.writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`);
}

function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('expected a whole number from 1 on');
  return value;
}

function seconds(text: string): number {
  const value = Number(text);
  if (!(value > 0 && Number.isFinite(value))) throw new InvalidArgumentError('expected a number above 0');
  return value;
}

function share(text: string): number {
  const value = Number(text);
  if (!(value >= 0 && value <= 1)) throw new InvalidArgumentError('expected a number from 0 to 1');
  return value;
}

function numbers(text: string): number[] {
  return text.split(',').map(count);
}

function evenNumbers(most: number): (text: string) => number[] {
  return (text) => {
    const values = numbers(text);
    if (values.some((value) => value % 2 === 1 || value > most)) {
      throw new InvalidArgumentError(`expected even numbers up to ${most}`);
    }
    return values;
  };
}

function frameSizes(text: string): number[] {
  return text.split(',').map((word) => {
    const size = Number(word);
    if (!Number.isInteger(size) || size < 60 || size > 1514) {
      throw new InvalidArgumentError('expected frame sizes from 60 to 1514, such as 64,1514');
    }
    return size;
  });
}

function oneOf<const Words extends readonly string[]>(known: Words, text: string): Words[number][] {
  return text.split(',').map((word) => {
    if (!known.includes(word)) throw new InvalidArgumentError(`expected some of ${known.join(', ')}`);
    return word;
  });
}

try {
  await program.parseAsync();
} catch (error) {
  console.error(`bench: ${(error as Error).message}`);
  process.exitCode = 1;
}
