#include "tests/lab/quire_process.h"

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "base/check.h"

namespace quire {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(100);
constexpr absl::Duration kToolLimit = absl::Minutes(2);

// Forks with the child's streams on a new terminal, or on a pipe. Returns 0 in the child.
pid_t Fork(QuireProcess::Streams streams, UniqueFd& our_side) {
  if (streams == QuireProcess::Streams::kTerminal) {
    int master = -1;
    const winsize size = {.ws_row = 50, .ws_col = 200, .ws_xpixel = 0, .ws_ypixel = 0};
    const pid_t child = forkpty(&master, nullptr, nullptr, &size);
    if (child != 0) our_side = UniqueFd(master);
    return child;
  }
  int ends[2];
  QUIRE_CHECK(pipe2(ends, O_CLOEXEC) == 0);
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  const pid_t child = fork();
  if (child != 0) {
    our_side = std::move(read_end);
    return child;
  }
  dup2(write_end.get(), STDOUT_FILENO);
  dup2(write_end.get(), STDERR_FILENO);
  const int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, STDIN_FILENO);
  return 0;
}

}  // namespace

QuireProcess::QuireProcess(const std::vector<std::string>& words, absl::Duration limit, Streams streams) {
  std::vector<char*> argv = {const_cast<char*>("quire")};
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  setenv("TERM", "linux", /*overwrite=*/1);
  child_ = Fork(streams, terminal_);
  if (child_ == 0) {
    alarm(static_cast<unsigned>(absl::ToInt64Seconds(limit)));  // goes on in the program
    execv("vmm/quire", argv.data());
    _exit(127);
  }
  QUIRE_CHECK(child_ > 0);
  fcntl(terminal_.get(), F_SETFD, FD_CLOEXEC);
  reader_ = std::thread([this] { Read(); });
}

QuireProcess::~QuireProcess() {
  if (child_ > 0) Signal(SIGKILL);
  Wait();
}

void QuireProcess::Read() {
  char bytes[4096];
  for (;;) {
    const ssize_t got = read(terminal_.get(), bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;  // of a terminal that nobody has open any more: EIO
    absl::MutexLock lock(&lock_);
    said_.append(bytes, static_cast<size_t>(got));
  }
  silent_ = true;
}

std::string QuireProcess::said() const {
  absl::MutexLock lock(&lock_);
  return said_;
}

bool QuireProcess::Await(const std::function<bool()>& condition) {
  while (!silent_) {
    if (condition()) return true;
    absl::SleepFor(kPoll);
  }
  return condition();
}

bool QuireProcess::AwaitSaid(absl::string_view text) {
  bool there = false;
  Await([&] {
    const std::string now = said();
    there = absl::StrContains(now, text);
    return there || absl::StrContains(now, "quire: failure why=");
  });
  return there;
}

void QuireProcess::Type(absl::string_view keys) {
  QUIRE_CHECK(write(terminal_.get(), keys.data(), keys.size()) == static_cast<ssize_t>(keys.size()));
}

void QuireProcess::Signal(int number) { kill(child_, number); }

int QuireProcess::Wait() {
  if (child_ <= 0) return status_;
  int status = 0;
  while (waitpid(child_, &status, 0) < 0 && errno == EINTR) {
  }
  child_ = -1;
  reader_.join();
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return status_;
}

ToolOutcome RunTool(const std::vector<std::string>& words) {
  QuireProcess tool(words, kToolLimit);
  const int status = tool.Wait();
  return {.status = status, .said = tool.said()};
}

}  // namespace quire
