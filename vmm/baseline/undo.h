// What undoes a change of this host, as data: it can be written down before the change is made, and be done by another
// process than the one that made it.
#ifndef QUIRE_VMM_BASELINE_UNDO_H_
#define QUIRE_VMM_BASELINE_UNDO_H_

#include <sys/swap.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire {

// | kind            | target                      | value                                                             |
// |-----------------|-----------------------------|-------------------------------------------------------------------|
// | kWrite          | a file                      | what is written to it                                             |
// | kSwapOff        | a device's node             |                                                                   |
// | kResetZram      | a device's folder in sysfs  | its size in bytes: one of another size is somebody else's by now  |
// | kRemoveZram     | a device's folder in sysfs  | its diskseq: another one is somebody else's. Empty: not known     |
// | kRemoveNewZrams | where sysfs is mounted      | the devices that were there before, with commas between them      |
// | kRemoveCgroup   | a cgroup's folder           |                                                                   |
struct Undo {
  enum class Kind : uint8_t { kWrite, kSwapOff, kResetZram, kRemoveZram, kRemoveNewZrams, kRemoveCgroup };

  Kind kind = Kind::kWrite;
  std::string target;
  std::string value = {};

  friend bool operator==(const Undo&, const Undo&) = default;
};

// One line of JSON, with its line break.
std::string ToLine(const Undo& undo);
// Error: InvalidArgument.
absl::StatusOr<Undo> ParseUndo(absl::string_view line);
// What will be so when it has been done: "/sys/kernel/mm/ksm/run is 0".
std::string Describe(const Undo& undo);

// How swap space comes and goes: swapon(2) and swapoff(2), but for tests.
struct SwapCalls {
  int (*on)(const char* device, int flags) = swapon;
  int (*off)(const char* device) = swapoff;
};

// Does it. May be done again, and where the change was never made: what is not there any more, or is as it should be,
// is no error. Waits some seconds for a device or cgroup that the host kernel has not let go of yet.
// Errors: what system calls report.
absl::Status Apply(const Undo& undo, const SwapCalls& swap);

// Kills the processes of a cgroup, and waits until it has none. Nothing is done where there is no such cgroup.
// Errors: DeadlineExceeded: they do not end; what reading reports.
absl::Status KillAllIn(const std::string& cgroup);

// The names of the zram devices in this folder, /sys/block, with commas between them.
std::string ZramsIn(const std::string& block);

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_UNDO_H_
