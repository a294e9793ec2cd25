/** All conformance cases: see case.ts for what one is, and probe.ts for how to run them by hand. */
export { tunCases } from './tun-cases.ts';
export { vhostCases } from './vhost-cases.ts';
