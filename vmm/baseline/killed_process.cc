#include "vmm/baseline/killed_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace quire {

pid_t StartChild(absl::FunctionRef<void()> work) {
  const pid_t child = fork();
  if (child < 0) std::abort();
  if (child > 0) return child;
  work();
  _exit(0);
}

int WaitForChild(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

void AdoptOrphans() { prctl(PR_SET_CHILD_SUBREAPER, 1); }

void WaitForAllChildren() {
  while (wait(nullptr) > 0 || errno == EINTR) {
  }
}

void KillThisProcess() {
  for (;;) kill(getpid(), SIGKILL);
}

Signal::Signal() {
  if (pipe2(ends_, O_CLOEXEC) != 0) std::abort();
}

Signal::~Signal() {
  for (const int end : ends_) {
    if (end >= 0) close(end);
  }
}

void Signal::Send() const {
  if (write(ends_[1], "", 1) != 1) std::abort();
}

bool Signal::Wait() const {
  char byte;
  ssize_t length;
  while ((length = read(ends_[0], &byte, 1)) < 0 && errno == EINTR) {
  }
  return length == 1;
}

void Signal::OnlyWait() {
  close(ends_[1]);
  ends_[1] = -1;
}

void Signal::KeepAlone() const {
  const auto keep = static_cast<unsigned>(ends_[1]);
  syscall(SYS_close_range, STDERR_FILENO + 1, keep - 1, 0);
  syscall(SYS_close_range, keep + 1, ~0u, 0);
}

}  // namespace quire
