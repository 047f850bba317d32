// How many pages of a kind one guest may have, and how many it has: frames, or pages in the swap store.
#ifndef QUIRE_GUEST_FRAMES_PAGE_LIMIT_H_
#define QUIRE_GUEST_FRAMES_PAGE_LIMIT_H_

#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/counters.h"
#include "base/units.h"

namespace quire {

// Thread safe. Without a limit nothing is counted.
class PageLimit {
 public:
  // Zero: no limit.
  explicit PageLimit(PageCount limit) : limit_(limit) {}
  PageLimit(const PageLimit&) = delete;
  PageLimit& operator=(const PageLimit&) = delete;

  bool limited() const { return limit_ != PageCount(); }
  PageCount limit() const { return limit_; }

  // False, and nothing charged, if it would pass the limit.
  [[nodiscard]] bool TryCharge(PageCount pages) {
    if (!limited()) return true;
    uint64_t charged = charged_.load(std::memory_order_relaxed);
    do {
      if (PageCount(charged) + pages > limit_) return false;
    } while (!charged_.compare_exchange_weak(charged, charged + pages.in_pages(), std::memory_order_relaxed));
    peak_.Note(charged + pages.in_pages());
    return true;
  }
  // For pages that take the place of others, which are uncharged next: meanwhile it may be more than the limit.
  void ChargeReplacement(PageCount pages) {
    if (limited()) charged_.fetch_add(pages.in_pages(), std::memory_order_relaxed);
  }
  void Uncharge(PageCount pages) {
    if (!limited()) return;
    const uint64_t before = charged_.fetch_sub(pages.in_pages(), std::memory_order_relaxed);
    QUIRE_CHECK(before >= pages.in_pages());
  }
  bool HasRoomFor(PageCount pages) const { return !limited() || charged() + pages <= limit_; }

  PageCount charged() const { return PageCount(charged_.load(std::memory_order_relaxed)); }
  // Never more than the limit.
  PageCount peak() const { return PageCount(peak_.value()); }

 private:
  const PageCount limit_;
  std::atomic<uint64_t> charged_ = 0;
  Peak peak_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_PAGE_LIMIT_H_
