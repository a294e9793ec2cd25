/** The command line: `ringswitch daemon`, and the commands that talk to it. */
import { Command, InvalidArgumentError, Option } from 'commander';
import packageJson from '../package.json' with { type: 'json' };
import { ConfigError, DEFAULT_SOCKET, loadConfig } from './config.ts';
import type { FdbRow, MemoryRow, PortStatus, RingRow, Status } from './control.ts';
import { ControlClient } from './control-client.ts';
import { ControlServer } from './control-server.ts';
import { Daemon } from './daemon.ts';
import { execCommand } from './exec.ts';
import { createLogger, LOG_LEVELS } from './logger.ts';
import { formatFdb, formatMemory, formatPorts, formatRings, formatStatus } from './show.ts';

const EXIT_FAILURE = 1;
const EXIT_USAGE = 2;

const program = new Command('ringswitch')
  .description('A user-space Ethernet switch for virtual machines')
  .version(packageJson.version)
  .enablePositionalOptions()
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : EXIT_USAGE));

const socketOption = (): Option =>
  new Option('--socket <path>', 'control socket of the daemon').env('RINGSWITCH_SOCKET').default(DEFAULT_SOCKET);
const client = ({ socket }: { socket: string }): ControlClient => new ControlClient(socket);
const print = (text: string): void => void process.stdout.write(`${text}\n`);

program
  .command('daemon')
  .description('run the switch in the foreground')
  .option('--config <file>', 'configuration (YAML)')
  .action(runDaemon);

program
  .command('exec')
  .description('run a command whose /dev/net/tun and /dev/vhost-net are the switch')
  .addOption(socketOption())
  .argument('<command...>')
  .passThroughOptions()
  .action((command: string[], options: { socket: string }) => execCommand({ socket: options.socket, command }));

const SHOWN = ['status', 'ports', 'fdb', 'rings', 'memory'] as const;
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

const port = program.command('port').description('add, remove and change ports');
port
  .command('add')
  .description('make a port for a Linux tap, created or attached by name')
  .addArgument(program.createArgument('<kind>').choices(['tap']))
  .argument('<name>')
  .addOption(socketOption())
  .option('--persistent', 'the tap stays when the daemon goes', false)
  .action(async (kind: string, name: string, options: { socket: string; persistent: boolean }) => {
    await client(options).post('/v1/ports', { kind, name, persistent: options.persistent });
  });
port
  .command('remove')
  .description('remove a tap port, or a persistent guest port that nobody has open')
  .argument('<name>')
  .addOption(socketOption())
  .action(async (name: string, options: { socket: string }) => {
    await client(options).delete(`/v1/ports/${encodeURIComponent(name)}`);
  });
port
  .command('set')
  .description('change a port')
  .argument('<name>')
  .addOption(socketOption())
  .addOption(
    new Option('--link <state>', 'frames from and for a port that is down are dropped')
      .choices(['up', 'down'])
      .makeOptionMandatory(),
  )
  .action(async (name: string, options: { socket: string; link: string }) => {
    await client(options).patch(`/v1/ports/${encodeURIComponent(name)}`, { link: options.link });
  });

program
  .command('log')
  .description('change what the daemon logs')
  .addArgument(program.createArgument('<level>').choices(LOG_LEVELS))
  .addOption(socketOption())
  .action(async (level: string, options: { socket: string }) => {
    await client(options).put('/v1/log', { level });
  });

program
  .command('fdb')
  .description('change how long learned addresses are kept')
  .addOption(socketOption())
  .requiredOption('--aging <seconds>', 'seconds', Number)
  .action(async (options: { socket: string; aging: number }) => {
    await client(options).put('/v1/fdb', { aging: options.aging });
  });

async function show(
  what: (typeof SHOWN)[number] | undefined,
  options: { socket: string; json?: boolean },
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
    default:
      print(formatStatus((await get('status')) as Status));
      print(formatPorts((await get('ports')) as PortStatus[]));
  }
}

async function runDaemon({ config: file }: { config?: string }): Promise<void> {
  const config = loadConfig(file);
  const log = createLogger(config.log);
  const daemon = await Daemon.start(config, log);
  let server: ControlServer;
  try {
    server = await ControlServer.start(config.control.socket, daemon, log);
  } catch (error) {
    await daemon.stop();
    throw error;
  }
  let stopping = false;
  const stop = async (why: string, exitCode: number): Promise<void> => {
    if (stopping) process.exit(EXIT_FAILURE); // Asked twice: at once, then.
    stopping = true;
    log.info(`stopping: ${why}`);
    try {
      await server.stop();
      await daemon.stop();
      process.exitCode = exitCode;
    } catch (error) {
      log.error(`stopping failed: ${(error as Error).stack}`);
      process.exit(EXIT_FAILURE);
    }
  };
  daemon.onFatal = (error) => {
    log.error(error.message);
    void stop('it cannot go on', EXIT_FAILURE);
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal, 0));
  log.info(`ready: devices in ${config.mount.path}, control on ${config.control.socket}`);
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
  process.exit(error instanceof ConfigError ? EXIT_USAGE : EXIT_FAILURE);
}
