#include "vmm/bench/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "vmm/interrupt.h"

namespace quire {
namespace {

constexpr int kTickMilliseconds = 100;
constexpr int kCannotStart = 127;  // as a shell has it

// In the child: system calls only.
[[noreturn]] void BecomeProgram(char* const* arguments, int output, int procs, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const bool joined = procs < 0 || write(procs, "0", 1) == 1;
  if (getppid() == parent && joined && dup2(output, STDOUT_FILENO) >= 0) execv("/proc/self/exe", arguments);
  _exit(kCannotStart);
}

// Reads to the end, or until the user interrupts.
absl::StatusOr<std::string> ReadOutput(int fd, const std::function<void()>& while_running) {
  std::string output;
  for (;;) {
    if (CaughtInterrupt() != 0) return absl::CancelledError("interrupted");
    pollfd readable = {.fd = fd, .events = POLLIN, .revents = 0};
    if (poll(&readable, 1, kTickMilliseconds) <= 0) {
      if (while_running) while_running();
      continue;
    }
    char bytes[4096];
    const ssize_t length = read(fd, bytes, sizeof bytes);
    if (length == 0) return output;
    if (length > 0) output.append(bytes, static_cast<size_t>(length));
    if (length < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "read what a measurement wrote");
  }
}

}  // namespace

absl::StatusOr<std::string> RunThisProgram(const ChildOptions& options) {
  std::vector<std::string> words = {"quire"};
  words.insert(words.end(), options.arguments.begin(), options.arguments.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  UniqueFd procs;
  if (!options.cgroup_procs.empty()) {
    procs = UniqueFd(open(options.cgroup_procs.c_str(), O_WRONLY | O_CLOEXEC));
    if (!procs.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("open ", options.cgroup_procs));
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "make a pipe");
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return absl::ErrnoToStatus(errno, "start a process for a measurement");
  if (child == 0) BecomeProgram(arguments.data(), write_end.get(), procs.get(), parent);
  write_end.reset();
  absl::StatusOr<std::string> output = ReadOutput(read_end.get(), options.while_running);
  if (!output.ok()) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!output.ok()) return output;
  if (CaughtInterrupt() != 0) return absl::CancelledError("interrupted");
  if (WIFEXITED(status) && WEXITSTATUS(status) == kCannotStart) {
    return absl::InternalError("a measurement's process could not be started");
  }
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
    return absl::ResourceExhaustedError("the host kernel killed a measurement for want of memory");
  }
  if (WIFSIGNALED(status)) {
    return absl::InternalError(absl::StrCat("a measurement was ended by signal ", WTERMSIG(status)));
  }
  if (WEXITSTATUS(status) != 0) return absl::InternalError("a measurement failed, for the reason given above");
  return output;
}

}  // namespace quire
