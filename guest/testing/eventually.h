#ifndef QUIRE_GUEST_TESTING_EVENTUALLY_H_
#define QUIRE_GUEST_TESTING_EVENTUALLY_H_

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace quire {

// Waits for what another thread will bring about; the time is only there to end a test that has failed.
template <class Condition>
bool Eventually(Condition condition) {
  const absl::Time deadline = absl::Now() + absl::Minutes(1);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

}  // namespace quire

#endif  // QUIRE_GUEST_TESTING_EVENTUALLY_H_
