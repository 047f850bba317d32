#include "vmm/baseline/janitor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <iostream>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "vmm/baseline/journal.h"
#include "vmm/baseline/journal_file.h"

namespace quire {
namespace {

constexpr int kJournal = 3;  // descriptor, in the janitor

// Whoever reads what the owner writes waits for all writers to be gone: the janitor is to be none. It keeps standard
// error, on which it says what fails. Above all it must not keep the owner's own descriptor of the journal, with which
// goes the lock.
void CloseAllBut(int journal) {
  const int nothing = open("/dev/null", O_RDWR);
  dup2(nothing, STDIN_FILENO);
  dup2(nothing, STDOUT_FILENO);
  dup2(journal, kJournal);
  syscall(SYS_close_range, kJournal + 1, ~0u, 0);
}

[[noreturn]] void BeJanitor(int fd, const std::string& path, const SwapCalls& swap) {
  CloseAllBut(fd);
  if (!Lock(kJournal, LOCK_EX)) _exit(1);
  struct stat found;
  // The owner removes it when it ends well; another process that has been quicker, when it has done what is to do here.
  if (fstat(kJournal, &found) != 0 || found.st_nlink == 0) _exit(0);
  absl::StatusOr<Journal> journal = Journal::Read(UniqueFd(kJournal), path, std::cerr);
  if (!journal.ok()) _exit(1);
  PlayBack(*journal, 0, swap, std::cerr);
  journal->Remove();
  _exit(0);
}

}  // namespace

absl::StatusOr<pid_t> StartJanitor(const std::string& path, const SwapCalls& swap) {
  // Opened anew: what is locked by flock is not the file but a description of it, and this is another one.
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("open ", path));
  // No signal reaches the janitor before it has said which it ignores.
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  const pid_t janitor = fork();
  const int error = errno;
  if (janitor == 0) {
    setsid();
    prctl(PR_SET_NAME, "quire-janitor");
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) signal(number, SIG_IGN);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    // A folder that the owner was started in may be unmounted.
    if (chdir("/") != 0) _exit(1);
    BeJanitor(fd.get(), path, swap);
  }
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (janitor < 0) return absl::ErrnoToStatus(error, "start the process that tidies up if this one is killed");
  return janitor;
}

}  // namespace quire
