// How many pages of a kind one guest may have, and how many it has: frames, or pages in the swap store.
#ifndef QUIRE_GUEST_FRAMES_PAGE_LIMIT_H_
#define QUIRE_GUEST_FRAMES_PAGE_LIMIT_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/counters.h"
#include "base/units.h"

namespace quire {

// Thread safe. What is charged is counted without a limit too, so that one can be set at any time.
class PageLimit {
 public:
  // Zero: no limit.
  explicit PageLimit(PageCount limit) : limit_(limit.in_pages()) {}
  PageLimit(const PageLimit&) = delete;
  PageLimit& operator=(const PageLimit&) = delete;

  bool limited() const { return limit() != PageCount(); }
  PageCount limit() const { return PageCount(limit_.load(std::memory_order_relaxed)); }
  // From now on. What is charged already stays, and nothing more can be charged as long as that is beyond the limit. A
  // charge that is being made meanwhile may still keep to the limit that there was.
  void SetLimit(PageCount limit) {
    limit_.store(limit.in_pages(), std::memory_order_relaxed);
    charged_at_change_.store(charged_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  }

  // False, and nothing charged, if it would pass the limit.
  [[nodiscard]] bool TryCharge(PageCount pages) {
    uint64_t charged = charged_.load(std::memory_order_relaxed);
    do {
      const PageCount most = limit();
      if (most != PageCount() && PageCount(charged) + pages > most) return false;
    } while (!charged_.compare_exchange_weak(charged, charged + pages.in_pages(), std::memory_order_relaxed));
    peak_.Note(charged + pages.in_pages());
    return true;
  }
  // For pages that take the place of others, which are uncharged next: meanwhile it may be more than the limit.
  void ChargeReplacement(PageCount pages) { charged_.fetch_add(pages.in_pages(), std::memory_order_relaxed); }
  void Uncharge(PageCount pages) {
    const uint64_t before = charged_.fetch_sub(pages.in_pages(), std::memory_order_relaxed);
    QUIRE_CHECK(before >= pages.in_pages());
  }
  bool HasRoomFor(PageCount pages) const {
    const PageCount most = limit();
    return most == PageCount() || charged() + pages <= most;
  }

  PageCount charged() const { return PageCount(charged_.load(std::memory_order_relaxed)); }
  // Never more than the highest limit that there was.
  PageCount peak() const { return PageCount(peak_.value()); }
  // Whether so many may be charged: within the limit, or no more than when it was last changed. For checks at rest.
  bool Allows(PageCount pages) const {
    return !limited() || pages <= std::max(limit(), PageCount(charged_at_change_.load(std::memory_order_relaxed)));
  }

 private:
  std::atomic<uint64_t> limit_;
  std::atomic<uint64_t> charged_ = 0;
  std::atomic<uint64_t> charged_at_change_ = 0;
  Peak peak_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_PAGE_LIMIT_H_
