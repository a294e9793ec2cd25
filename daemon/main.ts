/**
 * The command line: `ringswitch daemon`, and the commands that talk to it.
 *
 * What runs the switch is imported only by the command that does: a client answers in a fraction of the time.
 */
import { dirname, join, resolve } from 'node:path';
import { Argument, Command, InvalidArgumentError, Option } from 'commander';
import packageJson from '../package.json' with { type: 'json' };
import type { CaptureCommandOptions } from './capture-command.ts';
import {
  CAPTURE_DIRECTIONS,
  DEFAULT_SOCKET,
  type FdbRow,
  type LaneRow,
  LOG_LEVELS,
  type MemoryRow,
  type PortStatus,
  type RingRow,
  type Status,
} from './control.ts';
import { ControlClient } from './control-client.ts';
import type { ModelOptions } from './model.ts';
import { addPortSetOptions, type PortSetOptions, portSetBody } from './port-command.ts';
import { formatFdb, formatLanes, formatMemory, formatPorts, formatRings, formatStatus } from './show.ts';
import type { SocketSelection } from './sockets-command.ts';

// bin/ringswitch set it for this process, not for the commands that it may become (exec).
delete process.env.NODE_COMPILE_CACHE;

const EXIT_FAILURE = 1;
const EXIT_USAGE = 2;
/** By the error's name: its class is imported only by the command that throws it. */
const EXIT_BY_ERROR: Record<string, number> = { ConfigError: EXIT_USAGE, NoSuchProgramError: 127 };

const program = new Command('ringswitch')
  .description('A user-space Ethernet switch for virtual machines')
  .version(packageJson.version)
  .enablePositionalOptions()
  .option('--socket <path>', 'control socket of the daemon, for the commands that talk to one')
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'ringswitch: ')) })
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : EXIT_USAGE));

const socketOption = (): Option =>
  new Option('--socket <path>', `control socket of the daemon (default: $RINGSWITCH_SOCKET, else ${DEFAULT_SOCKET})`);
/** The socket as given behind the command, before it, or in the environment: the nearest counts. */
const socketOf = ({ socket }: { socket?: string }): string =>
  socket ?? program.opts<{ socket?: string }>().socket ?? (process.env.RINGSWITCH_SOCKET || DEFAULT_SOCKET);
const client = (options: { socket?: string }): ControlClient => new ControlClient(socketOf(options));
const print = (text: string): void => void process.stdout.write(`${text}\n`);

program
  .command('daemon')
  .description('run the switch in the foreground')
  .option('--config <file>', 'configuration (YAML)')
  .action(async ({ config }: { config?: string }) => {
    if (program.opts().socket !== undefined) {
      program.error("error: --socket is for clients; the daemon's is control.socket in its configuration");
    }
    const { runDaemon } = await import('./run.ts');
    await runDaemon(config);
  });

program
  .command('model')
  .description('serve software network cards to QEMU (vfio-user-pci), or to nic ports: one, or two cabled together')
  .addArgument(new Argument('<card>', 'what they are').choices(['82599']))
  .requiredOption('--socket <path>', 'where a card is served; twice for two', (path: string, all?: string[]) => [
    ...(all ?? []),
    path,
  ])
  .option('--tap <name>', 'cable a single card to this tap')
  .option('--tun <file>', "the tap's device file: the kernel's, or the one of a switch (default: /dev/net/tun)")
  .option('--mac <address>', 'address of the first card; random without')
  .option('--device <id>', 'PCI device id (default: 10fb)')
  .action(async (_: string, { socket, ...options }: Omit<ModelOptions, 'sockets'> & { socket: string[] }) => {
    const { runModel } = await import('./model.ts');
    await runModel({ sockets: socket, ...options });
  });

program
  .command('exec')
  .description('run a command whose /dev/net/tun and /dev/vhost-net are the switch')
  .addOption(socketOption())
  .argument('<command...>')
  .passThroughOptions()
  .action(async (command: string[], options: { socket?: string }) => {
    const { execCommand } = await import('./exec.ts');
    await execCommand({ socket: socketOf(options), command });
  });

const SHOWN = ['status', 'ports', 'fdb', 'rings', 'memory', 'lanes'] as const;
program
  .command('show')
  .description(`show one of: ${SHOWN.join(', ')}; without a word, status and ports`)
  .argument('[what]', undefined, (word: string) => {
    if ((SHOWN as readonly string[]).includes(word)) return word;
    throw new InvalidArgumentError(`It is one of ${SHOWN.join(', ')}.`);
  })
  .addOption(socketOption())
  .option('--json', 'as the control API gives it')
  .action(show);

interface AddOptions {
  socket?: string;
  persistent?: boolean;
  path?: string;
  client?: boolean;
  queues?: number;
  device?: string;
  descriptors?: number;
  mtu?: number;
  withoutIommu?: boolean;
}

const port = program.command('port').description('add, remove and change ports');

/** A whole number of things. */
const numberOf =
  (what: string) =>
  (text: string): number => {
    if (!/^\d+$/.test(text)) throw new InvalidArgumentError(`It is a number of ${what}.`);
    return Number(text);
  };

/** The options of each kind of port, by the names that they have here. */
const PORT_OPTIONS = {
  tap: ['persistent'],
  'vhost-user': ['path', 'client', 'queues'],
  nic: ['device', 'queues', 'descriptors', 'mtu', 'withoutIommu'],
} as const;
type PortKind = keyof typeof PORT_OPTIONS;

port
  .command('add')
  .description(
    'make a port: for a Linux tap, created or attached by name, for a guest that comes over vhost-user, or for a network card',
  )
  .addArgument(program.createArgument('<kind>').choices(Object.keys(PORT_OPTIONS)))
  .argument('<name>')
  .addOption(socketOption())
  .option('--persistent', 'tap: it stays when the daemon goes')
  .option('--path <path>', 'vhost-user: its Unix socket')
  .option('--client', 'vhost-user: connect to the socket, which the guest makes')
  .option(
    '--queues <pairs>',
    'vhost-user: queue pairs at the most; nic: queue pairs (default: 1)',
    numberOf('queue pairs'),
  )
  .option('--device <device>', 'nic: a PCI address such as 0000:01:00.0, or vfio-user:/path of a software card')
  .option('--descriptors <number>', 'nic: descriptors of each ring (default: 512)', numberOf('descriptors'))
  .option('--mtu <bytes>', 'nic: longest payload of a frame (default: 1500)', numberOf('bytes'))
  .option('--without-iommu', 'nic: even where no IOMMU keeps the card from the memory of the host (docs/nic.md)')
  .action(async (kind: PortKind, name: string, { socket, ...given }: AddOptions) => {
    const allowed: readonly string[] = PORT_OPTIONS[kind];
    for (const option of Object.keys(given)) {
      if (allowed.includes(option)) continue;
      const dashed = option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
      return program.error(`error: --${dashed} is not for a ${kind} port; ${optionsOf(kind)}`);
    }
    await client({ socket }).post('/v1/ports', { kind, name, ...portBody(kind, given) });
  });

function optionsOf(kind: PortKind): string {
  const names = PORT_OPTIONS[kind].map(
    (option) => `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
  );
  return `it takes ${names.join(', ')}`;
}

/** What the control API wants to know of a port, besides its kind and name. */
function portBody(kind: PortKind, given: Omit<AddOptions, 'socket'>): object {
  if (kind === 'tap') return { persistent: given.persistent ?? false };
  if (kind === 'nic') {
    if (given.device === undefined) program.error('error: a nic port needs --device, the card');
    return given;
  }
  const { path, client: asClient, queues } = given;
  if (path === undefined) return program.error('error: a vhost-user port needs --path, its Unix socket');
  return { path: resolve(path), mode: asClient ? 'client' : 'server', queues };
}
port
  .command('remove')
  .description('remove a tap, vhost-user or nic port, or a persistent guest port that nobody has open')
  .argument('<name>')
  .addOption(socketOption())
  .action(async (name: string, options: { socket?: string }) => {
    await client(options).delete(`/v1/ports/${encodeURIComponent(name)}`);
  });
addPortSetOptions(
  port
    .command('set')
    .description('change a port: its link, or how its wire is impaired; what is not given of an impairment is not done')
    .argument('<name>')
    .addOption(socketOption()),
).action(async (name: string, { socket, ...options }: { socket?: string } & PortSetOptions) => {
  let body: object;
  try {
    body = portSetBody(options);
  } catch (error) {
    return program.error(`error: ${(error as Error).message}`);
  }
  await client({ socket }).patch(`/v1/ports/${encodeURIComponent(name)}`, body);
});

/** A number from 1 on. */
const positive =
  (what: string) =>
  (text: string): number => {
    if (!(Number(text) > 0) || !Number.isFinite(Number(text))) {
      throw new InvalidArgumentError(`It is a number of ${what}, more than 0.`);
    }
    return Number(text);
  };

program
  .command('capture')
  .description('write the frames that pass a port as pcapng: to a file, or live to a reader (| tshark -i -)')
  .argument('<port>')
  .addOption(socketOption())
  .option('-w, --write <file>', 'file, or - for standard output (the default when that is no terminal)')
  .option('--filter <expression>', 'which frames, in the language of tcpdump: pcap-filter(7)')
  .option('--snaplen <bytes>', 'bytes of each frame that are kept (default: 0, all)', numberOf('bytes'))
  .addOption(
    new Option('--direction <direction>', 'in: from the port into the switch; out: from the switch to the port')
      .choices(CAPTURE_DIRECTIONS)
      .default('both'),
  )
  .option('-c, --count <frames>', 'end after so many frames', positive('frames'))
  .option('--duration <seconds>', 'end after this time', positive('seconds'))
  .option(
    '--buffer <MiB>',
    'of the ring that each lane fills, rounded up to a power of two (default: 16)',
    positive('MiB'),
  )
  .action(async (port: string, { socket, ...options }: Omit<CaptureCommandOptions, 'port'>) => {
    const { runCapture } = await import('./capture-command.ts');
    await runCapture({ ...options, socket: socketOf({ socket }), port });
  });

program
  .command('log')
  .description('change what the daemon logs')
  .addArgument(program.createArgument('<level>').choices(LOG_LEVELS))
  .addOption(socketOption())
  .action(async (level: string, options: { socket?: string }) => {
    await client(options).put('/v1/log', { level });
  });

program
  .command('fdb')
  .description('change how long learned addresses are kept')
  .addOption(socketOption())
  .requiredOption('--aging <seconds>', 'seconds', (text: string) => {
    if (text.trim() === '' || !Number.isFinite(Number(text)))
      throw new InvalidArgumentError('It is a number of seconds.');
    return Number(text);
  })
  .action(async (options: { socket?: string; aging: number }) => {
    await client(options).put('/v1/fdb', { aging: options.aging });
  });

const nic = program.command('nic').description('network cards: which there are, and which driver has them');
const cardAddress = (): Argument => new Argument('<address>', 'PCI address, such as 0000:01:00.0 or 01:00.0');
nic
  .command('list')
  .description('network cards, their drivers, and what this machine uses them for')
  .option('--json', 'for programs')
  .action(async ({ json }: { json?: boolean }) => {
    const { formatNics, listNics } = await import('./nic-command.ts');
    const rows = listNics();
    print(json ? JSON.stringify(rows, null, 2) : formatNics(rows));
  });
nic
  .command('show')
  .description('one card in detail; of one that the daemon drives, its link and its counters too')
  .addArgument(cardAddress())
  .addOption(socketOption())
  .option('--json', 'for programs')
  .action(async (address: string, { json, socket }: { json?: boolean; socket?: string }) => {
    const { askDaemon, formatNic, showNic } = await import('./nic-command.ts');
    const details = await askDaemon(showNic(address), client({ socket }));
    print(json ? JSON.stringify(details, null, 2) : formatNic(details));
  });
nic
  .command('bind')
  .description('take a card from the kernel, so that the switch can have it')
  .addArgument(cardAddress())
  .option('--driver <driver>', 'driver to give it to; none: no driver, for use without an IOMMU', 'vfio-pci')
  .option('--force', "even if the machine's own addresses or routes go with it")
  .action(async (address: string, options: { driver: string; force?: boolean }) => {
    const { bindNic } = await import('./nic-command.ts');
    print(bindNic(address, options));
  });
nic
  .command('unbind')
  .description("give a card back to the kernel's own driver")
  .addArgument(cardAddress())
  .action(async (address: string) => {
    const { unbindNic } = await import('./nic-command.ts');
    print(unbindNic(address));
  });

program
  .command('sockets')
  .description('the sockets of all TCP/IP stacks on this machine, as ss -tui shows those of the kernel')
  .option('-t, --tcp', "TCP's; both protocols' unless one is named")
  .option('-u, --udp', "UDP's")
  .option('-l, --listening', 'only listeners and unconnected sockets; without, only connected ones')
  .option('-a, --all', 'both')
  .addOption(socketOption())
  .option('--directory <path>', "where stacks tell of themselves (default: stacks, beside the daemon's control socket)")
  .option('--limit <sockets>', 'of each stack (default: 1000)', numberOf('sockets'))
  .option('--json', 'for programs')
  .action(
    async ({
      socket,
      directory,
      limit = 1000,
      json,
      ...selection
    }: SocketSelection & {
      socket?: string;
      directory?: string;
      limit?: number;
      json?: boolean;
    }) => {
      const { formatStacks, kindsOf, listStacks } = await import('./sockets-command.ts');
      const kinds = kindsOf(selection);
      const stacks = await listStacks(directory ?? join(dirname(socketOf({ socket })), 'stacks'), limit, kinds);
      print(json ? JSON.stringify(stacks, null, 2) : formatStacks(stacks, kinds));
    },
  );

async function show(
  what: (typeof SHOWN)[number] | undefined,
  options: { socket?: string; json?: boolean },
): Promise<void> {
  const get = (path: string): Promise<unknown> => client(options).get(`/v1/${path}`);
  if (options.json) {
    print(JSON.stringify(await get(what ?? 'ports'), null, 2));
    return;
  }
  switch (what) {
    case 'status':
      return print(formatStatus((await get(what)) as Status));
    case 'ports':
      return print(formatPorts((await get(what)) as PortStatus[]));
    case 'fdb':
      return print(formatFdb((await get(what)) as FdbRow[]));
    case 'rings':
      return print(formatRings((await get(what)) as RingRow[]));
    case 'memory':
      return print(formatMemory((await get(what)) as MemoryRow[]));
    case 'lanes':
      return print(formatLanes((await get(what)) as LaneRow[]));
    default:
      print(formatStatus((await get('status')) as Status));
      print(formatPorts((await get('ports')) as PortStatus[]));
  }
}

try {
  await program.parseAsync();
} catch (error) {
  const { message } = error as Error;
  process.stderr.write(
    `${message
      .split('\n')
      .map((line) => `ringswitch: ${line}`)
      .join('\n')}\n`,
  );
  process.exit(EXIT_BY_ERROR[(error as Error).name] ?? EXIT_FAILURE);
}
