/** Layouts of `<linux/fuse.h>` 7.31, byte by byte. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  emitAttributes,
  emitDirent,
  emitEntry,
  emitInit,
  emitIoctl,
  emitNotifyPoll,
  emitOpen,
  emitPoll,
  emitReply,
  emitWrite,
  Opcode,
  opcodeName,
  parseHandle,
  parseInHeader,
  parseInit,
  parseInterrupt,
  parseIoctl,
  parseOpen,
  parsePoll,
  parseRead,
  parseWrite,
} from '../../fuse/protocol.ts';

/** Annotated hex: what stands after a `#` is a comment. */
function hex(text: string): Buffer {
  return Buffer.from(text.replace(/#.*$/gm, '').replace(/\s/g, ''), 'hex');
}

const device = { ino: 0x0102, mode: 0o020660, nlink: 1, uid: 0x11, gid: 0x22, rdev: 0x0ac8 };
const deviceAttr = `
  02 01 00 00 00 00 00 00  # ino
  00 00 00 00 00 00 00 00  # size
  00 00 00 00 00 00 00 00  # blocks
  00 00 00 00 00 00 00 00  # atime
  00 00 00 00 00 00 00 00  # mtime
  00 00 00 00 00 00 00 00  # ctime
  00 00 00 00 00 00 00 00 00 00 00 00  # atimensec, mtimensec, ctimensec
  b0 21 00 00              # mode: S_IFCHR | 0660
  01 00 00 00              # nlink
  11 00 00 00              # uid
  22 00 00 00              # gid
  c8 0a 00 00              # rdev: 10:200
  00 10 00 00              # blksize
  00 00 00 00              # flags`;

describe('FUSE requests', () => {
  it('struct fuse_in_header', () => {
    const bytes = hex(`
      68 00 00 00              # len
      27 00 00 00              # opcode: IOCTL
      f0 de bc 9a 78 56 34 12  # unique
      03 00 00 00 00 00 00 00  # nodeid
      e8 03 00 00              # uid
      e9 03 00 00              # gid
      2a 00 00 00              # pid
      00 00  00 00             # total_extlen, padding`);
    assert.deepEqual(parseInHeader(bytes), {
      length: 104,
      opcode: Opcode.IOCTL,
      unique: 0x1234_5678_9abc_def0n,
      nodeid: 3,
      uid: 1000,
      gid: 1001,
      tid: 42,
    });
  });

  it('struct fuse_init_in', () => {
    const bytes = hex(`
      07 00 00 00  2d 00 00 00  # major, minor: 7.45
      00 00 02 00               # max_readahead
      fb ff ff 73               # flags
      ${'00'.repeat(48)}        # flags2, unused`);
    assert.deepEqual(parseInit(bytes), { major: 7, minor: 45, flags: 0x73ff_fffb });
  });

  it('struct fuse_open_in', () => {
    assert.deepEqual(parseOpen(hex('02 08 00 00  00 00 00 00')), { flags: 0o4002 });
  });

  it('struct fuse_read_in', () => {
    const bytes = hex(`
      09 00 00 00 00 00 00 00  # fh
      05 00 00 00 01 00 00 00  # offset
      00 00 02 00              # size
      00 00 00 00              # read_flags
      77 77 77 77 77 77 77 77  # lock_owner
      00 08 00 00              # flags: O_NONBLOCK
      00 00 00 00              # padding`);
    assert.equal(parseHandle(bytes), 9);
    assert.deepEqual(parseRead(bytes), { offset: 2 ** 32 + 5, size: 0x2_0000, flags: 0o4000 });
  });

  it('struct fuse_write_in and the data behind it', () => {
    const bytes = hex(`
      09 00 00 00 00 00 00 00  # fh
      00 00 00 00 00 00 00 00  # offset
      03 00 00 00              # size
      00 00 00 00              # write_flags
      77 77 77 77 77 77 77 77  # lock_owner
      02 00 00 00              # flags: O_RDWR
      00 00 00 00              # padding
      61 62 63  ff ff          # "abc", and bytes that are not the request's`);
    assert.equal(parseHandle(bytes), 9);
    const { data, flags } = parseWrite(bytes);
    assert.equal(data.toString(), 'abc');
    assert.equal(flags, 2);
  });

  it('struct fuse_ioctl_in and the bytes copied in', () => {
    const bytes = hex(`
      09 00 00 00 00 00 00 00  # fh
      00 00 00 00              # flags
      ca 54 04 40              # cmd: TUNSETIFF
      f0 ff ff ff ff 7f 00 00  # arg
      04 00 00 00              # in_size
      00 00 00 00              # out_size
      74 61 70 30  ff ff       # "tap0", and bytes that are not the request's`);
    assert.equal(parseHandle(bytes), 9);
    const { cmd, arg, input, outSize } = parseIoctl(bytes);
    assert.equal(cmd, 0x4004_54ca);
    assert.equal(arg, 0x7fff_ffff_fff0n);
    assert.equal(input.toString(), 'tap0');
    assert.equal(outSize, 0);
  });

  it('struct fuse_poll_in', () => {
    const bytes = hex(`
      09 00 00 00 00 00 00 00  # fh
      ff ff ff ff ff ff ff ff  # kh
      01 00 00 00              # flags: FUSE_POLL_SCHEDULE_NOTIFY
      05 00 00 00              # events: POLLIN | POLLOUT`);
    assert.equal(parseHandle(bytes), 9);
    assert.deepEqual(parsePoll(bytes), { kh: 0xffff_ffff_ffff_ffffn, flags: 1, events: 5 });
  });

  it('struct fuse_interrupt_in', () => {
    assert.equal(parseInterrupt(hex('f0 de bc 9a 78 56 34 12')), 0x1234_5678_9abc_def0n);
  });
});

describe('FUSE replies', () => {
  it('struct fuse_out_header', () => {
    assert.deepEqual(
      emitReply(0x1234n, -11),
      hex(`
        10 00 00 00              # len
        f5 ff ff ff              # error: -EAGAIN
        34 12 00 00 00 00 00 00  # unique`),
    );
    assert.deepEqual(
      emitReply(1n, 0, Buffer.from('abc')),
      hex('13 00 00 00  00 00 00 00  01 00 00 00 00 00 00 00  61 62 63'),
    );
  });

  it('struct fuse_init_out', () => {
    assert.deepEqual(
      emitInit(0x0040_0020, 0x2_0000, 33),
      hex(`
        07 00 00 00  1f 00 00 00  # major, minor: 7.31
        00 00 00 00               # max_readahead
        20 00 40 00               # flags
        00 00  00 00              # max_background, congestion_threshold
        00 00 02 00               # max_write
        01 00 00 00               # time_gran
        21 00  00 00              # max_pages, map_alignment
        ${'00'.repeat(32)}        # flags2, unused`),
    );
  });

  it('struct fuse_entry_out, valid for no time', () => {
    assert.deepEqual(
      emitEntry(device),
      hex(`
        02 01 00 00 00 00 00 00  # nodeid
        00 00 00 00 00 00 00 00  # generation
        00 00 00 00 00 00 00 00  # entry_valid
        00 00 00 00 00 00 00 00  # attr_valid
        00 00 00 00 00 00 00 00  # entry_valid_nsec, attr_valid_nsec
        ${deviceAttr.replace(/#.*$/gm, '')}`),
    );
  });

  it('struct fuse_attr_out, valid for no time', () => {
    assert.deepEqual(
      emitAttributes(device),
      hex(`
        00 00 00 00 00 00 00 00  # attr_valid
        00 00 00 00 00 00 00 00  # attr_valid_nsec, dummy
        ${deviceAttr.replace(/#.*$/gm, '')}`),
    );
  });

  it('struct fuse_open_out', () => {
    assert.deepEqual(
      emitOpen(2 ** 32 + 1, 0x55),
      hex(`
        01 00 00 00 01 00 00 00  # fh
        55 00 00 00              # open_flags
        00 00 00 00              # padding`),
    );
  });

  it('struct fuse_write_out', () => {
    assert.deepEqual(emitWrite(65_562), hex('1a 00 01 00  00 00 00 00'));
  });

  it('struct fuse_ioctl_out and the bytes to copy out', () => {
    assert.deepEqual(
      emitIoctl(-1, Buffer.from('ab')),
      hex(`
        ff ff ff ff               # result
        00 00 00 00               # flags
        00 00 00 00  00 00 00 00  # in_iovs, out_iovs
        61 62`),
    );
  });

  it('struct fuse_poll_out', () => {
    assert.deepEqual(emitPoll(0x145), hex('45 01 00 00  00 00 00 00'));
  });

  it('FUSE_NOTIFY_POLL with struct fuse_notify_poll_wakeup_out', () => {
    assert.deepEqual(
      emitNotifyPoll(0xffff_ffff_ffff_fffen),
      hex(`
        18 00 00 00              # len
        01 00 00 00              # error: FUSE_NOTIFY_POLL
        00 00 00 00 00 00 00 00  # unique: none, it answers nothing
        fe ff ff ff ff ff ff ff  # kh`),
    );
  });
});

describe('struct fuse_dirent', () => {
  it('has a name filled up with zeros to a multiple of 8', () => {
    assert.deepEqual(
      emitDirent(3, 4, 8, 'tun'),
      hex(`
        03 00 00 00 00 00 00 00  # ino
        04 00 00 00 00 00 00 00  # off
        03 00 00 00              # namelen
        08 00 00 00              # type: DT_REG
        74 75 6e                 # name
        00 00 00 00 00           # FUSE_DIRENT_ALIGN`),
    );
  });

  it('needs no filling behind a name of 8 bytes', () => {
    assert.equal(emitDirent(1, 1, 4, 'ringswit').length, 32);
    assert.equal(emitDirent(1, 1, 4, 'ringswitc').length, 40);
  });

  it('counts bytes of a name, not characters', () => {
    const dirent = emitDirent(1, 1, 4, 'é');
    assert.equal(dirent.readUInt32LE(16), 2);
    assert.equal(dirent.subarray(24, 26).toString(), 'é');
  });

  it('can be walked by namelen alone, whatever the names', () => {
    const name = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 60 }).filter((text) => !/[/\0]/.test(text));
    const entry = fc.record({ ino: fc.nat(), type: fc.constantFrom(4, 8), name }, { noNullPrototype: true });
    fc.assert(
      fc.property(fc.array(entry), (entries) => {
        const bytes = Buffer.concat(entries.map(({ ino, type, name }, i) => emitDirent(ino, i + 1, type, name)));
        const walked: object[] = [];
        for (let at = 0; at < bytes.length; ) {
          const length = bytes.readUInt32LE(at + 16);
          assert.equal(Number(bytes.readBigUInt64LE(at + 8)), walked.length + 1);
          walked.push({
            ino: Number(bytes.readBigUInt64LE(at)),
            type: bytes.readUInt32LE(at + 20),
            name: bytes.subarray(at + 24, at + 24 + length).toString(),
          });
          at += Math.ceil((24 + length) / 8) * 8;
        }
        assert.deepEqual(walked, entries);
      }),
    );
  });
});

describe('opcodes', () => {
  it('have the numbers of enum fuse_opcode', () => {
    const { LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FLUSH, INIT } = Opcode;
    assert.deepEqual(
      [LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FLUSH, INIT],
      [1, 2, 3, 4, 14, 15, 16, 17, 18, 25, 26],
    );
    const { OPENDIR, READDIR, RELEASEDIR, ACCESS, INTERRUPT, DESTROY, IOCTL, POLL, BATCH_FORGET } = Opcode;
    assert.deepEqual(
      [OPENDIR, READDIR, RELEASEDIR, ACCESS, INTERRUPT, DESTROY, IOCTL, POLL, BATCH_FORGET],
      [27, 28, 29, 34, 36, 38, 39, 40, 42],
    );
    const { SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, CREATE, RENAME2 } = Opcode;
    assert.deepEqual(
      [SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, CREATE, RENAME2],
      [6, 8, 9, 10, 11, 12, 13, 35, 45],
    );
  });

  it('have names for the log, known or not', () => {
    assert.equal(opcodeName(39), 'IOCTL');
    assert.equal(opcodeName(4711), 'opcode 4711');
  });
});
