// What a vCPU that is to be idle for a share of its time owes of it.
#ifndef QUIRE_VMM_MACHINE_REST_H_
#define QUIRE_VMM_MACHINE_REST_H_

#include "absl/time/time.h"
#include "base/clock.h"

namespace quire {

// Belongs to one vCPU's thread.
class Rest {
 public:
  // The vCPU is to be idle for `idle_percent` (0 to 100) of its time. How long it is to sleep before this is called
  // again; zero: it may work until it is. Time that passes while it may work counts as work, also where it waits for
  // its pages.
  absl::Duration Owes(int idle_percent, MonotonicTime now);

  // Asked for in pieces, so that a vCPU that is to end, or to work more, need not be woken.
  static constexpr absl::Duration kPiece = absl::Milliseconds(10);

 private:
  MonotonicTime last_;
  bool begun_ = false;
  bool asleep_ = false;  // since then
  absl::Duration owed_;  // below zero: it slept for longer than it was asked to
};

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_REST_H_
