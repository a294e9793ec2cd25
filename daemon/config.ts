/** The daemon's configuration: YAML, validated; an error names file, line, column and key. */
import fs from 'node:fs';
import { isCollection, isMap, isScalar, LineCounter, parseDocument } from 'yaml';
import { z } from 'zod';
import { IFNAMSIZ } from '../linux/if-tun.ts';
import { MAX_DESCRIPTORS, MIN_DESCRIPTORS } from '../nic/driver/queue-memory.ts';
import { IMPAIRED_DIRECTIONS } from '../switch/impairment.ts';
import { DEFAULT_AGING_SECONDS, DEFAULT_CAPACITY, MAX_AGING_SECONDS, MAX_CAPACITY } from '../switch/learning-table.ts';
import { DEFAULT_SOCKET, LOG_LEVELS, VHOST_USER_MODES } from './control.ts';
import { IMPAIRMENT_NAMES } from './impairment-options.ts';
import { impairmentWords } from './impairment-schema.ts';
import { LOG_FORMATS } from './logger.ts';

const DEFAULT_MOUNT = '/run/ringswitch/dev';
const MIN_AGING_SECONDS = 10;
const MAX_SPIN_MICROSECONDS = 1_000_000;
const MAX_ID = 0xffff_fffe;
const MAX_LANES = 16;
/** CPU_SETSIZE of `<sched.h>` - 1. */
const MAX_CPU = 1023;

/** sockaddr_un.sun_path of `<sys/un.h>`, with the NUL behind the path. */
const SUN_PATH_BYTES = 108;

/** A number in a range, and what to call it in an error: `a number of seconds`. */
function quantity(what: string, min: number, max: number): z.ZodNumber {
  const expected = `expected ${what} from ${min} to ${max}`;
  return z.number(expected).min(min, expected).max(max, expected);
}

/** As {@link quantity}, without fractions. */
function whole(what: string, min: number, max: number): z.ZodNumber {
  return quantity(what, min, max).int(`expected ${what} from ${min} to ${max}`);
}

function words<const Words extends readonly string[]>(all: Words) {
  return z.enum(all, `expected one of ${all.join(', ')}`);
}

const bytes = (text: string): number => Buffer.byteLength(text);
const id = whole('an id', 0, MAX_ID);
const addresses = whole('a whole number of addresses', 1, MAX_CAPACITY);
const ABSOLUTE_PATH = 'expected an absolute path';
const absolutePath = z.string(ABSOLUTE_PATH).trim().regex(/^\//, ABSOLUTE_PATH);
export const socketPath = absolutePath.refine(
  (text) => bytes(text) < SUN_PATH_BYTES,
  `expected a path of at most ${SUN_PATH_BYTES - 1} bytes`,
);

/** Octal digits as chmod(1) takes them, in quotes or not: {@link parseConfig} hands over what was written. */
const MODE = "expected octal permission bits, such as '0660'";
const mode = z
  .string(MODE)
  .trim()
  .regex(/^(0o)?0?[0-7]{3}$/, MODE)
  .transform((text) => Number.parseInt(text.replace('0o', ''), 8));

/** Seconds until a learned address is forgotten. */
export const agingSeconds = whole('a number of seconds', MIN_AGING_SECONDS, MAX_AGING_SECONDS);

/** What the kernel's dev_valid_name() lets through; % would make the name a pattern. Its limit is in bytes. */
const INTERFACE_NAME = `expected an interface name of 1 to ${IFNAMSIZ - 1} bytes without / : % and white space`;
export const interfaceName = z
  .string(INTERFACE_NAME)
  .trim()
  .regex(/^(?!\.{1,2}$)[^/:%\s\0]+$/, INTERFACE_NAME)
  .refine((text) => bytes(text) < IFNAMSIZ, INTERFACE_NAME);
export const persistentFlag = z.boolean('expected true or false');
export const logLevel = words(LOG_LEVELS);

/** One bit of RETA's entries less than the card has queues for: sixteen, to which RSS can spread (82599 §7.1.2.8). */
const MAX_CARD_QUEUES = 16;
/** As Linux's ixgbe has it; the card itself takes frames of 15.5 KiB. */
const MAX_CARD_MTU = 9710;

/** Queue pairs of a vhost-user port: a ring's index has eight bits in VHOST_USER_SET_VRING_KICK. */
const MAX_VHOST_USER_QUEUES = 128;
export const vhostUserMode = words(VHOST_USER_MODES).default('server');
export const vhostUserQueues = whole('a number of queue pairs', 1, MAX_VHOST_USER_QUEUES).default(1);

/** A PCI function, or the socket of a software card. */
const CARD = 'expected a PCI address such as 0000:01:00.0, or vfio-user: and the absolute path of a socket';
export const cardDevice = z
  .string(CARD)
  .trim()
  .regex(/^(([0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|vfio-user:\/.+)$/i, CARD);
export const cardQueues = whole('a number of queue pairs', 1, MAX_CARD_QUEUES).default(1);
const DESCRIPTORS = `expected a power of two from ${MIN_DESCRIPTORS} to ${MAX_DESCRIPTORS}`;
export const cardDescriptors = z
  .number(DESCRIPTORS)
  .refine((n) => n >= MIN_DESCRIPTORS && n <= MAX_DESCRIPTORS && Number.isInteger(Math.log2(n)), DESCRIPTORS)
  .default(512);
export const cardMtu = whole('a number of bytes', 68, MAX_CARD_MTU).default(1500);
export const withoutIommuFlag = z.boolean('expected true or false').default(false);

/** Unknown keys are told by {@link parseConfig}. */
const OBJECT = 'expected a mapping';

function ownNames(list: { name: string }[], context: z.RefinementCtx): void {
  for (const [index, { name }] of list.entries()) {
    if (list.findIndex((other) => other.name === name) === index) continue;
    context.addIssue({ code: 'custom', path: [index, 'name'], message: 'expected a name of its own' });
  }
}

const schema = z.strictObject(
  {
    mount: z
      .strictObject(
        {
          path: absolutePath.default(DEFAULT_MOUNT),
          uid: id.default(0),
          gid: id.default(0),
          mode: mode.default(0o660),
        },
        OBJECT,
      )
      .prefault({}),
    control: z.strictObject({ socket: socketPath.default(DEFAULT_SOCKET) }, OBJECT).prefault({}),
    log: z
      .strictObject({ level: logLevel.default('info'), format: words(LOG_FORMATS).default('auto') }, OBJECT)
      .prefault({}),
    fdb: z
      .strictObject(
        {
          aging: agingSeconds.default(DEFAULT_AGING_SECONDS),
          capacity: addresses.default(DEFAULT_CAPACITY),
          perPort: addresses.default(4096),
        },
        OBJECT,
      )
      .prefault({}),
    lane: z
      .strictObject(
        {
          spin: quantity('a number of microseconds', 0, MAX_SPIN_MICROSECONDS).default(400),
          count: whole('a number of lanes', 1, MAX_LANES).default(1),
          cpus: z.array(whole('a processor', 0, MAX_CPU), 'expected a list of processors').default([]),
          placement: z.record(z.string(), whole('a lane', 0, MAX_LANES - 1), OBJECT).default({}),
          wasm: z.boolean('expected true or false').default(true),
        },
        OBJECT,
      )
      .superRefine(({ count, cpus, placement }, context) => {
        if (cpus.length > 0 && cpus.length !== count) {
          const message = `expected a processor for each of the ${count} lanes`;
          context.addIssue({ code: 'custom', path: ['cpus'], message });
        }
        for (const [name, lane] of Object.entries(placement)) {
          if (lane < count) continue;
          context.addIssue({ code: 'custom', path: ['placement', name], message: `expected a lane below ${count}` });
        }
      })
      .prefault({}),
    taps: z
      .array(
        z.strictObject({ name: interfaceName, persistent: persistentFlag.default(false) }, OBJECT),
        'expected a list of taps',
      )
      .superRefine(ownNames)
      .default([]),
    ports: z
      .array(
        z
          .strictObject(
            {
              name: interfaceName,
              vhostUser: z
                .strictObject({ path: socketPath, mode: vhostUserMode, queues: vhostUserQueues }, OBJECT)
                .optional(),
              nic: z
                .strictObject(
                  {
                    device: cardDevice,
                    queues: cardQueues,
                    descriptors: cardDescriptors,
                    mtu: cardMtu,
                    withoutIommu: withoutIommuFlag,
                  },
                  OBJECT,
                )
                .optional(),
            },
            OBJECT,
          )
          .refine(
            ({ vhostUser, nic }) => (vhostUser === undefined) !== (nic === undefined),
            'expected either vhostUser or nic, which says what the port is',
          ),
        'expected a list of ports',
      )
      .superRefine(ownNames)
      .default([]),
    impairment: z.record(interfaceName, impairmentWords, OBJECT).default({}),
  },
  OBJECT,
);

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
  keepModeText(document);
  let value: unknown;
  try {
    value = withoutEmptySections(document.toJS());
  } catch (error) {
    throw new ConfigError([`${at(0)}: ${(error as Error).message}`]); // An alias without its anchor, or too many of them.
  }
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
  const problems = new Set<string>(); // One value may break two rules that read the same.
  for (const issue of result.error.issues) {
    if (issue.code === 'unrecognized_keys') {
      for (const key of issue.keys) {
        const path = [...issue.path, key];
        problems.add(
          `${at(keyOffset(document, path))}: ${pathText(path)}: unknown key; known are ${knownKeys(issue.path).join(', ')}`,
        );
      }
      continue;
    }
    const found = issue.path.reduce<unknown>(
      (node, key) => (node as Record<PropertyKey, unknown> | undefined)?.[key],
      value,
    );
    const path = pathText(issue.path) || 'the configuration';
    problems.add(`${at(offsetOf(issue.path))}: ${path}: ${issue.message}, got ${show(found)}`);
  }
  throw new ConfigError([...problems]);
}

/** YAML 1.2 takes 0660 for six hundred and sixty; a mode is meant by its digits. */
function keepModeText(document: ReturnType<typeof parseDocument>): void {
  const scalar = document.getIn(['mount', 'mode'], true);
  if (isScalar(scalar) && typeof scalar.value === 'number') scalar.value = scalar.source;
}

/** An empty file, and a section whose keys are all commented out, are null in YAML. */
function withoutEmptySections(value: unknown): unknown {
  if (value === null || value === undefined) return {};
  if (typeof value !== 'object' || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).filter(([, section]) => section !== null));
}

/** As people write it: `taps[1].name`. */
function pathText(path: PropertyKey[]): string {
  return path.map((key, i) => (typeof key === 'number' ? `[${key}]` : `${i > 0 ? '.' : ''}${String(key)}`)).join('');
}

function show(value: unknown): string {
  if (value === undefined || value === null) return 'nothing';
  return typeof value === 'number' ? String(value) : JSON.stringify(value);
}

function keyOffset(document: ReturnType<typeof parseDocument>, path: PropertyKey[]): number {
  const parent = path.length === 1 ? document.contents : document.getIn(path.slice(0, -1), true);
  if (!isMap(parent)) return 0;
  const pair = parent.items.find((item) => isScalar(item.key) && item.key.value === path.at(-1));
  return isScalar(pair?.key) ? (pair.key.range?.[0] ?? 0) : 0;
}

/** Keys that the object at a path may have. */
function knownKeys(path: PropertyKey[]): string[] {
  let defaults: unknown = schema.parse({
    taps: [{ name: 'x' }],
    ports: [
      { name: 'x', vhostUser: { path: '/x' } },
      { name: 'y', nic: { device: '00:00.0' } },
    ],
  });
  if (path[0] === 'impairment') return impairmentKeys(path);
  for (const key of path) defaults = (defaults as Record<PropertyKey, unknown>)[typeof key === 'number' ? 0 : key];
  return Object.keys(defaults as object);
}

/** Of `impairment.NAME`, or of a direction of it. */
function impairmentKeys(path: PropertyKey[]): string[] {
  return path.length > 2 ? IMPAIRMENT_NAMES : [...IMPAIRED_DIRECTIONS, 'both'];
}
