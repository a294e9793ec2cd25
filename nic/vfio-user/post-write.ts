/**
 * Register writes that are not waited for: one message each, without a reply, from whichever thread has the socket's number.
 *
 * A message this short goes into a Unix socket whole or not at all, so threads may do so at the same time.
 */
import { EAGAIN, EINTR } from '../../linux/errno.ts';
import { writeAddress } from '../../linux/file.ts';
import { type Address, permanentAddressOf } from '../../linux/libc.ts';
import { POLLOUT, PollSet } from '../../linux/poll.ts';
import { FLAG_NO_REPLY, VFIO_USER_HEADER_BYTES, VFIO_USER_REGION_WRITE } from './messages.ts';

const ACCESS_BYTES = 16;
const REGISTER_BYTES = 4;
const MESSAGE_BYTES = VFIO_USER_HEADER_BYTES + ACCESS_BYTES + REGISTER_BYTES;
/** BAR 0. */
const REGION = 0;
const OFFSET_AT = VFIO_USER_HEADER_BYTES;
const VALUE_AT = VFIO_USER_HEADER_BYTES + ACCESS_BYTES;
/** How long a server may leave messages unread, in ms, before it counts as gone. */
const PATIENCE_MS = 1000;

const message = new DataView(new ArrayBuffer(MESSAGE_BYTES));
const address: Address = permanentAddressOf(message);
message.setUint16(2, VFIO_USER_REGION_WRITE, true);
message.setUint32(4, MESSAGE_BYTES, true);
message.setUint32(8, FLAG_NO_REPLY, true);
message.setUint32(OFFSET_AT + 8, REGION, true);
message.setUint32(OFFSET_AT + 12, REGISTER_BYTES, true);

/** Writes a 32-bit register of BAR 0. False when the server is gone, or does not read. Allocates nothing unless it must wait. */
export function postRegisterWrite(socket: number, offset: number, value: number): boolean {
  message.setUint32(OFFSET_AT, offset, true);
  message.setUint32(VALUE_AT, value, true);
  for (;;) {
    const written = writeAddress(socket, address, MESSAGE_BYTES);
    if (written === MESSAGE_BYTES) return true;
    if (written === -EINTR) continue;
    if (written !== -EAGAIN) return false;
    const poll = new PollSet();
    poll.add(socket, POLLOUT);
    if (poll.wait(PATIENCE_MS) === 0) return false;
  }
}
