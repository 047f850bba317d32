#include "vmm/virtio/balloon.h"

#include <linux/virtio_balloon.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/one_queue_driver.h"
#include "vmm/virtio/test_queue.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using Part = OneQueueDriver::Part;

constexpr uint64_t kPages = 256;
constexpr uint64_t kBuffer = 0x10000;
constexpr int kInflate = 0, kDeflate = 1, kStatistics = 2, kHints = 3, kReports = 4, kQueues = 5;
constexpr uint64_t kAll = 0x3e;  // all features but MUST_TELL_HOST

// Remembers what is discarded.
class Memory : public FakeDeviceMemory {
 public:
  using FakeDeviceMemory::FakeDeviceMemory;
  absl::Status Discard(Gpa begin, PageCount size) override {
    const absl::Status status = FakeDeviceMemory::Discard(begin, size);
    if (status.ok()) discards.emplace_back(begin.gfn().value(), size.in_pages());
    return status;
  }
  std::vector<std::pair<uint64_t, uint64_t>> discards;
};

class BalloonTest : public ::testing::Test {
 protected:
  BalloonTest() {
    for (int queue = 0; queue < kQueues; ++queue) drivers_.emplace_back(memory_, Gpa(queue * kPageSize));
    balloon_.SetFeatures(kAll);
  }

  std::vector<TestQueue::Used> Process(int queue) {
    EXPECT_EQ(balloon_.Process(queue, drivers_[queue].queue()), absl::OkStatus());
    return drivers_[queue].TakeUsed();
  }
  void SendPages(int queue, const std::vector<uint32_t>& pages) {
    for (size_t i = 0; i < pages.size(); ++i) drivers_[queue].Store(kBuffer + i * 4, pages[i]);
    drivers_[queue].Offer({{kBuffer, static_cast<uint32_t>(pages.size() * 4), false}});
    EXPECT_EQ(Process(queue).size(), 1u);
  }
  void Send(int queue, const std::vector<Part>& parts) {
    drivers_[queue].Offer(parts);
    EXPECT_EQ(Process(queue).size(), 1u);
  }
  void SendCommand(uint32_t command) {
    drivers_[kHints].Store(kBuffer, command);
    Send(kHints, {{kBuffer, 4, false}});
  }
  void OfferStatistics(const std::vector<std::pair<uint16_t, uint64_t>>& entries) {
    for (size_t i = 0; i < entries.size(); ++i) {
      drivers_[kStatistics].Store(kBuffer + i * sizeof(virtio_balloon_stat),
                                  virtio_balloon_stat{.tag = entries[i].first, .val = entries[i].second});
    }
    const auto size = static_cast<uint32_t>(entries.size() * sizeof(virtio_balloon_stat));
    drivers_[kStatistics].Offer({{kBuffer, size, false}});
  }
  virtio_balloon_config Config() {
    virtio_balloon_config config;
    balloon_.ReadConfig(0, absl::MakeSpan(reinterpret_cast<std::byte*>(&config), sizeof config));
    return config;
  }
  void WriteConfig(uint64_t offset, uint32_t value) {
    balloon_.WriteConfig(offset, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&value), sizeof value));
  }
  const BalloonCounters& counters() const { return balloon_.counters(); }

  Memory memory_{PageCount(kPages).bytes()};
  std::deque<OneQueueDriver> drivers_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  Balloon balloon_{memory_, {}, [this] { return now_; }};
};

TEST_F(BalloonTest, PagesInTheBalloonAreDiscardedNeighboursTogether) {
  SendPages(kInflate, {100, 102, 101, 50, 103, 51});
  EXPECT_THAT(memory_.discards, ElementsAre(Pair(50, 2), Pair(100, 4)));
  EXPECT_EQ(counters().inflated.value(), 6u);
  SendPages(kDeflate, {100, 101});
  EXPECT_EQ(counters().deflated.value(), 2u);
  EXPECT_EQ(memory_.discards.size(), 2u);
}

TEST_F(BalloonTest, WhatIsNotOfferedTheDriverCannotUse) {
  const uint64_t all = balloon_.features();
  const Balloon keeps(memory_, {.deflates_on_oom = false});
  EXPECT_EQ(all & ~keeps.features(), FeatureBit(VIRTIO_BALLOON_F_DEFLATE_ON_OOM));
  const Balloon silent(memory_, {.reports_free_pages = false});
  EXPECT_EQ(all & ~silent.features(), FeatureBit(VIRTIO_BALLOON_F_REPORTING));
  EXPECT_NE(silent.id(), 0u);
}

TEST_F(BalloonTest, WithoutABalloonThereIsNoDevice) { EXPECT_EQ(Balloon(memory_, {.exists = false}).id(), 0u); }

TEST_F(BalloonTest, PageNumbersThatAreNotMemoryAreRefusedAndTheOthersTaken) {
  SendPages(kInflate, {kPages - 2, kPages - 1, kPages, kPages + 1, ~0u, ~0u - 1, 20, 20});
  EXPECT_THAT(memory_.discards, ElementsAre(Pair(20, 1), Pair(kPages - 2, 2)));
  EXPECT_EQ(counters().inflated.value(), 3u);
  EXPECT_EQ(counters().refused.value(), 4u);
}

TEST_F(BalloonTest, OddAndEmptyBuffersAreTakenAsFarAsTheyGo) {
  drivers_[kInflate].Store(kBuffer, uint32_t{30});
  Send(kInflate, {{kBuffer, 7, false}});
  EXPECT_THAT(memory_.discards, ElementsAre(Pair(30, 1)));
  Send(kInflate, {{kBuffer, 3, false}});
  Send(kInflate, {{kBuffer, 64, true}});
  EXPECT_EQ(counters().inflated.value(), 1u);
}

TEST_F(BalloonTest, MorePageNumbersThanMakeSenseStopTheDevice) {
  drivers_[kInflate].Offer({{kBuffer, (64 << 10) + 4, false}});
  EXPECT_TRUE(absl::IsResourceExhausted(balloon_.Process(kInflate, drivers_[kInflate].queue())));
  EXPECT_THAT(memory_.discards, IsEmpty());
}

TEST_F(BalloonTest, TheTargetIsWhatTheDriverReadsAndTheSizeWhatItWrites) {
  balloon_.SetTarget(PageCount(77));
  EXPECT_EQ(Config().num_pages, 77u);
  EXPECT_EQ(balloon_.target(), PageCount(77));
  WriteConfig(offsetof(virtio_balloon_config, actual), 50);
  EXPECT_EQ(balloon_.actual(), PageCount(50));
  EXPECT_EQ(Config().actual, 50u);
  balloon_.SetTarget(PageCount(uint64_t{1} << 40));
  EXPECT_EQ(Config().num_pages, ~0u);
}

TEST_F(BalloonTest, OfTheConfigurationOnlyTwoFieldsAreTheDrivers) {
  balloon_.SetTarget(PageCount(7));
  const std::array<std::byte, 64> ones = [] {
    std::array<std::byte, 64> bytes;
    bytes.fill(std::byte{0xff});
    return bytes;
  }();
  balloon_.WriteConfig(0, ones);
  balloon_.WriteConfig(~uint64_t{0} - 3, ones);
  EXPECT_EQ(Config().num_pages, 7u);
  EXPECT_EQ(Config().free_page_hint_cmd_id, uint32_t{VIRTIO_BALLOON_CMD_ID_STOP});
  EXPECT_EQ(balloon_.actual(), PageCount(~0u));
  balloon_.WriteConfig(offsetof(virtio_balloon_config, actual) + 1, absl::MakeConstSpan(std::array{std::byte{0}}));
  EXPECT_EQ(balloon_.actual(), PageCount(0xffff00ff));
}

TEST_F(BalloonTest, ReportedPagesAreDiscardedAsFarAsTheyAreWhole) {
  Send(kReports, {{32 * kPageSize, 8 * kPageSize, true}, {50 * kPageSize + 1, 3 * kPageSize, true}});
  EXPECT_THAT(memory_.discards, ElementsAre(Pair(32, 8), Pair(51, 2)));
  Send(kReports, {{60 * kPageSize, kPageSize, false}, {70 * kPageSize, 100, true}, {71 * kPageSize + 5, 10, true}});
  EXPECT_THAT(memory_.discards, ElementsAre(Pair(32, 8), Pair(51, 2), Pair(60, 1)));
  EXPECT_EQ(counters().reported.value(), 11u);
}

TEST_F(BalloonTest, ReportsOfWhatIsNotMemoryAreRefused) {
  Send(kReports, {{(kPages - 1) * kPageSize, 2 * kPageSize, true}, {~uint64_t{0} - kPageSize + 1, 4096, true}});
  EXPECT_EQ(counters().refused.value(), 3u);
  EXPECT_THAT(memory_.discards, IsEmpty());
}

TEST_F(BalloonTest, ReportedPagesThatHoldAPatternAreKept) {
  WriteConfig(offsetof(virtio_balloon_config, poison_val), 0xaaaaaaaa);
  Send(kReports, {{32 * kPageSize, 8 * kPageSize, true}});
  EXPECT_EQ(counters().kept.value(), 8u);
  EXPECT_THAT(memory_.discards, IsEmpty());
  balloon_.SetFeatures(kAll & ~(uint64_t{1} << VIRTIO_BALLOON_F_PAGE_POISON));  // the value means nothing then
  Send(kReports, {{32 * kPageSize, 8 * kPageSize, true}});
  EXPECT_THAT(memory_.discards, ElementsAre(Pair(32, 8)));
  balloon_.SetFeatures(kAll);
  WriteConfig(offsetof(virtio_balloon_config, poison_val), 0);
  Send(kReports, {{40 * kPageSize, kPageSize, true}});
  EXPECT_EQ(counters().reported.value(), 9u);
}

TEST_F(BalloonTest, StatisticsComeWhenTheyAreAskedFor) {
  EXPECT_EQ(balloon_.statistics().at, absl::InfinitePast());
  OfferStatistics({{VIRTIO_BALLOON_S_MEMFREE, 1000}});
  EXPECT_THAT(Process(kStatistics), IsEmpty()) << "nobody has asked";
  balloon_.RequestStatistics();
  EXPECT_EQ(Process(kStatistics).size(), 1u) << "what it holds is old";
  EXPECT_EQ(balloon_.statistics().at, absl::InfinitePast());
  now_ += absl::Seconds(5);
  std::vector<std::pair<uint16_t, uint64_t>> all;
  for (uint16_t tag = 0; tag < VIRTIO_BALLOON_S_NR; ++tag) all.emplace_back(tag, tag + 100);
  all.emplace_back(999, 1);
  OfferStatistics(all);
  EXPECT_EQ(Process(kStatistics).size(), 1u);
  const Balloon::Statistics read = balloon_.statistics();
  EXPECT_EQ(read.at, now_);
  EXPECT_EQ(read.swapped_in, ByteCount::Bytes(100));
  EXPECT_EQ(read.swapped_out, ByteCount::Bytes(101));
  EXPECT_EQ(read.major_faults, 102u);
  EXPECT_EQ(read.minor_faults, 103u);
  EXPECT_EQ(read.free, ByteCount::Bytes(104));
  EXPECT_EQ(read.total, ByteCount::Bytes(105));
  EXPECT_EQ(read.available, ByteCount::Bytes(106));
  EXPECT_EQ(read.caches, ByteCount::Bytes(107));
  EXPECT_EQ(read.huge_allocations, 108u);
  EXPECT_EQ(read.huge_failures, 109u);
}

TEST_F(BalloonTest, ARequestBeforeThereIsABufferIsNotForgotten) {
  balloon_.RequestStatistics();
  EXPECT_THAT(Process(kStatistics), IsEmpty());
  OfferStatistics({{VIRTIO_BALLOON_S_MEMFREE, 1}});
  EXPECT_EQ(Process(kStatistics).size(), 1u);
}

TEST_F(BalloonTest, ARequestIsAnsweredOnceAndTheBufferThenLies) {
  balloon_.RequestStatistics();
  for (uint64_t i = 0; i < 2; ++i) {
    OfferStatistics({{VIRTIO_BALLOON_S_MEMTOT, i}});
    EXPECT_EQ(Process(kStatistics).size(), 1u);
  }
  OfferStatistics({{VIRTIO_BALLOON_S_MEMTOT, 2}});
  EXPECT_THAT(Process(kStatistics), IsEmpty());
  EXPECT_EQ(balloon_.statistics().total, ByteCount::Bytes(1));
}

TEST_F(BalloonTest, OfABufferWithMoreBytesThanThereAreStatisticsTheFirstCount) {
  balloon_.RequestStatistics();
  drivers_[kStatistics].Offer({{kBuffer, 8, false}});
  drivers_[kStatistics].Store(kBuffer, virtio_balloon_stat{.tag = VIRTIO_BALLOON_S_AVAIL, .val = 7});
  drivers_[kStatistics].Offer({{kBuffer, 64 << 10, false}, {0, 0xffff0000, false}});
  EXPECT_EQ(Process(kStatistics).size(), 2u);
  EXPECT_EQ(balloon_.statistics().at, now_);
  EXPECT_EQ(balloon_.statistics().swapped_in, ByteCount::Bytes(0)) << "zeros follow, which are a tag too";
}

// A queue that the driver takes away and sets up again has none of the chains that there were.
TEST_F(BalloonTest, AQueueMayBeMadeAnewBetweenAQuestionAndItsAnswer) {
  balloon_.RequestStatistics();
  OfferStatistics({{VIRTIO_BALLOON_S_MEMTOT, 1}});
  EXPECT_EQ(Process(kStatistics).size(), 1u);
  for (uint64_t at = 0; at < kPageSize; at += 8) drivers_[kStatistics].Store(kStatistics * kPageSize + at, uint64_t{0});
  OneQueueDriver anew(memory_, Gpa(kStatistics * kPageSize));
  anew.Store(kBuffer, virtio_balloon_stat{.tag = VIRTIO_BALLOON_S_AVAIL, .val = 7});
  anew.Offer({{kBuffer, sizeof(virtio_balloon_stat), false}});
  EXPECT_EQ(balloon_.Process(kStatistics, anew.queue()), absl::OkStatus());
  EXPECT_EQ(balloon_.statistics().available, ByteCount::Bytes(7));
  balloon_.RequestStatistics();
  EXPECT_EQ(balloon_.Process(kStatistics, anew.queue()), absl::OkStatus());
}

TEST_F(BalloonTest, HintsCountWithinARoundAndAreNotDiscarded) {
  const std::vector<Part> hint = {{32 * kPageSize, 8 * kPageSize, true}};
  Send(kHints, hint);
  EXPECT_EQ(counters().hinted.value(), 0u) << "nobody has asked";
  balloon_.RequestHints();
  const uint32_t round = Config().free_page_hint_cmd_id;
  EXPECT_GT(round, uint32_t{VIRTIO_BALLOON_CMD_ID_DONE});
  SendCommand(round - 1);
  Send(kHints, hint);
  EXPECT_EQ(counters().hinted.value(), 0u) << "it was of an earlier round";
  SendCommand(round);
  Send(kHints, hint);
  Send(kHints, hint);
  EXPECT_EQ(counters().hinted.value(), 16u);
  SendCommand(VIRTIO_BALLOON_CMD_ID_STOP);
  EXPECT_EQ(Config().free_page_hint_cmd_id, uint32_t{VIRTIO_BALLOON_CMD_ID_DONE});
  Send(kHints, hint);
  EXPECT_EQ(counters().hinted.value(), 16u);
  EXPECT_THAT(memory_.discards, IsEmpty());
}

TEST_F(BalloonTest, AStopOfAnEarlierRoundDoesNotEndThisOne) {
  balloon_.RequestHints();
  SendCommand(Config().free_page_hint_cmd_id);
  balloon_.RequestHints();
  const uint32_t second = Config().free_page_hint_cmd_id;
  SendCommand(VIRTIO_BALLOON_CMD_ID_STOP);
  EXPECT_EQ(Config().free_page_hint_cmd_id, second);
}

TEST_F(BalloonTest, WithItsDriverGoesWhatTheDriverSaid) {
  balloon_.SetTarget(PageCount(5));
  WriteConfig(offsetof(virtio_balloon_config, actual), 3);
  balloon_.RequestHints();
  balloon_.Reset();
  EXPECT_EQ(balloon_.actual(), PageCount());
  EXPECT_EQ(balloon_.target(), PageCount(5));
  EXPECT_EQ(Config().free_page_hint_cmd_id, uint32_t{VIRTIO_BALLOON_CMD_ID_STOP});
}

}  // namespace
}  // namespace quire
