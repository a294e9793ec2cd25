/** Memory that the client maps without a file: the server asks for it. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CardModel } from '../../../lab/model.ts';
import {
  TXD_CMD_DEXT,
  TXD_CMD_EOP,
  TXD_CMD_IFCS,
  TXD_CMD_RS,
  TXD_DTYP_DATA,
  TXD_PAYLEN_SHIFT,
} from '../../../nic/descriptors.ts';
import {
  AUTOC,
  AUTOC_RESTART_AN,
  DMATXCTL,
  DMATXCTL_TE,
  FCTRL,
  FCTRL_UPE,
  HLREG0,
  HLREG0_LPBK,
  LEDCTL,
  LINKS,
  LINKS_UP,
  RDBAH,
  RDBAL,
  RDLEN,
  RDT,
  RXCTRL,
  RXCTRL_RXEN,
  RXDCTL,
  RXDCTL_ENABLE,
  SRRCTL,
  SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER,
  TDBAH,
  TDBAL,
  TDH,
  TDLEN,
  TDT,
  TXDCTL,
  TXDCTL_ENABLE,
} from '../../../nic/registers.ts';
import { DmaTable } from '../../../nic/vfio-user/dma-table.ts';
import {
  checkDmaWriteReply,
  composeDmaAccess,
  composeRegionAccess,
  parseDmaReadReply,
} from '../../../nic/vfio-user/messages.ts';
import { RemoteMemory } from '../../../nic/vfio-user/remote-memory.ts';
import { type Access, FilelessClient } from '../../helpers/fileless-client.ts';
import { frameBytes } from '../../helpers/frame-bytes.ts';
import {
  TOY_DMA_DONE,
  TOY_DMA_FAILED,
  TOY_DMA_HIGH,
  TOY_DMA_INVERT,
  TOY_DMA_LOW,
  TOY_DMA_RESULT,
} from '../../helpers/toy-vfio-user-device.ts';
import { startServerThread } from '../../helpers/vfio-user-server-thread.ts';

const PAGE = 4096;
const BASE = 2 ** 32;
const REGION_READ = 9;
const REGION_WRITE = 10;
const DMA_READ = 11;
const CONFIG_REGION = 7;
const COMMAND = 4;
const MEMORY_AND_BUS_MASTER = 6;
const BODY_AT = 16;
const LOG_MS = 5000;

describe('messages about memory without a file', () => {
  it('have the layout of the document', () => {
    const body = composeDmaAccess(0x1_2345_6000, 3, Buffer.from('abc'));
    assert.equal(body.toString('hex'), '0060452301000000' + '0300000000000000' + '616263');
    assert.equal(parseDmaReadReply(body, 0x1_2345_6000, 3).toString(), 'abc');
    for (const reply of [body.subarray(0, 12), body.subarray(0, 16)]) {
      checkDmaWriteReply(reply, 0x1_2345_6000, 3);
    }
  });

  it('are believed only where they answer what was asked', () => {
    const body = composeDmaAccess(PAGE, 3, Buffer.from('abc'));
    for (const [address, count] of [
      [PAGE + 1, 3],
      [PAGE, 2],
      [PAGE, 4],
    ] as const) {
      assert.throws(() => parseDmaReadReply(body, address, count), { name: 'VfioUserError' });
      assert.throws(
        () => checkDmaWriteReply(body.subarray(0, 16), address, count),
        /it is about 3 bytes at 0x1000, asked were/,
      );
    }
    for (const length of [0, 1, 8, 11, 13, 17]) {
      assert.throws(() => checkDmaWriteReply(Buffer.alloc(length), 0, 0), /bytes of body, not 12/);
    }
    const absurd = Buffer.alloc(16, 0xff);
    assert.throws(() => parseDmaReadReply(absurd, 0, 0), /out of range/);
  });
});

describe('a table of DMA ranges without files', () => {
  const memory = Buffer.alloc(2 * PAGE);
  let asked: string[];
  let refuses: boolean;
  let table: DmaTable;

  beforeEach(() => {
    asked = [];
    refuses = false;
    memory.fill(0);
    const remote = new RemoteMemory((command, body, take) => {
      if (refuses) return false;
      const at = Number(body.readBigUInt64LE(0)) - BASE;
      const count = Number(body.readBigUInt64LE(8));
      if (count > 0) asked.push(`${command === DMA_READ ? 'read' : 'write'} ${count} at ${at}`);
      if (command === DMA_READ) take(Buffer.concat([body, memory.subarray(at, at + count)]));
      else {
        body.copy(memory, at, BODY_AT);
        take(body.subarray(0, 12));
      }
      return true;
    });
    remote.maxBytes = 100;
    table = new DmaTable(remote);
    table.map({ address: BASE, size: 2 * PAGE, offset: 0, readable: true, writable: true }, null);
    table.map({ address: BASE + 2 * PAGE, size: PAGE, offset: 0, readable: false, writable: false }, null);
  });

  it('asks for as many bytes at a time as the client takes', () => {
    const bytes = frameBytes(250, 1);
    assert.equal(table.write(BASE + 10, bytes), true);
    const into = new Uint8Array(250);
    assert.equal(table.read(BASE + 10, into), true);
    assert.deepEqual(into, bytes);
    const parts = (way: string) => [`${way} 100 at 10`, `${way} 100 at 110`, `${way} 50 at 210`];
    assert.deepEqual(asked, [...parts('write'), ...parts('read')]);
  });

  it('writes a word last that is to be last', () => {
    assert.equal(table.writeWords(BASE + 16, Uint32Array.of(1, 2, 3, 4), 2), true);
    assert.deepEqual(asked, ['write 8 at 16', 'write 4 at 28', 'write 4 at 24']);
    assert.deepEqual(
      [0, 1, 2, 3].map((n) => memory.readUInt32LE(16 + 4 * n)),
      [1, 2, 3, 4],
    );
    asked = [];
    assert.equal(table.writeWords(BASE + 12, Uint32Array.of(9), 0), true);
    assert.deepEqual(asked, ['write 4 at 12']);
  });

  it('asks for nothing outside of its ranges, or that these do not allow', () => {
    const some = new Uint8Array(8);
    for (const address of [0, BASE - 4, BASE + 2 * PAGE - 4, BASE + 2 * PAGE, BASE + 3 * PAGE]) {
      assert.equal(table.write(address, some), false, String(address));
      assert.equal(table.writeWords(address, Uint32Array.of(1, 2), 0), false, String(address));
    }
    assert.deepEqual(asked, []);
    assert.equal(table.read(BASE + 2 * PAGE, some), false);
    table.unmap(BASE, 2 * PAGE);
    assert.equal(table.read(BASE, some), false);
    assert.deepEqual(asked, []);
  });

  it('fails where the client refuses, or takes no transfers', () => {
    refuses = true;
    assert.equal(table.read(BASE, new Uint8Array(8)), false);
    assert.equal(table.write(BASE, new Uint8Array(8)), false);
    assert.equal(table.writeWords(BASE, Uint32Array.of(1), 0), false);
    refuses = false;
    const none = new RemoteMemory(() => assert.fail('it takes none'));
    none.maxBytes = 0;
    assert.equal(none.read(BASE, new Uint8Array(8)), false);
  });
});

describe('a vfio-user server whose client maps memory without a file', function () {
  this.timeout(30_000);
  let directory: string;
  let socket: string;
  let server: { stop(): Promise<void> };

  before(async () => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-remote-memory-'));
    socket = path.join(directory, 'card');
    server = await startServerThread({ path: socket });
  });

  after(async () => {
    await server.stop();
    fs.rmSync(directory, { recursive: true });
  });

  /** Has the toy device invert so many bytes. */
  function invert(client: FilelessClient, address: number, length: number): number {
    client.write32(TOY_DMA_LOW, address % 2 ** 32);
    client.write32(TOY_DMA_HIGH, Math.floor(address / 2 ** 32));
    client.write32(TOY_DMA_INVERT, length);
    return client.read32(TOY_DMA_RESULT);
  }

  it('reads and writes it, in parts as large as the client takes', () => {
    using client = new FilelessClient(socket, { maxTransfer: 1000 });
    const bytes = frameBytes(2500, 1);
    client.memory.set(bytes, 123);
    assert.equal(invert(client, BASE + 123, 2500), TOY_DMA_DONE);
    assert.deepEqual(
      new Uint8Array(client.memory.subarray(123, 2623)),
      bytes.map((byte) => ~byte),
    );
    assert.deepEqual(
      client.accesses.map(({ count }) => count),
      [1000, 1000, 500, 1000, 1000, 500],
    );
    assert.deepEqual([client.memory[122], client.memory[2623]], [0, 0]);
  });

  /** Its replies to writes have a body of another length. */
  const lengthen = (client: FilelessClient, length: number): void => {
    client.spoilsTrial = true;
    client.spoil = (reply, { isWrite }) => {
      if (!isWrite) return reply;
      const other = Buffer.alloc(16 + length);
      reply.copy(other);
      other.writeUInt32LE(other.length, 4);
      return other;
    };
  };

  const refuse = (reply: Buffer): Buffer => {
    const error = Buffer.from(reply.subarray(0, 16));
    error.writeUInt32LE(16, 4);
    error.writeUInt32LE(0x21, 8);
    error.writeUInt32LE(14, 12);
    return error;
  };

  it('takes replies to writes that have a count as long as requests have', () => {
    using client = new FilelessClient(socket);
    lengthen(client, 16);
    assert.equal(invert(client, BASE, 100), TOY_DMA_DONE);
  });

  it('leaves the memory of a client alone whose messages are others, as those of older QEMUs', () => {
    using client = new FilelessClient(socket);
    lengthen(client, 0);
    assert.equal(invert(client, BASE, 100), TOY_DMA_FAILED);
    assert.equal(invert(client, BASE, 100), TOY_DMA_FAILED);
    assert.deepEqual(client.accesses, []);
    assert.ok(client.memory.every((byte) => byte === 0));
  });

  it('works with a client that refuses to write no bytes', () => {
    using client = new FilelessClient(socket);
    client.spoilsTrial = true;
    client.spoil = (reply, { count }) => (count === 0 ? refuse(reply) : reply);
    assert.equal(invert(client, BASE, 100), TOY_DMA_DONE);
  });

  it('carries requests out, in order, that come while it waits', () => {
    using client = new FilelessClient(socket);
    let sent = false;
    client.onAccess = () => {
      if (sent) return;
      sent = true;
      // Other processors of the machine go on writing registers.
      for (let n = 0; n < 100; n++) client.post(REGION_WRITE, client.writeBody(0x300 + 4 * (n % 10), n));
    };
    client.write32(TOY_DMA_LOW, 0);
    client.write32(TOY_DMA_HIGH, 1);
    assert.equal(invert(client, BASE, 64), TOY_DMA_DONE);
    for (let n = 0; n < 10; n++) assert.equal(client.read32(0x300 + 4 * n), 90 + n);
    assert.equal(client.memory[0], 0xff);
  });

  it('has an access fail that the client refuses, and goes on', () => {
    using client = new FilelessClient(socket);
    client.spoil = refuse;
    assert.equal(invert(client, BASE, 100), TOY_DMA_FAILED);
    client.spoil = (reply, { isWrite }) => (isWrite ? refuse(reply) : reply);
    assert.equal(invert(client, BASE, 100), TOY_DMA_FAILED);
    client.spoil = (reply) => reply;
    assert.equal(invert(client, BASE, 100), TOY_DMA_DONE);
    assert.equal(invert(client, BASE + 2 ** 20 - 50, 100), TOY_DMA_FAILED, 'beyond what is mapped');
  });

  const patch = (reply: Buffer, change: (copy: Buffer) => void): Buffer => {
    const copy = Buffer.from(reply);
    change(copy);
    return copy;
  };
  for (const [name, spoil] of [
    ['garbage', () => Buffer.alloc(64, 0xa5)],
    ['another id', (reply) => patch(reply, (copy) => copy.writeUInt16LE(reply.readUInt16LE(0) ^ 1, 0))],
    ['a reply to something else', (reply) => patch(reply, (copy) => copy.writeUInt16LE(9, 2))],
    ['another address', (reply) => patch(reply, (copy) => copy.writeUInt8(1, 16))],
    ['another count', (reply) => patch(reply, (copy) => copy.writeUInt8(99, 24))],
    ['fewer bytes', (reply) => patch(reply.subarray(0, -1), (copy) => copy.writeUInt32LE(reply.length - 1, 4))],
    ['more bytes', (reply) => patch(Buffer.concat([reply, reply]), (copy) => copy.writeUInt32LE(2 * reply.length, 4))],
    ['a size that cannot be', (reply) => patch(reply, (copy) => copy.writeUInt32LE(0xffffffff, 4))],
    [
      'a flood of requests',
      (reply) =>
        Buffer.concat(
          Array.from({ length: 1100 }, () =>
            patch(reply.subarray(0, 16), (copy) => {
              copy.writeUInt32LE(16, 4);
              copy.writeUInt32LE(0x10, 8);
            }),
          ),
        ),
    ],
  ] as [string, (reply: Buffer, access: Access) => Buffer][]) {
    it(`sees a client off that answers with ${name}, and serves the next`, () => {
      {
        using client = new FilelessClient(socket);
        client.spoil = spoil;
        // What it still sends may find that nobody reads it.
        assert.throws(() => invert(client, BASE, 100), /closed the connection|EPIPE|ECONNRESET/);
      }
      using next = new FilelessClient(socket);
      assert.equal(invert(next, BASE, 100), TOY_DMA_DONE);
    });
  }

  it('sees a client off that does not answer', () => {
    using client = new FilelessClient(socket);
    client.spoil = () => null;
    assert.throws(() => invert(client, BASE, 100), /closed the connection/);
  });

  it('survives a client that dies in place of answering', () => {
    {
      using client = new FilelessClient(socket);
      client.write32(TOY_DMA_HIGH, 1);
      client.post(REGION_WRITE, client.writeBody(TOY_DMA_INVERT, 100));
      client.spoil = () => null;
      client.serveOne();
    }
    using next = new FilelessClient(socket);
    assert.equal(invert(next, BASE, 100), TOY_DMA_DONE);
  });
});

describe('the software 82599 with memory that it has to ask for', function () {
  this.timeout(30_000);
  const TX_RING = 0x1000;
  const RX_RING = 0x2000;
  const TX_BUFFERS = 0x10000;
  const RX_BUFFERS = 0x20000;
  const BUFFER = 2048;
  const RING = 16;
  const DESCRIPTOR = 16;

  /** Gives the card rings of which the receive ring is full of buffers. */
  function setUp(client: FilelessClient): void {
    client.write32(COMMAND, MEMORY_AND_BUS_MASTER, CONFIG_REGION);
    client.write32(FCTRL, FCTRL_UPE);
    client.write32(RXCTRL, RXCTRL_RXEN);
    client.write32(DMATXCTL, client.read32(DMATXCTL) | DMATXCTL_TE);
    for (const [low, high, length, at] of [
      [TDBAL(0), TDBAH(0), TDLEN(0), TX_RING],
      [RDBAL(0), RDBAH(0), RDLEN(0), RX_RING],
    ] as const) {
      client.write32(low, at);
      client.write32(high, 1);
      client.write32(length, RING * DESCRIPTOR);
    }
    client.write32(SRRCTL(0), SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER | (BUFFER / 1024));
    client.write32(RXDCTL(0), RXDCTL_ENABLE);
    client.write32(TXDCTL(0), TXDCTL_ENABLE);
    for (let n = 0; n < RING; n++) {
      client.view.setBigUint64(RX_RING + n * DESCRIPTOR, BigInt(BASE + RX_BUFFERS + n * BUFFER), true);
    }
    client.write32(RDT(0), RING - 1);
  }

  /** Puts frame `n` of the ring, without telling the card. */
  function put({ memory, view }: FilelessClient, n: number, length: number): Uint8Array {
    const frame = frameBytes(length, n);
    frame[0] = 2;
    // No EtherType of VLANs or IP.
    frame.set([0x88, 0xb5], 12);
    memory.set(frame, TX_BUFFERS + n * BUFFER);
    const at = TX_RING + n * DESCRIPTOR;
    view.setBigUint64(at, BigInt(BASE + TX_BUFFERS + n * BUFFER), true);
    const command = TXD_CMD_DEXT | TXD_DTYP_DATA | TXD_CMD_EOP | TXD_CMD_IFCS | TXD_CMD_RS;
    view.setUint32(at + 8, command | length, true);
    view.setUint32(at + 12, length * 2 ** TXD_PAYLEN_SHIFT, true);
    return frame;
  }

  function assertReceived({ memory, view }: FilelessClient, n: number, frame: Uint8Array): void {
    const written = RX_RING + n * DESCRIPTOR;
    assert.equal(view.getUint32(written + 8, true) & 3, 3, 'DD and EOP');
    assert.equal(view.getUint16(written + 12, true), frame.length);
    assert.deepEqual(new Uint8Array(memory.subarray(RX_BUFFERS + n * BUFFER).subarray(0, frame.length)), frame);
  }

  it('sends and receives frames through rings and buffers there', async () => {
    await using model = await CardModel.start();
    using client = new FilelessClient(model.sockets[0]!);
    setUp(client);
    client.write32(HLREG0, client.read32(HLREG0) | HLREG0_LPBK);
    const frames = [60, 100, 1514].map((length, n) => put(client, n, length));
    client.accesses.length = 0;
    client.write32(TDT(0), frames.length);
    assert.equal(client.read32(TDH(0)), frames.length, model.log);
    for (const [n, frame] of frames.entries()) {
      assert.equal(client.view.getUint32(TX_RING + n * DESCRIPTOR + 12, true) & 1, 1, `DD of frame ${n}\n${model.log}`);
      assertReceived(client, n, frame);
    }
    // The word with DD comes after the others of its descriptor.
    const ofFirst = client.accesses.filter(
      ({ isWrite, address }) => isWrite && address >= BASE + RX_RING && address < BASE + RX_RING + DESCRIPTOR,
    );
    assert.equal(ofFirst.at(-1)!.address, BASE + RX_RING + 8);
  });

  it('asks at any time, when a frame comes from another card too', async () => {
    await using model = await CardModel.start({ cards: 2 });
    using a = new FilelessClient(model.sockets[0]!);
    using b = new FilelessClient(model.sockets[1]!);
    for (const client of [a, b]) {
      setUp(client);
      client.write32(AUTOC, client.read32(AUTOC) | AUTOC_RESTART_AN);
    }
    while ((a.read32(LINKS) & b.read32(LINKS) & LINKS_UP) === 0);
    const frame = put(a, 0, 100);
    // What B asks for meanwhile is carried out afterwards.
    b.onAccess = () => {
      b.onAccess = () => {};
      b.post(REGION_WRITE, b.writeBody(LEDCTL, 0x1234));
    };
    a.write32(TDT(0), 1);
    while ((b.view.getUint32(RX_RING + 8, true) & 1) === 0) b.serveOne();
    assertReceived(b, 0, frame);
    assert.equal(b.read32(LEDCTL), 0x1234);
  });

  it('says what to do when its client answers nothing as long as it waits itself', async () => {
    await using model = await CardModel.start();
    using client = new FilelessClient(model.sockets[0]!);
    setUp(client);
    put(client, 0, 100);
    client.spoil = () => {
      client.post(REGION_READ, composeRegionAccess({ region: 0, offset: TDH(0), count: 4 }), 0);
      return null;
    };
    assert.throws(() => client.write32(TDT(0), 1), /closed the connection/);
    const told = /no reply in 2000 ms: it waits for its own REGION_READ. Share its memory/;
    for (const deadline = Date.now() + LOG_MS; !told.test(model.log); await delay(10)) {
      assert.ok(Date.now() < deadline, model.log);
    }
  });
});
