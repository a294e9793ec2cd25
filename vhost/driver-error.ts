/** What a device broke in a ring that we drive. The ring takes and gives nothing more until it is reset. */
export type DriverErrorCode =
  | 'USED_IDX_JUMPED'
  | 'USED_ID_OUT_OF_RANGE'
  | 'USED_ID_NOT_OUTSTANDING'
  | 'USED_LENGTH'
  | 'NUM_BUFFERS';

const EXPLANATIONS: Record<DriverErrorCode, string> = {
  USED_IDX_JUMPED: 'used.idx moved by more than the buffers that the device has',
  USED_ID_OUT_OF_RANGE: 'a used entry names a descriptor beyond the ring',
  USED_ID_NOT_OUTSTANDING: 'a used entry names a buffer that the device does not have',
  USED_LENGTH: 'a used entry says that more was written than its buffer holds',
  NUM_BUFFERS: 'num_buffers of a frame is 0 or more than the ring has',
};

/** A broken ring: code, the used entry where it was found, and the value found there. Plain data. */
export interface DriverError {
  code: DriverErrorCode;
  index: number;
  value: number;
  message: string;
}

export function driverError(code: DriverErrorCode, index: number, value: number): DriverError {
  return {
    code,
    index,
    value,
    message: `the device broke its ring: ${EXPLANATIONS[code]} (at ${index}, value ${value})`,
  };
}
