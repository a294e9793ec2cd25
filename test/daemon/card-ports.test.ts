/** Network cards as ports: software cards in this process for cards, and ports that only take notes. */
import assert from 'node:assert/strict';
import { CardPorts } from '../../daemon/card-ports.ts';
import { type CardOptions, ControlError, type PortStatus } from '../../daemon/control.ts';
import type { CardPortHandle, SwitchPorts } from '../../daemon/switch-ports.ts';
import { FakeWire } from '../helpers/fake-card-host.ts';
import { cardPort } from '../helpers/fake-control.ts';
import { ModelPciDevice } from '../helpers/model-pci-device.ts';

const options = (name: string, device: string): CardOptions => ({
  ...{ name, device, queues: 1, descriptors: 64, mtu: 1500, withoutIommu: false },
});

/** What CardPorts asks of the switch. */
class FakePorts {
  readonly names = new Set<string>();
  /** Comes before the lanes have a card, and before they have let go of it. */
  lanes: Promise<void> = Promise.resolve();

  isTaken(name: string): boolean {
    return this.names.has(name);
  }

  async createCardPort(name: string): Promise<CardPortHandle> {
    await this.lanes;
    this.names.add(name);
    return {
      start: async () => {},
      setCarrier: async () => {},
      lose: async () => {},
      remove: async () => {
        await this.lanes;
        this.names.delete(name);
      },
    };
  }

  status(name: string): PortStatus {
    return cardPort(options(name, ''));
  }
}

describe('CardPorts', () => {
  let ports: FakePorts;
  let cards: CardPorts;
  let devices: ModelPciDevice[];
  let fault: Error | null;

  beforeEach(() => {
    ports = new FakePorts();
    devices = [];
    fault = null;
    const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
    cards = new CardPorts(ports as unknown as SwitchPorts, log, (name) => {
      if (fault !== null) throw fault;
      const device = new ModelPciDevice({ name, mac: Uint8Array.of(2, 0, 0, 0, 0, 1), wire: new FakeWire() });
      devices.push(device);
      return device;
    });
  });

  afterEach(async () => {
    await cards.close();
    for (const device of devices) device.dispose();
  });

  const refuses = (status: number, code: string, told: RegExp, name: string, device: string): Promise<void> =>
    assert.rejects(cards.add(options(name, device)), (error: unknown) => {
      assert.ok(error instanceof ControlError, String(error));
      assert.deepEqual([error.status, error.code], [status, code]);
      assert.match(error.message, told);
      return true;
    });

  const names: [first: string, again: string[]][] = [
    ['0000:01:00.0', ['0000:01:00.0', '01:00.0']],
    ['0a:00.1', ['0000:0a:00.1', '0A:00.1', '0a:00.1']],
    ['vfio-user:/run/card', ['vfio-user:/run/card', 'vfio-user:/run/./card', 'vfio-user:/run//x/../card']],
  ];
  for (const [first, again] of names) {
    it(`takes ${first} once, however it is called`, async () => {
      await cards.add(options('up0', first));
      for (const device of again) {
        await refuses(409, 'EBUSY', /^\S+ is the card of port up0$/, 'up1', device);
      }
      assert.equal(devices.length, 1, 'it was opened again');
    });
  }

  it('takes different cards, and a card again that it has given back', async () => {
    for (const [name, device] of [
      ['up0', '01:00.0'],
      ['up1', '01:00.1'],
      ['up2', '0001:01:00.0'],
      ['up3', 'vfio-user:/run/card'],
    ] as const) {
      await cards.add(options(name, device));
    }
    assert.equal(await cards.remove('up0'), true);
    assert.equal(await cards.remove('up0'), false);
    await cards.add(options('up4', '0000:01:00.0'));
    assert.deepEqual([...ports.names], ['up1', 'up2', 'up3', 'up4']);
  });

  it('refuses a card that is being opened, or given back, for another port', async () => {
    const opened = Promise.withResolvers<void>();
    ports.lanes = opened.promise;
    const adding = cards.add(options('up0', '01:00.0'));
    await refuses(409, 'EBUSY', /is the card of port up0/, 'up1', '0000:01:00.0');
    await refuses(409, 'EEXIST', /^there is a port up0 already$/, 'up0', '02:00.0');
    opened.resolve();
    await adding;
    const closed = Promise.withResolvers<void>();
    ports.lanes = closed.promise;
    const removing = cards.remove('up0');
    await refuses(409, 'EBUSY', /is the card of port up0/, 'up1', '0000:01:00.0');
    closed.resolve();
    await removing;
    await cards.add(options('up1', '0000:01:00.0'));
  });

  it('forgets a card that could not be opened', async () => {
    fault = Object.assign(new Error('its group is not all user space'), { code: 'EPERM' });
    await refuses(400, 'EPERM', /^up0: its group is not all user space$/, 'up0', '01:00.0');
    fault = new Error('there is no such card');
    await refuses(400, 'EIO', /^up0: there is no such card$/, 'up0', '01:00.0');
    fault = null;
    await cards.add(options('up0', '01:00.0'));
  });

  it('tells what a card has counted, while it is there', async () => {
    await cards.add(options('up0', '01:00.0'));
    assert.equal(cards.statistics('up0').rx_packets, 0);
    assert.throws(() => cards.statistics('up1'), /there is no network card up1; there are: up0$/);
    await cards.remove('up0');
    assert.throws(() => cards.statistics('up0'), /there is no network card up0; there are: none$/);
  });
});
