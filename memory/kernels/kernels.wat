;; The loops over bytes that a lane runs for every frame. See arena.ts for the memory, kernels.ts for the contract.
;;
;; Addresses come as f64, absolute in the process, since a call with i64 would allocate a BigInt. The arena is 2^34 bytes
;; from $base; what lies outside of it is "far", and goes back to JavaScript ($farCopy, $farSum).
;;
;; Assembled by `npm run kernels` into kernels.wasm; a test compares. The assembler puts constants into their places, also those
;; that stand for an offset, where the language knows no names (scripts/kernels.ts).
(module
  (import "arena" "memory" (memory i64 262144 262144))
  (import "arena" "base" (global $base i64))
  ;; An address below 2^52, as a double plus 2^52, has its own digits in the low bits: less $origin it is an arena offset.
  ;; That is faster than a conversion.
  (import "arena" "origin" (global $origin i64))
  (import "arena" "farCopy" (func $farCopy (param f64 f64 i32)))
  (import "arena" "farSum" (func $farSum (param f64 i32) (result i32)))

  (global $LINE_BYTES i32 (i32.const 64))
  ;; Where what was loaded for nothing is left.
  (global $sink (mut i32) (i32.const 0))

  ;; Layout of a FrameBatch (frame-batch.ts), in bytes from its start.
  (global $LENGTH i64 (i64.const 0))
  (global $FIRST_SEGMENT i64 (i64.const 256))
  (global $SEGMENT_COUNT i64 (i64.const 512))
  (global $FLAGS i64 (i64.const 768))
  (global $GSO_TYPE i64 (i64.const 832))
  (global $HDR_LEN i64 (i64.const 896))
  (global $GSO_SIZE i64 (i64.const 1024))
  (global $CSUM_START i64 (i64.const 1152))
  (global $CSUM_OFFSET i64 (i64.const 1280))
  (global $REPEATS i64 (i64.const 1408))
  (global $HEADS i64 (i64.const 3072))
  (global $ADDRESSES i64 (i64.const 1536))
  (global $PLACE_TO i64 (i64.const 2560))
  (global $BYTES_GATHERED i64 (i64.const 3200))
  (global $SLOTS i64 (i64.const 3264))
  (global $SLOT_BYTES i64 (i64.const 144))
  (global $HEADROOM i64 (i64.const 16))
  (global $HEADER_BYTES i32 (i32.const 128))
  (global $SEGMENT_ADDRESS i64 (i64.const 12480))
  (global $SEGMENT_LENGTH i64 (i64.const 45248))
  ;; struct virtio_net_hdr (virtio 1.2 §5.1.6): without and with num_buffers.
  (global $NET_HDR_BYTES i32 (i32.const 10))
  (global $NET_HDR_MRG_RXBUF_BYTES i32 (i32.const 12))
  ;; Layout of a CopyList (copy-list.ts).
  (global $TO i64 (i64.const 0))
  (global $FROM i64 (i64.const 8192))
  (global $BYTES i64 (i64.const 16384))

  ;; Copies $n bytes within the arena. Short ones end with a piece that overlaps the one before: fewer branches.
  (func $near (param $to i64) (param $from i64) (param $n i32)
    (local $last i64)
    (if (i32.gt_u (local.get $n) (i32.const 256))
      (then
        (memory.copy (local.get $to) (local.get $from) (i64.extend_i32_u (local.get $n)))
        (return)))
    (if (i32.ge_u (local.get $n) (i32.const 32))
      (then
        (local.set $last (i64.add (local.get $from) (i64.extend_i32_u (i32.sub (local.get $n) (i32.const 32)))))
        (loop $next
          (v128.store (local.get $to) (v128.load (local.get $from)))
          (v128.store offset=16 (local.get $to) (v128.load offset=16 (local.get $from)))
          (local.set $to (i64.add (local.get $to) (i64.const 32)))
          (local.set $from (i64.add (local.get $from) (i64.const 32)))
          (br_if $next (i64.lt_u (local.get $from) (local.get $last))))
        (local.set $to (i64.sub (local.get $to) (i64.sub (local.get $from) (local.get $last))))
        (v128.store (local.get $to) (v128.load (local.get $last)))
        (v128.store offset=16 (local.get $to) (v128.load offset=16 (local.get $last)))
        (return)))
    (local.set $last (i64.extend_i32_u (local.get $n)))
    (if (i32.ge_u (local.get $n) (i32.const 16))
      (then
        (v128.store (local.get $to) (v128.load (local.get $from)))
        (local.set $last (i64.sub (local.get $last) (i64.const 16)))
        (v128.store (i64.add (local.get $to) (local.get $last))
          (v128.load (i64.add (local.get $from) (local.get $last))))
        (return)))
    (if (i32.ge_u (local.get $n) (i32.const 8))
      (then
        (i64.store (local.get $to) (i64.load (local.get $from)))
        (local.set $last (i64.sub (local.get $last) (i64.const 8)))
        (i64.store (i64.add (local.get $to) (local.get $last))
          (i64.load (i64.add (local.get $from) (local.get $last))))
        (return)))
    (if (i32.ge_u (local.get $n) (i32.const 4))
      (then
        (i32.store (local.get $to) (i32.load (local.get $from)))
        (local.set $last (i64.sub (local.get $last) (i64.const 4)))
        (i32.store (i64.add (local.get $to) (local.get $last))
          (i32.load (i64.add (local.get $from) (local.get $last))))
        (return)))
    (if (local.get $n)
      (then
        (i32.store8 (local.get $to) (i32.load8_u (local.get $from)))
        (if (i32.ge_u (local.get $n) (i32.const 2))
          (then
            (i32.store8 offset=1 (local.get $to) (i32.load8_u offset=1 (local.get $from)))
            (if (i32.eq (local.get $n) (i32.const 3))
              (then (i32.store8 offset=2 (local.get $to) (i32.load8_u offset=2 (local.get $from))))))))))

  ;; memcpy between absolute addresses, wherever they are.
  (func $copy (export "copy") (param $to f64) (param $from f64) (param $n i32)
    (local $t i64) (local $f i64)
    (local.set $t (i64.sub (i64.reinterpret_f64 (f64.add (local.get $to) (f64.const 0x1p52))) (global.get $origin)))
    (local.set $f (i64.sub (i64.reinterpret_f64 (f64.add (local.get $from) (f64.const 0x1p52))) (global.get $origin)))
    (if (i64.eqz (i64.shr_u (i64.or (local.get $t) (local.get $f)) (i64.const 34)))
      (then (call $near (local.get $t) (local.get $f) (local.get $n)))
      (else (call $farCopy (local.get $to) (local.get $from) (local.get $n)))))

  ;; Makes the first $count copies of the list at arena offset $list, in order.
  (func (export "copyList") (param $list i32) (param $count i32)
    (local $at i64) (local $i i32)
    (local.set $at (i64.extend_i32_u (local.get $list)))
    (loop $next
      (if (i32.lt_u (local.get $i) (local.get $count))
        (then
          (call $copy
            (f64.load offset=$TO (local.get $at))
            (f64.load offset=$FROM (local.get $at))
            (i32.load offset=$BYTES
              (i64.add (i64.extend_i32_u (local.get $list)) (i64.shl (i64.extend_i32_u (local.get $i)) (i64.const 2)))))
          (local.set $at (i64.add (local.get $at) (i64.const 8)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next)))))

  ;; FrameBatch.appendBuffers: frames $first to $end - 1 of the batch at arena offset $batch, of one buffer each, noted at
  ;; every second segment from $segment + 1 on, $prefix bytes of the port's own header in front: header slots, segments,
  ;; columns. Gives the bytes of all frames.
  ;;
  ;; The loop steps through the columns with one index for each width, so that most accesses are an index and a constant.
  (func $gatherBuffers (export "gatherBuffers")
    (param $batch i32) (param $first i32) (param $end i32) (param $prefix i32) (param $segment i32) (result i32)
    (local $at i64) (local $i i64) (local $i4 i64) (local $i16 i64) (local $s4 i64) (local $s8 i64) (local $slot i64)
    (local $slotAddress f64) (local $from i64) (local $prefix64 i64) (local $shortest i32)
    (local $buffer f64) (local $length i32) (local $n i32) (local $kind i32) (local $before i32) (local $total i32)
    (local $firstBytes v128) (local $macs v128) (local $macsBefore v128)
    (local.set $at (i64.extend_i32_u (local.get $batch)))
    (call $touchBuffers
      (local.get $at) (i32.add (local.get $segment) (i32.const 1)) (i32.sub (local.get $end) (local.get $first))
      (local.get $prefix))
    ;; No frame repeats one of an earlier call.
    (local.set $before (i32.const -1))
    (local.set $slot (call $slotOf (local.get $at) (local.get $first)))
    (local.set $slotAddress (f64.convert_i64_s (i64.add (global.get $base) (local.get $slot))))
    (local.set $i (i64.add (local.get $at) (i64.extend_i32_u (local.get $first))))
    (local.set $i4 (i64.add (local.get $at) (i64.shl (i64.extend_i32_u (local.get $first)) (i64.const 2))))
    (local.set $i16 (i64.add (local.get $at) (i64.shl (i64.extend_i32_u (local.get $first)) (i64.const 4))))
    (local.set $s4 (call $segmentLength (local.get $at) (local.get $segment)))
    (local.set $s8 (call $segmentAddress (local.get $at) (local.get $segment)))
    (local.set $prefix64 (i64.extend_i32_u (local.get $prefix)))
    ;; Frames from this length on have their first sixteen bytes, and a header, in one piece each; none without a header.
    (local.set $shortest
      (select (i32.const 16) (i32.const -1) (i32.ge_u (local.get $prefix) (global.get $NET_HDR_BYTES))))
    (loop $next
      (if (i32.lt_u (local.get $first) (local.get $end))
        (then
          (local.set $buffer (f64.load offset=8 (local.get $s8)))
          (local.set $length (i32.sub (i32.load offset=4 (local.get $s4)) (local.get $prefix)))
          (local.set $total (i32.add (local.get $total) (local.get $length)))
          (local.set $n
            (select (local.get $length) (global.get $HEADER_BYTES)
              (i32.lt_u (local.get $length) (global.get $HEADER_BYTES))))
          ;; The bytes, once. Header and first sixteen bytes are looked at in a register, not where they were just stored: an
          ;; eighth less. The sixteen are stored last, over those of them that came with the header.
          (local.set $from (call $offsetOf (local.get $buffer)))
          (if (i32.and
                (i64.eqz (i64.shr_u (local.get $from) (i64.const 34)))
                (i32.ge_u (local.get $length) (local.get $shortest)))
            (then
              (local.set $firstBytes (v128.load (local.get $from)))
              (local.set $kind (i32.and (i32x4.extract_lane 0 (local.get $firstBytes)) (i32.const 0xffff)))
              (v128.store (i64.sub (local.get $slot) (local.get $prefix64)) (local.get $firstBytes))
              (local.set $from (i64.add (local.get $from) (local.get $prefix64)))
              (local.set $firstBytes (v128.load (local.get $from)))
              (call $near
                (i64.add (local.get $slot) (i64.const 16))
                (i64.add (local.get $from) (i64.const 16))
                (i32.sub (local.get $n) (i32.const 16)))
              (v128.store (local.get $slot) (local.get $firstBytes)))
            (else
              (call $copy
                (f64.sub (local.get $slotAddress) (f64.convert_i32_u (local.get $prefix)))
                (local.get $buffer)
                (i32.add (local.get $prefix) (local.get $n)))
              (local.set $firstBytes (v128.load (local.get $slot)))
              (local.set $kind (i32.const 0))
              (if (i32.ge_u (local.get $prefix) (global.get $NET_HDR_BYTES))
                (then (local.set $kind (i32.load16_u (i64.sub (local.get $slot) (local.get $prefix64))))))))
          ;; The slot is the first segment, what follows in the buffer the second.
          (i32.store offset=$LENGTH (local.get $i4) (local.get $length))
          (i32.store offset=$FIRST_SEGMENT (local.get $i4) (local.get $segment))
          (f64.store (local.get $s8) (local.get $slotAddress))
          (i32.store (local.get $s4) (local.get $n))
          (if (i32.gt_u (local.get $length) (local.get $n))
            (then
              (f64.store offset=8 (local.get $s8)
                (f64.add (local.get $buffer) (f64.convert_i32_s (i32.add (local.get $prefix) (local.get $n)))))
              (i32.store offset=4 (local.get $s4) (i32.sub (local.get $length) (local.get $n)))
              (i32.store offset=$SEGMENT_COUNT (local.get $i4) (i32.const 2)))
            (else (i32.store offset=$SEGMENT_COUNT (local.get $i4) (i32.const 1))))
          (call $noteOffloads (local.get $i) (local.get $first) (local.get $kind)
            (i64.sub (local.get $slot) (local.get $prefix64)))
          (local.set $macs (call $macsOf (local.get $firstBytes)))
          (v128.store offset=$ADDRESSES (local.get $i16) (local.get $macs))
          (i32.store8 offset=$REPEATS (local.get $i)
            (i32.and
              (i32.eqz (i32.or (local.get $kind) (local.get $before)))
              (i32.eqz (v128.any_true (v128.xor (local.get $macs) (local.get $macsBefore))))))
          (local.set $before (local.get $kind))
          (local.set $macsBefore (local.get $macs))
          (local.set $slot (i64.add (local.get $slot) (global.get $SLOT_BYTES)))
          (local.set $slotAddress (f64.add (local.get $slotAddress) (f64.convert_i64_s (global.get $SLOT_BYTES))))
          (local.set $i (i64.add (local.get $i) (i64.const 1)))
          (local.set $i4 (i64.add (local.get $i4) (i64.const 4)))
          (local.set $i16 (i64.add (local.get $i16) (i64.const 16)))
          (local.set $s4 (i64.add (local.get $s4) (i64.const 8)))
          (local.set $s8 (i64.add (local.get $s8) (i64.const 16)))
          (local.set $segment (i32.add (local.get $segment) (i32.const 2)))
          (local.set $first (i32.add (local.get $first) (i32.const 1)))
          (br $next))))
    (local.get $total))

  ;; Loads from the lines that the first bytes of $count buffers stand in, at every second segment from $segment on of the batch
  ;; at arena offset $at, and does nothing with them: the first byte, the first behind $prefix, and one in the second line of
  ;; a header slot. They come from the cache of the driver's processor, and that way many come in the time of one.
  (func $touchBuffers (param $at i64) (param $segment i32) (param $count i32) (param $prefix i32)
    (local $s4 i64) (local $s8 i64) (local $from i64) (local $behind i64) (local $prefix64 i64) (local $sink i32)
    (local.set $s4 (call $segmentLength (local.get $at) (local.get $segment)))
    (local.set $s8 (call $segmentAddress (local.get $at) (local.get $segment)))
    (local.set $prefix64 (i64.extend_i32_u (local.get $prefix)))
    (loop $next
      (if (local.get $count)
        (then
          (local.set $from (call $offsetOf (f64.load (local.get $s8))))
          (if (i64.eqz (i64.shr_u (local.get $from) (i64.const 34)))
            (then
              (local.set $behind (i64.add (local.get $from) (local.get $prefix64)))
              (local.set $sink
                (i32.add (local.get $sink)
                  (i32.add (i32.load8_u (local.get $from)) (i32.load8_u (local.get $behind)))))
              (if (i32.ge_u (i32.load (local.get $s4)) (global.get $HEADER_BYTES))
                (then
                  (local.set $sink (i32.add (local.get $sink) (i32.load8_u offset=64 (local.get $behind))))))))
          (local.set $s4 (i64.add (local.get $s4) (i64.const 8)))
          (local.set $s8 (i64.add (local.get $s8) (i64.const 16)))
          (local.set $count (i32.sub (local.get $count) (i32.const 1)))
          (br $next))))
    (global.set $sink (local.get $sink)))

  ;; Loads from the lines of the descriptors that $count entries of the avail ring from $at on name, and does nothing with them:
  ;; every fourth, since four have a line, and drivers that use them in order are the ones that are fast. A driver may have
  ;; written any head: masked, it leads into the table, and who takes the chain reads it anew.
  (func $touchDescriptors (param $ring i64) (param $table i64) (param $at i32) (param $count i32) (param $mask i32)
    (local $end i32) (local $sink i32)
    (local.set $end (i32.add (local.get $at) (local.get $count)))
    (loop $next
      (if (i32.lt_s (local.get $at) (local.get $end))
        (then
          (local.set $sink
            (i32.add (local.get $sink)
              (i32.load8_u
                (i64.add (local.get $table)
                  (i64.extend_i32_u
                    (i32.shl
                      (i32.and (local.get $mask)
                        (i32.load16_u
                          (i64.add (local.get $ring)
                            (i64.extend_i32_u
                              (i32.shl (i32.and (local.get $at) (local.get $mask)) (i32.const 1))))))
                      (i32.const 4)))))))
          (local.set $at (i32.add (local.get $at) (i32.const 4)))
          (br $next))))
    (global.set $sink (local.get $sink)))

  ;; SplitVirtqueue.receive: takes chains of one buffer from a split virtqueue (virtio 1.2 §2.7) until there is one of
  ;; another kind, $limit at the most, as frames of the batch at arena offset $batch; their heads go to its column. Gives
  ;; how many, and leaves their bytes in the batch. Every word of the driver is read once, into a local.
  ;; $avail, $desc: addresses of the avail ring's entries and of the table. $from … $to + $delta: mapped guest memory.
  ;;
  (func (export "receiveBuffers")
    (param $batch i32) (param $limit i32) (param $avail f64) (param $desc f64) (param $num i32) (param $at i32)
    (param $from f64) (param $to f64) (param $delta f64) (param $prefix i32) (param $least i32) (param $most i32)
    (param $first i32) (param $segment i32)
    (result i32)
    (local $b i64) (local $ring i64) (local $table i64) (local $start i64) (local $size i64) (local $base i64)
    (local $head i32) (local $d i64) (local $address i64) (local $rest i64) (local $len i32) (local $frame i32)
    (local $i2 i64) (local $s4 i64) (local $s8 i64) (local $mask i32)
    (local.set $b (i64.extend_i32_u (local.get $batch)))
    (local.set $ring (call $offsetOf (local.get $avail)))
    (local.set $table (call $offsetOf (local.get $desc)))
    (local.set $start (i64.trunc_sat_f64_u (local.get $from)))
    (local.set $size (i64.sub (i64.trunc_sat_f64_u (local.get $to)) (local.get $start)))
    ;; Arena offset of what stands at $start.
    (local.set $base (call $offsetOf (f64.add (local.get $from) (local.get $delta))))
    (local.set $mask (i32.sub (local.get $num) (i32.const 1)))
    (local.set $frame (local.get $first))
    (local.set $i2 (i64.add (local.get $b) (i64.shl (i64.extend_i32_u (local.get $first)) (i64.const 1))))
    (local.set $s4 (call $segmentLength (local.get $b) (local.get $segment)))
    (local.set $s8 (call $segmentAddress (local.get $b) (local.get $segment)))
    (call $touchDescriptors (local.get $ring) (local.get $table) (local.get $at) (local.get $limit) (local.get $mask))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $limit)))
        (local.set $head
          (i32.load16_u
            (i64.add (local.get $ring)
              (i64.extend_i32_u (i32.shl (i32.and (local.get $at) (local.get $mask)) (i32.const 1))))))
        (br_if $done (i32.ge_u (local.get $head) (local.get $num)))
        (local.set $d (i64.add (local.get $table) (i64.extend_i32_u (i32.shl (local.get $head) (i32.const 4)))))
        (local.set $address (i64.sub (i64.load (local.get $d)) (local.get $start)))
        (local.set $rest (i64.load offset=8 (local.get $d)))
        (local.set $len (i32.wrap_i64 (local.get $rest)))
        ;; Neither NEXT nor WRITE nor INDIRECT, a frame's length, and inside of the memory.
        (br_if $done (i64.ne (i64.and (local.get $rest) (i64.const 0x700000000)) (i64.const 0)))
        (br_if $done (i32.lt_u (local.get $len) (local.get $least)))
        (br_if $done (i32.gt_u (local.get $len) (local.get $most)))
        (br_if $done (call $isOutside (local.get $address) (i64.extend_i32_u (local.get $len)) (local.get $size)))
        (local.set $address (i64.add (local.get $base) (local.get $address)))
        (call $noteBuffer (local.get $i2) (local.get $s4) (local.get $s8) (local.get $address) (local.get $len)
          (local.get $head))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $i2 (i64.add (local.get $i2) (i64.const 2)))
        (local.set $s4 (i64.add (local.get $s4) (i64.const 8)))
        (local.set $s8 (i64.add (local.get $s8) (i64.const 16)))
        (local.set $frame (i32.add (local.get $frame) (i32.const 1)))
        (local.set $limit (i32.sub (local.get $limit) (i32.const 1)))
        (br $next)))
    (i32.store offset=$BYTES_GATHERED (local.get $b)
      (call $gatherBuffers
        (local.get $batch) (local.get $first) (local.get $frame) (local.get $prefix) (local.get $segment)))
    (i32.sub (local.get $frame) (local.get $first)))

  ;; SplitVirtqueue.deliver: writes frames $first to $end - 1 into chains of one buffer each, until there is one of another
  ;; kind or one that is too short, and their used entries. Gives the first frame left.
  ;; $used: address of the used ring's entries; the rest as in receiveBuffers.
  ;;
  ;; The lines of descriptors and buffers are asked for before they are needed ($touchDescriptors, $placeNoted).
  (func (export "deliverBuffers")
    (param $batch i32) (param $first i32) (param $end i32) (param $avail f64) (param $desc f64) (param $used f64)
    (param $num i32) (param $at i32) (param $usedIdx i32)
    (param $from f64) (param $to f64) (param $delta f64) (param $header i32)
    (result i32)
    (local $b i64) (local $ring i64) (local $table i64) (local $out i64) (local $start i64) (local $size i64)
    (local $base i64) (local $mask i32)
    (local $head i32) (local $d i64) (local $address i64) (local $rest i64) (local $len i32) (local $total i32)
    (local $frame i32) (local $i4 i64) (local $i8 i64)
    (local.set $frame (local.get $first))
    (local.set $b (i64.extend_i32_u (local.get $batch)))
    (local.set $ring (call $offsetOf (local.get $avail)))
    (local.set $table (call $offsetOf (local.get $desc)))
    (local.set $out (call $offsetOf (local.get $used)))
    (local.set $start (i64.trunc_sat_f64_u (local.get $from)))
    (local.set $size (i64.sub (i64.trunc_sat_f64_u (local.get $to)) (local.get $start)))
    (local.set $base (call $offsetOf (f64.add (local.get $from) (local.get $delta))))
    (local.set $mask (i32.sub (local.get $num) (i32.const 1)))
    (local.set $i4 (i64.add (local.get $b) (i64.shl (i64.extend_i32_u (local.get $first)) (i64.const 2))))
    (local.set $i8 (i64.add (local.get $b) (i64.shl (i64.extend_i32_u (local.get $first)) (i64.const 3))))
    (call $touchDescriptors (local.get $ring) (local.get $table) (local.get $at)
      (i32.sub (local.get $end) (local.get $first)) (local.get $mask))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $first) (local.get $end)))
        (local.set $head
          (i32.load16_u
            (i64.add (local.get $ring)
              (i64.extend_i32_u (i32.shl (i32.and (local.get $at) (local.get $mask)) (i32.const 1))))))
        (br_if $done (i32.ge_u (local.get $head) (local.get $num)))
        (local.set $d (i64.add (local.get $table) (i64.extend_i32_u (i32.shl (local.get $head) (i32.const 4)))))
        (local.set $address (i64.sub (i64.load (local.get $d)) (local.get $start)))
        (local.set $rest (i64.load offset=8 (local.get $d)))
        (local.set $len (i32.wrap_i64 (local.get $rest)))
        (local.set $total
          (i32.add
            (i32.load offset=$LENGTH (local.get $i4))
            (local.get $header)))
        ;; WRITE and neither NEXT nor INDIRECT, room for the frame, and inside of the memory.
        (br_if $done (i64.ne (i64.and (local.get $rest) (i64.const 0x700000000)) (i64.const 0x200000000)))
        (br_if $done (i32.lt_u (local.get $len) (local.get $total)))
        (br_if $done (call $isOutside (local.get $address) (i64.extend_i32_u (local.get $len)) (local.get $size)))
        (i64.store
          (i64.add (local.get $out)
            (i64.extend_i32_u (i32.shl (i32.and (local.get $usedIdx) (local.get $mask)) (i32.const 3))))
          (i64.or
            (i64.extend_i32_u (local.get $head))
            (i64.shl (i64.extend_i32_u (local.get $total)) (i64.const 32))))
        (local.set $address (i64.add (local.get $base) (local.get $address)))
        (i64.store offset=$PLACE_TO (local.get $i8) (local.get $address))
        (local.set $i8 (i64.add (local.get $i8) (i64.const 8)))
        (local.set $i4 (i64.add (local.get $i4) (i64.const 4)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $usedIdx (i32.add (local.get $usedIdx) (i32.const 1)))
        (local.set $first (i32.add (local.get $first) (i32.const 1)))
        (br $next)))
    (call $placeNoted (local.get $b) (local.get $frame) (local.get $first) (local.get $header))
    (local.get $first))

  ;; The second half of a packed descriptor (virtio 1.2 §2.8.13): len, id in bits 32 to 47, flags above: NEXT, WRITE and
  ;; INDIRECT in bits 48 to 50, AVAIL in bit 55, USED in bit 63.
  (global $PACKED_KIND i64 (i64.const 0x0007000000000000))
  (global $PACKED_WRITE i64 (i64.const 0x0002000000000000))
  (global $PACKED_AVAIL i64 (i64.const 0x0080000000000000))
  (global $PACKED_OWNER i64 (i64.const 0x8080000000000000))

  ;; The AVAIL and USED bits of a descriptor that is available where the driver's wrap counter is $wrap (§2.8.1).
  (func $availableAt (param $wrap i32) (result i64)
    (select (global.get $PACKED_AVAIL) (i64.xor (global.get $PACKED_OWNER) (global.get $PACKED_AVAIL)) (local.get $wrap)))

  ;; PackedVirtqueue.receive: receiveBuffers for a packed virtqueue (virtio 1.2 §2.8), from descriptor $at on, where the
  ;; driver's wrap counter is $wrap. Buffer ids go to the column of heads.
  ;;
  ;; The half with the flags is read first, by an atomic load behind which the address is read; it is read once.
  (func (export "receivePackedBuffers")
    (param $batch i32) (param $limit i32) (param $desc f64) (param $num i32) (param $at i32) (param $wrap i32)
    (param $from f64) (param $to f64) (param $delta f64) (param $prefix i32) (param $least i32) (param $most i32)
    (param $first i32) (param $segment i32)
    (result i32)
    (local $b i64) (local $table i64) (local $start i64) (local $size i64) (local $base i64) (local $owner i64)
    (local $d i64) (local $address i64) (local $rest i64) (local $len i32) (local $frame i32)
    (local $i2 i64) (local $s4 i64) (local $s8 i64)
    (local.set $b (i64.extend_i32_u (local.get $batch)))
    (local.set $table (call $offsetOf (local.get $desc)))
    (local.set $start (i64.trunc_sat_f64_u (local.get $from)))
    (local.set $size (i64.sub (i64.trunc_sat_f64_u (local.get $to)) (local.get $start)))
    (local.set $base (call $offsetOf (f64.add (local.get $from) (local.get $delta))))
    (local.set $owner (call $availableAt (local.get $wrap)))
    (local.set $frame (local.get $first))
    (local.set $i2 (i64.add (local.get $b) (i64.shl (i64.extend_i32_u (local.get $first)) (i64.const 1))))
    (local.set $s4 (call $segmentLength (local.get $b) (local.get $segment)))
    (local.set $s8 (call $segmentAddress (local.get $b) (local.get $segment)))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $limit)))
        (local.set $d (i64.add (local.get $table) (i64.extend_i32_u (i32.shl (local.get $at) (i32.const 4)))))
        (local.set $rest (i64.atomic.load offset=8 (local.get $d)))
        ;; Available, neither NEXT nor WRITE nor INDIRECT, a frame's length, and inside of the memory.
        (br_if $done
          (i64.ne
            (i64.and (local.get $rest) (i64.or (global.get $PACKED_OWNER) (global.get $PACKED_KIND)))
            (local.get $owner)))
        (local.set $address (i64.sub (i64.load (local.get $d)) (local.get $start)))
        (local.set $len (i32.wrap_i64 (local.get $rest)))
        (br_if $done (i32.lt_u (local.get $len) (local.get $least)))
        (br_if $done (i32.gt_u (local.get $len) (local.get $most)))
        (br_if $done (call $isOutside (local.get $address) (i64.extend_i32_u (local.get $len)) (local.get $size)))
        (call $noteBuffer (local.get $i2) (local.get $s4) (local.get $s8)
          (i64.add (local.get $base) (local.get $address)) (local.get $len)
          (i32.wrap_i64 (i64.shr_u (local.get $rest) (i64.const 32))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (if (i32.eq (local.get $at) (local.get $num))
          (then
            (local.set $at (i32.const 0))
            (local.set $owner (i64.xor (local.get $owner) (global.get $PACKED_OWNER)))))
        (local.set $i2 (i64.add (local.get $i2) (i64.const 2)))
        (local.set $s4 (i64.add (local.get $s4) (i64.const 8)))
        (local.set $s8 (i64.add (local.get $s8) (i64.const 16)))
        (local.set $frame (i32.add (local.get $frame) (i32.const 1)))
        (local.set $limit (i32.sub (local.get $limit) (i32.const 1)))
        (br $next)))
    (i32.store offset=$BYTES_GATHERED (local.get $b)
      (call $gatherBuffers
        (local.get $batch) (local.get $first) (local.get $frame) (local.get $prefix) (local.get $segment)))
    (i32.sub (local.get $frame) (local.get $first)))

  ;; PackedVirtqueue.deliver: deliverBuffers for a packed virtqueue. Used descriptors are written from $usedAt on, where the
  ;; device's wrap counter is $usedWrap; with $hold all but the first, which shows the driver all of them (§2.8.4). Buffer
  ;; ids go to the column of heads.
  (func (export "deliverPackedBuffers")
    (param $batch i32) (param $first i32) (param $end i32) (param $desc f64) (param $num i32) (param $at i32)
    (param $wrap i32) (param $usedAt i32) (param $usedWrap i32) (param $hold i32)
    (param $from f64) (param $to f64) (param $delta f64) (param $header i32)
    (result i32)
    (local $b i64) (local $table i64) (local $start i64) (local $size i64) (local $base i64) (local $owner i64)
    (local $used i64) (local $d i64) (local $address i64) (local $rest i64) (local $total i32) (local $frame i32)
    (local $i2 i64) (local $i4 i64) (local $i8 i64)
    (local.set $frame (local.get $first))
    (local.set $b (i64.extend_i32_u (local.get $batch)))
    (local.set $table (call $offsetOf (local.get $desc)))
    (local.set $start (i64.trunc_sat_f64_u (local.get $from)))
    (local.set $size (i64.sub (i64.trunc_sat_f64_u (local.get $to)) (local.get $start)))
    (local.set $base (call $offsetOf (f64.add (local.get $from) (local.get $delta))))
    (local.set $owner (call $availableAt (local.get $wrap)))
    ;; §2.8.4: WRITE in a used descriptor says that its length means something.
    (local.set $used
      (i64.or (global.get $PACKED_WRITE)
        (select (global.get $PACKED_OWNER) (i64.const 0) (local.get $usedWrap))))
    (local.set $i2 (i64.add (local.get $b) (i64.shl (i64.extend_i32_u (local.get $first)) (i64.const 1))))
    (local.set $i4 (i64.add (local.get $b) (i64.shl (i64.extend_i32_u (local.get $first)) (i64.const 2))))
    (local.set $i8 (i64.add (local.get $b) (i64.shl (i64.extend_i32_u (local.get $first)) (i64.const 3))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $first) (local.get $end)))
        (local.set $d (i64.add (local.get $table) (i64.extend_i32_u (i32.shl (local.get $at) (i32.const 4)))))
        (local.set $rest (i64.atomic.load offset=8 (local.get $d)))
        ;; Available, WRITE and neither NEXT nor INDIRECT, room for the frame, and inside of the memory.
        (br_if $done
          (i64.ne
            (i64.and (local.get $rest) (i64.or (global.get $PACKED_OWNER) (global.get $PACKED_KIND)))
            (i64.or (local.get $owner) (global.get $PACKED_WRITE))))
        (local.set $address (i64.sub (i64.load (local.get $d)) (local.get $start)))
        (local.set $total
          (i32.add
            (i32.load offset=$LENGTH (local.get $i4))
            (local.get $header)))
        (br_if $done (i32.lt_u (i32.wrap_i64 (local.get $rest)) (local.get $total)))
        (br_if $done
          (call $isOutside (local.get $address) (i64.and (local.get $rest) (i64.const 0xffffffff)) (local.get $size)))
        (i32.store16 offset=$HEADS (local.get $i2)
          (i32.wrap_i64 (i64.shr_u (local.get $rest) (i64.const 32))))
        (if (local.get $hold)
          (then (local.set $hold (i32.const 0)))
          (else
            (i64.store offset=8
              (i64.add (local.get $table) (i64.extend_i32_u (i32.shl (local.get $usedAt) (i32.const 4))))
              (i64.or
                (i64.or (i64.extend_i32_u (local.get $total)) (local.get $used))
                (i64.and (local.get $rest) (i64.const 0x0000ffff00000000))))))
        (i64.store offset=$PLACE_TO (local.get $i8) (i64.add (local.get $base) (local.get $address)))
        (local.set $i8 (i64.add (local.get $i8) (i64.const 8)))
        (local.set $i4 (i64.add (local.get $i4) (i64.const 4)))
        (local.set $i2 (i64.add (local.get $i2) (i64.const 2)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (if (i32.eq (local.get $at) (local.get $num))
          (then
            (local.set $at (i32.const 0))
            (local.set $owner (i64.xor (local.get $owner) (global.get $PACKED_OWNER)))))
        (local.set $usedAt (i32.add (local.get $usedAt) (i32.const 1)))
        (if (i32.eq (local.get $usedAt) (local.get $num))
          (then
            (local.set $usedAt (i32.const 0))
            (local.set $used (i64.xor (local.get $used) (global.get $PACKED_OWNER)))))
        (local.set $first (i32.add (local.get $first) (i32.const 1)))
        (br $next)))
    (call $placeNoted (local.get $b) (local.get $frame) (local.get $first) (local.get $header))
    (local.get $first))

  ;; Notes a buffer that a frame came in at segment $note + 1, whose length and address columns begin at $s4 and $s8 less one
  ;; entry, and the head of its chain at $i2.
  (func $noteBuffer (param $i2 i64) (param $s4 i64) (param $s8 i64) (param $address i64) (param $len i32) (param $head i32)
    (f64.store offset=8 (local.get $s8) (f64.convert_i64_s (i64.add (global.get $base) (local.get $address))))
    (i32.store offset=4 (local.get $s4) (local.get $len))
    (i32.store16 offset=$HEADS (local.get $i2) (local.get $head)))

  ;; Writes frames $frame to $end - 1, each with its virtio-net header, to the arena offsets noted.
  (func $placeNoted (param $b i64) (param $frame i32) (param $end i32) (param $header i32)
    (local $i i32) (local $i4 i64) (local $i8 i64) (local $slot i64) (local $header64 i64) (local $to i64)
    (local.set $i (local.get $frame))
    (local.set $i8 (i64.add (local.get $b) (i64.shl (i64.extend_i32_u (local.get $frame)) (i64.const 3))))
    (local.set $i4 (i64.add (local.get $b) (i64.shl (i64.extend_i32_u (local.get $frame)) (i64.const 2))))
    (local.set $header64 (i64.extend_i32_u (local.get $header)))
    (loop $touch
      (if (i32.lt_u (local.get $i) (local.get $end))
        (then
          (call $touchPlace
            (i64.load offset=$PLACE_TO (local.get $i8)) (local.get $header64) (i32.load offset=$LENGTH (local.get $i4)))
          (local.set $i8 (i64.add (local.get $i8) (i64.const 8)))
          (local.set $i4 (i64.add (local.get $i4) (i64.const 4)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $touch))))
    (local.set $i8 (i64.add (local.get $b) (i64.shl (i64.extend_i32_u (local.get $frame)) (i64.const 3))))
    (local.set $i4 (i64.add (local.get $b) (i64.shl (i64.extend_i32_u (local.get $frame)) (i64.const 2))))
    (local.set $slot (call $slotOf (local.get $b) (local.get $frame)))
    (loop $place
      (if (i32.lt_u (local.get $frame) (local.get $end))
        (then
          (local.set $to (i64.load offset=$PLACE_TO (local.get $i8)))
          (call $writeNetHeader (local.get $b) (local.get $frame) (local.get $to) (local.get $header))
          (local.set $to (i64.add (local.get $to) (local.get $header64)))
          ;; All of a short frame stands in its slot.
          (if (i32.eq (i32.load offset=$SEGMENT_COUNT (local.get $i4)) (i32.const 1))
            (then (call $near (local.get $to) (local.get $slot) (i32.load offset=$LENGTH (local.get $i4))))
            (else (call $placeSegments (local.get $b) (local.get $frame) (local.get $to))))
          (local.set $slot (i64.add (local.get $slot) (global.get $SLOT_BYTES)))
          (local.set $i8 (i64.add (local.get $i8) (i64.const 8)))
          (local.set $i4 (i64.add (local.get $i4) (i64.const 4)))
          (local.set $frame (i32.add (local.get $frame) (i32.const 1)))
          (br $place)))))

  ;; Whether $len bytes from $address on reach beyond $size, whatever a driver wrote into the first two.
  (func $isOutside (param $address i64) (param $len i64) (param $size i64) (result i32)
    (i32.or
      (i64.gt_u (local.get $address) (local.get $size))
      (i64.gt_u (local.get $len) (i64.sub (local.get $size) (local.get $address)))))

  ;; Arena offset of an absolute address.
  (func $offsetOf (param $address f64) (result i64)
    (i64.sub (i64.reinterpret_f64 (f64.add (local.get $address) (f64.const 0x1p52))) (global.get $origin)))

  ;; Asks for lines that a frame of $length bytes, and a virtio-net header of $header bytes before it, will be written to, from
  ;; arena offset $to on: they come from the cache of the driver's processor, many at a time.
  ;;
  ;; The header's by a load, since mostly it is not written at all. A longer frame's first and last by stores.
  ;; Not a short one's: while its stores wait for their line nothing else does, and a store more only lengthens the queue.
  (func $touchPlace (param $to i64) (param $header i64) (param $length i32)
    (local $frame i64)
    (if (i32.gt_u (local.get $length) (global.get $LINE_BYTES))
      (then
        (local.set $frame (i64.add (local.get $to) (local.get $header)))
        (i32.store8 (local.get $frame) (i32.const 0))
        (i32.store8
          (i64.sub (i64.add (local.get $frame) (i64.extend_i32_u (local.get $length))) (i64.const 1))
          (i32.const 0))))
    (global.set $sink (i32.load8_u (local.get $to))))

  ;; Writes a whole frame with its virtio-net header to arena offset $to.
  (func $placeNear (param $at i64) (param $frame i32) (param $to i64) (param $header i32)
    (call $writeNetHeader (local.get $at) (local.get $frame) (local.get $to) (local.get $header))
    (call $placeSegments (local.get $at) (local.get $frame)
      (i64.add (local.get $to) (i64.extend_i32_u (local.get $header)))))

  ;; Writes all segments of a frame to arena offset $to.
  (func $placeSegments (param $at i64) (param $frame i32) (param $to i64)
    (local $i i64) (local $segment i32) (local $more i32) (local $n i32) (local $from i64)
    (local.set $i (i64.add (local.get $at) (i64.shl (i64.extend_i32_u (local.get $frame)) (i64.const 2))))
    (local.set $segment (i32.load offset=$FIRST_SEGMENT (local.get $i)))
    (local.set $more (i32.load offset=$SEGMENT_COUNT (local.get $i)))
    (local.set $n (i32.load (call $segmentLength (local.get $at) (local.get $segment))))
    (call $near (local.get $to) (call $slotOf (local.get $at) (local.get $frame)) (local.get $n))
    (loop $rest
      (local.set $more (i32.sub (local.get $more) (i32.const 1)))
      (if (local.get $more)
        (then
          (local.set $segment (i32.add (local.get $segment) (i32.const 1)))
          (local.set $to (i64.add (local.get $to) (i64.extend_i32_u (local.get $n))))
          (local.set $n (i32.load (call $segmentLength (local.get $at) (local.get $segment))))
          (local.set $from (call $offsetOf (f64.load (call $segmentAddress (local.get $at) (local.get $segment)))))
          (if (i64.eqz (i64.shr_u (local.get $from) (i64.const 34)))
            (then (call $near (local.get $to) (local.get $from) (local.get $n)))
            (else
              (call $farCopy
                (f64.convert_i64_u (i64.add (global.get $base) (local.get $to)))
                (f64.load (call $segmentAddress (local.get $at) (local.get $segment)))
                (local.get $n))))
          (br $rest)))))

  ;; FrameBatch.append: frame $frame of the batch at arena offset $batch, whose buffers begin with $prefix bytes of the
  ;; port's own header.
  (func (export "gather") (param $batch i32) (param $frame i32) (param $prefix i32)
    (local $at i64) (local $slot i64) (local $i i64) (local $kind i32)
    (local.set $at (i64.extend_i32_u (local.get $batch)))
    (local.set $slot (call $slotOf (local.get $at) (local.get $frame)))
    (call $gatherFrame (local.get $at) (local.get $frame) (local.get $slot) (local.get $prefix))
    (if (i32.ge_u (local.get $prefix) (global.get $NET_HDR_BYTES))
      (then (local.set $kind (i32.load16_u (i64.sub (local.get $slot) (i64.extend_i32_u (local.get $prefix)))))))
    (local.set $i (i64.add (local.get $at) (i64.extend_i32_u (local.get $frame))))
    (call $noteOffloads (local.get $i) (local.get $frame) (local.get $kind)
      (i64.sub (local.get $slot) (i64.extend_i32_u (local.get $prefix))))
    (v128.store offset=$ADDRESSES
      (i64.add (local.get $at) (i64.shl (i64.extend_i32_u (local.get $frame)) (i64.const 4)))
      (call $macsOf (v128.load (local.get $slot))))
    (i32.store8 offset=$REPEATS (local.get $i) (i32.const 0)))

  ;; The MAC addresses of a frame that begins with $bytes, as their column has them: destination and source, each as 16 and
  ;; 32 bits in network order.
  (func $macsOf (param $bytes v128) (result v128)
    (i8x16.shuffle 1 0 16 16 5 4 3 2 7 6 16 16 11 10 9 8 (local.get $bytes) (v128.const i64x2 0 0)))

  ;; Arena offset of the frame in slot $i of the batch at $at.
  (func $slotOf (param $at i64) (param $i i32) (result i64)
    (i64.add
      (i64.add (local.get $at) (i64.add (global.get $SLOTS) (global.get $HEADROOM)))
      (i64.mul (i64.extend_i32_u (local.get $i)) (global.get $SLOT_BYTES))))

  ;; Copies prefix and first bytes of a frame into its slot, and trims its buffers by what was copied.
  (func $gatherFrame (param $at i64) (param $frame i32) (param $slot i64) (param $prefix i32)
    (local $i i64) (local $to i64)
    (local $length i32) (local $left i32) (local $here i32)
    (local $read i32) (local $stop i32)
    (local.set $i (i64.add (local.get $at) (i64.shl (i64.extend_i32_u (local.get $frame)) (i64.const 2))))
    (local.set $length (i32.load offset=$LENGTH (local.get $i)))
    (local.set $length
      (select (local.get $length) (global.get $HEADER_BYTES)
        (i32.lt_u (local.get $length) (global.get $HEADER_BYTES))))
    (local.set $to (i64.sub (local.get $slot) (i64.extend_i32_u (local.get $prefix))))
    (local.set $left (i32.add (local.get $length) (local.get $prefix)))
    (local.set $read (i32.add (i32.load offset=$FIRST_SEGMENT (local.get $i)) (i32.const 1)))
    (local.set $stop (i32.add (local.get $read) (i32.load offset=$SEGMENT_COUNT (local.get $i))))
    (block $full
      (loop $buffer
        (local.set $here (i32.load (call $segmentLength (local.get $at) (local.get $read))))
        (if (i32.gt_u (local.get $here) (local.get $left))
          (then
            (call $pull (local.get $to) (call $segmentAddress (local.get $at) (local.get $read)) (local.get $left))
            (i32.store (call $segmentLength (local.get $at) (local.get $read))
              (i32.sub (local.get $here) (local.get $left)))
            (f64.store (call $segmentAddress (local.get $at) (local.get $read))
              (f64.add
                (f64.load (call $segmentAddress (local.get $at) (local.get $read)))
                (f64.convert_i32_u (local.get $left))))
            (br $full)))
        (call $pull (local.get $to) (call $segmentAddress (local.get $at) (local.get $read)) (local.get $here))
        (local.set $to (i64.add (local.get $to) (i64.extend_i32_u (local.get $here))))
        (local.set $left (i32.sub (local.get $left) (local.get $here)))
        (local.set $read (i32.add (local.get $read) (i32.const 1)))
        (br_if $buffer (local.get $left))))
    ;; The slot stands in for what was copied.
    (local.set $read (i32.sub (local.get $read) (i32.const 1)))
    (f64.store (call $segmentAddress (local.get $at) (local.get $read))
      (f64.convert_i64_u (i64.add (global.get $base) (local.get $slot))))
    (i32.store (call $segmentLength (local.get $at) (local.get $read)) (local.get $length))
    (i32.store offset=$FIRST_SEGMENT (local.get $i) (local.get $read))
    (i32.store offset=$SEGMENT_COUNT (local.get $i) (i32.sub (local.get $stop) (local.get $read))))

  ;; Puts a virtio-net header into the columns of frame $frame, whose columns of bytes begin at $i: flags and gso_type are
  ;; $kind, and the others are read at $from; where both are 0 they mean nothing.
  (func $noteOffloads (param $i i64) (param $frame i32) (param $kind i32) (param $from i64)
    (i32.store8 offset=$FLAGS (local.get $i) (local.get $kind))
    (i32.store8 offset=$GSO_TYPE (local.get $i) (i32.shr_u (local.get $kind) (i32.const 8)))
    (if (local.get $kind)
      (then
        (local.set $i (i64.add (local.get $i) (i64.extend_i32_u (local.get $frame))))
        (i32.store16 offset=$HDR_LEN (local.get $i) (i32.load16_u offset=2 (local.get $from)))
        (i32.store16 offset=$GSO_SIZE (local.get $i) (i32.load16_u offset=4 (local.get $from)))
        (i32.store16 offset=$CSUM_START (local.get $i) (i32.load16_u offset=6 (local.get $from)))
        (i32.store16 offset=$CSUM_OFFSET (local.get $i) (i32.load16_u offset=8 (local.get $from))))))

  ;; FrameBatch.place: writes frames $first to $end - 1 of the batch at arena offset $batch to where their placeTo says,
  ;; each with a virtio-net header of $header bytes in front.
  (func (export "place") (param $batch i32) (param $first i32) (param $end i32) (param $header i32)
    (local $at i64) (local $to f64) (local $t i64) (local $i i32)
    (local.set $at (i64.extend_i32_u (local.get $batch)))
    (local.set $i (local.get $first))
    (loop $touch
      (if (i32.lt_u (local.get $i) (local.get $end))
        (then
          (local.set $t
            (call $offsetOf
              (f64.load offset=$PLACE_TO
                (i64.add (local.get $at) (i64.shl (i64.extend_i32_u (local.get $i)) (i64.const 3))))))
          (if (i64.eqz (i64.shr_u (local.get $t) (i64.const 34)))
            (then
              (call $touchPlace
                (local.get $t)
                (i64.extend_i32_u (local.get $header))
                (i32.load offset=$LENGTH
                  (i64.add (local.get $at) (i64.shl (i64.extend_i32_u (local.get $i)) (i64.const 2)))))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $touch))))
    (loop $next
      (if (i32.lt_u (local.get $first) (local.get $end))
        (then
          (local.set $to
            (f64.load offset=$PLACE_TO
              (i64.add (local.get $at) (i64.shl (i64.extend_i32_u (local.get $first)) (i64.const 3)))))
          (local.set $t (call $offsetOf (local.get $to)))
          (if (i64.eqz (i64.shr_u (local.get $t) (i64.const 34)))
            (then (call $placeNear (local.get $at) (local.get $first) (local.get $t) (local.get $header)))
            (else (call $placeFar (local.get $at) (local.get $first) (local.get $to) (local.get $header))))
          (local.set $first (i32.add (local.get $first) (i32.const 1)))
          (br $next)))))

  ;; $placeNear for an absolute address outside of the arena.
  (func $placeFar (param $at i64) (param $frame i32) (param $to f64) (param $header i32)
    (local $i i64) (local $segment i32) (local $more i32) (local $n i32) (local $from i64)
    (local.set $i (i64.add (local.get $at) (i64.shl (i64.extend_i32_u (local.get $frame)) (i64.const 2))))
    (local.set $segment (i32.load offset=$FIRST_SEGMENT (local.get $i)))
    (local.set $more (i32.load offset=$SEGMENT_COUNT (local.get $i)))
    (local.set $n (i32.load (call $segmentLength (local.get $at) (local.get $segment))))
    (local.set $from
      (i64.sub (call $slotOf (local.get $at) (local.get $frame)) (i64.extend_i32_u (local.get $header))))
    (call $writeNetHeader (local.get $at) (local.get $frame) (local.get $from) (local.get $header))
    (local.set $n (i32.add (local.get $header) (local.get $n)))
    (call $farCopy (local.get $to) (f64.convert_i64_u (i64.add (global.get $base) (local.get $from))) (local.get $n))
    (loop $rest
      (local.set $more (i32.sub (local.get $more) (i32.const 1)))
      (if (local.get $more)
        (then
          (local.set $segment (i32.add (local.get $segment) (i32.const 1)))
          (local.set $to (f64.add (local.get $to) (f64.convert_i32_s (local.get $n))))
          (local.set $n (i32.load (call $segmentLength (local.get $at) (local.get $segment))))
          (call $farCopy
            (local.get $to) (f64.load (call $segmentAddress (local.get $at) (local.get $segment))) (local.get $n))
          (br $rest)))))

  ;; Writes the columns of a frame as a virtio-net header of $bytes to arena offset $to; num_buffers is 1.
  ;;
  ;; What stands there already is not written again: most headers are all zeros, a buffer that comes back has the one of
  ;; its last frame, and a cache line that nobody writes to stays with both processors.
  (func $writeNetHeader (param $at i64) (param $frame i32) (param $to i64) (param $bytes i32)
    (local $i i64) (local $kind i32) (local $first i64) (local $rest i32)
    (local.set $i (i64.add (local.get $at) (i64.extend_i32_u (local.get $frame))))
    (local.set $kind
      (i32.or
        (i32.load8_u offset=$FLAGS (local.get $i))
        (i32.shl (i32.load8_u offset=$GSO_TYPE (local.get $i)) (i32.const 8))))
    ;; The first eight bytes, and csum_offset with num_buffers above.
    (if (local.get $kind)
      (then
        (local.set $i (i64.add (local.get $i) (i64.extend_i32_u (local.get $frame))))
        (local.set $first
          (i64.or
            (i64.or
              (i64.extend_i32_u (local.get $kind))
              (i64.shl (i64.load16_u offset=$HDR_LEN (local.get $i)) (i64.const 16)))
            (i64.or
              (i64.shl (i64.load16_u offset=$GSO_SIZE (local.get $i)) (i64.const 32))
              (i64.shl (i64.load16_u offset=$CSUM_START (local.get $i)) (i64.const 48)))))
        (local.set $rest (i32.load16_u offset=$CSUM_OFFSET (local.get $i)))))
    (if (i64.ne (i64.load (local.get $to)) (local.get $first))
      (then (i64.store (local.get $to) (local.get $first))))
    (if (i32.ge_u (local.get $bytes) (global.get $NET_HDR_MRG_RXBUF_BYTES))
      (then
        (local.set $rest (i32.or (local.get $rest) (i32.const 0x10000)))
        (if (i32.ne (i32.load offset=8 (local.get $to)) (local.get $rest))
          (then (i32.store offset=8 (local.get $to) (local.get $rest)))))
      (else
        (if (i32.ne (i32.load16_u offset=8 (local.get $to)) (local.get $rest))
          (then (i32.store16 offset=8 (local.get $to) (local.get $rest)))))))

  (func $segmentAddress (param $at i64) (param $index i32) (result i64)
    (i64.add (i64.add (local.get $at) (global.get $SEGMENT_ADDRESS))
      (i64.shl (i64.extend_i32_u (local.get $index)) (i64.const 3))))

  (func $segmentLength (param $at i64) (param $index i32) (result i64)
    (i64.add (i64.add (local.get $at) (global.get $SEGMENT_LENGTH))
      (i64.shl (i64.extend_i32_u (local.get $index)) (i64.const 2))))

  ;; Copies $n bytes from the absolute address that stands at $where to arena offset $to.
  (func $pull (param $to i64) (param $where i64) (param $n i32)
    (local $from i64)
    (local.set $from (i64.sub (i64.reinterpret_f64 (f64.add (f64.load (local.get $where)) (f64.const 0x1p52))) (global.get $origin)))
    (if (i64.eqz (i64.shr_u (local.get $from) (i64.const 34)))
      (then (call $near (local.get $to) (local.get $from) (local.get $n)))
      (else
        (call $farCopy
          (f64.convert_i64_u (i64.add (local.get $to) (global.get $base)))
          (f64.load (local.get $where))
          (local.get $n)))))

  ;; Ones' complement sum (RFC 1071) of $n bytes at an absolute address, folded to 16 bits, in network order.
  (func (export "sum") (param $address f64) (param $n i32) (result i32)
    (local $from i64)
    (local.set $from (i64.sub (i64.reinterpret_f64 (f64.add (local.get $address) (f64.const 0x1p52))) (global.get $origin)))
    (if (i64.eqz (i64.shr_u (local.get $from) (i64.const 34)))
      (then (return (call $nearSum (local.get $from) (local.get $from) (local.get $n) (i32.const 0)))))
    (call $farSum (local.get $address) (local.get $n)))

  ;; copy and sum in one pass: what is summed is what was written.
  (func (export "copySum") (param $to f64) (param $from f64) (param $n i32) (result i32)
    (local $t i64) (local $f i64)
    (local.set $t (i64.sub (i64.reinterpret_f64 (f64.add (local.get $to) (f64.const 0x1p52))) (global.get $origin)))
    (local.set $f (i64.sub (i64.reinterpret_f64 (f64.add (local.get $from) (f64.const 0x1p52))) (global.get $origin)))
    (if (i64.eqz (i64.shr_u (i64.or (local.get $t) (local.get $f)) (i64.const 34)))
      (then (return (call $nearSum (local.get $t) (local.get $f) (local.get $n) (i32.const 1)))))
    (call $farCopy (local.get $to) (local.get $from) (local.get $n))
    ;; Only the destination is ours to read twice.
    (if (i64.eqz (i64.shr_u (local.get $t) (i64.const 34)))
      (then (return (call $nearSum (local.get $t) (local.get $t) (local.get $n) (i32.const 0)))))
    (call $farSum (local.get $to) (local.get $n)))

  (func $nearSum (param $to i64) (param $from i64) (param $n i32) (param $store i32) (result i32)
    (local $sums v128) (local $v v128) (local $w v128) (local $x v128) (local $y v128) (local $total i64) (local $word i32)
    ;; A 16-bit word per half lane: eight of them a step and lane at the most, far below 2^32 for the longest frame.
    (loop $four
      (if (i32.ge_u (local.get $n) (i32.const 64))
        (then
          (local.set $v (v128.load (local.get $from)))
          (local.set $w (v128.load offset=16 (local.get $from)))
          (local.set $x (v128.load offset=32 (local.get $from)))
          (local.set $y (v128.load offset=48 (local.get $from)))
          (if (local.get $store)
            (then
              (v128.store (local.get $to) (local.get $v))
              (v128.store offset=16 (local.get $to) (local.get $w))
              (v128.store offset=32 (local.get $to) (local.get $x))
              (v128.store offset=48 (local.get $to) (local.get $y))))
          (local.set $sums
            (i32x4.add
              (i32x4.add (local.get $sums)
                (i32x4.add
                  (i32x4.extadd_pairwise_i16x8_u (local.get $v)) (i32x4.extadd_pairwise_i16x8_u (local.get $w))))
              (i32x4.add
                (i32x4.extadd_pairwise_i16x8_u (local.get $x)) (i32x4.extadd_pairwise_i16x8_u (local.get $y)))))
          (local.set $from (i64.add (local.get $from) (i64.const 64)))
          (local.set $to (i64.add (local.get $to) (i64.const 64)))
          (local.set $n (i32.sub (local.get $n) (i32.const 64)))
          (br $four))))
    (loop $vectors
      (if (i32.ge_u (local.get $n) (i32.const 16))
        (then
          (local.set $v (v128.load (local.get $from)))
          (if (local.get $store) (then (v128.store (local.get $to) (local.get $v))))
          (local.set $sums (i32x4.add (local.get $sums) (i32x4.extadd_pairwise_i16x8_u (local.get $v))))
          (local.set $from (i64.add (local.get $from) (i64.const 16)))
          (local.set $to (i64.add (local.get $to) (i64.const 16)))
          (local.set $n (i32.sub (local.get $n) (i32.const 16)))
          (br $vectors))))
    (local.set $total
      (i64.add
        (i64.add (i64.extend_i32_u (i32x4.extract_lane 0 (local.get $sums)))
          (i64.extend_i32_u (i32x4.extract_lane 1 (local.get $sums))))
        (i64.add (i64.extend_i32_u (i32x4.extract_lane 2 (local.get $sums)))
          (i64.extend_i32_u (i32x4.extract_lane 3 (local.get $sums))))))
    (loop $words
      (if (i32.ge_u (local.get $n) (i32.const 2))
        (then
          (local.set $word (i32.load16_u (local.get $from)))
          (if (local.get $store) (then (i32.store16 (local.get $to) (local.get $word))))
          (local.set $total (i64.add (local.get $total) (i64.extend_i32_u (local.get $word))))
          (local.set $from (i64.add (local.get $from) (i64.const 2)))
          (local.set $to (i64.add (local.get $to) (i64.const 2)))
          (local.set $n (i32.sub (local.get $n) (i32.const 2)))
          (br $words))))
    (if (local.get $n)
      (then
        (local.set $word (i32.load8_u (local.get $from)))
        (if (local.get $store) (then (i32.store8 (local.get $to) (local.get $word))))
        (local.set $total (i64.add (local.get $total) (i64.extend_i32_u (local.get $word))))))
    ;; Fold to 16 bits, and turn the bytes round: the words were read in the machine's order (RFC 1071 §2 (B)).
    (local.set $total (i64.add (i64.and (local.get $total) (i64.const 0xffffffff)) (i64.shr_u (local.get $total) (i64.const 32))))
    (local.set $total (i64.add (i64.and (local.get $total) (i64.const 0xffff)) (i64.shr_u (local.get $total) (i64.const 16))))
    (local.set $total (i64.add (i64.and (local.get $total) (i64.const 0xffff)) (i64.shr_u (local.get $total) (i64.const 16))))
    (local.set $total (i64.add (i64.and (local.get $total) (i64.const 0xffff)) (i64.shr_u (local.get $total) (i64.const 16))))
    (local.set $word (i32.wrap_i64 (local.get $total)))
    (i32.or
      (i32.shl (i32.and (local.get $word) (i32.const 0xff)) (i32.const 8))
      (i32.shr_u (local.get $word) (i32.const 8))))

  ;; ---- descriptor rings of the 82599 (nic/driver): 16 bytes each, $mask + 1 of them, at address $ring

  ;; ReceiveRing.poll: looks at up to $most descriptors from $scan on, while each is a whole frame without an error, of up to
  ;; $bufferBytes: DD and EOP set, RXE clear (bits 0, 1 and 29 of the third word; the length is the lower half of the fourth).
  ;; Notes their lengths, 16 bits each by descriptor, at address $lengths. Gives how many.
  (func (export "receiveDescriptors")
    (param $ring f64) (param $mask i32) (param $scan i32) (param $most i32) (param $bufferBytes i32) (param $lengths f64)
    (result i32)
    (local $r i64) (local $l i64) (local $i i64) (local $word i64) (local $length i32) (local $n i32)
    (local.set $r (call $offsetOf (local.get $ring)))
    (local.set $l (call $offsetOf (local.get $lengths)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $n) (local.get $most)))
        (local.set $i
          (i64.extend_i32_u (i32.and (i32.add (local.get $scan) (local.get $n)) (local.get $mask))))
        ;; Both words at once: DD is never read after the length.
        (local.set $word (i64.load offset=8 (i64.add (local.get $r) (i64.shl (local.get $i) (i64.const 4)))))
        (br_if $done (i64.ne (i64.and (local.get $word) (i64.const 0x20000003)) (i64.const 3)))
        (local.set $length
          (i32.and (i32.wrap_i64 (i64.shr_u (local.get $word) (i64.const 32))) (i32.const 0xffff)))
        (br_if $done (i32.gt_u (local.get $length) (local.get $bufferBytes)))
        (i32.store16 (i64.add (local.get $l) (i64.shl (local.get $i) (i64.const 1))) (local.get $length))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br $next)))
    (local.get $n))

  ;; ReceiveRing.release: gives $count descriptors from $first on their buffers again, whose bus addresses stand, 64 bits
  ;; each by descriptor, at address $addresses.
  (func (export "offerDescriptors")
    (param $ring f64) (param $mask i32) (param $first i32) (param $count i32) (param $addresses f64)
    (local $r i64) (local $a i64) (local $i i64)
    (local.set $r (call $offsetOf (local.get $ring)))
    (local.set $a (call $offsetOf (local.get $addresses)))
    (loop $next
      (if (local.get $count)
        (then
          (local.set $i (i64.extend_i32_u (i32.and (local.get $first) (local.get $mask))))
          (v128.store (i64.add (local.get $r) (i64.shl (local.get $i) (i64.const 4)))
            (v128.load64_zero (i64.add (local.get $a) (i64.shl (local.get $i) (i64.const 3)))))
          (local.set $first (i32.add (local.get $first) (i32.const 1)))
          (local.set $count (i32.sub (local.get $count) (i32.const 1)))
          (br $next)))))

  ;; TransmitRing.postBuffers: posts $count frames from descriptor $next on, each in a buffer of its own: $first, $first + 1, …
  ;; of $bufferMask + 1. $addresses and $lengths as above, by buffer; $command is what the third word has besides the length.
  ;; The fourth word is PAYLEN, from bit 14 on.
  (func (export "postDescriptors")
    (param $ring f64) (param $mask i32) (param $next i32) (param $addresses f64) (param $lengths f64)
    (param $bufferMask i32) (param $first i32) (param $count i32) (param $command i32)
    (local $r i64) (local $a i64) (local $l i64) (local $b i64) (local $d i64) (local $length i32)
    (local.set $r (call $offsetOf (local.get $ring)))
    (local.set $a (call $offsetOf (local.get $addresses)))
    (local.set $l (call $offsetOf (local.get $lengths)))
    (loop $again
      (if (local.get $count)
        (then
          (local.set $b (i64.extend_i32_u (i32.and (local.get $first) (local.get $bufferMask))))
          (local.set $d
            (i64.add (local.get $r)
              (i64.shl (i64.extend_i32_u (i32.and (local.get $next) (local.get $mask))) (i64.const 4))))
          (local.set $length (i32.load16_u (i64.add (local.get $l) (i64.shl (local.get $b) (i64.const 1)))))
          (i64.store (local.get $d) (i64.load (i64.add (local.get $a) (i64.shl (local.get $b) (i64.const 3)))))
          (i64.store offset=8 (local.get $d)
            (i64.or
              (i64.extend_i32_u (i32.or (local.get $length) (local.get $command)))
              (i64.shl (i64.extend_i32_u (local.get $length)) (i64.const 46))))
          (local.set $first (i32.add (local.get $first) (i32.const 1)))
          (local.set $next (i32.add (local.get $next) (i32.const 1)))
          (local.set $count (i32.sub (local.get $count) (i32.const 1)))
          (br $again))))))
