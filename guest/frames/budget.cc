#include "guest/frames/budget.h"

#include <algorithm>

#include "base/check.h"

namespace quire {

Watermarks Watermarks::ForLimit(PageCount limit) {
  const PageCount min = std::max(PageCount::OfBlocks(2) + PageCount(128), limit / 128);
  // Room between the levels for what two vCPUs fault in while the daemon wakes up, a whole block each where the pool is
  // not so small that it would be missed.
  const PageCount step = std::clamp(limit / 64, PageCount(256), PageCount::OfBlocks(2));
  return Watermarks{.min = min, .low = min + step, .high = min + step * 2};
}

PageCount MinimumPoolLimit() {
  return PageCount::OfBlocks(2 * Watermarks::ForLimit(PageCount()).high.in_blocks_ceil());
}

bool Budget::TryCharge(PageCount pages, PageCount kept) {
  uint64_t charged = charged_.load(std::memory_order_relaxed);
  do {
    if (PageCount(charged) + pages + kept > limit_) return false;
  } while (!charged_.compare_exchange_weak(charged, charged + pages.in_pages(), std::memory_order_relaxed));
  const uint64_t now = charged + pages.in_pages();
  uint64_t peak = peak_.load(std::memory_order_relaxed);
  while (peak < now && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
  }
  return true;
}

void Budget::Uncharge(PageCount pages) {
  const uint64_t before = charged_.fetch_sub(pages.in_pages(), std::memory_order_relaxed);
  QUIRE_CHECK(before >= pages.in_pages());
}

}  // namespace quire
