// The guests of a run as its schedule has them, whoever runs them.
#ifndef QUIRE_VMM_SCHEDULED_GUESTS_H_
#define QUIRE_VMM_SCHEDULED_GUESTS_H_

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"
#include "base/units.h"
#include "workloads/operation_latency.h"

namespace quire {

// What guests and those who serve them have done since the start of the run.
struct GuestTotals {
  uint64_t operations = 0;
  uint64_t faults = 0;
  absl::Duration cpu;
  OperationLatency latency = {};
};

// Guests have numbers, from 0. Belongs to the thread of its run.
class ScheduledGuests {
 public:
  struct State {
    bool started = false;
    bool filled = false;    // its memory
    bool finished = false;  // having been started
    bool out_of_memory = false;

    bool running() const { return started && filled && !finished; }
  };

  virtual ~ScheduledGuests() = default;

  virtual size_t count() const = 0;
  virtual size_t GroupOf(size_t guest) const = 0;
  virtual State StateOf(size_t guest) const = 0;
  // Of one that has not been started. If it cannot be, it has finished.
  virtual void StartGuest(size_t guest) = 0;
  // For good.
  virtual void StopGuest(size_t guest) = 0;
  // It rests for `percent` of its time.
  virtual void SetIdle(size_t guest, int percent) = 0;
  // Nothing happens where it has no balloon.
  virtual void SetBalloon(size_t guest, ByteCount size) = 0;
  virtual GuestTotals CountAll() const = 0;
};

}  // namespace quire

#endif  // QUIRE_VMM_SCHEDULED_GUESTS_H_
