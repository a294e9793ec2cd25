import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { CardModel } from '../../lab/model.ts';

describe('the model of a card', function () {
  this.timeout(30_000);

  it('listens at a socket for each card, and leaves nothing', async () => {
    const model = await CardModel.start({ cards: 2 });
    try {
      assert.equal(model.sockets.length, 2);
      for (const socket of model.sockets) {
        const client = net.connect(socket);
        await once(client, 'connect');
        client.destroy();
      }
      assert.equal(model.running, true);
    } finally {
      await model.stop();
    }
    assert.equal(model.running, false);
    assert.throws(() => process.kill(model.pid, 0), { code: 'ESRCH' });
    assert.equal(fs.existsSync(path.dirname(model.sockets[0]!)), false);
  });

  it('tells why it did not start', async () => {
    await assert.rejects(CardModel.start({ mac: 'nonsense' }), /model 82599[\s\S]*-- stderr\n[\s\S]*nonsense/);
  });
});
