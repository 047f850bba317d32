// The memory of a guest that is a mapping of this process and nothing more (the host kernel manages it), as its devices
// see it.
#ifndef QUIRE_MMU_MAPPED_DEVICE_MEMORY_H_
#define QUIRE_MMU_MAPPED_DEVICE_MEMORY_H_

#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "mmu/device_memory.h"
#include "mmu/guest_regions.h"

namespace quire {

// Thread safe. Wiring is nothing here: the host kernel takes care of what it transfers to and from.
class MappedDeviceMemory final : public DeviceMemory {
 public:
  // `memory` is private anonymous memory, page aligned, holds page 0 of the guest first, and outlives this; `regions`
  // lie within it.
  MappedDeviceMemory(absl::Span<std::byte> memory, GuestRegions regions);

  absl::Status Read(Gpa from, absl::Span<std::byte> to) override;
  absl::Status Write(Gpa to, absl::Span<const std::byte> from) override;
  absl::StatusOr<std::unique_ptr<Buffer>> Wire(Gpa begin, ByteCount size) override;
  // As of GuestDeviceMemory. What the guest has locked (mlock) keeps its memory, and reads as zero all the same.
  absl::Status Discard(Gpa begin, PageCount size) override;

 private:
  absl::Span<std::byte> BytesOf(const MemoryPart& part) const {
    return memory_.subspan(part.offset.in_bytes(), part.size.in_bytes());
  }

  const absl::Span<std::byte> memory_;
  const GuestRegions regions_;
};

}  // namespace quire

#endif  // QUIRE_MMU_MAPPED_DEVICE_MEMORY_H_
