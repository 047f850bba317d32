#include "tests/run/run_in_child.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "vmm/exit_status.h"
#include "vmm/report.h"
#include "vmm/run.h"

namespace quire {
namespace {

class Watcher final : public ProgressSink {
 public:
  explicit Watcher(const Watch& watch) : watch_(watch) {}

  void Update(const Snapshot& snapshot) override { done_ = done_ || (watch_ && watch_(snapshot)); }
  void ShowLine(absl::string_view line) override { std::cerr << line << "\n"; }
  bool interrupted() const override { return done_; }

 private:
  const Watch& watch_;
  bool done_ = false;
};

int RunHere(const RunOptions& options, const Watch& watch, const std::string& path) {
  Watcher watcher(watch);
  const absl::StatusOr<Report> report = RunGuests(options, watcher);
  if (!report.ok()) {
    std::cerr << report.status() << "\n";
    return static_cast<int>(ToExitStatus(report.status()));
  }
  std::ofstream(path) << ToJson(*report);
  return static_cast<int>(ToExitStatus(*report));
}

// Pss counts a page that a process maps twice once. Zero when the process is gone.
ByteCount ReadPss(pid_t process) {
  std::ifstream file(absl::StrCat("/proc/", process, "/smaps_rollup"));
  for (std::string word; file >> word;) {
    uint64_t kib = 0;
    if (word == "Pss:" && file >> kib) return ByteCount::KiB(kib);
  }
  return ByteCount();
}

}  // namespace

bool AnyIsStopped(const Snapshot& snapshot) {
  return std::any_of(snapshot.guests.begin(), snapshot.guests.end(),
                     [](const GuestSnapshot& guest) { return guest.state == GuestSnapshot::State::kStopped; });
}

SocketDirectory::SocketDirectory() { EXPECT_NE(mkdtemp(directory_.data()), nullptr); }

SocketDirectory::~SocketDirectory() {
  unlink(socket().c_str());
  rmdir(directory_.c_str());
}

void RunInThisProcess(const RunOptions& options, const Watch& watch) { _exit(RunHere(options, watch, "/dev/null")); }

ChildRun RunInChild(const RunOptions& options, const Watch& watch) {
  const std::string path = absl::StrCat(testing::TempDir(), "/report-", getpid(), ".json");
  const pid_t child = fork();
  if (child == 0) _exit(RunHere(options, watch, path));
  ChildRun run;
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    run.peak_pss = std::max(run.peak_pss, ReadPss(child));
    ++run.samples;
    absl::SleepFor(absl::Milliseconds(100));
  }
  run.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  std::ifstream report(path);
  if (report) run.report = nlohmann::json::parse(report, nullptr, /*allow_exceptions=*/false);
  unlink(path.c_str());
  return run;
}

}  // namespace quire
