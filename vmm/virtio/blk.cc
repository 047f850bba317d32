#include "vmm/virtio/blk.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

constexpr uint64_t kHeaderSize = sizeof(virtio_blk_outhdr);
constexpr uint64_t kStatusSize = 1;

absl::Status Refused(absl::string_view why) { return absl::InvalidArgumentError(why); }
absl::Status Unsupported(absl::string_view what) { return absl::UnimplementedError(what); }

template <class T>
absl::Status ReadAt(const Chain& chain, uint64_t offset, T& value) {
  return chain.Read(ByteCount::Bytes(offset), absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof value));
}

}  // namespace

// What is transferred by the next system call.
class VirtioBlk::Batch {
 public:
  Batch(VirtioBlk& disk, ByteCount offset, Direction direction) : disk_(disk), offset_(offset), direction_(direction) {}

  absl::Status Add(Segment segment) {
    if (size_ + segment.size > kMostWired) {
      if (absl::Status status = Run(); !status.ok()) return status;
    }
    auto buffer = disk_.memory_.Wire(segment.address, segment.size);
    const size_t wanted = buffer.ok() ? (*buffer)->pieces().size() : 0;
    if (wanted > DiskImage::kMostPieces) buffer = absl::ResourceExhaustedError("the pieces are too many");
    if (!buffer.ok() || pieces_.size() + wanted > DiskImage::kMostPieces) {
      if (absl::Status status = Run(); !status.ok()) return status;
    }
    if (!buffer.ok()) return CopyInstead(segment, buffer.status());
    pieces_.insert(pieces_.end(), (*buffer)->pieces().begin(), (*buffer)->pieces().end());
    size_ += segment.size;
    buffers_.push_back(*std::move(buffer));
    return absl::OkStatus();
  }

  absl::Status Run() {
    const absl::Status status =
        direction_ == Direction::kFromFile ? disk_.image_.Read(offset_, pieces_) : disk_.image_.Write(offset_, pieces_);
    offset_ += size_;
    size_ = ByteCount();
    pieces_.clear();
    buffers_.clear();
    return status;
  }

 private:
  // A guest that has wired much itself would find its disk broken otherwise.
  absl::Status CopyInstead(Segment segment, const absl::Status& why) {
    if (absl::IsOutOfRange(why)) return why;
    disk_.counters_.copied.Add();
    const absl::Status status = disk_.Copy(segment, offset_, direction_);
    offset_ += segment.size;
    return status;
  }

  VirtioBlk& disk_;
  ByteCount offset_;  // in the file, of the first piece
  const Direction direction_;
  ByteCount size_;
  std::vector<absl::Span<std::byte>> pieces_;
  std::vector<std::unique_ptr<DeviceMemory::Buffer>> buffers_;
};

VirtioBlk::VirtioBlk(DiskImage image, DeviceMemory& memory) : image_(std::move(image)), memory_(memory) {}

uint32_t VirtioBlk::id() const { return VIRTIO_ID_BLOCK; }

uint64_t VirtioBlk::features() const {
  const uint64_t always =
      FeatureBit(VIRTIO_BLK_F_SEG_MAX) | FeatureBit(VIRTIO_BLK_F_BLK_SIZE) | FeatureBit(VIRTIO_BLK_F_FLUSH);
  if (image_.read_only()) return always | FeatureBit(VIRTIO_BLK_F_RO);
  return always | FeatureBit(VIRTIO_BLK_F_DISCARD) | FeatureBit(VIRTIO_BLK_F_WRITE_ZEROES);
}

void VirtioBlk::ReadConfig(uint64_t offset, absl::Span<std::byte> data) {
  virtio_blk_config config = {};
  config.capacity = image_.sectors();
  config.seg_max = kMostSegments;
  config.blk_size = DiskImage::kSectorSize;
  if (!image_.read_only()) {
    config.max_discard_sectors = kMostSectorsInRange;
    config.max_discard_seg = kMostRanges;
    config.discard_sector_alignment = kPageSize / DiskImage::kSectorSize;  // of less no filesystem makes a hole
    config.max_write_zeroes_sectors = kMostSectorsInRange;
    config.max_write_zeroes_seg = kMostRanges;
    config.write_zeroes_may_unmap = 1;
  }
  CopyConfig(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&config), sizeof config), offset, data);
}

absl::Status VirtioBlk::Process(int, Virtqueue& virtqueue) {
  return virtqueue.ServeAll([this](const Chain& chain) -> absl::StatusOr<ByteCount> {
    if (chain.writable_size() == ByteCount()) return Refused("a disk request has no place for its status");
    counters_.requests.Add();
    const absl::Status served = Count(Serve(chain));
    const uint8_t answer = served.ok()                     ? VIRTIO_BLK_S_OK
                           : absl::IsUnimplemented(served) ? VIRTIO_BLK_S_UNSUPP
                                                           : VIRTIO_BLK_S_IOERR;
    const std::byte status[] = {static_cast<std::byte>(answer)};
    const absl::Status written = chain.Write(chain.writable_size() - ByteCount::Bytes(kStatusSize), status);
    if (!written.ok()) return written;
    return chain.writable_size();
  });
}

absl::Status VirtioBlk::Count(const absl::Status& status) {
  if (absl::IsInvalidArgument(status) || absl::IsUnimplemented(status) || absl::IsOutOfRange(status)) {
    counters_.refused.Add();
  } else if (!status.ok()) {
    counters_.host_errors.Add();
  }
  return status;
}

absl::Status VirtioBlk::Serve(const Chain& chain) {
  virtio_blk_outhdr header;
  if (absl::Status status = ReadAt(chain, 0, header); !status.ok()) return status;
  if (image_.read_only() && header.type != VIRTIO_BLK_T_IN && header.type != VIRTIO_BLK_T_FLUSH &&
      header.type != VIRTIO_BLK_T_GET_ID) {
    return Refused("the disk is read-only");
  }
  switch (header.type) {
    case VIRTIO_BLK_T_IN:
      return Transfer(chain, header.sector, Direction::kFromFile);
    case VIRTIO_BLK_T_OUT:
      return Transfer(chain, header.sector, Direction::kToFile);
    case VIRTIO_BLK_T_FLUSH:
      counters_.flushes.Add();
      return image_.read_only() ? absl::OkStatus() : image_.Flush();
    case VIRTIO_BLK_T_GET_ID:
      return SendId(chain);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
      return DiscardOrZero(chain, header.type);
    default:
      return Unsupported("such requests are not known");
  }
}

bool VirtioBlk::Holds(uint64_t sector, uint64_t sectors) const {
  return sector <= image_.sectors() && sectors <= image_.sectors() - sector;
}

absl::Status VirtioBlk::Transfer(const Chain& chain, uint64_t sector, Direction direction) {
  const bool reads = direction == Direction::kFromFile;
  const std::vector<Segment>& segments = reads ? chain.writable() : chain.readable();
  const ByteCount begin = ByteCount::Bytes(reads ? 0 : kHeaderSize);
  const ByteCount end = reads ? chain.writable_size() - ByteCount::Bytes(kStatusSize) : chain.readable_size();
  const uint64_t size = (end - begin).in_bytes();  // the header has been read: end is not below begin
  if (size % DiskImage::kSectorSize != 0) return Refused("a disk request is not for whole sectors");
  if (!Holds(sector, size / DiskImage::kSectorSize)) return Refused("a disk request is for sectors beyond the end");
  Batch batch(*this, ByteCount::Bytes(sector * DiskImage::kSectorSize), direction);
  absl::Status status = ForPieces(segments, begin, end, kMostWired, [&](Segment piece) { return batch.Add(piece); });
  if (status.ok()) status = batch.Run();
  if (status.ok()) (reads ? counters_.bytes_read : counters_.bytes_written).Add(size);
  return status;
}

absl::Status VirtioBlk::Copy(Segment segment, ByteCount offset, Direction direction) {
  std::array<std::byte, 16 << 10> buffer;
  return ForPieces({segment}, ByteCount(), segment.size, ByteCount::Bytes(buffer.size()), [&](Segment piece) {
    const absl::Span<std::byte> bytes = absl::MakeSpan(buffer).first(piece.size.in_bytes());
    absl::Status status;
    if (direction == Direction::kFromFile) {
      status = image_.Read(offset, {bytes});
      if (status.ok()) status = memory_.Write(piece.address, bytes);
    } else {
      status = memory_.Read(piece.address, bytes);
      if (status.ok()) status = image_.Write(offset, {bytes});
    }
    offset += piece.size;
    return status;
  });
}

// The file's name, as much of it as there is room for, and zeros.
absl::Status VirtioBlk::SendId(const Chain& chain) {
  std::array<std::byte, VIRTIO_BLK_ID_BYTES> id = {};
  const std::string name = image_.path().substr(image_.path().rfind('/') + 1);
  std::memcpy(id.data(), name.data(), std::min(name.size(), id.size()));
  const uint64_t room = chain.writable_size().in_bytes() - kStatusSize;
  return chain.Write(ByteCount(), absl::MakeConstSpan(id).first(std::min<uint64_t>(room, id.size())));
}

absl::Status VirtioBlk::DiscardOrZero(const Chain& chain, uint32_t type) {
  const absl::StatusOr<std::vector<Range>> ranges = ReadRanges(chain, type);
  if (!ranges.ok()) return ranges.status();
  for (const Range& range : *ranges) {
    if (range.size == ByteCount()) continue;
    const absl::Status status = type == VIRTIO_BLK_T_DISCARD
                                    ? image_.Discard(range.offset, range.size)
                                    : image_.WriteZeroes(range.offset, range.size, range.unmap);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<VirtioBlk::Range>> VirtioBlk::ReadRanges(const Chain& chain, uint32_t type) const {
  const uint64_t size = chain.readable_size().in_bytes() - kHeaderSize;
  const uint64_t count = size / sizeof(virtio_blk_discard_write_zeroes);
  if (size % sizeof(virtio_blk_discard_write_zeroes) != 0 || count == 0 || count > kMostRanges) {
    return Refused(absl::StrCat("a request names ranges of sectors in ", size, " bytes"));
  }
  // Only of what is to be zeroed may the guest say that it need not keep its room.
  const uint32_t allowed = type == VIRTIO_BLK_T_WRITE_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
  std::vector<Range> ranges;
  for (uint64_t i = 0; i < count; ++i) {
    virtio_blk_discard_write_zeroes range;
    if (absl::Status status = ReadAt(chain, kHeaderSize + i * sizeof range, range); !status.ok()) return status;
    if ((range.flags & ~allowed) != 0) return Unsupported("a range of sectors has flags that are not known");
    if (range.num_sectors > kMostSectorsInRange) return Refused("a range has more sectors than a request may");
    if (!Holds(range.sector, range.num_sectors)) return Refused("a range of sectors lies beyond the end");
    ranges.push_back({.offset = ByteCount::Bytes(range.sector * DiskImage::kSectorSize),
                      .size = ByteCount::Bytes(uint64_t{range.num_sectors} * DiskImage::kSectorSize),
                      .unmap = (range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0});
  }
  return ranges;
}

}  // namespace quire
