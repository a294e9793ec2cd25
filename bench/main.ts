/** `npm run bench -- NAME [options]`: the benchmarks. Figures are this machine's; compare within one run only. */
import fs from 'node:fs';
import { program } from 'commander';
import { forward } from './forward.ts';

program.name('bench').description('Measures ringswitch. Needs root, and two processors that do nothing else.');

program
  .command('forward')
  .description('two DPDK virtio-user guests, known unicast in a closed loop (macswap), through a running daemon')
  .option('--json <file>', 'write the results here')
  .option('--seconds <n>', 'seconds measured for each size', Number, 5)
  .action(async ({ json, seconds }: { json?: string; seconds: number }) => {
    const result = await forward({ sizes: [64, 1514], seconds });
    for (const run of result.runs) {
      const { size, mpps, gbps, switch_cpu: cpu } = run;
      console.log(
        `${run.switch}  ${size} B  ${mpps.toFixed(2)} Mpps  ${gbps.toFixed(2)} Gbit/s  switch at ${Math.round(cpu * 100)} % of a CPU`,
      );
    }
    if (json) fs.writeFileSync(json, `${JSON.stringify(result, null, 2)}\n`);
  });

await program.parseAsync();
