// The one budget: how many pages of the pool's file may be populated, and how many are.
//
// Everything is charged here before it is populated, and uncharged after its hole is punched, so that the file never
// holds more than `charged`. What lies below the min watermark is kept for reclaim, which needs memory to make memory:
// room for compressed pages comes in arena blocks of 512 pages.
#ifndef QUIRE_GUEST_FRAMES_BUDGET_H_
#define QUIRE_GUEST_FRAMES_BUDGET_H_

#include <atomic>

#include "base/units.h"
#include "guest/frames/reserve.h"

namespace quire {

// Levels of free memory, in pages: a faulting vCPU reclaims below min, the reclaim daemon starts below low and stops at
// high.
struct Watermarks {
  PageCount min;
  PageCount low;
  PageCount high;

  // min: two arena blocks, one for each of two concurrent reclaimers, and a margin, or 1/128 of the limit.
  static Watermarks ForLimit(PageCount limit);
};

// The smallest limit at which guests can run: the reserve below the high watermark and as much again.
PageCount MinimumPoolLimit();

// Thread safe.
class Budget {
 public:
  explicit Budget(PageCount limit) : limit_(limit), watermarks_(Watermarks::ForLimit(limit)) {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // False, and nothing charged, if it would pass the limit, or for Reserve::kNormal the limit less the min watermark.
  [[nodiscard]] bool TryCharge(PageCount pages, Reserve reserve) {
    return TryCharge(pages, reserve == Reserve::kNormal ? watermarks_.min : PageCount());
  }
  // The same with `kept` pages left uncharged.
  [[nodiscard]] bool TryCharge(PageCount pages, PageCount kept);
  void Uncharge(PageCount pages);

  PageCount limit() const { return limit_; }
  const Watermarks& watermarks() const { return watermarks_; }
  PageCount charged() const { return PageCount(charged_.load(std::memory_order_relaxed)); }
  PageCount peak() const { return PageCount(peak_.load(std::memory_order_relaxed)); }

 private:
  const PageCount limit_;
  const Watermarks watermarks_;
  std::atomic<uint64_t> charged_ = 0;
  std::atomic<uint64_t> peak_ = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_BUDGET_H_
