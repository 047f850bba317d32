#include "mmu/mapped_device_memory.h"

#include <sys/mman.h>

#include <cstring>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "base/check.h"
#include "mmu/guest_copy.h"

namespace quire {
namespace {

class Pieces final : public DeviceMemory::Buffer {
 public:
  explicit Pieces(std::vector<absl::Span<std::byte>> pieces) : pieces_(std::move(pieces)) {}
  absl::Span<const absl::Span<std::byte>> pieces() const override { return pieces_; }

 private:
  const std::vector<absl::Span<std::byte>> pieces_;
};

}  // namespace

MappedDeviceMemory::MappedDeviceMemory(absl::Span<std::byte> memory, GuestRegions regions)
    : memory_(memory), regions_(std::move(regions)) {
  const GfnRange all(Gfn(0), PageCount(memory.size() / kPageSize));
  QUIRE_CHECK(absl::c_all_of(regions_, [all](const GuestRegion& region) { return all.contains(region.pages); }));
}

absl::Status MappedDeviceMemory::Read(Gpa from, absl::Span<std::byte> to) {
  return ForEachPart(regions_, from, to, [this](const MemoryPart& part, absl::Span<std::byte> bytes) {
    CopyFromGuest(BytesOf(part).data(), bytes);
    return absl::OkStatus();
  });
}

absl::Status MappedDeviceMemory::Write(Gpa to, absl::Span<const std::byte> from) {
  return ForEachPart(regions_, to, from, [this](const MemoryPart& part, absl::Span<const std::byte> bytes) {
    CopyToGuest(BytesOf(part).data(), bytes);
    return absl::OkStatus();
  });
}

absl::StatusOr<std::unique_ptr<DeviceMemory::Buffer>> MappedDeviceMemory::Wire(Gpa begin, ByteCount size) {
  const absl::StatusOr<MemoryParts> parts = PartsOf(regions_, begin, size);
  if (!parts.ok()) return parts.status();
  std::vector<absl::Span<std::byte>> pieces;
  for (const MemoryPart& part : *parts) pieces.push_back(BytesOf(part));
  return std::make_unique<Pieces>(std::move(pieces));
}

absl::Status MappedDeviceMemory::Discard(Gpa begin, PageCount size) {
  const absl::StatusOr<MemoryParts> parts = PartsOfPages(regions_, begin, size);
  if (!parts.ok()) return parts.status();
  for (const MemoryPart& part : *parts) {
    const absl::Span<std::byte> bytes = BytesOf(part);
    // Refused for locked pages, and then perhaps half done.
    if (madvise(bytes.data(), bytes.size(), MADV_DONTNEED) != 0) std::memset(bytes.data(), 0, bytes.size());
  }
  return absl::OkStatus();
}

}  // namespace quire
