/** The driver against a card that obeys, refuses, dawdles or vanishes: what it writes, in which order, and what it says. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { Ixgbe, type IxgbeOptions } from '../../../nic/driver/ixgbe.ts';
import {
  AUTOC,
  AUTOC_RESTART_AN,
  CTRL,
  CTRL_EXT,
  CTRL_EXT_DRV_LOAD,
  CTRL_EXT_NS_DIS,
  CTRL_LRST,
  CTRL_PCIE_MASTER_DISABLE,
  CTRL_RST,
  DCA_RXCTRL,
  DEVICE_82599_BACKPLANE,
  DEVICE_82599_SFP,
  DEVICE_X540,
  DMATXCTL,
  DMATXCTL_TE,
  DTXTCPFLGH,
  DTXTCPFLGL,
  EEC,
  EIAC,
  EIAM_EX,
  EICR,
  EICR_ECC,
  EICR_LSC,
  EICR_PCI_EXCEPTION,
  EICR_RX_MISS,
  EICS,
  EIMC,
  EIMS,
  EITR,
  ESDP,
  ESDP_SDP3,
  ESDP_SDP3_IODIR,
  FCCFG,
  FCCFG_TFCE_802_3X,
  FCRTH,
  FCRTH_FCEN,
  FCRTL,
  FCRTL_XONE,
  FCTRL,
  FCTRL_MPE,
  FCTRL_UPE,
  GPIE,
  GPIE_EIAME,
  GPIE_MSIX_MODE,
  HLREG0,
  HLREG0_JUMBOEN,
  HLREG0_RXCRCSTRP,
  IVAR,
  IVAR_MISC,
  LINKS,
  LINKS_SPEED_1G,
  LINKS_SPEED_10G,
  LINKS_SPEED_100M,
  LINKS_UP,
  MAXFRS,
  MFLCN,
  MFLCN_DPF,
  MFLCN_RFCE,
  MRQC,
  MRQC_MRQE_RSS,
  RDBAH,
  RDBAL,
  RDH,
  RDLEN,
  RDRXCTL,
  RDRXCTL_CRC_STRIP,
  RDRXCTL_DMAIDONE,
  RDRXCTL_FCOE_WRFIX,
  RDRXCTL_RSCACKC,
  RDT,
  RETA,
  RSSRK,
  RXCTRL,
  RXCTRL_RXEN,
  RXDCTL,
  RXDCTL_ENABLE,
  RXPBSIZE,
  SECRXSTAT,
  SRRCTL,
  SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER,
  SRRCTL_DROP_EN,
  STATUS,
  STATUS_PCIE_MASTER_ENABLE,
  TDBAL,
  TDLEN,
  TDT,
  TXDCTL,
  TXDCTL_ENABLE,
} from '../../../nic/registers.ts';
import { DriverTime, FakePciDevice } from '../../helpers/fake-pci-device.ts';

const RESET = CTRL_RST | CTRL_LRST;
const MEMORY = 'memfd:ringswitch-nic-';
/** Descriptors and mappings of queues' memory that this process has. */
function heldMemory(): number {
  const links = fs.readdirSync('/proc/self/fd').map((fd) => {
    try {
      return fs.readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return '';
    }
  });
  const maps = fs.readFileSync('/proc/self/maps', 'utf8').split('\n');
  return [...links, ...maps].filter((line) => line.includes(MEMORY)).length;
}

describe('Ixgbe', () => {
  let device: FakePciDevice;
  let time: DriverTime;
  const cards: Ixgbe[] = [];
  const open = (options: Partial<IxgbeOptions> = {}): Ixgbe => {
    const card = Ixgbe.open(device, { queues: 1, clock: time, ...options });
    cards.push(card);
    return card;
  };
  beforeEach(() => {
    device = new FakePciDevice();
    time = new DriverTime();
  });
  afterEach(() => {
    for (const card of cards.splice(0)) card.close();
    assert.equal(heldMemory(), 0, 'memory of queues is left');
  });

  describe('open', () => {
    it('goes by the order of §4.6.3', () => {
      open();
      const { accesses } = device;
      const first = (offset: number, bits: number): number =>
        accesses.findIndex(
          ({ kind, offset: at, value }) => kind === 'write' && at === offset && (value & bits) >>> 0 === bits >>> 0,
        );
      const firstRead = (offset: number): number => accesses.findIndex((a) => a.kind === 'read' && a.offset === offset);
      const steps = {
        'interrupts off': device.firstWrite(EIMC),
        'no requests on the bus': first(CTRL, CTRL_PCIE_MASTER_DISABLE),
        reset: first(CTRL, RESET),
        'EEPROM read': firstRead(EEC),
        'DMA started': firstRead(RDRXCTL),
        'driver loaded': first(CTRL_EXT, CTRL_EXT_DRV_LOAD),
        link: first(AUTOC, AUTOC_RESTART_AN),
        filters: device.firstWrite(FCTRL),
        'receive path': device.firstWrite(RXPBSIZE(0)),
        'transmit path': first(DMATXCTL, DMATXCTL_TE),
        queues: device.firstWrite(RDBAL(0)),
        vectors: device.firstWrite(GPIE),
      };
      for (const [step, at] of Object.entries(steps)) assert.ok(at >= 0, `${step} is missing`);
      assert.deepEqual(
        Object.values(steps),
        [...Object.values(steps)].sort((a, b) => a - b),
        JSON.stringify(steps),
      );
      const disabled = accesses.flatMap((a, i) => (a.kind === 'write' && a.offset === EIMC ? [i] : []));
      assert.ok(
        disabled.some((at) => at > steps.reset),
        'interrupts are disabled again after the reset',
      );
      assert.equal(device.value(EIMS), 0, 'no interrupt before start()');
      assert.equal(device.value(RXCTRL) & RXCTRL_RXEN, 0, 'nothing is received before start()');
      assert.equal(device.busMaster, true);
      assert.ok(time.ms >= 10, 'the card was left alone after its reset');
    });

    it('resets once when the bus is quiet, and twice when it is not (§5.2.5.3.2)', () => {
      const resets = (): number => device.writes(CTRL).filter((value) => (value & RESET) !== 0).length;
      open();
      assert.equal(resets(), 1);
      device = new FakePciDevice();
      device.stick(STATUS, STATUS_PCIE_MASTER_ENABLE);
      open();
      assert.equal(resets(), 2);
    });

    it('sets up the receive path', () => {
      open({ maxFrameBytes: 9018, promiscuous: true });
      assert.equal(device.value(RXPBSIZE(0)), 512 << 10);
      assert.equal(device.value(MAXFRS), 9022 * 2 ** 16);
      assert.equal(device.value(HLREG0) & (HLREG0_JUMBOEN | HLREG0_RXCRCSTRP), HLREG0_JUMBOEN | HLREG0_RXCRCSTRP);
      const rdrxctl = RDRXCTL_CRC_STRIP | RDRXCTL_RSCACKC | RDRXCTL_FCOE_WRFIX;
      assert.equal(device.value(RDRXCTL) & ~RDRXCTL_DMAIDONE, rdrxctl);
      assert.equal(device.value(FCTRL) & (FCTRL_UPE | FCTRL_MPE), FCTRL_UPE | FCTRL_MPE);
      assert.equal(device.value(CTRL_EXT) & CTRL_EXT_NS_DIS, CTRL_EXT_NS_DIS);
    });

    it('takes short limits for the least that every card has', () => {
      open({ maxFrameBytes: 100 });
      assert.equal(device.value(MAXFRS), 1522 * 2 ** 16);
    });

    it('lets CWR through on the first segment, FIN and PSH on the last', () => {
      open();
      assert.equal(device.value(DTXTCPFLGL), 0x0f760ff6);
      assert.equal(device.value(DTXTCPFLGH), 0xf7f);
    });

    it('tells the card where the queues are', () => {
      device.set(DCA_RXCTRL(1), 0xb200);
      const card = open({ queues: 3, rxDescriptors: 256, txDescriptors: 1024 });
      const { layout, mapping, rxTail, txTail, vector, registerAccess } = card.queue(1);
      assert.deepEqual([rxTail, txTail, vector], [RDT(1), TDT(1), 1]);
      assert.equal(registerAccess, device.registerAccess);
      const [base] = mapping.pages;
      assert.equal(device.value(RDBAH(1)) * 2 ** 32 + device.value(RDBAL(1)), base! + layout.rxRing);
      assert.equal(device.value(TDBAL(1)), (base! + layout.txRing) % 2 ** 32);
      assert.equal(device.value(RDLEN(1)), 256 * 16);
      assert.equal(device.value(TDLEN(1)), 1024 * 16);
      assert.equal(device.value(SRRCTL(1)), 2 | SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER | SRRCTL_DROP_EN);
      assert.equal(device.value(DCA_RXCTRL(1)), 0xa200, 'bit 12 is cleared');
      assert.equal(device.mapped.size, 3);
      assert.equal(device.mapped.get(base!)!.fd, card.queue(1).fd);
    });

    it('does not drop where there is one queue', () => {
      open();
      assert.equal(device.value(SRRCTL(0)), 2 | SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER);
      assert.equal(device.value(MRQC), 0);
    });

    it('spreads flows over the queues', () => {
      const rssKey = Uint8Array.from({ length: 40 }, (_, i) => i);
      open({ queues: 3, rssKey });
      assert.equal(device.value(MRQC) & 0xf, MRQC_MRQE_RSS);
      assert.equal(device.value(RSSRK(0)), 0x03020100);
      assert.equal(device.value(RSSRK(9)), 0x27262524);
      assert.equal(device.value(RETA(0)), 0x00020100);
      assert.equal(device.value(RETA(1)), 0x01000201);
    });

    it('gives vector n to queue n, and the next to everything else', () => {
      open({ queues: 3 });
      assert.equal(device.value(GPIE) & GPIE_MSIX_MODE, GPIE_MSIX_MODE);
      assert.equal(device.value(GPIE) & GPIE_EIAME, GPIE_EIAME);
      assert.equal(device.value(IVAR(0)), 0x81818080);
      assert.equal(device.value(IVAR(1)), 0x00008282);
      assert.equal(device.value(IVAR_MISC), 0x8300);
      assert.equal(device.value(EIAC), 0b111);
      assert.equal(device.value(EIAM_EX(0)), 0b111);
      for (let n = 0; n <= 3; n++) assert.ok(device.value(EITR(n)) > 0, `EITR(${n})`);
      device = new FakePciDevice();
      open({ queues: 16 });
      assert.equal(device.value(IVAR(7)), 0x8f8f8e8e);
      assert.equal(device.value(EIAC), 0xffff);
      assert.equal(device.value(IVAR_MISC), 0x9000);
    });

    it('sends and obeys pause frames, and keeps them to itself', () => {
      const card = open();
      assert.equal(device.value(MFLCN), MFLCN_DPF | MFLCN_RFCE);
      assert.equal(device.value(FCCFG), FCCFG_TFCE_802_3X);
      assert.equal(device.value(FCRTL(0)), 384 * 1024 + FCRTL_XONE);
      assert.equal(device.value(FCRTH(0)), 448 * 1024 + FCRTH_FCEN);
      card.setFlowControl({ receive: false, send: false });
      assert.equal(device.value(MFLCN), MFLCN_DPF);
      assert.equal(device.value(FCCFG), 0);
      assert.equal(device.value(FCRTH(0)), 0);
    });

    it('knows the smaller packet buffer of an X540, whose PHY has the link', () => {
      device = new FakePciDevice({ deviceId: DEVICE_X540 });
      open();
      assert.equal(device.value(RXPBSIZE(0)), 384 << 10);
      assert.equal(device.value(FCRTH(0)), 320 * 1024 + FCRTH_FCEN);
      assert.deepEqual(device.writes(AUTOC), []);
      assert.deepEqual(device.writes(ESDP), []);
    });

    it('refuses a card that it does not drive, untouched', () => {
      device = new FakePciDevice({ deviceId: 0x1533 });
      assert.throws(() => open(), {
        message:
          '0000:01:00.0 is 8086:1533, which this driver does not know; it knows 8086:10fb, 8086:10f8, 8086:10f9, 8086:151c, ' +
          '8086:10fc, 8086:1528',
      });
      device = new FakePciDevice({ vendorId: 0x1af4, deviceId: DEVICE_82599_SFP });
      assert.throws(() => open(), { message: /^0000:01:00\.0 is 1af4:10fb, / });
      assert.deepEqual(device.accesses, []);
      assert.equal(device.busMaster, false);
    });

    for (const [name, options, message] of [
      ['no queue', { queues: 0 }, '0000:01:00.0: 1 to 16 queues, not 0'],
      ['too many queues', { queues: 17 }, '0000:01:00.0: 1 to 16 queues, not 17'],
      ['half a queue', { queues: 1.5 }, '0000:01:00.0: 1 to 16 queues, not 1.5'],
      ['odd rings', { rxDescriptors: 100 }, 'rxDescriptors is a power of two from 64 to 4096, not 100'],
      ['large rings', { txDescriptors: 8192 }, 'txDescriptors is a power of two from 64 to 4096, not 8192'],
      ['long frames', { maxFrameBytes: 9729 }, '0000:01:00.0: frames of 9728 bytes at the most, not 9729'],
      ['no number', { maxFrameBytes: Number.NaN }, '0000:01:00.0: frames of 9728 bytes at the most, not NaN'],
      ['a short key', { rssKey: new Uint8Array(39) }, 'an RSS key has 40 bytes, not 39'],
    ] as const) {
      it(`refuses ${name}`, () => {
        assert.throws(() => open(options), { name: 'RangeError', message });
        assert.equal(device.busMaster, false);
      });
    }

    for (const [name, register, value, message] of [
      [
        'a reset that does not end',
        CTRL,
        CTRL_RST,
        /the reset did not happen in 100 ms: register CTRL at 0x0 reads 0x4000000/,
      ],
      ['an EEPROM that is not read', EEC, 0, /reading the EEPROM did not happen in 1000 ms: register EEC at 0x10010/],
      [
        'a DMA engine that does not start',
        RDRXCTL,
        0,
        /starting the DMA engine did not happen .* register RDRXCTL at 0x2f00/,
      ],
    ] as const) {
      it(`names ${name}, and lets go of the card`, () => {
        device.stick(register, value);
        assert.throws(() => open(), { message });
        assert.equal(device.busMaster, false);
        assert.equal(device.mapped.size, 0);
        assert.equal(device.closed, 0, "the device is the caller's to close");
        assert.ok(time.ms < 5000, `${time.ms} ms`);
      });
    }

    it('lets go of everything when memory cannot be mapped for the card', () => {
      const mapDma = device.mapDma.bind(device);
      let maps = 0;
      device.mapDma = (source) => {
        if (++maps === 3) throw new Error('no room in the IOMMU');
        return mapDma(source);
      };
      assert.throws(() => open({ queues: 4 }), { message: 'no room in the IOMMU' });
      assert.equal(device.mapped.size, 0);
      assert.equal(device.busMaster, false);
      assert.equal(device.value(CTRL_EXT) & CTRL_EXT_DRV_LOAD, 0);
      assert.equal(device.value(ESDP) & ESDP_SDP3, ESDP_SDP3, 'the laser is off again');
    });

    for (const [name, make] of [
      ['the device needs', () => ({ needsHugepages: true, hugepages: false })],
      ['are asked for', () => ({ needsHugepages: false, hugepages: true })],
    ] as const) {
      it(`says how to get hugepages that ${name}`, function () {
        const free = Number(/HugePages_Free: +(\d+)/.exec(fs.readFileSync('/proc/meminfo', 'utf8'))?.[1]);
        // 16 queues of 4096 descriptors want 33 of them each.
        if (free >= 16 * 33) this.skip();
        const { needsHugepages, hugepages } = make();
        device = new FakePciDevice({ needsHugepages });
        const rings = { rxDescriptors: 4096, txDescriptors: 4096 };
        assert.throws(() => open({ queues: 16, ...rings, hugepages }), {
          message:
            /^0000:01:00\.0: queue \d+ wants \d+ hugepages of 2 MiB: .*; reserve as many for each queue in \/proc\/sys\/vm\/nr_hugepages$/,
        });
        assert.equal(device.mapped.size, 0);
      });
    }

    it('notices a card that vanishes at any read, and holds nothing then', () => {
      open();
      const reads = device.accesses.filter(({ kind }) => kind === 'read').length;
      assert.ok(reads > 50, `${reads} reads`);
      for (let n = 0; n < reads; n++) {
        device = new FakePciDevice();
        device.vanishAfter = n;
        assert.throws(() => open(), { name: 'CardGoneError' }, `after ${n} reads`);
        assert.equal(device.mapped.size, 0);
        assert.equal(device.busMaster, false);
      }
    });
  });

  describe('queues', () => {
    it('go on empty, and off again', () => {
      const card = open({ queues: 2 });
      device.set(RDH(1), 17);
      device.set(TDT(1), 5);
      card.startQueue(1);
      assert.deepEqual([device.value(RDH(1)), device.value(RDT(1)), device.value(TDT(1))], [0, 0, 0]);
      assert.equal(device.value(RXDCTL(1)) & RXDCTL_ENABLE, RXDCTL_ENABLE);
      assert.equal(device.value(TXDCTL(1)) & TXDCTL_ENABLE, TXDCTL_ENABLE);
      assert.equal(device.value(RXDCTL(0)) & RXDCTL_ENABLE, 0);
      card.stopQueue(1);
      assert.equal(device.value(RXDCTL(1)) & RXDCTL_ENABLE, 0);
      assert.equal(device.value(TXDCTL(1)) & TXDCTL_ENABLE, 0);
    });

    it('are not emptied while they run', () => {
      const card = open();
      card.startQueue(0);
      device.set(RDT(0), 511);
      card.startQueue(0);
      assert.equal(device.value(RDT(0)), 511);
    });

    it('that do not go on or off are named', () => {
      const card = open();
      device.stick(TXDCTL(0), 0);
      assert.throws(() => card.startQueue(0), {
        message: /switching on transmit queue 0 did not happen in 100 ms: register TXDCTL\(0\) at 0x6028 reads 0x0/,
      });
      device.release(TXDCTL(0));
      device.stick(RXDCTL(0), 0);
      assert.throws(() => card.startQueue(0), { message: /switching on receive queue 0 did not happen/ });
      assert.equal(device.value(TXDCTL(0)) & TXDCTL_ENABLE, 0, 'half a pair is of no use');
      device.release(RXDCTL(0));
      card.startQueue(0);
      for (const [offset, enable] of [
        [RXDCTL(0), RXDCTL_ENABLE],
        [TXDCTL(0), TXDCTL_ENABLE],
      ] as const) {
        assert.notEqual(device.value(offset) & enable, 0, 'it is tried again');
      }
      device.stick(RXDCTL(0), RXDCTL_ENABLE);
      assert.throws(() => card.stopQueue(0), {
        message: /switching off receive queue 0 .* register RXDCTL\(0\) at 0x1028/,
      });
    });

    it('that there are not', () => {
      const card = open({ queues: 2 });
      for (const call of [() => card.queue(2), () => card.startQueue(-1), () => card.stopQueue(0.5)]) {
        assert.throws(call, {
          name: 'RangeError',
          message: /^0000:01:00\.0: there is no queue .*: its queues are 0 to 1$/,
        });
      }
      card.close();
      assert.throws(() => card.queue(0), { message: '0000:01:00.0: there is no queue 0: the card is closed' });
    });
  });

  describe('start and stop', () => {
    it('let frames in, and the link interrupt', () => {
      const card = open();
      card.startQueue(0);
      card.start();
      assert.equal(device.value(RXCTRL) & RXCTRL_RXEN, RXCTRL_RXEN);
      assert.equal(device.value(EIMS), EICR_LSC | EICR_ECC | EICR_PCI_EXCEPTION);
    });

    it('name a receive path that does not empty', () => {
      const card = open();
      device.stick(SECRXSTAT, 0);
      assert.throws(() => card.start(), {
        message: /emptying the receive path .* register SECRXSTAT at 0x8d04 reads 0x0/,
      });
    });

    it('come again', () => {
      const card = open({ queues: 2 });
      for (let n = 0; n < 2; n++) {
        for (let queue = 0; queue < 2; queue++) card.startQueue(queue);
        card.start();
        assert.equal(device.value(DMATXCTL) & DMATXCTL_TE, DMATXCTL_TE);
        assert.equal(device.value(RXDCTL(1)) & RXDCTL_ENABLE, RXDCTL_ENABLE);
        assert.equal(device.value(ESDP) & ESDP_SDP3, 0, 'the laser is on');
        assert.equal(card.stop(), null);
        assert.equal(card.stop(), null, 'twice');
        assert.equal(device.value(DMATXCTL) & DMATXCTL_TE, 0);
        assert.equal(device.value(RXCTRL) & RXCTRL_RXEN, 0);
        assert.equal(device.value(RXDCTL(1)) & RXDCTL_ENABLE, 0);
        assert.equal(device.value(ESDP) & ESDP_SDP3, ESDP_SDP3);
        assert.equal(device.mapped.size, 2, 'memory stays');
      }
    });

    it('take a card off the bus that does not stop, and say what it did not do', () => {
      const card = open({ queues: 2 });
      for (let queue = 0; queue < 2; queue++) card.startQueue(queue);
      card.start();
      device.stick(TXDCTL(1), TXDCTL_ENABLE);
      assert.match(card.stop()!.message, /switching off transmit queue 1 did not happen/);
      assert.equal(device.busMaster, false);
      assert.equal(device.value(RXDCTL(0)) & RXDCTL_ENABLE, 0, 'the others are off');
      assert.equal(device.value(ESDP) & ESDP_SDP3, ESDP_SDP3);
      device.release(TXDCTL(1));
      card.startQueue(1);
      assert.equal(device.busMaster, true);
    });
  });

  describe('close', () => {
    it('leaves the card as it was found', () => {
      const card = open({ queues: 2 });
      card.startQueue(0);
      card.start();
      card.close();
      assert.equal(device.value(RXDCTL(0)) & RXDCTL_ENABLE, 0);
      assert.equal(device.value(RXCTRL) & RXCTRL_RXEN, 0);
      assert.equal(device.value(CTRL) & CTRL_PCIE_MASTER_DISABLE, CTRL_PCIE_MASTER_DISABLE);
      assert.equal(device.value(CTRL_EXT) & CTRL_EXT_DRV_LOAD, 0);
      assert.equal(device.busMaster, false);
      assert.equal(device.mapped.size, 0);
      assert.equal(device.closed, 1);
      assert.equal(heldMemory(), 0);
    });

    it('may come twice, and before anything', () => {
      const card = open();
      card.close();
      const { length } = device.accesses;
      card.close();
      assert.equal(card.stop(), null);
      assert.equal(device.closed, 1);
      assert.equal(device.accesses.length, length);
    });

    it('does not wait for ever, and frees memory only after the card is off the bus', () => {
      const card = open();
      card.startQueue(0);
      device.stick(STATUS, STATUS_PCIE_MASTER_ENABLE);
      device.stick(RXDCTL(0), RXDCTL_ENABLE);
      const unmapDma = device.unmapDma.bind(device);
      device.unmapDma = (mapping) => {
        assert.equal(device.busMaster, false);
        unmapDma(mapping);
      };
      const before = time.ms;
      card.close();
      assert.ok(time.ms - before < 2000, `${time.ms - before} ms`);
      assert.equal(device.mapped.size, 0);
      assert.equal(device.value(CTRL_EXT) & CTRL_EXT_DRV_LOAD, 0);
    });

    it('releases everything of a card that is gone, with its bus', () => {
      const card = open({ queues: 2 });
      card.startQueue(0);
      card.start();
      device.vanish();
      device.busError = new Error('EIO');
      assert.throws(() => card.link(), { name: 'CardGoneError' });
      assert.equal(card.gone, true);
      assert.equal(card.stop(), null);
      card.close();
      assert.equal(device.closed, 1);
      assert.equal(device.mapped.size, 0);
      assert.equal(heldMemory(), 0);
    });

    it('finds out by itself that the card is gone', () => {
      const card = open();
      card.startQueue(0);
      device.vanish();
      card.close();
      assert.equal(card.gone, true);
      assert.equal(device.closed, 1);
    });
  });

  it('says of every question that the card is gone', () => {
    const questions: [string, (card: Ixgbe) => unknown][] = [
      ['link', (card) => card.link()],
      ['setLink', (card) => card.setLink(false)],
      ['setFlowControl', (card) => card.setFlowControl({ receive: true, send: true })],
      ['statistics', (card) => card.statistics()],
      ['handleInterrupt', (card) => card.handleInterrupt()],
      ['macAddress', (card) => card.macAddress],
      ['startQueue', (card) => card.startQueue(0)],
      ['stopQueue', (card) => card.stopQueue(0)],
      ['start', (card) => card.start()],
    ];
    for (const [name, ask] of questions) {
      device = new FakePciDevice();
      const card = open();
      device.vanish();
      assert.throws(
        () => ask(card),
        { name: 'CardGoneError', message: /^0000:01:00\.0: the card no longer answers/ },
        name,
      );
      assert.equal(card.gone, true, name);
    }
  });

  describe('link', () => {
    it('is what LINKS says', () => {
      const card = open();
      for (const [links, state] of [
        [0, { up: false, speedMbps: 0 }],
        [LINKS_SPEED_10G, { up: false, speedMbps: 0 }],
        [LINKS_UP | LINKS_SPEED_10G, { up: true, speedMbps: 10_000 }],
        [LINKS_UP | LINKS_SPEED_1G, { up: true, speedMbps: 1000 }],
        [LINKS_UP | LINKS_SPEED_100M, { up: true, speedMbps: 100 }],
        [LINKS_UP, { up: true, speedMbps: 0 }],
      ] as const) {
        device.stick(LINKS, links);
        assert.deepEqual(card.link(), state);
      }
    });

    it('goes and comes with the laser', () => {
      const card = open();
      assert.equal(device.value(ESDP), ESDP_SDP3_IODIR);
      card.setLink(false);
      assert.equal(device.value(ESDP), ESDP_SDP3_IODIR | ESDP_SDP3);
      card.setLink(true);
      assert.equal(device.value(ESDP), ESDP_SDP3_IODIR);
      assert.equal(device.writes(AUTOC).length, 2, 'negotiated anew');
    });

    it('has no laser on a backplane, where the EEPROM says how it speaks', () => {
      device = new FakePciDevice({ deviceId: DEVICE_82599_BACKPLANE });
      device.set(AUTOC, 0xc09c0004);
      const card = open();
      card.setLink(false);
      assert.deepEqual(device.writes(ESDP), []);
      assert.deepEqual(device.writes(AUTOC), [(0xc09c0004 | AUTOC_RESTART_AN) >>> 0]);
    });
  });

  describe('handleInterrupt', () => {
    for (const [name, causes, linkChanged, fault] of [
      ['nothing', 0, false, null],
      ['a link change', EICR_LSC, true, null],
      ['missed frames, which are counted elsewhere', EICR_RX_MISS, false, null],
      ['an error in memory', EICR_ECC, false, /EICR\.ECC/],
      ['a transfer that failed, and a link change', EICR_PCI_EXCEPTION | EICR_LSC, true, /EICR\.PCI/],
    ] as const) {
      it(`tells of ${name}, and leaves the queues' causes to their lanes`, () => {
        const card = open();
        card.start();
        device.stick(EICS, causes | 0b101);
        const reads = device.accesses.length;
        const events = card.handleInterrupt();
        assert.equal(events.linkChanged, linkChanged);
        if (fault === null) assert.equal(events.fault, null);
        else assert.match(events.fault!, fault);
        assert.equal(device.writes(EICR).at(-1), causes, 'those that were seen are cleared');
        assert.ok(
          device.accesses.slice(reads).every(({ kind, offset }) => kind !== 'read' || offset !== EICR),
          'reading EICR clears',
        );
        assert.equal(device.writes(EIMS).length, 2, 'and enabled again');
      });
    }
  });
});
