// On a made-up host, with processes that are killed.
#include "vmm/baseline/host_settings.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/baseline/fake_tree.h"
#include "vmm/baseline/killed_process.h"
#include "vmm/baseline/setting.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Kind = Undo::Kind;

// Swap space is a file: it says "on" while it is used.
int FakeSwapOn(const char* device, int) { return WriteSetting(device, "on").ok() ? 0 : -1; }
int FakeSwapOff(const char* device) {
  if (WriteSetting(device, "off").ok()) return 0;
  errno = ENOENT;
  return -1;
}
constexpr SwapCalls kFakeSwap = {.on = FakeSwapOn, .off = FakeSwapOff};

// Waits until somebody reads from a named pipe beside the device.
int SlowSwapOff(const char* device) {
  std::ofstream(absl::StrCat(device, ".begun")) << "here";
  return FakeSwapOff(device);
}

class HostSettingsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    AdoptOrphans();
    host_.Put("/sys/a", "always [madvise] never");
    host_.Put("/sys/b", "7");
    host_.Put("/dev/zram0", "off");
    host_.MakeFolder("/sys/cgroup");
    host_.MakeFolder("/run/quire");
    chmod(host_.Path("/run/quire").c_str(), 0700);
    before_ = host_.Settings();
  }
  void TearDown() override { WaitForAllChildren(); }

  HostSeams Seams(std::function<void()> at_step = nullptr) const {
    return {.root = host_.root(), .swap = kFakeSwap, .at_step = std::move(at_step)};
  }
  // Changes of every kind, in the order in which KernelBaseline makes them.
  absl::Status MakeChanges(HostSettings& settings) const {
    const std::string group = host_.Path("/sys/cgroup/group"), device = host_.Path("/dev/zram0");
    absl::Status status = settings.Do({.kind = Kind::kRemoveCgroup, .target = group}, [&] {
      return mkdir(group.c_str(), 0755) == 0 ? absl::OkStatus() : absl::ErrnoToStatus(errno, "mkdir");
    });
    if (!status.ok()) return status;
    status = settings.Do({.kind = Kind::kSwapOff, .target = device}, [&] {
      return FakeSwapOn(device.c_str(), 0) == 0 ? absl::OkStatus() : absl::InternalError("swapon");
    });
    if (!status.ok()) return status;
    if (status = settings.Change(host_.Path("/sys/a"), "never"); !status.ok()) return status;
    if (status = settings.Change(host_.Path("/sys/b"), "8"); !status.ok()) return status;
    settings.PutBack(settings.mark() - 1);
    return settings.Change(host_.Path("/sys/b"), "9");
  }
  // Starts a process that makes changes and calls `when` at that step of them, if there are so many.
  pid_t StartOwner(int step, std::function<void(HostSettings&)> when) const {
    return StartChild([&] {
      int steps = 0;
      HostSettings* it = nullptr;
      HostSettings settings(Seams([&] {
        if (steps++ == step) when(*it);
      }));
      it = &settings;
      if (!MakeChanges(settings).ok()) _exit(3);
    });
  }
  // Calls `try_step` with 0, 1, ... until it says that there are no more steps.
  static void ForEachStep(absl::FunctionRef<bool(int)> try_step) {
    int step = 0;
    while (try_step(step)) ++step;
    EXPECT_GT(step, 15) << "each of five changes has two, and so has its end";
  }
  // Leaves everything changed: neither owner nor janitor is left.
  void LeaveChangesBehind() const {
    const pid_t owner = StartChild([&] {
      HostSettings settings(Seams());
      if (!MakeChanges(settings).ok()) _exit(3);
      kill(settings.janitor(), SIGKILL);
      WaitForChild(settings.janitor());
      KillThisProcess();
    });
    ASSERT_TRUE(WIFSIGNALED(WaitForChild(owner)));
    ASSERT_EQ(host_.Get("/sys/a"), "never");
    ASSERT_EQ(host_.Get("/dev/zram0"), "on");
    ASSERT_TRUE(host_.Has(absl::StrCat("/run/quire/host-changes.", owner)));
  }
  std::string JournalOf(pid_t process) const { return host_.Path(absl::StrCat("/run/quire/host-changes.", process)); }
  void ExpectAsBefore() const { EXPECT_EQ(host_.Settings(), before_); }

  FakeTree host_;
  std::map<std::string, std::string> before_;
};

TEST_F(HostSettingsTest, WhatWasChangedIsPutBackAndNothingIsLeft) {
  {
    HostSettings settings(Seams());
    ASSERT_EQ(MakeChanges(settings), absl::OkStatus());
    EXPECT_EQ(host_.Get("/sys/a"), "never");
    EXPECT_EQ(host_.Get("/sys/b"), "9");
    EXPECT_TRUE(std::filesystem::exists(JournalOf(getpid())));
  }
  ExpectAsBefore();
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "the janitor has ended";
}

TEST_F(HostSettingsTest, WithoutAChangeThereIsNoJournal) {
  { HostSettings settings(Seams()); }
  ExpectAsBefore();
  HostSettings settings(Seams());
  ASSERT_EQ(settings.Change(host_.Path("/sys/b"), "7"), absl::OkStatus());
  EXPECT_EQ(settings.mark(), 0u) << "it is 7 already";
}

TEST_F(HostSettingsTest, AChangeThatFailsIsNotUndone) {
  HostSettings settings(Seams());
  EXPECT_EQ(settings.Change(host_.Path("/sys/none"), "1").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(settings.Do({.target = host_.Path("/sys/a"), .value = "x"}, [] { return absl::AbortedError("no"); }),
            absl::AbortedError("no"));
  EXPECT_EQ(settings.mark(), 0u);
}

TEST_F(HostSettingsTest, AnOwnerThatIsKilledAtAnyStepLeavesNothing) {
  ForEachStep([&](int step) {
    SCOPED_TRACE(absl::StrCat("step ", step));
    const int status = WaitForChild(StartOwner(step, [](HostSettings&) { KillThisProcess(); }));
    // The janitor, which is adopted.
    WaitForAllChildren();
    ExpectAsBefore();
    return WIFSIGNALED(status);
  });
}

TEST_F(HostSettingsTest, WhenTheJanitorIsKilledAsWellTheNextStartUndoesIt) {
  ForEachStep([&](int step) {
    SCOPED_TRACE(absl::StrCat("step ", step));
    const pid_t owner = StartOwner(step, [](HostSettings& settings) {
      kill(settings.janitor(), SIGKILL);
      WaitForChild(settings.janitor());
      KillThisProcess();
    });
    const int status = WaitForChild(owner);
    WaitForAllChildren();
    EXPECT_EQ(std::filesystem::exists(JournalOf(owner)), WIFSIGNALED(status));
    ::testing::internal::CaptureStderr();
    {
      HostSettings next(Seams());
      EXPECT_EQ(next.Open(), absl::OkStatus());
      auto now = host_.Settings();
      now.erase(absl::StrCat("/run/quire/host-changes.", getpid()));
      EXPECT_EQ(now, before_);
    }
    const std::string said = ::testing::internal::GetCapturedStderr();
    if (absl::StrContains(said, "undone")) {
      EXPECT_THAT(said, HasSubstr(absl::StrCat("process ", owner, " was killed")));
    }
    return WIFSIGNALED(status);
  });
}

TEST_F(HostSettingsTest, TheNextStartSaysWhatItHasPutBack) {
  LeaveChangesBehind();
  ::testing::internal::CaptureStderr();
  { EXPECT_EQ(HostSettings(Seams()).Open(), absl::OkStatus()); }
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, HasSubstr(host_.Path("/sys/a is madvise")));
  EXPECT_THAT(said, HasSubstr(absl::StrCat("no swap space on ", host_.Path("/dev/zram0"))));
  ExpectAsBefore();
}

TEST_F(HostSettingsTest, ASettingThatWasLeftChangedIsNotTakenForTheHostsOwn) {
  LeaveChangesBehind();
  {
    HostSettings settings(Seams());
    ASSERT_EQ(settings.Change(host_.Path("/sys/a"), "always"), absl::OkStatus());
  }
  ExpectAsBefore();
}

TEST_F(HostSettingsTest, OneAtATimeMakesChanges) {
  HostSettings first(Seams());
  ASSERT_EQ(first.Open(), absl::OkStatus());
  const int status = WaitForChild(StartChild([&] {
    const absl::Status opened = HostSettings(Seams()).Open();
    const bool named = absl::StrContains(opened.message(), absl::StrCat("wait for process ", getppid()));
    _exit(absl::IsFailedPrecondition(opened) && named ? 0 : 1);
  }));
  EXPECT_EQ(status, 0);
}

TEST_F(HostSettingsTest, OfTwoStartsAtOnceOneUndoesWhatWasLeft) {
  constexpr int kStarts = 4;
  LeaveChangesBehind();
  Signal begin, done, end;
  for (int i = 0; i < kStarts; ++i) {
    StartChild([&] {
      HostSettings settings(Seams());
      begin.Wait();
      const absl::Status status = settings.Change(host_.Path("/sys/b"), "11");
      std::ofstream(host_.Path(status.ok() ? absl::StrCat("/won.", getpid()) : absl::StrCat("/lost.", getpid())));
      if (!status.ok() && !absl::IsFailedPrecondition(status)) std::ofstream(host_.Path("/failed")) << status;
      done.Send();
      end.Wait();
    });
  }
  for (int i = 0; i < kStarts; ++i) begin.Send();
  for (int i = 0; i < kStarts; ++i) done.Wait();
  EXPECT_EQ(host_.Get("/sys/a"), "madvise");
  for (int i = 0; i < kStarts; ++i) end.Send();
  WaitForAllChildren();
  int won = 0, lost = 0;
  for (const auto& entry : std::filesystem::directory_iterator(host_.root())) {
    const bool is_won = absl::StartsWith(entry.path().filename().native(), "won.");
    const bool is_lost = absl::StartsWith(entry.path().filename().native(), "lost.");
    won += is_won;
    lost += is_lost;
    if (is_won || is_lost) std::filesystem::remove(entry.path());
  }
  EXPECT_EQ(won, 1);
  EXPECT_EQ(lost, kStarts - 1);
  ExpectAsBefore();
}

// It is stopped, so that the next start is quicker for certain.
TEST_F(HostSettingsTest, AJanitorThatComesSecondFindsNothingToDo) {
  pid_t janitor = 0;
  Signal stopped;
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const pid_t owner = StartChild([&] {
    HostSettings settings(Seams());
    if (!MakeChanges(settings).ok()) _exit(3);
    const pid_t it = settings.janitor();
    kill(it, SIGSTOP);
    waitpid(it, nullptr, WUNTRACED);
    if (write(ends[1], &it, sizeof it) != sizeof it) _exit(3);
    KillThisProcess();
  });
  ASSERT_EQ(read(ends[0], &janitor, sizeof janitor), static_cast<ssize_t>(sizeof janitor));
  close(ends[0]);
  close(ends[1]);
  WaitForChild(owner);
  {
    HostSettings settings(Seams());
    ASSERT_EQ(settings.Change(host_.Path("/sys/a"), "always"), absl::OkStatus());
    kill(janitor, SIGCONT);
    EXPECT_EQ(WaitForChild(janitor), 0);
    EXPECT_EQ(host_.Get("/sys/a"), "always") << "the janitor of another process has left it alone";
  }
  ExpectAsBefore();
}

// The janitor is at work, and held up there.
TEST_F(HostSettingsTest, AStartWaitsForTheJanitorOfTheOneBefore) {
  ASSERT_EQ(mkfifo(host_.Path("/dev/zram0.begun").c_str(), 0600), 0);
  const pid_t owner = StartChild([&] {
    HostSeams seams = Seams();
    seams.swap.off = SlowSwapOff;
    HostSettings settings(std::move(seams));
    if (!MakeChanges(settings).ok()) _exit(3);
    KillThisProcess();
  });
  WaitForChild(owner);
  Signal started;
  const pid_t next = StartChild([&] {
    started.Send();
    HostSettings settings(Seams());
    if (!settings.Open().ok() || host_.Get("/dev/zram0") != "off" || host_.Has("/sys/cgroup/group")) _exit(1);
  });
  started.Wait();
  // The janitor goes on.
  std::ifstream begun(host_.Path("/dev/zram0.begun"));
  std::string text;
  begun >> text;
  EXPECT_EQ(text, "here");
  EXPECT_EQ(WaitForChild(next), 0);
  WaitForAllChildren();
  std::filesystem::remove(host_.Path("/dev/zram0.begun"));
  ExpectAsBefore();
}

TEST_F(HostSettingsTest, AChildWithoutExecKeepsTheJanitorWaiting) {
  Signal end;
  const pid_t owner = StartChild([&] {
    HostSettings settings(Seams());
    if (!MakeChanges(settings).ok()) _exit(3);
    StartChild([&] { end.Wait(); });
    KillThisProcess();
  });
  WaitForChild(owner);
  {
    const UniqueFd journal(open(JournalOf(owner).c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_FALSE(Lock(journal.get(), LOCK_EX | LOCK_NB)) << "the child has it";
  }
  EXPECT_EQ(host_.Get("/sys/a"), "never");
  end.Send();
  WaitForAllChildren();
  ExpectAsBefore();
}

TEST_F(HostSettingsTest, AForkedChildThatEndsInOrderUndoesNothing) {
  HostSettings settings(Seams());
  ASSERT_EQ(MakeChanges(settings), absl::OkStatus());
  WaitForChild(StartChild([&] { settings.~HostSettings(); }));
  EXPECT_EQ(host_.Get("/sys/a"), "never");
  EXPECT_TRUE(std::filesystem::exists(JournalOf(getpid())));
}

TEST_F(HostSettingsTest, TheJanitorIgnoresWhatATerminalSends) {
  const pid_t owner = StartChild([&] {
    HostSettings settings(Seams());
    if (!MakeChanges(settings).ok()) _exit(3);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) kill(settings.janitor(), number);
    if (getsid(settings.janitor()) != settings.janitor()) _exit(4);
    KillThisProcess();
  });
  EXPECT_TRUE(WIFSIGNALED(WaitForChild(owner)));
  WaitForAllChildren();
  ExpectAsBefore();
}

TEST_F(HostSettingsTest, AJournalOfTheSameProcessNumberIsAnotherProcesss) {
  std::ofstream(JournalOf(getpid())) << "{\"boot\":\"\",\"process\":" << getpid() << ",\"started\":1}\n"
                                     << ToLine({.target = host_.Path("/sys/b"), .value = "5"});
  chmod(JournalOf(getpid()).c_str(), 0600);
  {
    HostSettings settings(Seams());
    ASSERT_EQ(settings.Change(host_.Path("/sys/b"), "8"), absl::OkStatus());
  }
  EXPECT_EQ(host_.Get("/sys/b"), "5");
}

TEST_F(HostSettingsTest, AJournalFromBeforeTheHostWasStartedIsRemoved) {
  std::ofstream(JournalOf(1)) << "{\"boot\":\"another\",\"process\":1,\"started\":1}\n"
                              << ToLine({.target = host_.Path("/sys/b"), .value = "5"});
  chmod(JournalOf(1).c_str(), 0600);
  { EXPECT_EQ(HostSettings(Seams()).Open(), absl::OkStatus()); }
  ExpectAsBefore();
}

TEST_F(HostSettingsTest, AFileThatOthersCanWriteToIsPassedOver) {
  const std::string record = ToLine({.target = host_.Path("/sys/b"), .value = "5"});
  std::ofstream(JournalOf(1)) << "{}\n" << record;
  chmod(JournalOf(1).c_str(), 0666);
  std::ofstream(host_.Path("/elsewhere")) << "{}\n" << record;
  ASSERT_EQ(symlink(host_.Path("/elsewhere").c_str(), JournalOf(2).c_str()), 0);
  ASSERT_EQ(mkfifo(JournalOf(3).c_str(), 0600), 0);
  std::ostringstream said;
  EXPECT_EQ(RecoverAll(host_.Path("/run/quire"), kFakeSwap, said), absl::OkStatus());
  EXPECT_EQ(host_.Get("/sys/b"), "7");
  for (const pid_t process : {1, 2, 3}) EXPECT_THAT(said.str(), HasSubstr(JournalOf(process) + " is passed over"));
}

TEST_F(HostSettingsTest, AFolderThatOthersCanWriteToIsRefused) {
  chmod(host_.Path("/run/quire").c_str(), 0777);
  const absl::Status status = HostSettings(Seams()).Open();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("chmod 700"));
}

TEST_F(HostSettingsTest, AFolderThatIsNotThereIsMade) {
  std::filesystem::remove_all(host_.Path("/run"));
  HostSettings settings(Seams());
  ASSERT_EQ(settings.Open(), absl::OkStatus());
  struct stat found;
  ASSERT_EQ(stat(host_.Path("/run/quire").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0700u);
}

}  // namespace
}  // namespace quire
