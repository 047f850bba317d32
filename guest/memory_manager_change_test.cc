// Limits, merging and whole blocks are changed while guests run, and nothing of it changes what they read.
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/explain.h"
#include "guest/guest_limits.h"
#include "guest/huge/granularity.h"
#include "guest/memory_manager.h"
#include "guest/testing/eventually.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

constexpr PageCount kPool = PageCount::OfBlocks(16);
constexpr PageCount kMost = PageCount::OfBlocks(3);

class ChangeTest : public ::testing::TestWithParam<Placement> {
 protected:
  struct Guest {
    GuestMemory* memory;
    std::unique_ptr<FakeMmu> mmu;

    absl::Status Write(uint64_t gfn, Content content = Content::kCompressible) {
      return mmu->WithPage(Gfn(gfn), Access::kWrite, [&](std::byte* page) { FillPage(page, content, Seed(gfn)); });
    }
    bool Reads(uint64_t gfn, Content content = Content::kCompressible) {
      bool equal = false;
      const absl::Status status = mmu->WithPage(Gfn(gfn), Access::kRead,
                                                [&](std::byte* page) { equal = HasContent(page, content, Seed(gfn)); });
      return status.ok() && equal;
    }
    uint64_t Seed(uint64_t gfn) const { return (uint64_t{memory->id()} + 1) << 32 | gfn; }
  };

  void SetUp() override { Make(/*merge=*/false); }
  void Make(bool merge) {
    RemoveGuests();
    manager_ = MemoryManager::Create(
                   {.limit = kPool, .reservations = kPool * 8, .use_memfd = true, .merge = merge, .islands = kPool})
                   .value();
  }
  void TearDown() override { RemoveGuests(); }
  void RemoveGuests() {
    if (manager_ == nullptr) return;
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    for (Guest& guest : guests_) {
      guest.mmu.reset();
      manager_->RemoveGuest(guest.memory);
    }
    guests_.clear();
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
  }
  Guest& AddGuest(PageCount size, const GuestLimits& limits = {}) {
    GuestMemory* const memory = manager_->AddGuest(size, GetParam(), limits).value();
    guests_.push_back({memory, std::make_unique<FakeMmu>(*memory)});
    return guests_.back();
  }
  void WriteAll(Guest& guest, uint64_t begin, uint64_t end) {
    for (uint64_t gfn = begin; gfn < end; ++gfn) ASSERT_EQ(guest.Write(gfn), absl::OkStatus()) << gfn;
  }
  void ReadAll(Guest& guest, uint64_t end) {
    for (uint64_t gfn = 0; gfn < end; ++gfn) ASSERT_TRUE(guest.Reads(gfn)) << gfn;
  }

  std::unique_ptr<MemoryManager> manager_;
  std::deque<Guest> guests_;
};

TEST_P(ChangeTest, ALoweredLimitTakesEffectAtTheNextFaultAndAtTheGuestsExpense) {
  constexpr uint64_t kPages = 3'000;
  Guest& other = AddGuest(kOneBlock);
  Guest& guest = AddGuest(PageCount(kPages));
  WriteAll(other, 0, 512);
  WriteAll(guest, 0, kPages);
  const PageCount before = guest.memory->frames_held();
  ASSERT_GT(before, kMost);
  ASSERT_EQ(guest.memory->SetLimits(kMost, PageCount()), absl::OkStatus());
  EXPECT_EQ(guest.memory->limits().frames, kMost);
  EXPECT_EQ(guest.memory->frames_held(), before);
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
  // A page that is given up does not make room for another.
  guest.memory->Discard(GfnRange(Gfn(7), kOnePage));
  ASSERT_EQ(guest.Write(7), absl::OkStatus());
  EXPECT_LE(guest.memory->frames_held(), kMost);
  ReadAll(guest, kPages);
  EXPECT_LE(guest.memory->frames_held(), kMost);
  EXPECT_EQ(other.memory->frames_held(), kOneBlock);
  EXPECT_GT(guest.memory->pages_out(), 0u);
}

TEST_P(ChangeTest, ALimitThatIsTakenAwayLetsTheGuestGrow) {
  constexpr uint64_t kPages = 3'000;
  Guest& guest = AddGuest(PageCount(kPages), {.frames = kMost, .swapped = PageCount(2'000)});
  WriteAll(guest, 0, kPages);
  EXPECT_LE(guest.memory->frames_held(), kMost);
  ASSERT_EQ(guest.memory->SetLimits(PageCount(), PageCount()), absl::OkStatus());
  EXPECT_FALSE(guest.memory->is_limited());
  EXPECT_FALSE(guest.memory->has_swap_limit());
  ReadAll(guest, kPages);
  EXPECT_GT(guest.memory->frames_held(), kMost);
  // And once more: its blocks are still known apart.
  ASSERT_EQ(guest.memory->SetLimits(GuestLimits::kLeast, PageCount()), absl::OkStatus());
  EvictionScratch scratch;
  manager_->reclaimer().Reclaim(kPool, scratch);
  ReadAll(guest, kPages);
  EXPECT_LE(guest.memory->frames_held(), GuestLimits::kLeast);
}

TEST_P(ChangeTest, PagesBeyondALoweredSwapLimitStayWhereTheyAre) {
  constexpr PageCount kFew(100);
  Guest& guest = AddGuest(PageCount(1'000));
  WriteAll(guest, 0, 1'000);
  EvictionScratch scratch;
  manager_->reclaimer().Reclaim(kPool, scratch);
  ASSERT_EQ(guest.memory->counts()[PageState::kSwapped], PageCount(1'000));
  ASSERT_EQ(guest.memory->SetLimits(PageCount(), kFew), absl::OkStatus());
  EXPECT_EQ(guest.memory->counts()[PageState::kSwapped], PageCount(1'000));
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
  ReadAll(guest, 1'000);
  manager_->reclaimer().Reclaim(kPool, scratch);
  EXPECT_EQ(guest.memory->counts()[PageState::kSwapped], kFew);
  EXPECT_GT(manager_->swap().refused_limit.value(), 0u);
  ReadAll(guest, 1'000);
}

TEST_P(ChangeTest, LimitsThatCannotBeAreRefusedAndTheOldOnesStay) {
  Guest& guest = AddGuest(PageCount(3'000), {.frames = PageCount(2'900), .swapped = PageCount(7)});
  EXPECT_TRUE(absl::IsInvalidArgument(guest.memory->SetLimits(GuestLimits::kLeast - kOnePage, PageCount())));
  ASSERT_EQ(guest.memory->Wire(GfnRange(Gfn(0), PageCount(1'000))), absl::OkStatus());
  const absl::Status wired = guest.memory->SetLimits(PageCount(1'999), PageCount(5));
  EXPECT_TRUE(absl::IsFailedPrecondition(wired));
  EXPECT_THAT(std::string(wired.message()), HasSubstr("has 3.9 MiB wired, and may have half of its limit"));
  EXPECT_EQ(guest.memory->limits().frames, PageCount(2'900));
  EXPECT_EQ(guest.memory->limits().swapped, PageCount(7));
  EXPECT_EQ(guest.memory->SetLimits(PageCount(2'000), PageCount(5)), absl::OkStatus());
  EXPECT_TRUE(absl::IsResourceExhausted(guest.memory->Wire(GfnRange(Gfn(1'000), kOnePage))));
  guest.memory->Unwire(GfnRange(Gfn(0), PageCount(1'000)));
}

TEST_P(ChangeTest, LimitsChangeWhileThreadsFault) {
  constexpr uint64_t kPages = 3'000;
  Guest& guest = AddGuest(PageCount(kPages));
  manager_->StartReclaim();
  std::atomic<int> left = 3;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      for (uint64_t gfn = t; gfn < kPages; gfn += 3) EXPECT_EQ(guest.Write(gfn), absl::OkStatus());
      for (int i = 0; i < 2'000; ++i) EXPECT_TRUE(guest.Reads(t + 3 * (random() % (kPages / 3))));
      --left;
    });
  }
  for (uint64_t i = 0; left > 0; ++i) {
    EXPECT_EQ(guest.memory->SetLimits(i % 3 == 0 ? PageCount() : GuestLimits::kLeast + PageCount(i % 500), PageCount()),
              absl::OkStatus());
    manager_->SetBlockPolicy(i % 2 == 0 ? BlockPolicy::kNever : BlockPolicy::kAlways);
    manager_->SetMerging(i % 5 < 2);
    std::this_thread::yield();
  }
  for (std::thread& thread : threads) thread.join();
  manager_->StopReclaim();
  // At rest, once more, for what was under way when the limit changed last.
  EXPECT_EQ(guest.memory->SetLimits(GuestLimits::kLeast, PageCount()), absl::OkStatus());
  ReadAll(guest, kPages);
}

TEST_P(ChangeTest, MergingIsSwitchedOffAndOn) {
  Make(/*merge=*/true);
  for (int i = 0; i < 2; ++i) AddGuest(PageCount(600));
  manager_->SetBlockPolicy(BlockPolicy::kNever);
  // Pages that both have.
  const auto fill = [&](uint64_t begin) {
    for (Guest& guest : guests_) {
      for (uint64_t gfn = begin; gfn < begin + 300; ++gfn) {
        EXPECT_EQ(guest.mmu->WithPage(Gfn(gfn), Access::kWrite,
                                      [&](std::byte* page) { FillPage(page, Content::kCompressible, gfn + 1); }),
                  absl::OkStatus());
      }
    }
  };
  const auto shared = [&] { return guests_[0].memory->counts()[PageState::kShared]; };
  fill(0);
  manager_->StartReclaim();
  EXPECT_TRUE(Eventually([&] { return shared() == PageCount(300); }));
  manager_->SetMerging(false);
  EXPECT_FALSE(manager_->merges());
  const uint64_t passes = manager_->merger().counters().passes.value();
  const uint64_t merged = manager_->merger().counters().merged.value();
  fill(300);
  EXPECT_EQ(shared(), PageCount(300)) << "what is shared stays";
  EXPECT_EQ(manager_->merger().counters().passes.value(), passes);
  EXPECT_EQ(manager_->merger().counters().merged.value(), merged);
  EXPECT_THAT(Explain(*manager_, *guests_[0].memory, Gfn(400)).value().merging, HasSubstr("merging is switched off"));
  manager_->SetMerging(true);
  EXPECT_TRUE(Eventually([&] { return shared() == PageCount(600); }));
  manager_->StopReclaim();
  for (Guest& guest : guests_) {
    for (uint64_t gfn = 0; gfn < 600; ++gfn) {
      EXPECT_EQ(
          guest.mmu->WithPage(Gfn(gfn), Access::kRead,
                              [&](std::byte* page) { EXPECT_TRUE(HasContent(page, Content::kCompressible, gfn + 1)); }),
          absl::OkStatus());
    }
  }
}

// As far as it has not been stored before.
TEST_P(ChangeTest, EqualPagesAreStoredOnceAsLongAsMergingIsOn) {
  for (int i = 0; i < 3; ++i) AddGuest(PageCount(200));
  EvictionScratch scratch;
  const auto store = [&](Guest& guest) {
    for (uint64_t gfn = 0; gfn < 200; ++gfn) {
      EXPECT_EQ(guest.mmu->WithPage(Gfn(gfn), Access::kWrite,
                                    [&](std::byte* page) { FillPage(page, Content::kCompressible, gfn + 1); }),
                absl::OkStatus());
    }
    manager_->reclaimer().Reclaim(kPool, scratch);
    return manager_->store().statistics().deduplicated;
  };
  EXPECT_EQ(store(guests_[0]), 0u);
  manager_->SetMerging(true);
  EXPECT_EQ(store(guests_[1]), 0u) << "nothing was noted of the first one's";
  EXPECT_EQ(store(guests_[2]), 200u);
  manager_->SetMerging(false);
  Guest& fourth = AddGuest(PageCount(200));
  EXPECT_EQ(store(fourth), 200u);
}

INSTANTIATE_TEST_SUITE_P(Placements, ChangeTest, ::testing::Values(Placement::kArena, Placement::kReservation),
                         [](const auto& info) { return info.param == Placement::kArena ? "Arena" : "Reservation"; });

using ChangeBlocksTest = ChangeTest;

TEST_P(ChangeBlocksTest, WholeBlocksComeInAsLongAsThePolicyLetsThem) {
  Guest& guest = AddGuest(PageCount::OfBlocks(4));
  const auto whole = [&] { return manager_->faults().whole.value() + manager_->faults().promotions.value(); };
  WriteAll(guest, 0, 512);
  const uint64_t first = whole();
  EXPECT_GT(first, 0u);
  EXPECT_TRUE(guest.memory->IsWhole(BlockNumber(0)));
  manager_->SetBlockPolicy(BlockPolicy::kNever);
  EXPECT_EQ(manager_->block_policy(), BlockPolicy::kNever);
  WriteAll(guest, 512, 1'024);
  EXPECT_EQ(whole(), first);
  EXPECT_FALSE(guest.memory->IsWhole(BlockNumber(1)));
  EXPECT_TRUE(guest.memory->IsWhole(BlockNumber(0))) << "what is there stays";
  EXPECT_THAT(Explain(*manager_, *guest.memory, Gfn(600)).value().huge, HasSubstr("whole blocks are switched off"));
  manager_->SetBlockPolicy(BlockPolicy::kAdvised);
  WriteAll(guest, 1'024, 1'536);
  EXPECT_EQ(whole(), first);
  guest.memory->AdviseHuge(GfnRange(Gfn(1'536), kOneBlock), true);
  WriteAll(guest, 1'536, 2'048);
  EXPECT_GT(whole(), first);
  ReadAll(guest, 2'048);
}

INSTANTIATE_TEST_SUITE_P(Placements, ChangeBlocksTest, ::testing::Values(Placement::kArena),
                         [](const auto&) { return "Arena"; });

}  // namespace
}  // namespace quire
