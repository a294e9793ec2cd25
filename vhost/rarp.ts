/** The frame by which switches learn where a guest is now (RFC 903, as QEMU sends it after a migration). */

const BROADCAST = Buffer.alloc(6, 0xff);
const ETHERTYPE_RARP = 0x8035;
const ARPHRD_ETHER = 1;
const ETHERTYPE_IPV4 = 0x0800;
const MAC_BYTES = 6;
const IPV4_BYTES = 4;
/** ar$op: request reverse. */
const RARP_REQUEST_REVERSE = 3;
/** Without the frame check sequence (IEEE 802.3). */
const MIN_FRAME_BYTES = 60;

/** A broadcast RARP request of the guest with that MAC address, which asks for its own. */
export function rarpRequest(mac: Uint8Array): Buffer {
  const frame = Buffer.alloc(MIN_FRAME_BYTES);
  BROADCAST.copy(frame, 0);
  frame.set(mac, 6);
  frame.writeUInt16BE(ETHERTYPE_RARP, 12);
  frame.writeUInt16BE(ARPHRD_ETHER, 14);
  frame.writeUInt16BE(ETHERTYPE_IPV4, 16);
  frame[18] = MAC_BYTES;
  frame[19] = IPV4_BYTES;
  frame.writeUInt16BE(RARP_REQUEST_REVERSE, 20);
  frame.set(mac, 22); // ar$sha; the protocol addresses are zero
  frame.set(mac, 32); // ar$tha
  return frame;
}
