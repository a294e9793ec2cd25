/** IPv6 for a stack, with all that belongs to it. */
import type { Stack } from '../stack.ts';
import { IPV6_MIN_MTU } from './ipv6-header.ts';
import { Ipv6, type Ipv6Options } from './ipv6.ts';

/**
 * Makes IPv6 part of the stack, and begins with the link-local address and router solicitation. Throws RangeError for options
 * that cannot be, and for a device that takes less than IPv6 asks of a link.
 */
export function attachIpv6(stack: Stack, options: Ipv6Options = {}): Ipv6 {
  const { name, mtu } = stack.device;
  if (mtu < IPV6_MIN_MTU) {
    throw new RangeError(`${name} has an MTU of ${mtu}: IPv6 needs ${IPV6_MIN_MTU} at least (RFC 8200 §5)`);
  }
  const ipv6 = new Ipv6(stack, options);
  stack.setIpv6(ipv6);
  ipv6.start(stack.now);
  stack.onWork();
  return ipv6;
}
