import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { projectRoot } from '../../lab/artifacts.ts';
import { guestNetwork, Machine } from '../../lab/machine.ts';
import { virtioNetDevice } from '../../lab/virtio-net.ts';
import { serveIperf3 } from './traffic.ts';

describe('a machine', function () {
  this.timeout(120_000);

  describe('that is up', () => {
    let machine: Machine;

    before(async () => {
      machine = await Machine.start({ name: 'one', hostRoot: true, modules: ['tun', 'vhost_net', 'fuse'] });
    });

    after(() => machine?.stop());

    it('runs commands', async () => {
      assert.deepEqual(await machine.run("echo out; echo 'é' >&2; exit 3"), { status: 3, output: 'out\né\n' });
      assert.match(await machine.sh('uname -r'), /^6\./);
      assert.equal(await machine.sh('seq 1 200000 | md5sum'), '0e10426a1d5bddffcef02f1345787128  -\n');
    });

    it('returns megabytes of output whole', async () => {
      const lines = (await machine.sh('seq 1 300000')).split('\n');
      assert.equal(lines.length, 300_001);
      assert.equal(lines[299_999], '300000');
    });

    it('runs two at once, though one of them waits for the other', async () => {
      const [first, second] = await Promise.all([
        machine.sh('until [ -e /tmp/flag ]; do sleep 0.05; done; echo first'),
        machine.sh('touch /tmp/flag; echo second'),
      ]);
      assert.deepEqual([first, second], ['first\n', 'second\n']);
    });

    it('lets what a command started in the background live on', async () => {
      const pid = await machine.sh('sleep 1000 & echo $!');
      await machine.sh(`kill ${pid}`);
    });

    it('rejects what fails, and kills what takes too long, with its output', async () => {
      await assert.rejects(
        machine.sh('echo reason; false'),
        /guest one, `echo reason; false` exited with status 1:\nreason/,
      );
      await assert.rejects(
        machine.run('echo begun; sleep 777', { timeoutMs: 500 }),
        /not done in 500 ms. It printed:\nbegun/,
      );
      assert.equal((await machine.run('ps | grep "[s]leep 777"')).status, 1);
    });

    it('has the devices that a virtual machine monitor opens', async () => {
      await machine.sh(
        'test -c /dev/net/tun && test -c /dev/vhost-net && test -c /dev/fuse && iperf3 --version && ethtool --version',
      );
    });

    it("runs this machine's Node and tree on the guest's kernel", async () => {
      const output = await machine.shInHostRoot(
        'node_modules/.bin/node --version; pwd; uname -r; touch /tmp/a; ls -d package.json',
      );
      assert.match(output, new RegExp(`^v26\\.\\S+\n${projectRoot}\n6\\.\\S+\npackage.json\n$`));
      await assert.rejects(machine.shInHostRoot('touch package.json 2>&1'), /Read-only file system/);
    });

    for (const restart of ['reboot', 'reset'] as const) {
      it(`${restart}s within the same QEMU, and has its modules and roots again`, async () => {
        const bootId = 'cat /proc/sys/kernel/random/boot_id';
        const before = await machine.sh(bootId);
        const { pid } = machine;
        const lost = assert.rejects(machine.run('sleep 1000'), /the guest was reset/);
        await machine[restart]();
        await lost;
        assert.notEqual(await machine.sh(bootId), before);
        assert.equal(machine.pid, pid);
        assert.match(await machine.shInHostRoot('ls'), /package\.json/);
        assert.match(await machine.sh('lsmod'), /^tun /m);
      });
    }

    it('powers off', async () => {
      const waiting = assert.rejects(machine.run('sleep 1000'), /QEMU exited with status 0/);
      await machine.powerOff();
      await waiting;
      assert.equal(machine.running, false);
      await assert.rejects(machine.run('true'), /QEMU exited with status 0/);
      await machine.stop();
      await machine.kill();
    });
  });

  it('has an IOMMU under the fetched QEMU, with a group for each device', async () => {
    await using machine = await Machine.start({ qemu: 'fetched', iommu: true, modules: ['vfio-pci'] });
    assert.notEqual((await machine.sh('ls /sys/kernel/iommu_groups')).trim(), '');
    await machine.sh('test -c /dev/vfio/vfio');
    await machine.powerOff();
  });

  it('talks to another', async () => {
    const socket = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-test-')), 'wire');
    const card = (netdev: string, last: number) => [
      '-netdev',
      netdev,
      ...virtioNetDevice('n0', `52:54:00:00:00:0${last}`),
    ];
    try {
      // `-netdev stream` over a Unix socket: a wire between two QEMUs.
      await using a = await Machine.start({
        name: 'a',
        netdevs: [card(`stream,id=n0,server=on,addr.type=unix,addr.path=${socket}`, 1)],
      });
      await using b = await Machine.start({
        name: 'b',
        netdevs: [card(`stream,id=n0,server=off,addr.type=unix,addr.path=${socket}`, 2)],
      });
      await Promise.all([guestNetwork(a, '10.0.0.1'), guestNetwork(b, '10.0.0.2/24')]);
      assert.match(await a.sh('ping -c 2 10.0.0.2'), / 0% packet loss/);
      await a.sh(serveIperf3('-1'));
      assert.match(await b.sh('iperf3 -c 10.0.0.1 -n 1M'), /receiver/);
    } finally {
      fs.rmSync(path.dirname(socket), { recursive: true });
    }
  });

  it('tells why it did not start', async () => {
    await assert.rejects(
      Machine.start({ extraArgs: ['-device', 'nosuchdevice'] }),
      /The machine guest: QEMU exited with status 1 before the guest was up\.\n[\s\S]*-- stderr\n.*nosuchdevice/,
    );
    await assert.rejects(Machine.start({ launcher: ['/nonexistent'] }), /could not be started \(.*ENOENT/);
    await assert.rejects(
      Machine.start({ name: 'p', kernelArgs: ['rdinit=/nosuchinit', 'root=/dev/nosuch'] }),
      /The machine p: the guest's kernel panicked\.\n[\s\S]*Kernel panic - /,
    );
    await assert.rejects(Machine.start({ bootTimeoutMs: 500 }), /not up in time/);
  });

  it('gets the words and descriptors that it is started with', async () => {
    const file = fs.openSync('/dev/null', 'r');
    try {
      await using machine = await Machine.start({ launcher: ['nice', '-n', '1'], stdio: [file], sharedMemory: false });
      assert.equal(fs.readFileSync(`/proc/${machine.pid}/comm`, 'utf8'), 'qemu-system-x86\n');
      assert.equal(fs.readlinkSync(`/proc/${machine.pid}/fd/3`), '/dev/null');
      await assert.rejects(machine.runInHostRoot('true'), /start it with hostRoot: true/);
      const { pid } = machine;
      await machine.kill();
      assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' });
    } finally {
      fs.closeSync(file);
    }
  });
});
