// The process that tidies up after another one that was killed.
#ifndef QUIRE_VMM_BASELINE_JANITOR_H_
#define QUIRE_VMM_BASELINE_JANITOR_H_

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "vmm/baseline/undo.h"

namespace quire {

// Forks a process, "quire-janitor", that waits until nobody holds the lock of the journal `path`, which this process
// does: because it has ended, however it did, and so have all children that it forked without exec, which hold it as
// well (they are to have PR_SET_PDEATHSIG). If the journal is still there then, it undoes what that says, and removes
// it. It is in a session of its own, ignores what a terminal sends, and has nothing open but the journal and standard
// error. The caller waits for its end (waitpid) after it has removed the journal itself, and has no threads.
// Errors: what system calls report.
absl::StatusOr<pid_t> StartJanitor(const std::string& path, const SwapCalls& swap);

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_JANITOR_H_
