/** QEMU's words for a PCI card that another process serves over vfio-user. */

/** A guest's card. */
export interface VfioUserCardOptions {
  /** The Unix socket that its process listens on: see `CardModel`. */
  socket: string;
  /** More properties of vfio-user-pci, such as `{ addr: '6.0' }`. */
  device?: Record<string, unknown>;
}

/**
 * The arguments that give a machine such a card: an element of `netdevs` in the machine's options. The machine needs
 * `qemu: 'fetched'` (vfio-user-pci is in QEMU 10.1 and later) and memory that can be shared, which is the default.
 */
export function vfioUserCard({ socket, device }: VfioUserCardOptions): string[] {
  // As JSON, since the socket is a structure, which the comma-separated form cannot say.
  return ['-device', JSON.stringify({ driver: 'vfio-user-pci', socket: { type: 'unix', path: socket }, ...device })];
}
