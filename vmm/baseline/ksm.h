// The host kernel's same-page merging (KSM): what its thread, ksmd, has done, and at what cost.
//
// The files: Documentation/admin-guide/mm/ksm.rst, Documentation/scheduler/sched-stats.rst.
#ifndef QUIRE_VMM_BASELINE_KSM_H_
#define QUIRE_VMM_BASELINE_KSM_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/units.h"

namespace quire {

// Relative to a host's root.
inline constexpr absl::string_view kKsmDirectory = "/sys/kernel/mm/ksm";

// Of the whole host. What this kernel does not count is 0.
struct KsmCounters {
  PageCount sharing;     // pages that have given up their frames for a shared one
  PageCount zero;        // pages that have given up their frames for the kernel's page of zeros
  PageCount shared;      // frames that are shared
  PageCount unshared;    // pages that have been looked at and are like no other
  uint64_t scanned = 0;  // pages looked at since the host was started, those that were skipped not among them
  uint64_t skipped = 0;  // by its smart scan
  uint64_t passes = 0;

  PageCount saved() const { return sharing + zero; }
};

// `root` stands before all paths, for tests.
// Error: the host has no KSM.
absl::StatusOr<KsmCounters> ReadKsmCounters(const std::string& root = "");

// The file that says how long ksmd has run. Errors: NotFound; what opendir reports.
absl::StatusOr<std::string> FindKsmdSchedstat(const std::string& root = "");
// Errors: what reading reports; InvalidArgument.
absl::StatusOr<absl::Duration> ReadRunTime(const std::string& schedstat);
// The first number of a thread's schedstat: nanoseconds on a CPU, up to the scheduler's last look at it. Utime and
// stime would count in ticks. Error: InvalidArgument.
absl::StatusOr<absl::Duration> ParseRunTime(absl::string_view schedstat);

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_KSM_H_
