// A clock that stands still until a test moves it.
#ifndef QUIRE_BASE_FAKE_CLOCK_H_
#define QUIRE_BASE_FAKE_CLOCK_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "base/clock.h"

namespace quire {

// Starts at zero. Thread safe.
class FakeClock final : public Clock {
 public:
  MonotonicTime Now() const override { return MonotonicTime::FromNanoseconds(nanoseconds_.load()); }
  // Moves the clock by `duration`, which is not negative.
  void Advance(absl::Duration duration) { nanoseconds_.fetch_add(absl::ToInt64Nanoseconds(duration)); }

 private:
  std::atomic<int64_t> nanoseconds_{0};
};

}  // namespace quire

#endif  // QUIRE_BASE_FAKE_CLOCK_H_
