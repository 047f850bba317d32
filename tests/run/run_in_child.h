// Runs guests in a child process and watches that process's memory from outside.
#ifndef QUIRE_TESTS_RUN_RUN_IN_CHILD_H_
#define QUIRE_TESTS_RUN_RUN_IN_CHILD_H_

#include <functional>
#include <string>

#include "base/units.h"
#include "nlohmann/json.hpp"
#include "vmm/options.h"
#include "vmm/progress.h"

namespace quire {

struct ChildRun {
  int status = -1;        // the child's exit status
  nlohmann::json report;  // as quire run --json writes it
  ByteCount peak_pss;     // the most that smaps_rollup's Pss said, every 100 ms
  int samples = 0;
};

// Called in the child with each sample of the run. True: the run is to end, as if its time were over.
using Watch = std::function<bool(const Snapshot&)>;

// A watch: the run ends when a guest has ended before its time.
bool AnyIsStopped(const Snapshot& snapshot);

ChildRun RunInChild(const RunOptions& options, const Watch& watch = nullptr);

// For a process that was forked for it, and ends with the run's status.
[[noreturn]] void RunInThisProcess(const RunOptions& options, const Watch& watch = nullptr);

// A directory for a control socket, whose path is short; that of a test's own directory need not be, and the numbers of
// processes say nothing where each test has its own.
class SocketDirectory {
 public:
  SocketDirectory();
  ~SocketDirectory();
  SocketDirectory(const SocketDirectory&) = delete;
  SocketDirectory& operator=(const SocketDirectory&) = delete;

  std::string socket() const { return directory_ + "/sock"; }

 private:
  std::string directory_ = "/tmp/quire-run-XXXXXX";
};

}  // namespace quire

#endif  // QUIRE_TESTS_RUN_RUN_IN_CHILD_H_
