import assert from 'node:assert/strict';
import { eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import * as tun from '../../linux/if-tun.ts';
import {
  IO,
  IOR,
  IOW,
  IOWR,
  ioctl,
  ioctlAsync,
  ioctlSize,
  ioctlType,
  ioctlValue,
  tryIoctl,
} from '../../linux/ioctl.ts';
import { addressOf } from '../../linux/libc.ts';
import * as vhost from '../../linux/vhost.ts';
import { failsWith } from '../helpers/system-error.ts';

/** `<asm-generic/ioctls.h>`: FIONBIO sets O_NONBLOCK of any file by an int; FIOCLEX sets close-on-exec, without argument. */
const FIONBIO = 0x5421;
const FIOCLEX = 0x5451;
const EBADF = 9;
const ENOTTY = 25;

describe('ioctl numbers', () => {
  // Compiled from the headers of Linux with a C compiler.
  const literals: Record<string, Record<string, number>> = {
    tun: {
      TUNSETNOCSUM: 0x400454c8,
      TUNSETDEBUG: 0x400454c9,
      TUNSETIFF: 0x400454ca,
      TUNSETPERSIST: 0x400454cb,
      TUNSETOWNER: 0x400454cc,
      TUNSETLINK: 0x400454cd,
      TUNSETGROUP: 0x400454ce,
      TUNGETFEATURES: 0x800454cf,
      TUNSETOFFLOAD: 0x400454d0,
      TUNSETTXFILTER: 0x400454d1,
      TUNGETIFF: 0x800454d2,
      TUNGETSNDBUF: 0x800454d3,
      TUNSETSNDBUF: 0x400454d4,
      TUNATTACHFILTER: 0x401054d5,
      TUNDETACHFILTER: 0x401054d6,
      TUNGETVNETHDRSZ: 0x800454d7,
      TUNSETVNETHDRSZ: 0x400454d8,
      TUNSETQUEUE: 0x400454d9,
      TUNSETIFINDEX: 0x400454da,
      TUNGETFILTER: 0x801054db,
      TUNSETVNETLE: 0x400454dc,
      TUNGETVNETLE: 0x800454dd,
      TUNSETVNETBE: 0x400454de,
      TUNGETVNETBE: 0x800454df,
      TUNSETSTEERINGEBPF: 0x800454e0,
      TUNSETFILTEREBPF: 0x800454e1,
      TUNSETCARRIER: 0x400454e2,
      TUNGETDEVNETNS: 0x54e3,
      SIOCGIFFLAGS: 0x8913,
      SIOCSIFFLAGS: 0x8914,
      SIOCSIFHWADDR: 0x8924,
      SIOCGIFHWADDR: 0x8927,
      SIOCGSKNS: 0x894c,
    },
    vhost: {
      VHOST_GET_FEATURES: 0x8008af00,
      VHOST_SET_FEATURES: 0x4008af00,
      VHOST_SET_OWNER: 0xaf01,
      VHOST_RESET_OWNER: 0xaf02,
      VHOST_SET_MEM_TABLE: 0x4008af03,
      VHOST_SET_LOG_BASE: 0x4008af04,
      VHOST_SET_LOG_FD: 0x4004af07,
      VHOST_SET_VRING_NUM: 0x4008af10,
      VHOST_SET_VRING_ADDR: 0x4028af11,
      VHOST_SET_VRING_BASE: 0x4008af12,
      VHOST_GET_VRING_BASE: 0xc008af12,
      VHOST_SET_VRING_ENDIAN: 0x4008af13,
      VHOST_GET_VRING_ENDIAN: 0x4008af14,
      VHOST_SET_VRING_KICK: 0x4008af20,
      VHOST_SET_VRING_CALL: 0x4008af21,
      VHOST_SET_VRING_ERR: 0x4008af22,
      VHOST_SET_VRING_BUSYLOOP_TIMEOUT: 0x4008af23,
      VHOST_GET_VRING_BUSYLOOP_TIMEOUT: 0x4008af24,
      VHOST_SET_BACKEND_FEATURES: 0x4008af25,
      VHOST_GET_BACKEND_FEATURES: 0x8008af26,
      VHOST_NET_SET_BACKEND: 0x4008af30,
    },
  };
  const names = { tun: tun.TUN_IOCTL_NAMES, vhost: vhost.VHOST_IOCTL_NAMES };
  const modules = { tun, vhost } as unknown as Record<string, Record<string, unknown>>;

  for (const file of ['tun', 'vhost'] as const) {
    it(`of a ${file} file are those of the headers, and have their names`, () => {
      for (const [name, number] of Object.entries(literals[file]!)) {
        assert.equal(modules[file]![name], number, name);
        assert.equal(names[file].get(number), name);
      }
      assert.equal(names[file].size, Object.keys(literals[file]!).length, 'a name that this test does not know');
    });
  }

  it('are composed of direction, size, type and number', () => {
    assert.equal(IO(0x54, 1), 0x5401);
    assert.equal(IOW(0x54, 1, 4), 0x40045401);
    assert.equal(IOR(0x54, 1, 4), 0x80045401);
    assert.equal(IOWR(0xaf, 0xff, 0x3fff), 0xffffafff);
    assert.equal(ioctlSize(0xffffafff), 0x3fff);
    assert.equal(ioctlSize(vhost.VHOST_SET_VRING_ADDR), 40);
    assert.equal(ioctlType(0xffffafff), 0xaf);
  });
});

describe('ioctl', () => {
  let fd: number;
  beforeEach(() => {
    fd = eventfd();
  });
  afterEach(() => close(fd));

  it('passes a buffer, and names the request that failed', () => {
    assert.equal(ioctl(fd, FIONBIO, Int32Array.of(1), 'FIONBIO'), 0);
    failsWith('EBADF', 'FIONBIO', `fd=-1, request=${FIONBIO}`, () => ioctl(-1, FIONBIO, Int32Array.of(1), 'FIONBIO'));
    failsWith('ENOTTY', 'ioctl', `fd=${fd}, request=0x400454ca`, () => ioctl(fd, tun.TUNSETIFF, new Uint8Array(40)));
  });

  it('passes a value', () => {
    assert.equal(ioctlValue(fd, FIOCLEX, 0), 0);
    failsWith('ENOTTY', 'TUNSETOFFLOAD', `fd=${fd}, request=0x400454d0, argument=1`, () =>
      ioctlValue(fd, tun.TUNSETOFFLOAD, tun.TUN_F_CSUM, 'TUNSETOFFLOAD'),
    );
  });

  it('gives the negative errno when it only tries', () => {
    const on = Int32Array.of(1);
    assert.equal(tryIoctl(fd, FIONBIO, on), 0);
    assert.equal(tryIoctl(fd, FIONBIO, addressOf(on)), 0);
    assert.equal(tryIoctl(-1, FIONBIO, on), -EBADF);
    assert.equal(tryIoctl(fd, tun.TUNSETIFF, on), -ENOTTY);
  });

  it('works on another thread', async () => {
    assert.equal(await ioctlAsync(fd, FIOCLEX, 0), 0);
    assert.equal(await ioctlAsync(-1, FIOCLEX, 0), -1);
  });
});

describe('struct ifreq', () => {
  it('holds a name and flags in 40 bytes', () => {
    const bytes = tun.ifreq('tap0', tun.IFF_TAP | tun.IFF_NO_PI | tun.IFF_VNET_HDR);
    assert.equal(bytes.length, 40);
    assert.equal(bytes.toString('latin1', 0, 5), 'tap0\0');
    assert.deepEqual([...bytes.subarray(16, 18)], [0x02, 0x50]);
    assert.equal(tun.ifreqName(bytes), 'tap0');
  });

  it('ends a name at its 0 or at 16 bytes', () => {
    assert.equal(tun.ifreqName(new Uint8Array(40)), '');
    assert.equal(tun.ifreqName(tun.ifreq('abcdefghijklmnopqrs')), 'abcdefghijklmnop');
  });
});
