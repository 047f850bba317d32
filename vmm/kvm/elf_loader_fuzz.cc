// Any bytes: the loader refuses them or loads them, and what it accepts keeps its promises all the way to page tables.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/units.h"
#include "vmm/kvm/elf_loader.h"
#include "vmm/kvm/wired_memory.h"
#include "workloads/guest_abi.h"

namespace quire {
namespace {

constexpr ByteCount kLimit = ByteCount::MiB(4);

void CheckPromises(const ElfImage& image) {
  uint64_t end = QUIRE_IMAGE_BEGIN;
  bool entry_found = false;
  for (const ElfSegment& segment : image.segments) {
    QUIRE_CHECK(segment.address.value() >= end && segment.size > ByteCount());
    QUIRE_CHECK(segment.content.size() <= segment.size.in_bytes());
    end = segment.end();
    entry_found |= segment.executable && segment.address <= image.entry && image.entry.value() < end;
  }
  QUIRE_CHECK(end <= QUIRE_IMAGE_END && entry_found && image.pages().bytes() <= kLimit);
}

void LoadIt(const ElfImage& image) {
  const absl::StatusOr<WiredLayout> layout = PlanWiredMemory({.image = image, .memory = ByteCount::MiB(8), .aux = {}});
  QUIRE_CHECK(layout.ok());
  // Over-allocated for alignment.
  std::vector<std::byte> storage(layout->size.in_bytes() + kPageSize);
  const uint64_t misaligned = reinterpret_cast<uintptr_t>(storage.data()) % kPageSize;
  WiredMemory(*layout, absl::MakeSpan(storage).subspan(kPageSize - misaligned, layout->size.in_bytes())).Load(image, 0);
}

}  // namespace
}  // namespace quire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto image = quire::ParseElf("fuzz", {reinterpret_cast<const std::byte*>(data), size}, quire::kLimit);
  if (!image.ok()) return 0;
  quire::CheckPromises(*image);
  quire::LoadIt(*image);
  return 0;
}
