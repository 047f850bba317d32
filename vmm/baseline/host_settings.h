// Changes of this host that are undone when whoever made them is done, or has been killed.
#ifndef QUIRE_VMM_BASELINE_HOST_SETTINGS_H_
#define QUIRE_VMM_BASELINE_HOST_SETTINGS_H_

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "vmm/baseline/journal.h"
#include "vmm/baseline/undo.h"

namespace quire {

// What tests put in the host's place.
struct HostSeams {
  std::string root = {};  // stands before all paths
  SwapCalls swap = {};
  std::function<void()> at_step = nullptr;  // called before and after each change, and before and after each is undone
  absl::Duration patience = absl::Seconds(5);  // with swap space that does not become empty
};

// Undoes what was done, last thing first, when it goes. If its process is killed, a janitor does that; if that is
// killed too, the next one that changes anything. For this each change is written to a journal before it is made,
// /run/quire/host-changes.PID, in a folder that only this user can write to.
//
// One in a host at a time: two would take each other's changes for the host's own settings. Belongs to one thread, in a
// process that has no other until the first change has been made: that forks.
class HostSettings {
 public:
  explicit HostSettings(HostSeams seams = {}) : seams_(std::move(seams)) {}
  HostSettings(const HostSettings&) = delete;
  HostSettings& operator=(const HostSettings&) = delete;
  ~HostSettings();

  // Undoes what earlier processes have left behind, and says so on standard error; then makes the journal and starts
  // the janitor. The first change does it by itself. Errors: FailedPrecondition: another process has changed this host
  // and is not done; what system calls report.
  absl::Status Open();

  // Writes `value` to the file, and its old value when it is time. Errors: those of Open, ReadSetting and WriteSetting.
  absl::Status Change(const std::string& path, absl::string_view value);
  // Calls `change`, and has it undone when it is time. If it fails, it has changed nothing.
  // Errors: those of Open and of `change`; what writing the journal reports.
  absl::Status Do(const Undo& undo, absl::FunctionRef<absl::Status()> change);
  // The same for what has changed by now, and was covered by an earlier `undo` until now.
  absl::Status Note(const Undo& undo);

  // Undoes what was done since `mark` was taken.
  size_t mark() const { return journal_.has_value() ? journal_->records().size() : 0; }
  void PutBack(size_t mark);

  // For tests; 0 if there is none.
  pid_t janitor() const { return janitor_; }

 private:
  absl::Status OpenLocked(const std::string& directory);
  void Step() const {
    if (seams_.at_step) seams_.at_step();
  }

  const HostSeams seams_;
  std::optional<Journal> journal_;  // from Open on
  pid_t janitor_ = 0;
};

// Undoes what processes have left behind that were killed, by their journals in this folder, as does Open(); the caller
// has the folder locked. What it does is said on `err`. Files that others than this user can write to are passed over.
// Errors: FailedPrecondition: a process that has changed this host is not done.
absl::Status RecoverAll(const std::string& directory, const SwapCalls& swap, std::ostream& err);

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_HOST_SETTINGS_H_
