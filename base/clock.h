// Time as the manager sees it: a monotonic clock behind an interface, so that tests can move it by hand.
#ifndef QUIRE_BASE_CLOCK_H_
#define QUIRE_BASE_CLOCK_H_

#include <compare>
#include <cstdint>

#include "absl/time/time.h"

namespace quire {

// A point on a monotonic clock: nanoseconds since an origin that means nothing. Only differences are of use.
class MonotonicTime {
 public:
  constexpr MonotonicTime() = default;
  static constexpr MonotonicTime FromNanoseconds(int64_t n) { return MonotonicTime(n); }
  constexpr int64_t in_nanoseconds() const { return nanoseconds_; }

  friend constexpr auto operator<=>(MonotonicTime, MonotonicTime) = default;
  friend absl::Duration operator-(MonotonicTime a, MonotonicTime b) {
    return absl::Nanoseconds(a.nanoseconds_ - b.nanoseconds_);
  }
  friend MonotonicTime operator+(MonotonicTime t, absl::Duration d) {
    return MonotonicTime(t.nanoseconds_ + absl::ToInt64Nanoseconds(d));
  }

 private:
  constexpr explicit MonotonicTime(int64_t nanoseconds) : nanoseconds_(nanoseconds) {}
  int64_t nanoseconds_ = 0;
};

// Thread safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual MonotonicTime Now() const = 0;
};

// CLOCK_MONOTONIC. Lives as long as the program.
const Clock& RealClock();

}  // namespace quire

#endif  // QUIRE_BASE_CLOCK_H_
