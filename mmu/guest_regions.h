// Where a guest's memory lies in its physical address space, which has holes: devices, and on a PC all that is between
// 3 and 4 GiB.
#ifndef QUIRE_MMU_GUEST_REGIONS_H_
#define QUIRE_MMU_GUEST_REGIONS_H_

#include <optional>
#include <vector>

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

}  // namespace quire

#endif  // QUIRE_MMU_GUEST_REGIONS_H_
