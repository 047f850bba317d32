// Takes a run through the phases of its schedule, and notes what was done in each.
#ifndef QUIRE_VMM_PHASE_RUNNER_H_
#define QUIRE_VMM_PHASE_RUNNER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "vmm/report.h"
#include "vmm/schedule.h"
#include "vmm/scheduled_guests.h"
#include "workloads/operation_latency.h"

namespace quire {

// Belongs to the thread that starts and joins the guests.
class PhaseRunner {
 public:
  // Both outlive this. The guests have just been started.
  PhaseRunner(const Schedule& schedule, ScheduledGuests& guests, MonotonicTime start);

  // Does what is due. False: the last phase is over.
  bool Advance(MonotonicTime now);
  // When something may be due next.
  MonotonicTime next() const { return next_; }
  const std::string& name() const { return phases_.back().name; }
  // Whether guests have started, or a phase has begun, since this was asked last.
  bool TakeNews() { return std::exchange(news_, false); }

  // Ends the phase that the run is in. What was done in each, kFill being the first.
  std::vector<PhaseReport> Finish(MonotonicTime now);
  // Of operations in measured phases. After Finish.
  const OperationLatency& latency() const { return latency_; }

  static constexpr absl::string_view kFill = "fill";

 private:
  bool AllFilled() const;
  bool PhaseIsOver(MonotonicTime now) const;
  // Those that start one after another.
  bool AllHaveCome(MonotonicTime now) const;
  void Begin(const Phase& phase, MonotonicTime now);
  void End(MonotonicTime now);
  // One more of those that start one after another, if it is time.
  void StartNext(MonotonicTime now);
  uint64_t Running() const;
  bool AllHaveEnded() const;
  bool AnyoneStoppedForMemory() const;
  // How many guests are so.
  template <class Is>
  uint64_t CountIf(Is is) const;
  template <class Do>
  void ForGroup(size_t group, Do what) const;

  const Schedule& schedule_;
  ScheduledGuests& guests_;
  const MonotonicTime start_;
  const Phase* phase_ = nullptr;  // null: filling
  size_t number_ = 0;             // of the phase after this one
  MonotonicTime begun_;           // when this phase did
  MonotonicTime next_;
  bool news_ = false;
  GuestTotals before_;  // this phase
  OperationLatency latency_ = {};
  std::vector<PhaseReport> phases_;
};

}  // namespace quire

#endif  // QUIRE_VMM_PHASE_RUNNER_H_
