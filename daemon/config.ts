/** The daemon's configuration: YAML, validated; an error names file, line, column and key. */
import fs from 'node:fs';
import { isCollection, isMap, isScalar, LineCounter, parseDocument } from 'yaml';
import { z } from 'zod';
import { IFNAMSIZ } from '../linux/if-tun.ts';
import { DEFAULT_AGING_SECONDS, DEFAULT_CAPACITY, MAX_AGING_SECONDS, MAX_CAPACITY } from '../switch/learning-table.ts';
import { LOG_FORMATS, LOG_LEVELS } from './logger.ts';

export const DEFAULT_SOCKET = '/run/ringswitch/control.sock';
const DEFAULT_MOUNT = '/run/ringswitch/dev';
const MIN_AGING_SECONDS = 10;
const MAX_SPIN_MICROSECONDS = 1_000_000;
const MAX_ID = 0xffff_fffe;

const id = z.int().min(0).max(MAX_ID);
const absolutePath = z.string().regex(/^\//, 'expected an absolute path');

/** 0660, '0660' or 432: what people write for a mode. YAML 1.2 reads 0660 as decimal, so strings are octal. */
const mode = z
  .string()
  .regex(/^0?[0-7]{3}$/, "expected octal permission bits in quotes, such as '0660'")
  .transform((text) => Number.parseInt(text, 8));

/** Seconds until a learned address is forgotten. */
export const agingSeconds = z.int().min(MIN_AGING_SECONDS).max(MAX_AGING_SECONDS);
export const interfaceName = z
  .string()
  .min(1)
  .max(IFNAMSIZ - 1)
  .regex(/^[^/:%\s]+$/, 'expected an interface name without / : % and white space');
export const logLevel = z.enum(LOG_LEVELS);

const schema = z.strictObject({
  mount: z
    .strictObject({
      path: absolutePath.default(DEFAULT_MOUNT),
      uid: id.default(0),
      gid: id.default(0),
      mode: mode.default(0o660),
    })
    .prefault({}),
  control: z.strictObject({ socket: absolutePath.default(DEFAULT_SOCKET) }).prefault({}),
  log: z.strictObject({ level: logLevel.default('info'), format: z.enum(LOG_FORMATS).default('auto') }).prefault({}),
  fdb: z
    .strictObject({
      aging: agingSeconds.default(DEFAULT_AGING_SECONDS),
      capacity: z.int().min(1).max(MAX_CAPACITY).default(DEFAULT_CAPACITY),
      perPort: z.int().min(1).max(MAX_CAPACITY).default(4096),
    })
    .prefault({}),
  lane: z.strictObject({ spin: z.number().min(0).max(MAX_SPIN_MICROSECONDS).default(50) }).prefault({}),
  taps: z
    .array(z.strictObject({ name: interfaceName, persistent: z.boolean().default(false) }))
    .superRefine((taps, context) => {
      for (const [index, { name }] of taps.entries()) {
        if (taps.findIndex((tap) => tap.name === name) === index) continue;
        context.addIssue({ code: 'custom', path: [index, 'name'], message: `${name} stands here twice` });
      }
    })
    .default([]),
});

export type Config = z.output<typeof schema>;

/** The configuration is not usable; the message has a line for each thing that is wrong. */
export class ConfigError extends Error {
  constructor(problems: string[]) {
    super(problems.join('\n'));
    this.name = 'ConfigError';
  }
}

/** Reads and checks a file; without one, all defaults. */
export function loadConfig(file?: string): Config {
  if (file === undefined) return schema.parse({});
  let text: string;
  try {
    text = fs.readFileSync(file, 'utf8');
  } catch (error) {
    throw new ConfigError([`${file}: cannot be read: ${(error as Error).message}`]);
  }
  return parseConfig(text, file);
}

/** Checks a configuration; `file` is what errors call it. */
export function parseConfig(text: string, file: string): Config {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${file}:${line}:${col}`;
  };
  if (document.errors.length > 0) {
    throw new ConfigError(
      document.errors.map((error) => `${at(error.pos[0])}: ${error.message.split(' at line ')[0]}`),
    );
  }
  const value: unknown = document.toJS() ?? {};
  const result = schema.safeParse(value);
  if (result.success) return result.data;

  /** Offset of what a path leads to, or of the deepest part of it that is there. */
  const offsetOf = (path: PropertyKey[]): number => {
    for (let depth = path.length; depth > 0; depth--) {
      const parent = document.getIn(path.slice(0, depth - 1), true);
      const key = path[depth - 1]!;
      if (isMap(parent)) {
        const pair = parent.items.find((item) => isScalar(item.key) && item.key.value === key);
        const node = pair?.value ?? pair?.key;
        if (node && typeof node === 'object' && 'range' in node) return (node.range as number[])[0]!;
      } else if (isCollection(parent)) {
        const node = parent.get(key, true) as { range?: number[] } | undefined;
        if (node?.range) return node.range[0]!;
      }
    }
    return document.contents?.range?.[0] ?? 0;
  };
  const problems: string[] = [];
  for (const issue of result.error.issues) {
    if (issue.code === 'unrecognized_keys') {
      for (const key of issue.keys) {
        const path = [...issue.path, key];
        problems.push(
          `${at(keyOffset(document, path))}: ${path.join('.')}: unknown key; known are ${knownKeys(issue.path).join(', ')}`,
        );
      }
      continue;
    }
    const found = issue.path.reduce<unknown>(
      (node, key) => (node as Record<PropertyKey, unknown> | undefined)?.[key],
      value,
    );
    const path = issue.path.join('.') || 'the configuration';
    problems.push(`${at(offsetOf(issue.path))}: ${path}: ${issue.message}, got ${JSON.stringify(found)}`);
  }
  throw new ConfigError(problems);
}

function keyOffset(document: ReturnType<typeof parseDocument>, path: PropertyKey[]): number {
  const parent = path.length === 1 ? document.contents : document.getIn(path.slice(0, -1), true);
  if (!isMap(parent)) return 0;
  const pair = parent.items.find((item) => isScalar(item.key) && item.key.value === path.at(-1));
  return isScalar(pair?.key) ? (pair.key.range?.[0] ?? 0) : 0;
}

/** Keys that the object at a path may have. */
function knownKeys(path: PropertyKey[]): string[] {
  let defaults: unknown = schema.parse({ taps: [{ name: 'x' }] });
  for (const key of path) defaults = (defaults as Record<PropertyKey, unknown>)[typeof key === 'number' ? 0 : key];
  return Object.keys(defaults as object);
}
