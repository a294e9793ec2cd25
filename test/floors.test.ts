/** The table of floors in docs/architecture.md, held against what the files import. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { projectRoot } from '../lab/artifacts.ts';

const IMPORT = /(?:\bfrom |\bimport\(?|\bimport )'(\.{1,2}\/[^']+)'/g;

describe('the floors', () => {
  const page = fs.readFileSync(path.join(projectRoot, 'docs/architecture.md'), 'utf8');
  const floors = new Map(
    [...page.matchAll(/^\| (\d) \| `(\w+)\/` \|/gm)].map(([, floor, folder]) => [folder!, Number(floor)]),
  );

  it('have a folder each', () => {
    assert.ok(floors.size > 0);
    for (const folder of floors.keys()) assert.ok(fs.statSync(path.join(projectRoot, folder)).isDirectory(), folder);
  });

  for (const [folder, floor] of floors) {
    it(`${folder}/ imports from its own floor and lower ones only`, () => {
      const files = fs.globSync(`${folder}/**/*.ts`, { cwd: projectRoot });
      assert.ok(files.length > 0);
      const wrong: string[] = [];
      for (const file of files) {
        for (const [, name] of fs.readFileSync(path.join(projectRoot, file), 'utf8').matchAll(IMPORT)) {
          const imported = path.join(path.dirname(file), name!);
          const [of, ...rest] = imported.split(path.sep);
          // package.json, which belongs to no floor.
          if (rest.length === 0) continue;
          const below = floors.get(of!);
          if (below === undefined || below > floor) wrong.push(`${file} imports ${imported}`);
        }
      }
      assert.deepEqual(wrong, []);
    });
  }
});
