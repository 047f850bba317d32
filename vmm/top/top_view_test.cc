#include "vmm/top/top_view.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/report.h"
#include "vmm/terminal.h"
#include "vmm/top/top_sample.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr Terminal kPlain = {.columns = 120, .rows = 24};
constexpr Terminal kScreen = {.interactive = true, .columns = 120, .rows = 24};

// By the real report: what top reads is what runs write.
TopSample SampleOf(const Report& report) { return ParseTopSample(ToJson(report)).value(); }

Report At(double seconds, uint64_t scale) {
  Report report{.elapsed_seconds = seconds};
  report.pool.limit_bytes = ByteCount::MiB(512);
  report.pool.resident_bytes = ByteCount::MiB(256);
  report.pool.compressed_bytes = ByteCount::MiB(128);
  report.pool.free_bytes = ByteCount::MiB(128);
  report.faults = {.total = 500 * scale, .p50_us = 9.7, .p99_us = 1500};
  report.swap.pages_out = 256 * scale;
  report.huge.blocks_mapped = 64;
  report.merge.saved_bytes = ByteCount::MiB(3);
  report.cpu_seconds = {.vcpus = 1.5 * static_cast<double>(scale), .fault = 0.25};
  for (int i = 0; i < 3; ++i) {
    report.guests.push_back({.id = i,
                             .name = absl::StrCat("guest-", i),
                             .memory_bytes = ByteCount::MiB(256),
                             .operations = 1000 * scale * static_cast<uint64_t>(3 - i),
                             .state = i == 1 ? "stopped" : "running",
                             .resident_bytes = ByteCount::MiB(128),
                             .compressed_bytes = ByteCount::MiB(64),
                             .faults = 10 * scale,
                             .reclaimed_pages = 256 * scale * static_cast<uint64_t>(i)});
  }
  report.guests[1].pool_limit_bytes = ByteCount::MiB(64);
  report.guests[2].pc = PcReport{.balloon_bytes = ByteCount::MiB(32)};
  return report;
}

TopView TwoSeconds(TopSort sort = TopSort::kGuest) {
  TopView view(sort);
  view.Show(SampleOf(At(10, 1)));
  view.Show(SampleOf(At(12, 3)));
  return view;
}

std::string Text(const TopView& view, const Terminal& terminal) { return absl::StrJoin(view.Lines(terminal), "\n"); }

// The guests in the order of their lines.
std::vector<std::string> Order(const TopView& view) {
  std::vector<std::string> names;
  for (const std::string& line : view.Lines(kPlain)) {
    if (absl::StartsWith(line, "guest-")) names.push_back(line.substr(0, 7));
  }
  return names;
}

TEST(TopViewTest, TheRunAndItsGuestsAreShownWithRatesSinceTheSampleBefore) {
  EXPECT_EQ(Text(TwoSeconds(), kPlain),
            "3 guests, accel=soft, 12.0 s, merge=on, huge=always\n"
            "pool   ##############################:::::::::::::::............... of 512 MiB, 128 MiB free\n"
            "       # resident 256 MiB  : compressed 128 MiB  \n"
            "saved  3 MiB by merging; by 2 MiB: 128 MiB of 256 MiB (50%)\n"
            "swap   1 MiB/s out, 0 bytes/s in\n"
            "faults 500/s; of all, median 9.7 us, 99th percentile 1.5 ms\n"
            "CPUs   vcpus 1.50  fault 0.00  reclaim 0.00  swap 0.00  merge 0.00  \n"
            "\n"
            "guest      state      ops/s faults/s     reclaim  balloon    limit  memory\n"
            "guest-0    running       3k       10   0 bytes/s        -        -  "
            "##########################::::::::::::.............\n"
            "guest-1    stopped       2k       10     1 MiB/s        -   64 MiB  "
            "##########################::::::::::::.............\n"
            "guest-2    running       1k       10     2 MiB/s   32 MiB        -  "
            "##########################::::::::::::.............");
}

TEST(TopViewTest, TheFirstSampleHasNoRates) {
  TopView view;
  EXPECT_THAT(Text(view, kPlain), HasSubstr("0 guests"));
  view.Show(SampleOf(At(10, 1)));
  EXPECT_THAT(Text(view, kPlain), HasSubstr("faults 0/s"));
  EXPECT_THAT(Text(view, kPlain), HasSubstr("vcpus 0.00"));
}

TEST(TopViewTest, KeysSortPauseExplainAndLeave) {
  TopView view = TwoSeconds();
  EXPECT_THAT(Order(view), ElementsAre("guest-0", "guest-1", "guest-2"));
  EXPECT_TRUE(view.Press('r'));
  EXPECT_THAT(Order(view), ElementsAre("guest-2", "guest-1", "guest-0"));
  EXPECT_TRUE(view.Press('r'));
  EXPECT_TRUE(view.Press('s'));
  EXPECT_THAT(Order(view), ElementsAre("guest-0", "guest-2", "guest-1")) << "by state";
  EXPECT_THAT(Text(view, kScreen), HasSubstr("(by state; ? for keys)"));
  for (const char key : {'p', ' '}) {
    EXPECT_EQ(view.paused(), key == ' ');
    EXPECT_TRUE(view.Press(key));
  }
  EXPECT_FALSE(view.paused());
  EXPECT_TRUE(view.Press('?'));
  EXPECT_THAT(Text(view, kScreen), HasSubstr("s          the next column"));
  EXPECT_TRUE(view.Press('x'));
  EXPECT_FALSE(view.Press('q'));
  EXPECT_FALSE(view.Press('\x03'));
}

TEST(TopViewTest, EachColumnIsSortedBy) {
  EXPECT_THAT(Order(TwoSeconds(TopSort::kReclaim)), ElementsAre("guest-2", "guest-1", "guest-0"));
  EXPECT_THAT(Order(TwoSeconds(TopSort::kLimit)), ElementsAre("guest-1", "guest-0", "guest-2"));
  EXPECT_THAT(Order(TwoSeconds(TopSort::kBalloon)), ElementsAre("guest-2", "guest-0", "guest-1"));
  for (const absl::string_view name : TopSortNames()) EXPECT_TRUE(ParseTopSort(name).has_value()) << name;
  EXPECT_EQ(ParseTopSort("memory"), TopSort::kMemory);
  EXPECT_EQ(ParseTopSort(""), std::nullopt);
}

TEST(TopViewTest, WhatDoesNotFitIsLeftOut) {
  TopView view = TwoSeconds();
  for (int columns = 1; columns < 140; ++columns) {
    for (int rows = 1; rows < 20; ++rows) {
      Terminal terminal = kScreen;
      terminal.columns = columns;
      terminal.rows = rows;
      const std::vector<std::string> lines = view.Lines(terminal);
      ASSERT_LE(lines.size(), static_cast<size_t>(std::max(rows - 1, 1)));
      for (const std::string& line : lines) ASSERT_LT(line.size(), static_cast<size_t>(columns)) << line;
    }
  }
  Terminal low = kScreen;
  low.rows = 12;
  EXPECT_THAT(Text(view, low), HasSubstr("and 2 more guests"));
}

TEST(TopViewTest, ColorsAndUnicodeTakeNoColumns) {
  const Terminal terminal = {.interactive = true, .color = true, .unicode = true, .columns = 80, .rows = 24};
  EXPECT_THAT(Text(TwoSeconds(), terminal),
              HasSubstr("\x1b[32m█\x1b[0m resident 256 MiB  \x1b[34m▒\x1b[0m compressed"));
}

TEST(TopViewTest, WithoutAPoolNothingIsSaidOfIt) {
  TopView view;
  Report report = At(10, 1);
  report.pool = {};
  view.Show(SampleOf(report));
  EXPECT_THAT(Text(view, kPlain), Not(HasSubstr("pool")));
  EXPECT_THAT(Text(view, kPlain), HasSubstr("guest-2"));
}

TEST(ParseTopSampleTest, WhatIsNoReportIsNone) {
  for (const char* text : {"", "[]", "{}", "{\"guests\": 1}", "{\"error\": \"x\"}"}) {
    EXPECT_FALSE(ParseTopSample(text).ok()) << text;
  }
  const TopSample odd =
      ParseTopSample(R"({"guests": [1, {"name": 2, "faults": -1}], "pool": [], "cpu_seconds": 3})").value();
  EXPECT_EQ(odd.guests.size(), 2u);
  EXPECT_EQ(odd.guests[1].faults, 0u);
}

}  // namespace
}  // namespace quire
