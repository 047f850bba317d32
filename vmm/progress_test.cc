#include "vmm/progress.h"

#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

Snapshot Sample(double seconds, uint64_t operations, int guests = 2) {
  Snapshot snapshot = {.elapsed = absl::Seconds(seconds),
                       .duration = absl::Seconds(10),
                       .guests = {},
                       .pool_used = ByteCount::MiB(60),
                       .pool_limit = ByteCount::MiB(64)};
  for (int i = 0; i < guests; ++i) {
    snapshot.guests.push_back({.name = "guest-" + std::to_string(i),
                               .state = GuestSnapshot::State::kRunning,
                               .operations = operations,
                               .faults = 1234,
                               .memory = ByteCount::MiB(40),
                               .resident = ByteCount::MiB(20),
                               .out = ByteCount::MiB(4),
                               .shared = ByteCount(),
                               .compressed = ByteCount::MiB(8)});
  }
  return snapshot;
}

class ProgressTest : public testing::Test {
 protected:
  // What was written since the last call.
  std::string Written() {
    std::string text = out_.str();
    out_.str("");
    return text;
  }

  Terminal terminal_;
  bool interrupted_ = false;
  std::ostringstream out_;
  ProgressPrinter progress_{out_, [this] { return terminal_; }, [this] { return interrupted_; }};
};

TEST_F(ProgressTest, APipeGetsPlainLines) {
  progress_.Update(Sample(2, 2000));
  EXPECT_EQ(
      Written(),
      "2.0 of 10 s  guest-0 running: 1k operations/s, resident 20 MiB, out 4 MiB, compressed 8 MiB, faults 1,234\n"
      "2.0 of 10 s  guest-1 running: 1k operations/s, resident 20 MiB, out 4 MiB, compressed 8 MiB, faults 1,234\n"
      "2.0 of 10 s  pool: 60 MiB of 64 MiB\n");
}

TEST_F(ProgressTest, APipeGetsThemEveryTwoSeconds) {
  for (double seconds : {0.2, 1.0, 1.9}) {
    progress_.Update(Sample(seconds, 1000));
    EXPECT_EQ(Written(), "") << seconds;
  }
  progress_.Update(Sample(2.1, 2100));
  EXPECT_NE(Written(), "");
  progress_.Update(Sample(4.0, 4000));
  EXPECT_EQ(Written(), "");
  progress_.Update(Sample(4.1, 4100));
  EXPECT_NE(Written(), "");
}

TEST_F(ProgressTest, APipeGetsNoEscapeSequences) {
  terminal_.unicode = true;
  progress_.Update(Sample(2, 1));
  progress_.Clear();
  const std::string text = Written();
  EXPECT_NE(text, "");
  EXPECT_FALSE(absl::StrContains(text, "\x1b"));
}

TEST_F(ProgressTest, ManyGuestsArePrintedInPart) {
  progress_.Update(Sample(2, 1, 100));
  const std::string text = Written();
  EXPECT_TRUE(absl::StrContains(text, "guest-15 "));
  EXPECT_FALSE(absl::StrContains(text, "guest-16 "));
  EXPECT_TRUE(absl::StrContains(text, "and 84 more guests\n"));
}

TEST_F(ProgressTest, ATerminalGetsATable) {
  terminal_ = {.interactive = true, .columns = 90};
  progress_.Update(Sample(1, 2000));
  EXPECT_EQ(Written(),
            "guest                ops/s  resident       out compressed  faults  \x1b[K\n"
            "guest-0   running       2k    20 MiB     4 MiB      8 MiB   1.23k  ###########++:::::....\x1b[K\n"
            "guest-1   running       2k    20 MiB     4 MiB      8 MiB   1.23k  ###########++:::::....\x1b[K\n"
            "1.0 of 10 s, pool 60 MiB of 64 MiB\x1b[K\n"
            "\x1b[J");
}

TEST_F(ProgressTest, ATerminalIsRedrawnInPlaceAndCleared) {
  terminal_.interactive = true;
  progress_.Update(Sample(1, 2000));
  Written();
  progress_.Update(Sample(1.2, 2400));
  EXPECT_TRUE(absl::StartsWith(Written(), "\x1b[4Aguest "));
  progress_.Clear();
  EXPECT_EQ(Written(), "\x1b[4A\x1b[J");
  progress_.Clear();
  EXPECT_EQ(Written(), "");
}

TEST_F(ProgressTest, NoLineIsWiderThanTheTerminal) {
  terminal_.interactive = true;
  for (int columns : {20, 60, 70, 80, 81, 200}) {
    terminal_.columns = columns;
    progress_.Clear();
    Written();
    progress_.Update(Sample(1, 2000));
    const std::string text = Written();
    for (absl::string_view line : absl::StrSplit(text, "\x1b[K\n")) {
      EXPECT_LT(line.size(), static_cast<size_t>(columns)) << line;
    }
  }
}

TEST_F(ProgressTest, TheTableFitsTheTerminalsHeight) {
  terminal_ = {.interactive = true, .rows = 10};
  progress_.Update(Sample(1, 2000, 64));
  const std::vector<std::string> lines = absl::StrSplit(Written(), '\n');
  EXPECT_EQ(lines.size(), 10u);  // nine, and what follows the last line break
  EXPECT_TRUE(absl::StartsWith(lines[7], "and 58 more guests"));
}

TEST_F(ProgressTest, ColorsOnlyWhereTheTerminalHasThem) {
  terminal_ = {.interactive = true, .columns = 100};
  progress_.Update(Sample(1, 2000));
  EXPECT_FALSE(absl::StrContains(Written(), "\x1b[32m"));
  terminal_.color = true;
  progress_.Update(Sample(1, 2000));
  EXPECT_TRUE(absl::StrContains(Written(), "\x1b[32m"));
}

TEST_F(ProgressTest, RatesFollowTheOperations) {
  progress_.Update(Sample(2, 2000));
  EXPECT_TRUE(absl::StrContains(Written(), "1k operations/s"));
  progress_.Update(Sample(4, 2000));
  EXPECT_TRUE(absl::StrContains(Written(), "500 operations/s"));  // half of the old rate, none of the new one
}

TEST_F(ProgressTest, WrongPagesAreShown) {
  Snapshot snapshot = Sample(2, 1, 1);
  snapshot.guests[0].mismatched_pages = 2;
  progress_.Update(snapshot);
  EXPECT_TRUE(absl::StrContains(Written(), ", 2 pages WRONG\n"));
  terminal_.interactive = true;
  progress_.Update(snapshot);
  EXPECT_TRUE(absl::StrContains(Written(), "guest-0   WRONG"));
}

TEST_F(ProgressTest, WithoutAPoolNoneIsShown) {
  Snapshot snapshot = Sample(2, 1);
  snapshot.pool_limit = ByteCount();
  progress_.Update(snapshot);
  const std::string text = Written();
  EXPECT_TRUE(absl::StrContains(text, "guest-0"));
  EXPECT_FALSE(absl::StrContains(text, "pool"));
}

TEST_F(ProgressTest, PassesInterruptsOn) {
  EXPECT_FALSE(progress_.interrupted());
  interrupted_ = true;
  EXPECT_TRUE(progress_.interrupted());
}

}  // namespace
}  // namespace quire
