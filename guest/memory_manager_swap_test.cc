// Guests whose pages leave the pool for a swap area, or cannot: limits of their own, and what stays cold in the pool.
#include <algorithm>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/guest_limits.h"
#include "guest/memory_manager.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/testing/fake_backing_store.h"
#include "guest/testing/eventually.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr PageCount kLimit = PageCount::OfBlocks(16);

class MemoryManagerSwapTest : public ::testing::TestWithParam<Placement> {
 protected:
  struct Guest {
    GuestMemory* memory;
    std::unique_ptr<FakeMmu> mmu;

    absl::Status Write(uint64_t gfn, Content content) {
      return mmu->WithPage(Gfn(gfn), Access::kWrite, [&](std::byte* page) { FillPage(page, content, Seed(gfn)); });
    }
    // What was written to a page last is found in it.
    absl::Status Read(uint64_t gfn, Content content) {
      bool equal = false;
      const absl::Status status = mmu->WithPage(Gfn(gfn), Access::kRead,
                                                [&](std::byte* page) { equal = HasContent(page, content, Seed(gfn)); });
      return status.ok() && !equal ? absl::InternalError("a wrong byte") : status;
    }
    uint64_t Seed(uint64_t gfn) const { return (uint64_t{memory->id()} + 1) << 32 | gfn; }
  };

  void TearDown() override {
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    for (Guest& guest : guests_) {
      guest.mmu.reset();
      manager_->RemoveGuest(guest.memory);
    }
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    EXPECT_EQ(manager_->store().statistics().stored, PageCount());
  }

  // With one area; of no size: with none. A page is cold as soon as it is old.
  void MakeManager(ByteCount area, absl::Duration cold_after = absl::ZeroDuration()) {
    const auto open = [area] {
      std::vector<std::unique_ptr<BackingStore>> stores;
      if (area > ByteCount()) stores.push_back(std::make_unique<FakeBackingStore>(area));
      return stores;
    };
    manager_ = MemoryManager::Create({.limit = kLimit,
                                      .reservations = kLimit * 8,
                                      .use_memfd = true,
                                      .open_swap = open,
                                      .cold_after = cold_after})
                   .value();
  }
  Guest& AddGuest(PageCount size, const GuestLimits& limits = {}) {
    GuestMemory* const memory = manager_->AddGuest(size, GetParam(), limits).value();
    guests_.push_back({memory, std::make_unique<FakeMmu>(*memory)});
    return guests_.back();
  }
  uint64_t PagesInArea() { return manager_->store().areas()[0]->counters().pages.value(); }
  PageCount Swapped(const Guest& guest) const { return guest.memory->counts()[PageState::kSwapped]; }

  std::unique_ptr<MemoryManager> manager_;
  std::deque<Guest> guests_;
};

// Noise can go nowhere else.
TEST_P(MemoryManagerSwapTest, AGuestAtItsPoolLimitUsesTheAreaAndGoesOn) {
  constexpr PageCount kMost = PageCount::OfBlocks(3);
  constexpr uint64_t kPages = 4'000;
  MakeManager(ByteCount::MiB(64));
  Guest& other = AddGuest(kOneBlock);
  for (uint64_t gfn = 0; gfn < 512; ++gfn) ASSERT_EQ(other.Write(gfn, Content::kNoise), absl::OkStatus());
  Guest& guest = AddGuest(PageCount(kPages), {.frames = kMost});
  for (uint64_t gfn = 0; gfn < kPages; ++gfn) {
    ASSERT_EQ(guest.Write(gfn, Content::kNoise), absl::OkStatus()) << gfn << ": " << guest.memory->status();
    ASSERT_LE(guest.memory->frames_held(), kMost);
  }
  EXPECT_GE(PagesInArea(), kPages - kMost.in_pages());
  std::mt19937 random(1);
  for (int i = 0; i < 3'000; ++i) ASSERT_EQ(guest.Read(random() % kPages, Content::kNoise), absl::OkStatus()) << i;
  for (uint64_t gfn = 0; gfn < kPages; ++gfn) ASSERT_EQ(guest.Read(gfn, Content::kNoise), absl::OkStatus()) << gfn;
  EXPECT_LE(guest.memory->peak_held(), kMost);
  EXPECT_EQ(other.memory->counts()[PageState::kResident], kOneBlock) << "it pays with its own memory";
  EXPECT_GT(manager_->reclaimer().counters().at_limit.value(), 0u);
  EXPECT_EQ(manager_->reclaimer().counters().direct.value(), 0u);
}

TEST_P(MemoryManagerSwapTest, ASwapLimitCountsPagesInTheAreaToo) {
  constexpr PageCount kMost(600);
  MakeManager(ByteCount::MiB(64));
  Guest& guest = AddGuest(PageCount(2'000), {.swapped = kMost});
  EvictionScratch scratch;
  const auto content = [](uint64_t gfn) { return gfn % 2 == 0 ? Content::kNoise : Content::kCompressible; };
  for (uint64_t gfn = 0; gfn < 2'000; ++gfn) ASSERT_EQ(guest.Write(gfn, content(gfn)), absl::OkStatus());
  for (int round = 0; round < 3; ++round) {
    manager_->reclaimer().Reclaim(kLimit, scratch);
    ASSERT_EQ(Swapped(guest), kMost);
    // To leave the pool makes no room in it.
    manager_->store().WriteOut(ByteCount::MiB(64));
    EXPECT_GE(PagesInArea(), kMost.in_pages());  // copies of pages that have come back are not counted
    EXPECT_EQ(manager_->store().statistics().stored, kMost);
    manager_->reclaimer().Reclaim(kLimit, scratch);
    ASSERT_EQ(Swapped(guest), kMost);
    ASSERT_EQ(manager_->Check(), absl::OkStatus());
    for (uint64_t gfn = 0; gfn < 2'000; ++gfn) ASSERT_EQ(guest.Read(gfn, content(gfn)), absl::OkStatus()) << gfn;
  }
  EXPECT_EQ(guest.memory->peak_swapped(), kMost);
  EXPECT_GT(manager_->swap().refused_limit.value(), 0u);
}

TEST_P(MemoryManagerSwapTest, AGuestWithBothLimitsIsStoppedWhenItHasUsedThemUpAlthoughTheAreaHasRoom) {
  MakeManager(ByteCount::MiB(64));
  Guest& other = AddGuest(PageCount(1'000));
  for (uint64_t gfn = 0; gfn < 1'000; ++gfn) ASSERT_EQ(other.Write(gfn, Content::kNoise), absl::OkStatus());
  Guest& guest = AddGuest(kLimit, {.frames = PageCount::OfBlocks(2), .swapped = PageCount(512)});
  uint64_t written = 0;
  while (written < kLimit.in_pages() && guest.Write(written, Content::kNoise).ok()) ++written;
  EXPECT_EQ(written, 3 * kPagesPerBlock);
  EXPECT_THAT(std::string(guest.memory->status().message()),
              AllOf(HasSubstr("guest-1 is at its limit of 4 MiB"), HasSubstr("of at most 2 MiB")));
  EXPECT_TRUE(manager_->store().HasRoomInArea());
  for (uint64_t gfn = 0; gfn < 1'000; ++gfn) ASSERT_EQ(other.Read(gfn, Content::kNoise), absl::OkStatus()) << gfn;
}

// Three times what the pool holds, so that generations end all the time.
constexpr uint64_t kMany = 3 * kLimit.in_pages();

TEST_P(MemoryManagerSwapTest, WhereNothingCanGoOutWhatStaysColdIsCompressedOnceMore) {
  MakeManager(ByteCount());
  Guest& guest = AddGuest(PageCount(kMany));
  manager_->StartReclaim();
  uint64_t next = 0;
  const auto recompressed = [&] { return manager_->store().statistics().recompressed; };
  for (int round = 0; round < 20 && recompressed() == 0; ++round) {
    for (uint64_t i = 0; i < kMany; ++i, ++next) {
      ASSERT_EQ(guest.Write(next % (kMany / 2), Content::kCompressible), absl::OkStatus());
    }
  }
  EXPECT_GT(recompressed(), 0u);
  manager_->StopReclaim();
  const uint64_t most = std::min(next, kMany / 2);
  for (uint64_t gfn = 0; gfn < most; ++gfn) {
    ASSERT_EQ(guest.Read(gfn, Content::kCompressible), absl::OkStatus()) << gfn;
  }
}

TEST_P(MemoryManagerSwapTest, WhatCanGoOutIsNotCompressedOnceMore) {
  MakeManager(ByteCount::MiB(256));
  Guest& guest = AddGuest(PageCount(kMany));
  manager_->StartReclaim();
  for (uint64_t gfn = 0; gfn < kMany; ++gfn) ASSERT_EQ(guest.Write(gfn, Content::kCompressible), absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return PagesInArea() > 0; }));
  manager_->StopReclaim();
  EXPECT_EQ(manager_->store().statistics().recompressed, 0u);
}

// Three generations pass in no time here.
TEST_P(MemoryManagerSwapTest, WhatIsNotColdIsNotCompressedOnceMore) {
  MakeManager(ByteCount(), absl::Hours(1));
  Guest& guest = AddGuest(PageCount(kMany));
  manager_->StartReclaim();
  for (uint64_t i = 0; i < kMany; ++i) {
    ASSERT_EQ(guest.Write(i % (kMany / 2), Content::kCompressible), absl::OkStatus());
  }
  manager_->StopReclaim();
  EXPECT_EQ(manager_->store().statistics().recompressed, 0u);
}

TEST_P(MemoryManagerSwapTest, WhereMemoryIsPlentyNothingIsCompressedOnceMore) {
  MakeManager(ByteCount());
  Guest& guest = AddGuest(PageCount(2'000));
  for (uint64_t gfn = 0; gfn < 2'000; ++gfn) ASSERT_EQ(guest.Write(gfn, Content::kCompressible), absl::OkStatus());
  // Generations end without any want of memory.
  EvictionScratch scratch;
  manager_->reclaimer().Reclaim(kLimit, scratch);
  ASSERT_GE(Swapped(guest), PageCount(1'900));
  manager_->StartReclaim();
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_LT(manager_->recompressor_cpu_time(), absl::Milliseconds(20));
  manager_->StopReclaim();
  EXPECT_EQ(manager_->store().statistics().recompressed, 0u);
}

INSTANTIATE_TEST_SUITE_P(Placements, MemoryManagerSwapTest,
                         ::testing::Values(Placement::kArena, Placement::kReservation),
                         [](const auto& info) { return info.param == Placement::kArena ? "Arena" : "Reservation"; });

}  // namespace
}  // namespace quire
