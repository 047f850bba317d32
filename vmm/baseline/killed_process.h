// Processes that tests start and kill.
#ifndef QUIRE_VMM_BASELINE_KILLED_PROCESS_H_
#define QUIRE_VMM_BASELINE_KILLED_PROCESS_H_

#include <sys/types.h>

#include "absl/functional/function_ref.h"

namespace quire {

// Runs `work` in a child, which then exits with status 0 and without any destructor being called.
pid_t StartChild(absl::FunctionRef<void()> work);
// How it ended, as waitpid has it.
int WaitForChild(pid_t child);

// From now on this process becomes the parent of its descendants whose parents end, so that it can wait for them.
void AdoptOrphans();
// Waits until this process has no children any more, adopted ones included.
void WaitForAllChildren();

[[noreturn]] void KillThisProcess();

// A pipe between processes that start from one.
class Signal {
 public:
  Signal();
  ~Signal();
  void Send() const;
  // False: there is nobody left who could send.
  bool Wait() const;
  // This process does not send.
  void OnlyWait();
  // Leaves this process with nothing open but standard error and the end that sends: as an exec would.
  void KeepAlone() const;

 private:
  int ends_[2];
};

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_KILLED_PROCESS_H_
