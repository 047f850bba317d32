// Pages of a guest that stay where they are, because somebody has wired them (GuestMemory::Wire): what is remembered
// of them in each block, and what all guests share.
#ifndef QUIRE_GUEST_WIRED_PAGES_H_
#define QUIRE_GUEST_WIRED_PAGES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/frames/page_limit.h"

namespace quire {

// For whom. What the guest itself has wired it has no use for once it has been stopped. A device may be in the middle
// of a transfer that nobody can call back: its pages keep their frames until it is done.
enum class WiredBy : uint8_t { kGuest, kDevice };

// How often each page of one block is wired, by its index in the block. A block has one only while a page of it is
// wired: page entries have no bit left, and other blocks pay a pointer for it. Not thread safe.
class WiredPages {
 public:
  // More would be a mistake of whoever wires.
  static constexpr uint8_t kMostTimes = 255;

  bool contains(uint64_t index) const {
    return times(index, WiredBy::kGuest) > 0 || times(index, WiredBy::kDevice) > 0;
  }
  uint8_t times(uint64_t index, WiredBy by = WiredBy::kGuest) const { return times_[static_cast<size_t>(by)][index]; }
  // Pages that are wired, once or more.
  uint16_t count() const { return count_; }

  // Not beyond kMostTimes. True: the page was not wired before.
  bool Add(uint64_t index, WiredBy by = WiredBy::kGuest) {
    QUIRE_CHECK(times(index, by) < kMostTimes);
    const bool first = !contains(index);
    ++Times(index, by);
    if (first) ++count_;
    return first;
  }
  // Of a page that is wired for it. True: it is not any more, for anybody.
  bool Remove(uint64_t index, WiredBy by = WiredBy::kGuest) {
    QUIRE_CHECK(times(index, by) > 0);
    --Times(index, by);
    if (contains(index)) return false;
    --count_;
    return true;
  }
  // However often it is wired. True: it was, and is not any more, for anybody.
  bool Forget(uint64_t index, WiredBy by = WiredBy::kGuest) {
    if (std::exchange(Times(index, by), 0) == 0 || contains(index)) return false;
    --count_;
    return true;
  }

 private:
  uint8_t& Times(uint64_t index, WiredBy by) { return times_[static_cast<size_t>(by)][index]; }

  std::array<std::array<uint8_t, kPagesPerBlock>, 2> times_ = {};  // by WiredBy
  uint16_t count_ = 0;
};

// What all guests of a manager share. Thread safe.
struct Wiring {
  // `most`: pages that may be wired at a time, not zero. `what_to_do`: as GuestLimits::advice, about the pool.
  Wiring(PageCount most, std::string what_to_do) : limit(most), advice(std::move(what_to_do)) {}

  PageLimit limit;
  const std::string advice;
  Counter refused_limit;  // calls of Wire that would have gone beyond a limit
  // What was not done because a page is wired:
  Counter refused_reclaim;  // taking it out, by a look of reclaim at its block
  Counter refused_move;     // moving or storing it, for a block or range of free frames
};

}  // namespace quire

#endif  // QUIRE_GUEST_WIRED_PAGES_H_
