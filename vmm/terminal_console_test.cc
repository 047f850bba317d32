#include "vmm/terminal_console.h"

#include <fcntl.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>

#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

// A terminal of which the test is the user.
class TerminalConsoleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    user_ = UniqueFd(posix_openpt(O_RDWR | O_NOCTTY));
    ASSERT_TRUE(user_.valid());
    ASSERT_EQ(grantpt(user_.get()), 0);
    ASSERT_EQ(unlockpt(user_.get()), 0);
    terminal_ = UniqueFd(open(ptsname(user_.get()), O_RDWR | O_NOCTTY));
    ASSERT_TRUE(terminal_.valid());
  }

  std::unique_ptr<TerminalConsole> Open() {
    return TerminalConsole::Open(terminal_.get(), terminal_.get(),
                                 [this](absl::string_view bytes) {
                                   absl::MutexLock lock(&lock_);
                                   typed_.append(bytes.data(), bytes.size());
                                 })
        .value();
  }
  void Type(const std::string& keys) {
    ASSERT_EQ(write(user_.get(), keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  // Waits until the guest has got so many bytes.
  std::string AwaitTyped(size_t size) {
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return typed_.size() >= size; };
    absl::MutexLock lock(&lock_, absl::Condition(&enough));
    return typed_;
  }
  std::string Shown() {
    std::string shown(4096, '\0');
    shown.resize(static_cast<size_t>(std::max<ssize_t>(read(user_.get(), shown.data(), shown.size()), 0)));
    return shown;
  }
  tcflag_t LocalModes() const {
    termios modes;
    EXPECT_EQ(tcgetattr(terminal_.get(), &modes), 0);
    return modes.c_lflag;
  }

  UniqueFd user_, terminal_;
  absl::Mutex lock_;
  std::string typed_ ABSL_GUARDED_BY(lock_);
};

TEST_F(TerminalConsoleTest, KeysReachTheGuestAsTheyAre) {
  const auto console = Open();
  Type("ls\r\x03\x1b[A");
  EXPECT_EQ(AwaitTyped(6), "ls\r\x03\x1b[A");
  EXPECT_FALSE(console->wants_to_quit());
}

TEST_F(TerminalConsoleTest, WhatTheGuestWritesIsShownAsItIs) {
  const auto console = Open();
  console->Write("login: \x1b[1m");
  EXPECT_EQ(Shown(), "login: \x1b[1m");
}

TEST_F(TerminalConsoleTest, CtrlAXQuitsAndDoesNotReachTheGuest) {
  const auto console = Open();
  Type("a\x01xb");
  EXPECT_EQ(AwaitTyped(2), "ab");
  EXPECT_TRUE(console->wants_to_quit());
}

TEST_F(TerminalConsoleTest, CtrlATwiceIsOneForTheGuest) {
  const auto console = Open();
  Type("\x01\x01x");
  EXPECT_EQ(AwaitTyped(2), "\x01x");
  EXPECT_FALSE(console->wants_to_quit());
}

TEST_F(TerminalConsoleTest, AnotherKeyAfterCtrlASaysWhatThereIs) {
  const auto console = Open();
  Type("\x01h");
  EXPECT_THAT(Shown(), ::testing::HasSubstr("Ctrl-A x quits"));
}

TEST_F(TerminalConsoleTest, TheTerminalIsRawMeanwhileAndAsItWasAfterwards) {
  const tcflag_t before = LocalModes();
  auto console = Open();
  EXPECT_EQ(LocalModes() & (ICANON | ECHO | ISIG), 0u);
  console = nullptr;
  EXPECT_EQ(LocalModes(), before);
}

TEST(TerminalConsoleWithoutTerminalTest, SaysWhatToDo) {
  const UniqueFd file(open("/dev/null", O_RDWR));
  const absl::Status status = TerminalConsole::Open(file.get(), file.get(), [](absl::string_view) {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("--console=lines"));
}

}  // namespace
}  // namespace quire
