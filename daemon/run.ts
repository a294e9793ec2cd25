/** `ringswitch daemon`: the daemon in the foreground, from its configuration to its last signal. */
import { loadConfig } from './config.ts';
import { ControlServer } from './control-server.ts';
import { Daemon } from './daemon.ts';
import { createLogger } from './logger.ts';

const EXIT_FAILURE = 1;

/** Resolves when the daemon has stopped, with process.exitCode set; rejects when it could not start. */
export async function runDaemon(file?: string): Promise<void> {
  const config = loadConfig(file);
  const log = createLogger(config.log);
  // From here on a signal is answered by undoing what stands, also when it comes before all is up.
  const asked = Promise.withResolvers<{ why: string; exitCode: number }>();
  let ending = false;
  const end = (why: string, exitCode: number): void => {
    ending = true;
    asked.resolve({ why, exitCode });
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (ending) process.exit(EXIT_FAILURE); // Asked twice: at once, then.
      end(signal, 0);
    });
  }
  const daemon = await Daemon.start(config, log);
  daemon.onFatal = (error) => {
    log.error(error.message);
    end('it cannot go on', EXIT_FAILURE);
  };
  let server: ControlServer;
  try {
    server = await ControlServer.start(config.control.socket, daemon, log);
  } catch (error) {
    await daemon.stop();
    throw error;
  }
  log.info(`ready: devices in ${config.mount.path}, control on ${config.control.socket}`);
  const { why, exitCode } = await asked.promise;
  log.info(`stopping: ${why}`);
  try {
    await server.stop();
    await daemon.stop();
    process.exitCode = exitCode;
  } catch (error) {
    log.error(`stopping failed: ${(error as Error).stack}`);
    process.exit(EXIT_FAILURE);
  }
}
