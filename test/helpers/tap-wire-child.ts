/**
 * A wire over a tap, driven from standard input: for a test whose tap is in another network namespace.
 *
 *     node tap-wire-child.ts NAME DEVICE        send HEX | light on | light off | close ──► ready, frame HEX, gone TEXT, carrier …
 */
import { createInterface } from 'node:readline';
import { TapWire } from '../../nic/model/tap-wire.ts';

const [name, device] = process.argv.slice(2);
const say = (text: string): void => void process.stdout.write(`${text}\n`);
const wire = new TapWire(name!, device!);
wire.onFrame = (frame) => say(`frame ${Buffer.from(frame).toString('hex')}`);
wire.onCarrier = () => say(`carrier ${wire.carrier}`);
wire.onGone = (message) => say(`gone ${message}`);

createInterface({ input: process.stdin }).on('line', (line) => {
  const [word, argument] = line.split(' ');
  if (word === 'send') wire.send(Buffer.from(argument!, 'hex'));
  if (word === 'light') wire.setTransmitting(argument === 'on');
  if (word === 'close') {
    wire.close();
    wire.close();
    say('closed');
  }
  if (word === 'cpu') say(`cpu ${process.cpuUsage().user + process.cpuUsage().system}`);
});
say(`ready ${wire.carrier}`);
