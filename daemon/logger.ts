/** Logs by winston, on standard error: readable on a terminal, one JSON object a line otherwise. */
import winston from 'winston';
import { LOG_LEVELS, type LogLevel } from './control.ts';
import { printable } from './printable.ts';

export const LOG_FORMATS = ['auto', 'text', 'json'] as const;

export interface LoggerOptions {
  level: LogLevel;
  /** auto: text when standard error is a terminal, else json. */
  format: (typeof LOG_FORMATS)[number];
}

const { combine, timestamp, json, printf, colorize } = winston.format;

/** `2026-11-23T04:00:00.000Z info web1: port 1 made  port=web1` */
const text = printf(({ timestamp: time, level, message, ...fields }) => {
  const shown = Object.entries(fields).map(
    ([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
  );
  return `${time} ${level} ${printable(`${message}${shown.length > 0 ? `  ${shown.join(' ')}` : ''}`)}`;
});

const ignore = (): void => {};

/** A logger; its `level` may be changed at any time. */
export function createLogger({ level, format }: LoggerOptions): winston.Logger {
  const readable = format === 'text' || (format === 'auto' && process.stderr.isTTY === true);
  const colour = process.stderr.isTTY === true;
  // Whoever reads the log may go away (EPIPE); the switch goes on.
  if (!process.stderr.listeners('error').includes(ignore)) process.stderr.on('error', ignore);
  return winston.createLogger({
    level,
    format: readable ? combine(timestamp(), ...(colour ? [colorize()] : []), text) : combine(timestamp(), json()),
    transports: [new winston.transports.Console({ stderrLevels: [...LOG_LEVELS] })],
  });
}
