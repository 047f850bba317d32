// How badly free memory is scattered, by the lengths of the free runs alone: Linux's two indexes.
//
// After mm/vmstat.c (unusable_free_index, __fragmentation_index), which follows M. Gorman and P. Healy, "Measuring the
// Impact of the Linux Memory Manager", and is what Linux's compaction decides by (sysctl vm.extfrag_threshold).
#ifndef QUIRE_GUEST_FRAMES_FRAGMENTATION_H_
#define QUIRE_GUEST_FRAMES_FRAGMENTATION_H_

#include <array>
#include <cstdint>

#include "base/units.h"
#include "guest/frames/buddy.h"

namespace quire {

// Free runs of each order.
using FreeRuns = std::array<uint64_t, BuddyAllocator::kOrders>;

// What an index is computed from, for one order of allocation.
struct FreeRunTotals {
  uint64_t runs = 0;
  uint64_t pages = 0;
  uint64_t suitable_pages = 0;  // in runs that are large enough

  constexpr FreeRunTotals(const FreeRuns& free, int order) {
    for (int o = 0; o < BuddyAllocator::kOrders; ++o) {
      runs += free[o];
      pages += free[o] << o;
      if (o >= order) suitable_pages += free[o] << o;
    }
  }
};

// The part of free memory, in thousandths, that an allocation of `order` cannot use. 1000 if nothing is free.
constexpr int UnusableFreeIndex(const FreeRuns& free, int order) {
  const FreeRunTotals totals(free, order);
  if (totals.pages == 0) return 1000;
  return static_cast<int>((totals.pages - totals.suitable_pages) * 1000 / totals.pages);
}

// Why an allocation of `order` would fail: towards 0 for lack of memory, towards 1000 because what is free is
// scattered; -1000 if it would not fail.
constexpr int FragmentationIndex(const FreeRuns& free, int order) {
  const FreeRunTotals totals(free, order);
  if (totals.runs == 0) return 0;
  if (totals.suitable_pages > 0) return -1000;
  const uint64_t requested = PageCount::OfOrder(order).in_pages();
  const uint64_t lack = (1000 + totals.pages * 1000 / requested) / totals.runs;
  return lack > 1000 ? 0 : 1000 - static_cast<int>(lack);
}

// Above this it is fragmentation (Linux's default of vm.extfrag_threshold).
inline constexpr int kFragmentationThreshold = 500;

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_FRAGMENTATION_H_
