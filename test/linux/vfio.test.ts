/** Against what a C compiler makes of <linux/vfio.h>. */
import assert from 'node:assert/strict';
import * as vfio from '../../linux/vfio.ts';

/** What the module has under the same names. */
const named = (expected: object): object =>
  Object.fromEntries(Object.entries(vfio).filter(([name]) => name in expected));

describe('<linux/vfio.h>', () => {
  it('has these requests', () => {
    const requests = {
      VFIO_GET_API_VERSION: 0x3b64,
      VFIO_CHECK_EXTENSION: 0x3b65,
      VFIO_SET_IOMMU: 0x3b66,
      VFIO_GROUP_GET_STATUS: 0x3b67,
      VFIO_GROUP_SET_CONTAINER: 0x3b68,
      VFIO_GROUP_GET_DEVICE_FD: 0x3b6a,
      VFIO_DEVICE_GET_INFO: 0x3b6b,
      VFIO_DEVICE_GET_REGION_INFO: 0x3b6c,
      VFIO_DEVICE_GET_IRQ_INFO: 0x3b6d,
      VFIO_DEVICE_SET_IRQS: 0x3b6e,
      VFIO_DEVICE_RESET: 0x3b6f,
      VFIO_IOMMU_GET_INFO: 0x3b70,
      VFIO_IOMMU_MAP_DMA: 0x3b71,
      VFIO_IOMMU_UNMAP_DMA: 0x3b72,
    };
    assert.deepEqual(named(requests), requests);
  });

  it('has structs of these sizes', () => {
    const sizes = {
      VFIO_GROUP_STATUS_BYTES: 8,
      VFIO_DEVICE_INFO_BYTES: 20,
      VFIO_REGION_INFO_BYTES: 32,
      VFIO_IRQ_INFO_BYTES: 16,
      VFIO_IRQ_SET_BYTES: 20,
      VFIO_IOMMU_TYPE1_INFO_BYTES: 24,
      VFIO_INFO_CAP_HEADER_BYTES: 8,
      VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE_BYTES: 16,
      VFIO_IOVA_RANGE_BYTES: 16,
      VFIO_IOMMU_TYPE1_DMA_MAP_BYTES: 32,
      VFIO_IOMMU_TYPE1_DMA_UNMAP_BYTES: 24,
    };
    assert.deepEqual(named(sizes), sizes);
  });
});
