/** mocha's spec reporter, which also leaves the line `N passed, N failed, N skipped` in $RINGSWITCH_TEST_SUMMARY. */
const fs = require('node:fs');
const Mocha = require('mocha');

module.exports = class SummaryReporter extends Mocha.reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    runner.once('end', () => {
      const { passes, failures, pending } = this.stats;
      const line = `${passes} passed, ${failures} failed, ${pending} skipped\n`;
      fs.writeFileSync(process.env.RINGSWITCH_TEST_SUMMARY ?? '/dev/stdout', line);
    });
  }
};
