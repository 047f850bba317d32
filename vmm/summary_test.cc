#include "vmm/summary.h"

#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Report Example() {
  Report report;
  for (int id = 0; id < 2; ++id) {
    report.guests.push_back({.id = id,
                             .name = "guest-" + std::to_string(id),
                             .memory_bytes = ByteCount::MiB(256),
                             .vcpus = 1,
                             .operations = 1234567,
                             .operations_per_second = 123456.7,
                             .verified_pages = 617283});
  }
  report.pool = {.limit_bytes = ByteCount::MiB(256),
                 .peak_bytes = ByteCount::MiB(255),
                 .resident_bytes = ByteCount::MiB(128),
                 .out_bytes = ByteCount::MiB(32),
                 .compressed_bytes = ByteCount::MiB(64),
                 .free_bytes = ByteCount::MiB(32),
                 .metadata_bytes = ByteCount::MiB(2)};
  report.faults = {
      .total = 12345, .zero_fill = 2345, .second_chance = 4000, .swap_in = 6000, .p50_us = 12.5, .p99_us = 80};
  report.content_ratio = 3.1;
  report.swap = {.pages_out = 7000, .pages_in = 6000, .stored_pages = 51200, .stored_bytes = ByteCount::MiB(64)};
  return report;
}

TEST(SummaryTest, AGoodRun) {
  EXPECT_EQ(Summary(Example(), {}),
            "guest        memory      operations     per s   pages checked   wrong  end\n"
            "guest-0     256 MiB       1,234,567      123k         617,283       0  ok\n"
            "guest-1     256 MiB       1,234,567      123k         617,283       0  ok\n"
            "\n"
            "pool      ##############################++++++++:::::::::::::::.......\n"
            "          # resident 128 MiB  + out 32 MiB  : compressed 64 MiB  free 32 MiB\n"
            "          at most 255 MiB of 256 MiB used, and 2 MiB of metadata beside it\n"
            "faults    12,345 for 2,345 zero pages, 4,000 second chances, 6,000 swapped in; median 12.5 us, 99th "
            "percentile 80 us\n"
            "swap      7,000 pages out, 6,000 in; 200 MiB stored in 64 MiB\n"
            "content   a page of it takes 32% of its size in LZ4, a ratio of 3.10\n"
            "\n"
            "2 guests of 256 MiB ran in 256 MiB: 0 wrong bytes in 1,234,566 checks.\n");
}

std::string LastLines(const Report& report) {
  const std::string text = Summary(report, {});
  return text.substr(text.rfind("\n\n") + 2);
}

TEST(SummaryTest, WrongBytesAreLoud) {
  Report report = Example();
  report.guests[1].mismatched_pages = 3;
  EXPECT_EQ(LastLines(report), "2 guests of 256 MiB ran in 256 MiB: WRONG BYTES in 3 of 1,234,566 checks.\n");
}

TEST(SummaryTest, GuestsThatWereStoppedSayWhy) {
  Report report = Example();
  report.guests[0].exit = absl::InternalError("triple fault at rip 0x401000");
  EXPECT_EQ(LastLines(report),
            "guest-0 was stopped: triple fault at rip 0x401000.\n"
            "2 guests of 256 MiB ran in 256 MiB: 0 wrong bytes in 1,234,566 checks, and 1 did not live to the end.\n");
}

TEST(SummaryTest, GuestsWithAKernelOfTheirOwnSayHowTheyEnded) {
  Report report = Example();
  report.guests[0].pc = PcReport{.ended = "exit", .exit_status = 3};
  report.guests[0].exit = absl::AbortedError("its kernel ended with status 3");
  report.guests[1].pc = PcReport{.ended = "power off"};
  EXPECT_EQ(LastLines(report),
            "guest-0 was stopped: its kernel ended with status 3.\n"
            "2 guests of 256 MiB ran in 256 MiB: guest-0 ended with status 3, guest-1 powered off.\n");
}

TEST(SummaryTest, GuestsOfDifferentSizesAreAddedUp) {
  Report report = Example();
  report.guests[0].memory_bytes = ByteCount::MiB(512);
  EXPECT_EQ(LastLines(report), "2 guests with 768 MiB in all ran in 256 MiB: 0 wrong bytes in 1,234,566 checks.\n");
}

TEST(SummaryTest, CompactionIsMentionedIfItRan) {
  Report report = Example();
  EXPECT_THAT(Summary(report, {}), Not(HasSubstr("compact ")));
  report.huge.compactions = 12;
  report.huge.migrated_pages = 3456;
  EXPECT_THAT(Summary(report, {}), HasSubstr("\ncompact   12 blocks or ranges made free, 3,456 pages moved\n"));
}

TEST(SummaryTest, DuplicatesInTheSwapStoreAreMentioned) {
  Report report = Example();
  EXPECT_THAT(Summary(report, {}), HasSubstr("\nswap      7,000 pages out, 6,000 in; "));
  report.swap.deduplicated_pages = 1234;
  EXPECT_THAT(Summary(report, {}), HasSubstr("\nswap      7,000 pages out (1,234 duplicates), 6,000 in; "));
}

TEST(SummaryTest, RefusedWiringIsMentioned) {
  Report report = Example();
  EXPECT_THAT(Summary(report, {}), Not(HasSubstr("wired ")));
  report.pool.wirings_refused = 2;
  EXPECT_THAT(Summary(report, {}), HasSubstr("\nwired     2 requests of guests to keep pages in memory refused: "));
}

TEST(SummaryTest, TheKernelEngineHasNoPool) {
  Report report = Example();
  report.engine = Engine::kKernel;
  EXPECT_EQ(Summary(report, {}),
            "guest        memory      operations     per s   pages checked   wrong  end\n"
            "guest-0     256 MiB       1,234,567      123k         617,283       0  ok\n"
            "guest-1     256 MiB       1,234,567      123k         617,283       0  ok\n"
            "\n"
            "2 guests of 256 MiB ran in memory that the host manages: 0 wrong bytes in 1,234,566 checks.\n");
}

TEST(SummaryTest, AnEmptyReportIsNoTrap) {
  EXPECT_EQ(LastLines(Report{}), "0 guests of no memory ran in 0 bytes: 0 wrong bytes in 0 checks.\n");
}

}  // namespace
}  // namespace quire
