/** IGMP for a stack: IPv4's multicast groups. */
import type { Stack } from '../stack.ts';
import { Igmp } from './igmp.ts';
import { IPPROTO_IGMP } from './membership-header.ts';

/** Makes IGMP part of the stack. */
export function attachIgmp(stack: Stack): Igmp {
  const igmp = new Igmp(stack);
  stack.ipv4.groups = igmp;
  stack.addTransport(IPPROTO_IGMP, igmp);
  return igmp;
}

/** Who keeps the groups of a family, as UDP asks for it: groups are told of with the next poll. */
export function groupsOf(
  stack: Stack,
  keeper: { join(group: Uint8Array, now: number): void; leave(group: Uint8Array, now: number): void },
): { join(group: Uint8Array): void; leave(group: Uint8Array): void } {
  return {
    join: (group) => {
      keeper.join(group, stack.now);
      stack.onWork();
    },
    leave: (group) => {
      keeper.leave(group, stack.now);
      stack.onWork();
    },
  };
}
