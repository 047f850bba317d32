#include "vmm/experiment/progress_bar.h"

#include <algorithm>
#include <functional>
#include <sstream>
#include <string>

#include "absl/time/time.h"
#include "base/fake_clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class ProgressBarTest : public testing::Test {
 protected:
  std::string Take() {
    std::string text = out_.str();
    out_.str("");
    return text;
  }

  FakeClock clock_;
  std::ostringstream out_;
  Terminal terminal_;
  const std::function<Terminal()> look_ = [this] { return terminal_; };
  ProgressBar bar_{out_, look_, clock_};
};

TEST_F(ProgressBarTest, WithoutATerminalThereIsALineForEachRun) {
  bar_.Expect(6);
  bar_.Expect(6);
  bar_.Begin("merge=on repetition=1");
  EXPECT_EQ(Take(), "1 of 2  merge=on repetition=1  (about 20 s left)\n");
  bar_.Update(3);
  EXPECT_EQ(Take(), "");
  clock_.Advance(absl::Seconds(10));
  bar_.End("");
  bar_.Begin("merge=off repetition=1");
  EXPECT_EQ(Take(), "2 of 2  merge=off repetition=1  (about 10 s left)\n");
  bar_.End("it failed");
  EXPECT_EQ(Take(), "it failed\n");
  bar_.Clear();
  EXPECT_EQ(Take(), "");
}

TEST_F(ProgressBarTest, WhatIsLeftTakesAsMuchLongerAsWhatIsDone) {
  for (int i = 0; i < 3; ++i) bar_.Expect(6);
  EXPECT_EQ(bar_.SecondsLeft(0), 30);
  bar_.Begin("a");
  EXPECT_EQ(bar_.SecondsLeft(4), 26);
  // Longer than it was to take.
  EXPECT_EQ(bar_.SecondsLeft(100), 20);
  clock_.Advance(absl::Seconds(20));
  bar_.End("");
  bar_.Begin("b");
  EXPECT_EQ(bar_.SecondsLeft(0), 40);
  clock_.Advance(absl::Seconds(20));
  bar_.End("");
  bar_.Begin("c");
  clock_.Advance(absl::Seconds(20));
  bar_.End("");
  EXPECT_EQ(bar_.SecondsLeft(20), 0);
}

TEST_F(ProgressBarTest, LongTimesAreInMinutesAndHours) {
  bar_.Expect(600 - 4);
  bar_.Begin("a");
  EXPECT_THAT(Take(), HasSubstr("about 10 min left"));
  bar_.Expect(7200 - 4);
  bar_.Begin("b");
  EXPECT_THAT(Take(), HasSubstr("about 2.0 h left"));
}

TEST_F(ProgressBarTest, OnATerminalALineIsRedrawnAndTakenOff) {
  terminal_.interactive = true;
  bar_.Expect(6);
  bar_.Begin("a");
  EXPECT_THAT(Take(), StartsWith("\r........................  1 of 1, about 10 s left  a\x1b[K"));
  clock_.Advance(absl::Seconds(5));
  bar_.Update(5);
  EXPECT_THAT(Take(), StartsWith("\r############............  1 of 1, about 5 s left"));
  bar_.End("it failed");
  EXPECT_EQ(Take(), "\r\x1b[Kit failed\n");
  bar_.Clear();
  EXPECT_EQ(Take(), "");
}

// A line that is broken by the terminal cannot be redrawn.
TEST_F(ProgressBarTest, ALineIsNoWiderThanTheTerminal) {
  terminal_.interactive = true;
  bar_.Expect(6);
  bar_.Begin("a");
  for (const bool unicode : {false, true}) {
    terminal_.unicode = unicode;
    for (const int columns : {0, 1, 2, 5, 10, 24, 30, 60, 200}) {
      terminal_.columns = columns;
      Take();
      bar_.Update(2);
      const std::string line = Take();
      ASSERT_THAT(line, StartsWith("\r"));
      ASSERT_THAT(line, EndsWith("\x1b[K"));
      const std::string text = line.substr(1, line.size() - 4);
      int cells = 0, rest = 0;
      for (size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        // Each cell of a bar is whole: three bytes.
        if (rest > 0) {
          ASSERT_EQ(byte & 0xc0, 0x80) << columns;
          --rest;
          continue;
        }
        ASSERT_NE(byte & 0xc0, 0x80) << columns;
        rest = byte >= 0xe0 ? 2 : 0;
        ++cells;
      }
      EXPECT_EQ(rest, 0) << columns;
      EXPECT_LE(cells, std::max(columns - 1, 1));
    }
  }
}

TEST_F(ProgressBarTest, NamesOfRunsDoNothingToTheTerminal) {
  bar_.Expect(6);
  bar_.Begin("content=\x1b[31m\n");
  EXPECT_THAT(Take(), Not(HasSubstr("\x1b")));
}

}  // namespace
}  // namespace quire
