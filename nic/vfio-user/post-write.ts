export function postRegisterWrite(_socket: number, _offset: number, _value: number): void {
  throw new Error('not written yet');
}
