/** Shell words for a daemon that runs in a guest, on this machine's root (Machine.shInHostRoot). */

/** Prints one of what `ringswitch show` knows, as JSON: its word follows. */
export const SHOW = 'bin/ringswitch show --json --socket /tmp/rs/control.sock';

/** Starts a daemon with more lines of configuration; is done when it listens and its log (/tmp/rs/log) says `ready`. */
export function startDaemon(config: string, ready: string): string {
  return `
mkdir -p /tmp/rs
cat > /tmp/rs/ringswitch.yaml <<'END'
mount: { path: /tmp/rs/dev }
control: { socket: /tmp/rs/control.sock }
log: { level: debug, format: text }
${config}
END
bin/ringswitch daemon --config /tmp/rs/ringswitch.yaml > /tmp/rs/log 2>&1 &
echo $! > /tmp/rs/pid
for i in $(seq 600); do
  if [ -S /tmp/rs/control.sock ] && grep -q '${ready}' /tmp/rs/log; then exit 0; fi
  if ! kill -0 $(cat /tmp/rs/pid); then break; fi
  sleep 0.1
done
cat /tmp/rs/log
exit 1
`;
}

/** Ends it, and waits until it is gone. */
export const STOP_DAEMON = 'kill $(cat /tmp/rs/pid); while kill -0 $(cat /tmp/rs/pid) 2>/dev/null; do sleep 0.1; done';

/** Waits until a command succeeds; fails when it does not in time. */
export function untilSucceeds(command: string, seconds: number): string {
  return `for i in $(seq ${10 * seconds}); do ${command} && exit 0; sleep 0.1; done; exit 1`;
}
