#include "mmu/guest_device_memory.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/container/inlined_vector.h"
#include "base/check.h"

namespace quire {

// Wires part by part. Its destructor unwires what has been wired so far, so it is also what undoes half of a Wire.
class GuestDeviceMemory::WiredBuffer final : public Buffer {
 public:
  explicit WiredBuffer(GuestDeviceMemory& owner) : owner_(owner) { owner_.buffers_.Add(); }
  ~WiredBuffer() override {
    for (GfnRange pages : wired_) owner_.memory_.Unwire(pages, WiredBy::kDevice);
    owner_.buffers_.Subtract();
  }

  absl::Status Add(const MemoryPart& part) {
    if (absl::Status status = owner_.memory_.Wire(part.pages(), WiredBy::kDevice); !status.ok()) return status;
    wired_.push_back(part.pages());
    const absl::StatusOr<FrameRanges> frames = owner_.memory_.WiredFrames(part.pages());
    if (!frames.ok()) return frames.status();
    AddPieces(part, *frames);
    return absl::OkStatus();
  }
  absl::Span<const absl::Span<std::byte>> pieces() const override { return pieces_; }

 private:
  // The part may begin and end within a page.
  void AddPieces(const MemoryPart& part, const FrameRanges& frames) {
    uint64_t skip = part.offset.in_bytes() % kPageSize;
    uint64_t left = part.size.in_bytes();
    for (const FrameRange& range : frames) {
      const uint64_t size = std::min(range.size().in_bytes() - skip, left);
      AddPiece(owner_.memory_.HostAddress(range.begin()) + skip, size);
      left -= size;
      skip = 0;
    }
  }
  void AddPiece(std::byte* begin, uint64_t size) {
    if (!pieces_.empty() && pieces_.back().data() + pieces_.back().size() == begin) {
      pieces_.back() = absl::MakeSpan(pieces_.back().data(), pieces_.back().size() + size);
    } else {
      pieces_.push_back(absl::MakeSpan(begin, size));
    }
  }

  GuestDeviceMemory& owner_;
  absl::InlinedVector<GfnRange, 2> wired_;
  std::vector<absl::Span<std::byte>> pieces_;
};

GuestDeviceMemory::GuestDeviceMemory(GuestMemory& memory, GuestRegions regions)
    : memory_(memory), regions_(std::move(regions)), iotlb_(memory) {
  const GfnRange all(Gfn(0), memory.size());
  QUIRE_CHECK(absl::c_all_of(regions_, [all](const GuestRegion& region) { return all.contains(region.pages); }));
}

GuestDeviceMemory::~GuestDeviceMemory() { QUIRE_CHECK(buffers_.value() == 0); }

absl::Status GuestDeviceMemory::Read(Gpa from, absl::Span<std::byte> to) {
  return ForEachPart(regions_, from, to, [this](const MemoryPart& part, absl::Span<std::byte> bytes) {
    return iotlb_.Read(part.offset, bytes);
  });
}

absl::Status GuestDeviceMemory::Write(Gpa to, absl::Span<const std::byte> from) {
  return ForEachPart(regions_, to, from, [this](const MemoryPart& part, absl::Span<const std::byte> bytes) {
    return iotlb_.Write(part.offset, bytes);
  });
}

absl::StatusOr<std::unique_ptr<DeviceMemory::Buffer>> GuestDeviceMemory::Wire(Gpa begin, ByteCount size) {
  const absl::StatusOr<MemoryParts> parts = PartsOf(regions_, begin, size);
  if (!parts.ok()) return parts.status();
  auto buffer = std::make_unique<WiredBuffer>(*this);
  for (const MemoryPart& part : *parts) {
    if (absl::Status status = buffer->Add(part); !status.ok()) return status;
  }
  return buffer;
}

absl::Status GuestDeviceMemory::Discard(Gpa begin, PageCount size) {
  const absl::StatusOr<MemoryParts> parts = PartsOfPages(regions_, begin, size);
  if (!parts.ok()) return parts.status();
  for (const MemoryPart& part : *parts) memory_.Discard(part.pages());
  return absl::OkStatus();
}

}  // namespace quire
