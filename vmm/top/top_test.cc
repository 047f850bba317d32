// `quire top` on a terminal of which the test is the user, and of a run that the test plays.
#include "vmm/top/top.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/control/http.h"
#include "vmm/control/server.h"
#include "vmm/report.h"
#include "vmm/terminal.h"
#include "vmm/top/top_view.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

constexpr char kEnter[] = "\x1b[?1049h";
constexpr char kLeave[] = "\x1b[?1049l";

class TopTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/quire-top-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    options_.socket = directory_ + "/sock";
    options_.interval = absl::Milliseconds(100);
    user_ = UniqueFd(posix_openpt(O_RDWR | O_NOCTTY));
    ASSERT_EQ(grantpt(user_.get()), 0);
    ASSERT_EQ(unlockpt(user_.get()), 0);
    const winsize size = {.ws_row = 24, .ws_col = 100, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(ioctl(user_.get(), TIOCSWINSZ, &size), 0);
    // Kept open, so that what was written can be read when the child is gone, and its modes be looked at.
    terminal_ = UniqueFd(open(ptsname(user_.get()), O_RDWR | O_NOCTTY));
    ASSERT_TRUE(terminal_.valid());
    ASSERT_EQ(tcgetattr(terminal_.get(), &before_), 0);
  }
  void TearDown() override {
    server_.reset();
    rmdir(directory_.c_str());
  }
  void StartRun() {
    server_ = ControlServer::Start(options_.socket, [this](const HttpRequest&) {
                Report report{.elapsed_seconds = static_cast<double>(++asked_)};
                report.guests = {{.name = "guest-0", .operations = 100 * asked_, .state = "running"}};
                return HttpAnswer{.body = ToJson(report)};
              }).value();
  }
  // In a process of its own, which ends with status 0 if it succeeds.
  void StartTop() {
    top_ = fork();
    if (top_ != 0) return;
    dup2(terminal_.get(), STDIN_FILENO);
    dup2(terminal_.get(), STDOUT_FILENO);
    setenv("TERM", "xterm", 1);
    const absl::Status status = RunTop(options_, std::cout, [] { return DetectTerminal(STDOUT_FILENO); });
    _exit(status.ok() ? 0 : 1);
  }
  void Type(const std::string& keys) {
    ASSERT_EQ(write(user_.get(), keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  // Reads what is shown until that is part of it.
  void AwaitShown(const std::string& text) {
    while (!absl::StrContains(shown_, text)) {
      char bytes[4096];
      const ssize_t count = read(user_.get(), bytes, sizeof bytes);
      ASSERT_GT(count, 0) << shown_;
      shown_.append(bytes, static_cast<size_t>(count));
    }
    shown_.erase(0, shown_.find(text) + text.size());
  }
  int AwaitEnd() {
    int status = 0;
    waitpid(top_, &status, 0);
    termios after;
    EXPECT_EQ(tcgetattr(terminal_.get(), &after), 0);
    EXPECT_EQ(after.c_lflag, before_.c_lflag) << "the terminal is as it was";
    EXPECT_EQ(after.c_iflag, before_.c_iflag);
    return status;
  }

  std::string directory_;
  TopOptions options_;
  std::atomic<uint64_t> asked_ = 0;
  std::unique_ptr<ControlServer> server_;
  UniqueFd user_, terminal_;
  termios before_;
  pid_t top_ = 0;
  std::string shown_;
};

TEST_F(TopTest, ItIsDrawnAgainAndAgainUntilTheUserLeaves) {
  StartRun();
  StartTop();
  AwaitShown(kEnter);
  AwaitShown("guest-0    running      100");
  Type("s");
  AwaitShown("(by state; ? for keys)");
  Type("?");
  AwaitShown("the other way round");
  Type("p");
  AwaitShown("PAUSED");
  Type("q");
  AwaitShown(kLeave);
  EXPECT_EQ(AwaitEnd(), 0);
}

TEST_F(TopTest, CtrlCLeaves) {
  StartRun();
  StartTop();
  AwaitShown(kEnter);
  Type("\x03");
  AwaitShown(kLeave);
  EXPECT_EQ(AwaitEnd(), 0);
}

TEST_F(TopTest, TheEndOfTheRunIsSaid) {
  StartRun();
  StartTop();
  AwaitShown("guest-0");
  server_.reset();
  AwaitShown(kLeave);
  AwaitShown("The run has ended.");
  EXPECT_EQ(AwaitEnd(), 0);
}

TEST_F(TopTest, SignalsEndItAfterTheTerminalHasBeenPutBack) {
  StartRun();
  for (const int number : {SIGTERM, SIGHUP, SIGINT, SIGQUIT}) {
    StartTop();
    AwaitShown("guest-0");
    kill(top_, number);
    AwaitShown(kLeave);
    const int status = AwaitEnd();
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == number) << status;
  }
}

TEST_F(TopTest, AStoppedOneGivesTheTerminalBackAndTakesItAgain) {
  StartRun();
  StartTop();
  AwaitShown("guest-0");
  kill(top_, SIGTSTP);
  int status = 0;
  ASSERT_EQ(waitpid(top_, &status, WUNTRACED), top_);
  ASSERT_TRUE(WIFSTOPPED(status));
  AwaitShown(kLeave);
  termios stopped;
  ASSERT_EQ(tcgetattr(terminal_.get(), &stopped), 0);
  EXPECT_EQ(stopped.c_lflag, before_.c_lflag);
  kill(top_, SIGCONT);
  AwaitShown(kEnter);
  AwaitShown("guest-0");
  Type("q");
  EXPECT_EQ(AwaitEnd(), 0);
}

TEST_F(TopTest, AWindowOfAnotherSizeIsDrawnAnew) {
  StartRun();
  options_.interval = absl::Hours(1);
  StartTop();
  AwaitShown("? for keys");
  const winsize size = {.ws_row = 24, .ws_col = 30, .ws_xpixel = 0, .ws_ypixel = 0};
  ASSERT_EQ(ioctl(user_.get(), TIOCSWINSZ, &size), 0);
  kill(top_, SIGWINCH);  // it has no controlling terminal
  AwaitShown("guest      state      ops/s f\x1b[K");
  Type("q");
  EXPECT_EQ(AwaitEnd(), 0);
}

TEST_F(TopTest, WithoutATerminalItIsText) {
  StartRun();
  std::ostringstream out;
  options_.once = true;
  EXPECT_EQ(RunTop(options_, out, [] { return Terminal{.interactive = true, .color = true}; }), absl::OkStatus());
  EXPECT_EQ(asked_, 2u);
  EXPECT_THAT(out.str(), HasSubstr("guest-0    running      100 "));
  EXPECT_EQ(out.str().find('\x1b'), std::string::npos);
}

TEST_F(TopTest, ARunThatIsNotThereIsAnError) {
  std::ostringstream out;
  const absl::Status status = RunTop(options_, out, [] { return Terminal{}; });
  EXPECT_THAT(std::string(status.message()), HasSubstr("no run of guests listens on"));
}

}  // namespace
}  // namespace quire
