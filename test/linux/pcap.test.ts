import assert from 'node:assert/strict';
import { compileFilter } from '../../linux/pcap.ts';

describe('compileFilter', () => {
  it('gives what libpcap makes of an expression for Ethernet', () => {
    assert.deepEqual(compileFilter('icmp', 96), [
      [0x28, 0, 0, 12], // ldh [12]
      [0x15, 0, 3, 0x0800], // jeq #0x800
      [0x30, 0, 0, 23], // ldb [23]
      [0x15, 0, 1, 1], // jeq #1
      [0x06, 0, 0, 96],
      [0x06, 0, 0, 0],
    ]);
    assert.deepEqual(compileFilter('', 128), [[0x06, 0, 0, 128]]);
  });

  it("refuses a bad one in libpcap's words", () => {
    assert.throws(() => compileFilter('icmpp and', 96), /^Error: filter "icmpp and": .*syntax error; pcap-filter\(7\)/);
    assert.throws(() => compileFilter('tcp and udp and arp and port', 96), /syntax error/);
    assert.throws(() => compileFilter('ip and arp', 96), /expression rejects all packets/);
    assert.throws(() => compileFilter('a\0b', 96), /filter: NUL in "a\\u0000b"/);
  });

  it('may be asked again and again', () => {
    for (let i = 0; i < 200; i++) {
      assert.throws(() => compileFilter('tcp port', 96));
      assert.ok(compileFilter(`tcp port ${i + 1}`, 96).length > 10);
    }
  });
});
