// This program again, in a process of its own: one measurement, from a clean state.
#ifndef QUIRE_VMM_BENCH_CHILD_H_
#define QUIRE_VMM_BENCH_CHILD_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace quire {

struct ChildOptions {
  std::vector<std::string> arguments;  // without the program's name
  std::string cgroup_procs = {};       // the file that takes a process into a cgroup; empty: stay where this process is
  std::function<void()> while_running = nullptr;  // called now and then
};

// Runs the program and gives what it wrote to standard output; its standard error is this process's. Waits for its end;
// ends it when this process is interrupted or goes. Only from a process without other threads: it forks.
// Errors: Cancelled (interrupted), ResourceExhausted (the kernel killed it), Internal (it failed; it has said why),
// what system calls report.
absl::StatusOr<std::string> RunThisProgram(const ChildOptions& options);

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_CHILD_H_
