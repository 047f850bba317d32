// A disk for a guest: a raw image in a file of the host.
//
//   request, readable:  type, priority, sector (16 bytes); then what is to be written, or the ranges to be discarded
//            writable:  what is read; then one byte, the status
//
// Data goes between the file and the guest's memory by one system call, into pages that are wired meanwhile, a bounded
// number at a time.
//
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.2; <linux/virtio_blk.h>.
#ifndef QUIRE_VMM_VIRTIO_BLK_H_
#define QUIRE_VMM_VIRTIO_BLK_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "mmu/device_memory.h"
#include "vmm/virtio/disk_image.h"
#include "vmm/virtio/virtio_device.h"
#include "vmm/virtio/virtqueue.h"

namespace quire {

struct BlkCounters {
  Counter requests;
  Counter bytes_read;
  Counter bytes_written;
  Counter flushes;
  Counter refused;      // requests that were not to be understood or not allowed, answered so
  Counter host_errors;  // requests that the host failed, or whose memory was not to be had
  Counter copied;       // pieces that went through a buffer of ours, for their memory could not be wired
};

class VirtioBlk final : public VirtioDevice {
 public:
  // What is wired at a time, but for its first and last page. As much as Linux asks for at once on a good disk, and a
  // small part of what may be wired in all.
  static constexpr ByteCount kMostWired = ByteCount::KiB(256);
  static constexpr uint32_t kMostSegments = 254;  // of data, in one request: as many as fit in a queue with the rest
  static constexpr uint32_t kMostRanges = 16;     // to be discarded or zeroed by one request
  // Of one of these. Where the host has to write zeros itself, for as long as that takes no other request is served.
  static constexpr uint32_t kMostSectorsInRange = 32 << 11;  // 32 MiB

  // `memory` outlives it.
  VirtioBlk(DiskImage image, DeviceMemory& memory);

  const char* name() const override { return "virtio-blk"; }
  uint32_t id() const override;
  uint64_t features() const override;
  std::vector<uint16_t> queue_sizes() const override { return {256}; }
  void ReadConfig(uint64_t offset, absl::Span<std::byte> data) override;
  absl::Status Process(int queue, Virtqueue& virtqueue) override;

  const BlkCounters& counters() const { return counters_; }

 private:
  enum class Direction : uint8_t { kFromFile, kToFile };
  struct Range {
    ByteCount offset;
    ByteCount size;
    bool unmap;
  };
  class Batch;

  // Does what the request asks for. OK is VIRTIO_BLK_S_OK, Unimplemented VIRTIO_BLK_S_UNSUPP, and all else
  // VIRTIO_BLK_S_IOERR.
  absl::Status Serve(const Chain& chain);
  absl::Status Transfer(const Chain& chain, uint64_t sector, Direction direction);
  // Through a buffer of ours.
  absl::Status Copy(Segment segment, ByteCount offset, Direction direction);
  absl::Status SendId(const Chain& chain);
  absl::Status DiscardOrZero(const Chain& chain, uint32_t type);
  absl::StatusOr<std::vector<Range>> ReadRanges(const Chain& chain, uint32_t type) const;
  bool Holds(uint64_t sector, uint64_t sectors) const;
  absl::Status Count(const absl::Status& status);

  const DiskImage image_;
  DeviceMemory& memory_;
  BlkCounters counters_;
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_BLK_H_
