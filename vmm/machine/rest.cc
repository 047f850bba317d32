#include "vmm/machine/rest.h"

#include <algorithm>

namespace quire {
namespace {

// Leaving the guest and sleeping takes tens of microseconds: less than this is not worth it yet.
constexpr absl::Duration kWorthIt = absl::Milliseconds(1);
// What is left of it when it is paid. Clocks have no fractions of a nanosecond, and a sleeper wakes up late.
constexpr absl::Duration kNothing = absl::Microseconds(50);
// A vCPU that waited long for a page does not make up for all of it.
constexpr absl::Duration kMost = absl::Seconds(1);

}  // namespace

absl::Duration Rest::Owes(int idle_percent, MonotonicTime now) {
  const absl::Duration passed = begun_ ? now - last_ : absl::ZeroDuration();
  begun_ = true;
  last_ = now;
  if (idle_percent >= 100) {
    asleep_ = true;
    owed_ = absl::ZeroDuration();
    return kPiece;
  }
  if (asleep_) {
    owed_ -= passed;
  } else {
    owed_ += passed * idle_percent / (100 - idle_percent);
  }
  owed_ = idle_percent == 0 ? absl::ZeroDuration() : std::clamp(owed_, -kMost, kMost);
  asleep_ = owed_ > (asleep_ ? kNothing : kWorthIt);
  return asleep_ ? std::min(owed_, kPiece) : absl::ZeroDuration();
}

}  // namespace quire
