// Runs the program, `vmm/quire` below the working directory, as its users do.
#ifndef QUIRE_TESTS_LAB_QUIRE_PROCESS_H_
#define QUIRE_TESTS_LAB_QUIRE_PROCESS_H_

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace quire {

class QuireProcess {
 public:
  // Where its standard input, output and error lead.
  enum class Streams { kPipe, kTerminal };

  // Starts `quire` with these words. SIGALRM ends it after `limit`, and with it all that waits for it here.
  QuireProcess(const std::vector<std::string>& words, absl::Duration limit, Streams streams = Streams::kPipe);
  // Kills it if it runs.
  ~QuireProcess();
  QuireProcess(const QuireProcess&) = delete;
  QuireProcess& operator=(const QuireProcess&) = delete;

  // What it has said so far, on standard output and standard error.
  std::string said() const ABSL_LOCKS_EXCLUDED(lock_);
  // Looks at `condition` every now and then. False: the program has ended, and it was still not so.
  bool Await(const std::function<bool()>& condition);
  // Does not wait on after a guest has said that something failed.
  bool AwaitSaid(absl::string_view text);
  // As on a keyboard; of kTerminal.
  void Type(absl::string_view keys);
  void Signal(int number);
  // Waits for its end: its exit status, or the negative number of the signal that ended it.
  int Wait();

 private:
  void Read();

  pid_t child_ = -1;
  int status_ = 0;     // once child_ is not there any more
  UniqueFd terminal_;  // the other side of it, or the pipe's end to read
  mutable absl::Mutex lock_;
  std::string said_ ABSL_GUARDED_BY(lock_);
  std::atomic<bool> silent_ = false;  // it has closed what it wrote to: it has ended
  std::thread reader_;
};

struct ToolOutcome {
  int status = -1;
  std::string said;
};
// Runs one of the program's commands to its end.
ToolOutcome RunTool(const std::vector<std::string>& words);

}  // namespace quire

#endif  // QUIRE_TESTS_LAB_QUIRE_PROCESS_H_
