#include "vmm/terminal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(BarTest, PartsHaveTheirShareOfTheCells) {
  EXPECT_EQ(Bar({{Fill::kResident, ByteCount::MiB(50)}, {Fill::kOut, ByteCount::MiB(10)}}, ByteCount::MiB(100), 10, {}),
            "#####+....");
}

TEST(BarTest, RoundingKeepsTheWidth) {
  const ByteCount third = ByteCount::Bytes(1);
  EXPECT_EQ(
      Bar({{Fill::kResident, third}, {Fill::kShared, third}, {Fill::kCompressed, third}}, ByteCount::Bytes(3), 10, {}),
      "###====:::");
}

TEST(BarTest, TooMuchIsCutAndNothingIsEmpty) {
  EXPECT_EQ(Bar({{Fill::kResident, ByteCount::MiB(9)}, {Fill::kWired, ByteCount::MiB(9)}}, ByteCount::MiB(4), 4, {}),
            "####");
  EXPECT_EQ(Bar({{Fill::kResident, ByteCount()}}, ByteCount(), 4, {}), "....");
}

TEST(BarTest, UnicodeAndColors) {
  EXPECT_EQ(Bar({{Fill::kResident, ByteCount::MiB(2)}}, ByteCount::MiB(4), 4, {.unicode = true}), "██··");
  EXPECT_EQ(Bar({{Fill::kResident, ByteCount::MiB(2)}}, ByteCount::MiB(4), 4, {.color = true}), "\x1b[32m##\x1b[0m..");
}

class DetectTerminalTest : public testing::Test {
 protected:
  DetectTerminalTest() {
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    controller_ = posix_openpt(O_RDWR | O_NOCTTY);
    grantpt(controller_);
    unlockpt(controller_);
    terminal_ = open(ptsname(controller_), O_RDWR | O_NOCTTY);
  }
  ~DetectTerminalTest() override {
    close(terminal_);
    close(controller_);
  }

  int controller_ = -1;
  int terminal_ = -1;
};

TEST_F(DetectTerminalTest, ATerminalHasItsSizeAndColors) {
  const winsize size = {.ws_row = 40, .ws_col = 120, .ws_xpixel = 0, .ws_ypixel = 0};
  ASSERT_EQ(ioctl(terminal_, TIOCSWINSZ, &size), 0);
  const Terminal terminal = DetectTerminal(terminal_);
  EXPECT_TRUE(terminal.interactive);
  EXPECT_TRUE(terminal.color);
  EXPECT_EQ(terminal.columns, 120);
  EXPECT_EQ(terminal.rows, 40);
}

TEST_F(DetectTerminalTest, NoColorIsRespected) {
  setenv("NO_COLOR", "1", 1);
  EXPECT_TRUE(DetectTerminal(terminal_).interactive);
  EXPECT_FALSE(DetectTerminal(terminal_).color);
}

TEST_F(DetectTerminalTest, ADumbTerminalIsNotRedrawn) {
  setenv("TERM", "dumb", 1);
  EXPECT_FALSE(DetectTerminal(terminal_).interactive);
}

TEST_F(DetectTerminalTest, APipeIsNoTerminal) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Terminal terminal = DetectTerminal(ends[1]);
  EXPECT_FALSE(terminal.interactive);
  EXPECT_FALSE(terminal.color);
  EXPECT_EQ(terminal.columns, 80);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(DetectTerminalTest, TheLocaleSaysWhetherUnicodeIsShown) {
  unsetenv("LC_ALL");
  unsetenv("LC_CTYPE");
  setenv("LANG", "de_DE.UTF-8", 1);
  EXPECT_TRUE(DetectTerminal(terminal_).unicode);
  setenv("LC_ALL", "C", 1);
  EXPECT_FALSE(DetectTerminal(terminal_).unicode);
}

}  // namespace
}  // namespace quire
