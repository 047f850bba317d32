// Where a guest's memory lies in its physical address space, which has holes: devices, and on a PC all that is between
// 3 and 4 GiB.
#ifndef QUIRE_MMU_GUEST_REGIONS_H_
#define QUIRE_MMU_GUEST_REGIONS_H_

#include <cstddef>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"

namespace quire {

// Page pages.begin() of the guest's memory is at `gpa`, those after it follow. Here a Gfn numbers the pages of memory,
// without holes, as GuestMemory does; where there are none, it is the guest's own frame number.
struct GuestRegion {
  Gpa gpa;
  GfnRange pages;
};

// Regions in ascending order of both, none empty, none overlapping.
using GuestRegions = std::vector<GuestRegion>;

// A part of a guest's memory, without a hole: `size` bytes, not 0, from byte `offset` of the memory on.
struct MemoryPart {
  ByteCount offset;
  ByteCount size;

  Gfn first_page() const { return Gfn(offset.in_bytes() >> kPageShift); }
  // All pages that it touches.
  GfnRange pages() const { return GfnRange(first_page(), Gfn(0) + PageCount::Ceil(offset + size)); }
};
// Mostly one; two where regions meet.
using MemoryParts = absl::InlinedVector<MemoryPart, 2>;

// What `size` bytes of guest physical addresses from `begin` on are, in order; nothing, if `size` is 0. The arguments
// may be anything. Error: OutOfRange, an address among them is not memory.
absl::StatusOr<MemoryParts> PartsOf(const GuestRegions& regions, Gpa begin, ByteCount size);
// The same of whole pages. InvalidArgument: `begin` is not the beginning of one.
absl::StatusOr<MemoryParts> PartsOfPages(const GuestRegions& regions, Gpa begin, PageCount size);

// The address of a page, which is memory of the guest's.
Gpa AddressOf(const GuestRegions& regions, Gfn gfn);

// Calls use(part, bytes), in order, for the parts that addresses from `begin` on are, as many as `buffer` has bytes; it
// is given those bytes that are the part's. Errors: those of PartsOf, before any call; that of a call, which is the
// last.
template <class Byte, class Use>
absl::Status ForEachPart(const GuestRegions& regions, Gpa begin, absl::Span<Byte> buffer, Use use) {
  const absl::StatusOr<MemoryParts> parts = PartsOf(regions, begin, ByteCount::Bytes(buffer.size()));
  if (!parts.ok()) return parts.status();
  for (const MemoryPart& part : *parts) {
    const size_t size = part.size.in_bytes();
    if (absl::Status status = use(part, buffer.first(size)); !status.ok()) return status;
    buffer.remove_prefix(size);
  }
  return absl::OkStatus();
}

}  // namespace quire

#endif  // QUIRE_MMU_GUEST_REGIONS_H_
