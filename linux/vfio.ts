/** `<linux/vfio.h>`: containers, groups, devices and the type 1 IOMMU. Lengths and offsets are in bytes. */
import { IO } from './ioctl.ts';

/** VFIO_TYPE and VFIO_BASE: every request is `_IO`, whatever it points to. */
const VFIO_TYPE = 0x3b;
const VFIO_BASE = 100;

export const VFIO_API_VERSION = 0;

// ---- container
export const VFIO_GET_API_VERSION = IO(VFIO_TYPE, VFIO_BASE + 0);
export const VFIO_CHECK_EXTENSION = IO(VFIO_TYPE, VFIO_BASE + 1);
export const VFIO_SET_IOMMU = IO(VFIO_TYPE, VFIO_BASE + 2);
export const VFIO_TYPE1_IOMMU = 1;
export const VFIO_TYPE1v2_IOMMU = 3;

// ---- group
export const VFIO_GROUP_GET_STATUS = IO(VFIO_TYPE, VFIO_BASE + 3);
/** struct vfio_group_status { __u32 argsz, flags; } */
export const VFIO_GROUP_STATUS_BYTES = 8;
export const VFIO_GROUP_FLAGS_VIABLE = 1 << 0;
export const VFIO_GROUP_FLAGS_CONTAINER_SET = 1 << 1;
export const VFIO_GROUP_SET_CONTAINER = IO(VFIO_TYPE, VFIO_BASE + 4);
export const VFIO_GROUP_GET_DEVICE_FD = IO(VFIO_TYPE, VFIO_BASE + 6);

// ---- device
export const VFIO_DEVICE_GET_INFO = IO(VFIO_TYPE, VFIO_BASE + 7);
/** struct vfio_device_info { __u32 argsz, flags, num_regions, num_irqs, cap_offset; } */
export const VFIO_DEVICE_INFO_BYTES = 20;
export const VFIO_DEVICE_FLAGS_RESET = 1 << 0;
export const VFIO_DEVICE_FLAGS_PCI = 1 << 1;
export const VFIO_DEVICE_GET_REGION_INFO = IO(VFIO_TYPE, VFIO_BASE + 8);
/** struct vfio_region_info { __u32 argsz, flags, index, cap_offset; __u64 size, offset; } */
export const VFIO_REGION_INFO_BYTES = 32;
export const VFIO_REGION_INFO_FLAG_READ = 1 << 0;
export const VFIO_REGION_INFO_FLAG_WRITE = 1 << 1;
export const VFIO_REGION_INFO_FLAG_MMAP = 1 << 2;
export const VFIO_DEVICE_GET_IRQ_INFO = IO(VFIO_TYPE, VFIO_BASE + 9);
/** struct vfio_irq_info { __u32 argsz, flags, index, count; } */
export const VFIO_IRQ_INFO_BYTES = 16;
export const VFIO_IRQ_INFO_EVENTFD = 1 << 0;
export const VFIO_DEVICE_SET_IRQS = IO(VFIO_TYPE, VFIO_BASE + 10);
/** struct vfio_irq_set { __u32 argsz, flags, index, start, count; __u8 data[]; } */
export const VFIO_IRQ_SET_BYTES = 20;
export const VFIO_IRQ_SET_DATA_NONE = 1 << 0;
export const VFIO_IRQ_SET_DATA_EVENTFD = 1 << 2;
export const VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5;
export const VFIO_DEVICE_RESET = IO(VFIO_TYPE, VFIO_BASE + 11);

/** Region and interrupt indices of vfio-pci. */
export const VFIO_PCI_BAR0_REGION_INDEX = 0;
export const VFIO_PCI_CONFIG_REGION_INDEX = 7;
export const VFIO_PCI_MSIX_IRQ_INDEX = 2;

// ---- type 1 IOMMU
export const VFIO_IOMMU_GET_INFO = IO(VFIO_TYPE, VFIO_BASE + 12);
/** struct vfio_iommu_type1_info { __u32 argsz, flags; __u64 iova_pgsizes; __u32 cap_offset, pad; } */
export const VFIO_IOMMU_TYPE1_INFO_BYTES = 24;
export const VFIO_IOMMU_INFO_PGSIZES = 1 << 0;
export const VFIO_IOMMU_INFO_CAPS = 1 << 1;
/** struct vfio_info_cap_header { __u16 id, version; __u32 next; } */
export const VFIO_INFO_CAP_HEADER_BYTES = 8;
/** struct vfio_iommu_type1_info_cap_iova_range { header; __u32 nr_iovas, reserved; struct vfio_iova_range iova_ranges[]; } */
export const VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1;
export const VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE_BYTES = 16;
/** struct vfio_iova_range { __u64 start, end; }, the end included */
export const VFIO_IOVA_RANGE_BYTES = 16;
export const VFIO_IOMMU_MAP_DMA = IO(VFIO_TYPE, VFIO_BASE + 13);
/** struct vfio_iommu_type1_dma_map { __u32 argsz, flags; __u64 vaddr, iova, size; } */
export const VFIO_IOMMU_TYPE1_DMA_MAP_BYTES = 32;
export const VFIO_DMA_MAP_FLAG_READ = 1 << 0;
export const VFIO_DMA_MAP_FLAG_WRITE = 1 << 1;
export const VFIO_IOMMU_UNMAP_DMA = IO(VFIO_TYPE, VFIO_BASE + 14);
/** struct vfio_iommu_type1_dma_unmap { __u32 argsz, flags; __u64 iova, size; } */
export const VFIO_IOMMU_TYPE1_DMA_UNMAP_BYTES = 24;
