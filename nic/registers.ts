/**
 * Registers of the Intel 82599 in BAR 0, under their names in the datasheet (§8.2.3): offsets in bytes, and the bits that
 * the driver or the model knows. A register of which there are many is a function of its number.
 */

/** What a register reads as when the card is no longer there: all ones. */
export const GONE = 0xffffffff;

// ---- general control (§8.2.3.1, §8.2.3.3)
export const CTRL = 0x00000;
export const CTRL_PCIE_MASTER_DISABLE = 1 << 2;
/** Link reset. */
export const CTRL_LRST = 1 << 3;
/** Device reset; clears itself. */
export const CTRL_RST = 1 << 26;
export const STATUS = 0x00008;
export const STATUS_LAN_ID_SHIFT = 2;
export const STATUS_LINK_UP = 1 << 7;
export const STATUS_PCIE_MASTER_ENABLE = 1 << 19;
export const CTRL_EXT = 0x00018;
/** No snoop disable, relaxed ordering disable, driver loaded. */
export const CTRL_EXT_NS_DIS = 1 << 16;
export const CTRL_EXT_RO_DIS = 1 << 17;
export const CTRL_EXT_DRV_LOAD = 1 << 28;
export const ESDP = 0x00020;
/** Software-definable pins, of which an SFP+ card has MOD_ABS, inverted, at 2, and drives TX_DISABLE from 3; IODIR: an output. */
export const ESDP_SDP2 = 1 << 2;
export const ESDP_SDP3 = 1 << 3;
export const ESDP_SDP3_IODIR = 1 << 11;
export const I2CCTL = 0x00028;
export const I2CCTL_CLK_IN = 1 << 0;
export const I2CCTL_CLK_OUT = 1 << 1;
export const I2CCTL_DATA_IN = 1 << 2;
export const I2CCTL_DATA_OUT = 1 << 3;
export const LEDCTL = 0x00200;
export const EXVET = 0x05078;
export const FRTIMER = 0x00048;
export const TCPTIMER = 0x0004c;

// ---- EEPROM and flash (§8.2.3.2)
export const EEC = 0x10010;
export const EEC_FWE_DISABLED = 1 << 4;
export const EEC_REQ = 1 << 6;
export const EEC_GNT = 1 << 7;
/** An EEPROM is there; auto-read is done. */
export const EEC_PRES = 1 << 8;
export const EEC_AUTO_RD = 1 << 9;
export const EEC_SIZE_SHIFT = 11;
export const EERD = 0x10014;
export const EERD_START = 1 << 0;
export const EERD_DONE = 1 << 1;
export const EERD_ADDR_SHIFT = 2;
export const EERD_DATA_SHIFT = 16;
export const EEWR = 0x10018;
export const FLA = 0x1001c;
export const EEMNGCTL = 0x10110;
export const EEMNGCTL_CFG_DONE0 = 1 << 18;
export const EEMNGCTL_CFG_DONE1 = 1 << 19;
export const FLMNGCTL = 0x10118;
export const FLOP = 0x1013c;
export const GRC = 0x10200;
/** Software and firmware semaphores, and what firmware says of itself. */
export const SWSM = 0x10140;
export const SWSM_SMBI = 1 << 0;
export const SWSM_SWESMBI = 1 << 1;
export const FWSM = 0x10148;
export const GSSR = 0x10160;
export const SW_FW_SYNC = GSSR;

// ---- flow control (§8.2.3.4)
export const FCTTV = (n: number): number => 0x03200 + 4 * n;
/** How full the packet buffer is when a pause is taken back, and asked for: in bytes, in units of 32. */
export const FCRTL = (n: number): number => 0x03220 + 4 * n;
export const FCRTL_RTL_MASK = 0x7ffe0;
export const FCRTL_XONE = 2 ** 31;
export const FCRTH = (n: number): number => 0x03260 + 4 * n;
export const FCRTH_FCEN = 2 ** 31;
export const FCRTH_RTH_MASK = 0x7ffe0;
export const FCRTV = 0x032a0;
export const TFCS = 0x0ce00;
/** The transmitter is paused. */
export const TFCS_TXOFF = 1 << 0;
export const FCCFG = 0x03d00;
export const FCCFG_TFCE_MASK = 3 << 3;
export const FCCFG_TFCE_802_3X = 1 << 3;
export const PFCTOP = 0x03008;

// ---- PCIe (§8.2.3.5)
export const GCR = 0x11000;
export const GCR_EXT = 0x11050;
export const GSCL = (n: number): number => 0x11010 + 4 * n;
export const PCIE_DIAG0 = 0x11088;

// ---- interrupts (§8.2.3.6)
export const EICR = 0x00800;
export const EICR_RTX_QUEUES = 0x0000ffff;
export const EICR_FLOW_DIRECTOR = 1 << 16;
export const EICR_RX_MISS = 1 << 17;
export const EICR_PCI_EXCEPTION = 1 << 18;
export const EICR_MAILBOX = 1 << 19;
/** Link status change. */
export const EICR_LSC = 1 << 20;
export const EICR_LINK_SEC = 1 << 21;
export const EICR_MNG = 1 << 22;
export const EICR_GPI_SDP0 = 1 << 24;
export const EICR_GPI_SDP1 = 1 << 25;
export const EICR_GPI_SDP2 = 1 << 26;
export const EICR_ECC = 1 << 28;
export const EICR_TCP_TIMER = 1 << 30;
export const EICR_OTHER = 2 ** 31;
export const EICS = 0x00808;
export const EIAC = 0x00810;
export const EIMS = 0x00880;
export const EIMC = 0x00888;
export const EIAM = 0x00890;
export const EICS_EX = (n: number): number => 0x00a90 + 4 * n;
export const EIMS_EX = (n: number): number => 0x00aa0 + 4 * n;
export const EIMC_EX = (n: number): number => 0x00ab0 + 4 * n;
export const EIAM_EX = (n: number): number => 0x00ad0 + 4 * n;
/** Throttling of vector n, 0 to 128. */
export const EITR = (n: number): number => (n < 24 ? 0x00820 + 4 * n : 0x12300 + 4 * (n - 24));
/** Shortest time between two interrupts, in units of 2 µs at 10 Gb/s. */
export const EITR_INTERVAL_SHIFT = 3;
export const EITR_INTERVAL_MASK = 0xff8;
/** What is left of it, without its two lowest bits; written only where CNT_WDIS is 0. */
export const EITR_COUNTER_SHIFT = 21;
export const EITR_COUNTER_MASK = 0x7f << 21;
export const EITR_CNT_WDIS = 2 ** 31;
/** Four entries of eight bits each: queues 2n and 2n + 1, receive then transmit of each. */
export const IVAR = (n: number): number => 0x00900 + 4 * n;
export const IVAR_ALLOC_VALID = 0x80;
/** TCP timer in its low byte, other causes in the next. */
export const IVAR_MISC = 0x00a00;
export const GPIE = 0x00898;
export const GPIE_SDP0_GPIEN = 1 << 0;
export const GPIE_MSIX_MODE = 1 << 4;
/** Other clear disable; interrupts act immediately; extended auto-mask; PBA support. */
export const GPIE_OCD = 1 << 5;
export const GPIE_EIMEN = 1 << 6;
export const GPIE_EIAME = 1 << 30;
export const GPIE_PBA_SUPPORT = 2 ** 31;
export const PBACL = (n: number): number => (n === 0 ? 0x11068 : 0x110c0 + 4 * n);

// ---- receive (§8.2.3.7, §8.2.3.8)
export const FCTRL = 0x05080;
/** Store bad packets; multicast and unicast promiscuous; accept broadcast; pass MAC control frames. */
export const FCTRL_SBP = 1 << 1;
export const FCTRL_MPE = 1 << 8;
export const FCTRL_UPE = 1 << 9;
export const FCTRL_BAM = 1 << 10;
export const FCTRL_PMCF = 1 << 12;
export const FCTRL_DPF = 1 << 13;
export const FCTRL_RFCE = 1 << 15;
export const VLNCTRL = 0x05088;
export const VLNCTRL_VET_MASK = 0xffff;
export const VLNCTRL_CFI = 1 << 28;
export const VLNCTRL_CFIEN = 1 << 29;
export const VLNCTRL_VFE = 1 << 30;
/** Strip on all queues (82598); the 82599 has RXDCTL.VME. */
export const VLNCTRL_VME = 2 ** 31;
export const MCSTCTRL = 0x05090;
/** Which twelve bits of an address index MTA. */
export const MCSTCTRL_MO_MASK = 0x3;
export const MCSTCTRL_MFE = 1 << 2;
export const PSRTYPE = (n: number): number => 0x0ea00 + 4 * n;
export const RXCSUM = 0x05000;
export const RXCSUM_IPPCSE = 1 << 12;
/** The descriptor carries the RSS hash, not the fragment's checksum. */
export const RXCSUM_PCSD = 1 << 13;
export const RFCTL = 0x05008;
export const RFCTL_RSC_DIS = 1 << 5;
export const RFCTL_NFSW_DIS = 1 << 6;
export const RFCTL_NFSR_DIS = 1 << 7;
/** Multicast table: 128 words of 32 bits. */
export const MTA_WORDS = 128;
export const MTA = (n: number): number => 0x05200 + 4 * n;
/** Receive addresses: 128, of which each has a low word (first four bytes) and a high one. */
export const RAR_ENTRIES = 128;
export const RAL = (n: number): number => 0x0a200 + 8 * n;
export const RAH = (n: number): number => 0x0a204 + 8 * n;
/** The first sixteen again, where the 82598 has them. */
export const RAL_LEGACY = (n: number): number => 0x05400 + 8 * n;
export const RAH_LEGACY = (n: number): number => 0x05404 + 8 * n;
export const RAR_LEGACY_ENTRIES = 16;
export const RAH_AV = 2 ** 31;
export const MPSAR = (n: number): number => 0x0a600 + 4 * n;
/** VLAN filter table: 128 words, a bit for each of 4096 identifiers. */
export const VFTA_WORDS = 128;
export const VFTA = (n: number): number => 0x0a000 + 4 * n;
export const MRQC = 0x0ec80;
export const MRQC_MRQE_MASK = 0xf;
export const MRQC_MRQE_RSS = 1;
export const MRQC_RSS_FIELD_IPV4_TCP = 1 << 16;
export const MRQC_RSS_FIELD_IPV4 = 1 << 17;
export const MRQC_RSS_FIELD_IPV6 = 1 << 20;
export const MRQC_RSS_FIELD_IPV6_TCP = 1 << 21;
export const MRQC_RSS_FIELD_IPV4_UDP = 1 << 22;
export const MRQC_RSS_FIELD_IPV6_UDP = 1 << 23;
/** Where MRQC, RETA and RSSRK also answer (82598 layout); drivers of the 82599 use these. */
export const MRQC_LEGACY = 0x05818;
export const RETA_WORDS = 32;
export const RETA = (n: number): number => 0x0eb00 + 4 * n;
export const RETA_LEGACY = (n: number): number => 0x05c00 + 4 * n;
export const RSSRK_WORDS = 10;
export const RSSRK = (n: number): number => 0x0eb80 + 4 * n;
export const RSSRK_LEGACY = (n: number): number => 0x05c80 + 4 * n;
export const QUEUES = 128;
/** Receive queue n: 64 at 0x1000, 64 more at 0xD000, 0x40 apart. */
const receiveQueue = (n: number): number => (n < 64 ? 0x01000 + 0x40 * n : 0x0d000 + 0x40 * (n - 64));
export const RDBAL = (n: number): number => receiveQueue(n) + 0x00;
export const RDBAH = (n: number): number => receiveQueue(n) + 0x04;
export const RDLEN = (n: number): number => receiveQueue(n) + 0x08;
export const DCA_RXCTRL = (n: number): number => receiveQueue(n) + 0x0c;
export const RDH = (n: number): number => receiveQueue(n) + 0x10;
export const SRRCTL = (n: number): number => receiveQueue(n) + 0x14;
/** Buffer size in KiB, header buffer size in units of 64 bytes, descriptor type, drop when no descriptors. */
export const SRRCTL_BSIZEPACKET_MASK = 0x1f;
export const SRRCTL_BSIZEHEADER_SHIFT = 8;
export const SRRCTL_DESCTYPE_SHIFT = 25;
export const SRRCTL_DESCTYPE_MASK = 7 << 25;
export const SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER = 1 << 25;
export const SRRCTL_DROP_EN = 1 << 28;
export const RDT = (n: number): number => receiveQueue(n) + 0x18;
export const RXDCTL = (n: number): number => receiveQueue(n) + 0x28;
export const RXDCTL_ENABLE = 1 << 25;
/** Strip the VLAN tag. */
export const RXDCTL_VME = 1 << 30;
export const RSCCTL = (n: number): number => receiveQueue(n) + 0x2c;
export const RDRXCTL = 0x02f00;
export const RDRXCTL_CRC_STRIP = 1 << 1;
export const RDRXCTL_DMAIDONE = 1 << 3;
export const RDRXCTL_RSC_FRST_SIZE_MASK = 0x1f << 17;
export const RDRXCTL_RSCACKC = 1 << 25;
export const RDRXCTL_FCOE_WRFIX = 1 << 26;
export const RXCTRL = 0x03000;
export const RXCTRL_RXEN = 1 << 0;
export const RXPBSIZE = (n: number): number => 0x03c00 + 4 * n;
export const RXPBSIZE_SIZE_SHIFT = 10;
export const RTRUP2TC = 0x03020;
export const ETQF = (n: number): number => 0x05128 + 4 * n;
export const ETQS = (n: number): number => 0x0ec00 + 4 * n;
// Flow Director (§8.2.3.21). How much memory it has, whether filters are perfect, and where they send what they drop.
export const FDIRCTRL = 0x0ee00;
export const FDIRCTRL_PBALLOC_MASK = 3;
export const FDIRCTRL_INIT_DONE = 1 << 3;
export const FDIRCTRL_PERFECT_MATCH = 1 << 4;
/** The RSS field of a descriptor tells of the filter: where one matched, and always. */
export const FDIRCTRL_REPORT_STATUS = 1 << 5;
export const FDIRCTRL_REPORT_STATUS_ALWAYS = 1 << 7;
export const FDIRCTRL_DROP_Q_SHIFT = 8;
export const FDIRCTRL_DROP_Q_MASK = 0x7f;
/** In words of 16 bits from the frame's first one on. */
export const FDIRCTRL_FLEX_OFFSET_SHIFT = 16;
export const FDIRCTRL_FLEX_OFFSET_MASK = 0x1f;
/** Filters that are free, in units of 16, when the driver is told. */
export const FDIRCTRL_FULL_THRESH_SHIFT = 28;
export const FDIRSIPV6 = (n: number): number => 0x0ee0c + 4 * n;
export const FDIRIPSA = 0x0ee18;
export const FDIRIPDA = 0x0ee1c;
/** Source port; destination port in the upper half. VLAN tag; flexible bytes in the upper half. */
export const FDIRPORT = 0x0ee20;
export const FDIRVLAN = 0x0ee24;
/** Of a filter: hash, and signature or the driver's own number from bit 16 on. */
export const FDIRHASH = 0x0ee28;
export const FDIRHASH_HASH_MASK = 0x7fff;
export const FDIRHASH_SIG_SW_INDEX_SHIFT = 16;
export const FDIRHASH_SIG_SW_INDEX_MASK = 0x7fff;
export const FDIRCMD = 0x0ee2c;
export const FDIRCMD_CMD_MASK = 3;
export const FDIRCMD_ADD_FLOW = 1;
export const FDIRCMD_REMOVE_FLOW = 2;
export const FDIRCMD_QUERY = 3;
export const FDIRCMD_FILTER_VALID = 1 << 2;
export const FDIRCMD_FILTER_UPDATE = 1 << 3;
/** L4TYPE, and bit 2 of it IPV6. */
export const FDIRCMD_FLOW_TYPE_SHIFT = 5;
export const FDIRCMD_FLOW_TYPE_MASK = 7;
export const FLOW_TYPE_L4_UDP = 1;
export const FLOW_TYPE_L4_TCP = 2;
export const FLOW_TYPE_L4_MASK = 3;
export const FLOW_TYPE_IPV6 = 4;
export const FDIRCMD_CLEARHT = 1 << 8;
export const FDIRCMD_DROP = 1 << 9;
export const FDIRCMD_LAST = 1 << 11;
export const FDIRCMD_QUEUE_EN = 1 << 15;
export const FDIRCMD_RX_QUEUE_SHIFT = 16;
export const FDIRCMD_RX_QUEUE_MASK = 0x7f;
export const FDIRFREE = 0x0ee38;
/** What does not count: bits that are set. Those of ports in reverse. */
export const FDIRDIP4M = 0x0ee3c;
export const FDIRSIP4M = 0x0ee40;
export const FDIRTCPM = 0x0ee44;
export const FDIRUDPM = 0x0ee48;
export const FDIRIP6M = 0x0ee74;
export const FDIRM = 0x0ee70;
export const FDIRM_VLANID = 1 << 0;
export const FDIRM_VLANP = 1 << 1;
export const FDIRM_POOL = 1 << 2;
export const FDIRM_L4P = 1 << 3;
export const FDIRM_FLEX = 1 << 4;
export const FDIRM_DIPV6 = 1 << 5;
/** Longest list of filters of one hash, and that hash from bit 16 on. */
export const FDIRLEN = 0x0ee4c;
/** Filters added and, from bit 16 (FDIRFSTAT: 8) on, removed; those that could not be. */
export const FDIRUSTAT = 0x0ee50;
export const FDIRFSTAT = 0x0ee54;
/** Packets that a filter matched, and that none did. */
export const FDIRMATCH = 0x0ee58;
export const FDIRMISS = 0x0ee5c;
/** Keys of the hash and of the signature. */
export const FDIRHKEY = 0x0ee68;
export const FDIRSKEY = 0x0ee6c;
export const SYNQF = 0x0ec30;
/** Five-tuple filters: addresses, ports, what of it counts, and the queue. */
export const QUEUE_FILTERS = 128;
export const SAQF = (n: number): number => 0x0e000 + 4 * n;
export const DAQF = (n: number): number => 0x0e200 + 4 * n;
export const SDPQF = (n: number): number => 0x0e400 + 4 * n;
export const FTQF = (n: number): number => 0x0e600 + 4 * n;
export const L34TIMIR = (n: number): number => 0x0e800 + 4 * n;
export const LLITHRESH = 0x0ec90;
export const RQTC = 0x0ec70;
export const DRECCCTL = 0x02f08;

// ---- transmit (§8.2.3.9)
/** Transmit queue n, 0x40 apart. */
const transmitQueue = (n: number): number => 0x06000 + 0x40 * n;
export const TDBAL = (n: number): number => transmitQueue(n) + 0x00;
export const TDBAH = (n: number): number => transmitQueue(n) + 0x04;
export const TDLEN = (n: number): number => transmitQueue(n) + 0x08;
export const DCA_TXCTRL = (n: number): number => transmitQueue(n) + 0x0c;
export const TDH = (n: number): number => transmitQueue(n) + 0x10;
export const TDT = (n: number): number => transmitQueue(n) + 0x18;
export const TXDCTL = (n: number): number => transmitQueue(n) + 0x28;
/** Prefetch, host and write-back thresholds, in descriptors. */
export const TXDCTL_PTHRESH_SHIFT = 0;
export const TXDCTL_HTHRESH_SHIFT = 8;
export const TXDCTL_WTHRESH_SHIFT = 16;
export const TXDCTL_THRESH_MASK = 0x7f;
export const TXDCTL_ENABLE = 1 << 25;
export const TXDCTL_SWFLSH = 1 << 26;
/** Head write-back: address, and its enable bit. */
export const TDWBAL = (n: number): number => transmitQueue(n) + 0x38;
export const TDWBAL_HEAD_WB_EN = 1 << 0;
export const TDWBAH = (n: number): number => transmitQueue(n) + 0x3c;
export const DMATXCTL = 0x04a80;
export const DMATXCTL_TE = 1 << 0;
export const DMATXCTL_GDV = 1 << 3;
export const DMATXCTL_VT_SHIFT = 16;
/** TCP flags of the first, middle and last segment of a TSO frame that are kept (§8.2.3.9.4). */
export const DTXTCPFLGL = 0x04a88;
export const DTXTCPFLGH = 0x04a8c;
export const DTXMXSZRQ = 0x08100;
export const TXPBSIZE = (n: number): number => 0x0cc00 + 4 * n;
export const TXPBTHRESH = (n: number): number => 0x04950 + 4 * n;
export const MTQC = 0x08120;
export const RTTDCS = 0x04900;
export const RTTDCS_ARBDIS = 1 << 6;

// ---- security blocks that frames pass (§8.2.3.12)
export const SECTXCTRL = 0x08800;
export const SECTXCTRL_TX_DIS = 1 << 1;
export const SECTXSTAT = 0x08804;
export const SECTXSTAT_SECTX_RDY = 1 << 0;
export const SECTXBUFFAF = 0x08808;
export const SECTXMINIFG = 0x08810;
export const SECRXCTRL = 0x08d00;
export const SECRXCTRL_RX_DIS = 1 << 1;
export const SECRXSTAT = 0x08d04;
export const SECRXSTAT_SECRX_RDY = 1 << 0;

// ---- MAC (§8.2.3.22)
export const HLREG0 = 0x04240;
export const HLREG0_TXCRCEN = 1 << 0;
export const HLREG0_RXCRCSTRP = 1 << 1;
/** Frames longer than 1518 bytes, up to MAXFRS. */
export const HLREG0_JUMBOEN = 1 << 2;
export const HLREG0_TXPADEN = 1 << 10;
/** Everything that is sent comes back. */
export const HLREG0_LPBK = 1 << 15;
export const HLREG1 = 0x04244;
export const PAP = 0x04248;
export const MAXFRS = 0x04268;
/** Longest frame in bytes with its CRC, in the upper half. */
export const MAXFRS_MFS_SHIFT = 16;
export const MACA = 0x0424c;
export const MSCA = 0x0425c;
export const MSCA_NP_ADDR_MASK = 0xffff;
export const MSCA_DEV_TYPE_SHIFT = 16;
export const MSCA_PHY_ADDR_SHIFT = 21;
export const MSCA_OP_SHIFT = 26;
export const MSCA_OP_ADDR_CYCLE = 0;
export const MSCA_OP_WRITE = 1;
export const MSCA_OP_READ_AUTOINC = 2;
export const MSCA_OP_READ = 3;
/** Command in progress. */
export const MSCA_MDI_COMMAND = 1 << 30;
export const MSRWD = 0x04260;
export const MSRWD_READ_DATA_SHIFT = 16;
export const PCSS1GC = 0x04200;
export const PCS1GLCTL = 0x04208;
export const PCS1GLSTA = 0x0420c;
export const PCS1GANA = 0x04218;
export const PCS1GANLP = 0x0421c;
export const LINKS = 0x042a4;
export const LINKS_KX_AN_COMP = 2 ** 31;
/** The link is up, and was since this was last read. */
export const LINKS_STATUS = 1 << 7;
export const LINKS_UP = 1 << 30;
export const LINKS_SPEED_MASK = 3 << 28;
export const LINKS_SPEED_10G = 3 << 28;
export const LINKS_SPEED_1G = 2 << 28;
export const LINKS_SPEED_100M = 1 << 28;
export const AUTOC = 0x042a0;
/** Force link up; restart auto-negotiation; link mode select: what the port speaks. */
export const AUTOC_FLU = 1 << 0;
export const AUTOC_10G_PMA_PMD_SHIFT = 7;
export const AUTOC_RESTART_AN = 1 << 12;
export const AUTOC_LMS_SHIFT = 13;
export const AUTOC_LMS_MASK = 7 << 13;
export const AUTOC_LMS_1G_NO_AN = 0;
export const AUTOC_LMS_10G_SERIAL = 3;
export const AUTOC2 = 0x042a8;
export const ANLP1 = 0x042b0;
export const ANLP2 = 0x042b4;
export const MACC = 0x04330;
export const CORECTL = 0x14f00;
export const MFLCN = 0x04294;
/** Pass MAC control, discard pause, receive priority flow control, receive flow control. */
export const MFLCN_PMCF = 1 << 0;
export const MFLCN_DPF = 1 << 1;
export const MFLCN_RPFCE = 1 << 2;
export const MFLCN_RFCE = 1 << 3;
export const MMNGC = 0x042d0;

// ---- virtualization and DCB that a driver touches at start (§8.2.3.10, §8.2.3.27)
export const PFVTCTL = 0x051b0;
export const PFDTXGSWC = 0x08220;
export const PFVFRE = (n: number): number => 0x051e0 + 4 * n;
export const PFVFTE = (n: number): number => 0x08110 + 4 * n;
/** Queue drop enable; VLAN pool filters and their pools; what a pool takes; unicast table. */
export const PFQDE = 0x02f04;
export const PFVLVF_ENTRIES = 64;
export const PFVLVF = (n: number): number => 0x0f100 + 4 * n;
export const PFVLVFB = (n: number): number => 0x0f200 + 4 * n;
export const PFVML2FLT_ENTRIES = 64;
export const PFVML2FLT = (n: number): number => 0x0f000 + 4 * n;
export const PFUTA_WORDS = 128;
export const PFUTA = (n: number): number => 0x0f400 + 4 * n;
export const RTRPCS = 0x02430;
export const RTTPCS = 0x0cd00;
export const RTTDQSEL = 0x04904;
export const RTTDT1C = 0x04908;
export const RTTBCNRC = 0x04984;
export const RTTDTECC = 0x04990;
export const RTTDT2C = (n: number): number => 0x04910 + 4 * n;
export const RTTPT2C = (n: number): number => 0x0cd20 + 4 * n;
export const RTRPT4C = (n: number): number => 0x02140 + 4 * n;
export const RTTUP2TC = 0x0c800;

// ---- statistics; each clears when it is read (§8.2.3.23). Where two words, the low one is read first.
export const CRCERRS = 0x04000;
export const ILLERRC = 0x04004;
export const ERRBC = 0x04008;
export const MSPDC = 0x04010;
export const MPC = (n: number): number => 0x03fa0 + 4 * n;
export const MLFC = 0x04034;
export const MRFC = 0x04038;
export const RLEC = 0x04040;
/** XON and XOFF frames sent and received. */
export const LXONTXC = 0x03f60;
export const LXOFFTXC = 0x03f68;
export const LXONRXCNT = 0x041a4;
export const LXOFFRXCNT = 0x041a8;
/** Frames received, by length with CRC. */
export const PRC64 = 0x0405c;
export const PRC127 = 0x04060;
export const PRC255 = 0x04064;
export const PRC511 = 0x04068;
export const PRC1023 = 0x0406c;
export const PRC1522 = 0x04070;
/** Good frames and bytes received. */
export const GPRC = 0x04074;
export const BPRC = 0x04078;
export const MPRC = 0x0407c;
export const GPTC = 0x04080;
export const GORCL = 0x04088;
export const GORCH = 0x0408c;
export const GOTCL = 0x04090;
export const GOTCH = 0x04094;
/** No buffers in the packet buffer (82598); management frames. */
export const RNBC = (n: number): number => 0x03fc0 + 4 * n;
export const MNGPRC = 0x040b4;
export const MNGPDC = 0x040b8;
export const MNGPTC = 0x0cf90;
/** Undersize, fragment, oversize, jabber. */
export const RUC = 0x040a4;
export const RFC = 0x040a8;
export const ROC = 0x040ac;
export const RJC = 0x040b0;
/** Total bytes and frames, good or not. */
export const TORL = 0x040c0;
export const TORH = 0x040c4;
export const TPR = 0x040d0;
export const TPT = 0x040d4;
export const PTC64 = 0x040d8;
export const PTC127 = 0x040dc;
export const PTC255 = 0x040e0;
export const PTC511 = 0x040e4;
export const PTC1023 = 0x040e8;
export const PTC1522 = 0x040ec;
export const MPTC = 0x040f0;
export const BPTC = 0x040f4;
/** Good frames and bytes before the filters; those written to memory; those read from memory. */
export const RXNFGPC = 0x041b0;
export const RXNFGBCL = 0x041b4;
export const RXNFGBCH = 0x041b8;
export const RXDGPC = 0x02f50;
export const RXDGBCL = 0x02f54;
export const RXDGBCH = 0x02f58;
export const TXDGPC = 0x087a0;
export const TXDGBCL = 0x087a4;
export const TXDGBCH = 0x087a8;
/** Frames whose checksum was wrong. */
export const XEC = 0x04120;
/** Which of sixteen counters a queue counts in: four queues a register. */
export const RQSMR = (n: number): number => 0x02300 + 4 * n;
export const TQSM = (n: number): number => 0x08600 + 4 * n;
export const QPRC = (n: number): number => 0x01030 + 0x40 * n;
export const QPRDC = (n: number): number => 0x01430 + 0x40 * n;
export const QBRC_L = (n: number): number => 0x01034 + 0x40 * n;
export const QBRC_H = (n: number): number => 0x01038 + 0x40 * n;
export const QPTC = (n: number): number => 0x08680 + 4 * n;
export const QBTC_L = (n: number): number => 0x08700 + 8 * n;
export const QBTC_H = (n: number): number => 0x08704 + 8 * n;

/** Words of the EEPROM (§6.1). */
export const EEPROM_CHECKSUM_WORD = 0x3f;
export const EEPROM_SUM = 0xbaba;

/** 8086:…, the cards of which this is the register map. */
export const INTEL_VENDOR_ID = 0x8086;
export const DEVICE_82599_SFP = 0x10fb;
export const DEVICE_82599_BACKPLANE = 0x10f8;
export const DEVICE_82599_CX4 = 0x10f9;
export const DEVICE_82599_T3_LOM = 0x151c;
export const DEVICE_82599_XAUI_LOM = 0x10fc;
export const DEVICE_X540 = 0x1528;
