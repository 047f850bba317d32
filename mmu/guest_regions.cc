#include "mmu/guest_regions.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {
namespace {

// The region that holds the address; a guest has two or three. Not by the region's end, which may be 2^64.
const GuestRegion* RegionOf(const GuestRegions& regions, Gpa gpa) {
  const auto holds = [gpa](const GuestRegion& region) {
    return gpa >= region.gpa && gpa.value() - region.gpa.value() < region.pages.size().in_bytes();
  };
  const auto region = std::find_if(regions.begin(), regions.end(), holds);
  return region != regions.end() ? &*region : nullptr;
}

}  // namespace

absl::StatusOr<MemoryParts> PartsOf(const GuestRegions& regions, Gpa begin, ByteCount size) {
  MemoryParts parts;
  for (ByteCount done; done < size;) {
    const Gpa gpa = begin + done;  // wraps around at the end of the address space
    const GuestRegion* const region = gpa >= begin ? RegionOf(regions, gpa) : nullptr;
    if (region == nullptr) {
      return absl::OutOfRangeError(absl::StrCat("address 0x", absl::Hex(gpa.value()),
                                                " is not memory of the guest: ", size.in_bytes(), " bytes from 0x",
                                                absl::Hex(begin.value()), " on were wanted"));
    }
    const uint64_t within = gpa.value() - region->gpa.value();
    const ByteCount rest = ByteCount::Bytes(region->pages.size().in_bytes() - within);
    const MemoryPart part{.offset = ByteCount::Bytes((region->pages.begin() - Gfn(0)).in_bytes() + within),
                          .size = std::min(rest, size - done)};
    parts.push_back(part);
    done += part.size;
  }
  return parts;
}

absl::StatusOr<MemoryParts> PartsOfPages(const GuestRegions& regions, Gpa begin, PageCount size) {
  if (begin.offset_in_page() != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("address 0x", absl::Hex(begin.value()), " is not the beginning of a page of the guest"));
  }
  constexpr PageCount kMost(~uint64_t{0} >> kPageShift);  // whose size in bytes is a number
  return PartsOf(regions, begin, std::min(size, kMost).bytes());
}

Gpa AddressOf(const GuestRegions& regions, Gfn gfn) {
  const auto region =
      std::find_if(regions.begin(), regions.end(), [gfn](const GuestRegion& r) { return r.pages.contains(gfn); });
  QUIRE_CHECK(region != regions.end());
  return region->gpa + (gfn - region->pages.begin()).bytes();
}

}  // namespace quire
