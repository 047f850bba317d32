// Pages of equal content come to share frames, stop when they are written to, and stay ordinary pages meanwhile.
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/frames/compaction.h"
#include "guest/frames/frame_table.h"
#include "guest/frames/pool.h"
#include "guest/guest_memory.h"
#include "guest/memory_manager.h"
#include "guest/merge/merger.h"
#include "guest/merge/reverse_map.h"
#include "guest/merge/share_link.h"
#include "guest/merge/shared_frames.h"
#include "guest/merge/sharer_chains.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/swap_area.h"
#include "guest/swap/swap_space.h"
#include "guest/swap/testing/fake_backing_store.h"
#include "guest/swap/testing/real_pages.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

constexpr PageCount kSize = PageCount::OfBlocks(2);

class MergeTest : public ::testing::Test {
 protected:
  struct Guest {
    GuestMemory* memory = nullptr;
    std::unique_ptr<FakeMmu> mmu;
  };

  void SetUp() override { MakeGuests(3, {.blocks = false}); }
  void MakeGuests(size_t count, const GranularityOptions& granularity, bool merge = false) {
    RemoveGuests();
    manager_ = MemoryManager::Create({.limit = PageCount::OfBlocks(16),
                                      .reservations = {},
                                      .use_memfd = true,
                                      .granularity = granularity,
                                      .merge = merge})
                   .value();
    guests_.resize(count);
    for (Guest& guest : guests_) {
      guest.memory = manager_->AddGuest(kSize, Placement::kArena).value();
      guest.mmu = std::make_unique<FakeMmu>(*guest.memory);
    }
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
    EXPECT_EQ(manager_->shared().frames(), PageCount());
    EXPECT_EQ(manager_->store().statistics().stored, PageCount());
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
  }

  void Write(size_t guest, uint64_t gfn, uint64_t seed, Content content = Content::kCompressible) {
    FillPage(guests_[guest].mmu->Page(Gfn(gfn)).value(), content, seed);
  }
  bool Has(size_t guest, uint64_t gfn, uint64_t seed, Content content = Content::kCompressible) {
    return HasContent(guests_[guest].mmu->Page(Gfn(gfn), Access::kRead).value(), content, seed);
  }
  PageState StateOf(size_t guest, uint64_t gfn) { return guests_[guest].memory->EntryOf(Gfn(gfn)).state(); }
  FrameNumber FrameOf(size_t guest, uint64_t gfn) { return guests_[guest].memory->EntryOf(Gfn(gfn)).frame(); }
  const MergeCounters& counters() { return manager_->merger().counters(); }
  void Pass() {
    manager_->merger().Pass();
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
  }

  std::unique_ptr<MemoryManager> manager_;
  std::vector<Guest> guests_;
  EvictionScratch scratch_;
};

TEST_F(MergeTest, EqualPagesOfAllGuestsShareOneFrame) {
  for (size_t g = 0; g < 3; ++g) Write(g, 100 + g, 7);
  Write(0, 5, 7);
  Write(0, 6, 8);
  Pass();
  EXPECT_EQ(manager_->shared().frames(), kOnePage);
  EXPECT_EQ(manager_->shared().sharers(), PageCount(4));
  EXPECT_EQ(counters().merged.value(), 3u);
  EXPECT_EQ(StateOf(0, 6), PageState::kResident);
  for (size_t g = 0; g < 3; ++g) {
    EXPECT_EQ(StateOf(g, 100 + g), PageState::kShared);
    EXPECT_EQ(FrameOf(g, 100 + g), FrameOf(0, 5));
    EXPECT_FALSE(guests_[g].mmu->maps(Gfn(100 + g)));
    EXPECT_TRUE(Has(g, 100 + g, 7));
  }
  EXPECT_EQ(guests_[1].memory->frames_held(), PageCount());
}

TEST_F(MergeTest, PagesThatWereNeverMergedAreStoredOnceWhileMergingIsOn) {
  for (const bool merge : {false, true}) {
    MakeGuests(3, {.blocks = false}, merge);
    constexpr uint64_t kPages = 50;
    for (size_t g = 0; g < 3; ++g) {
      for (uint64_t gfn = 0; gfn < kPages; ++gfn) Write(g, gfn + g, 1 + gfn);
    }
    for (int round = 0; round < 2; ++round) manager_->reclaimer().Reclaim(PageCount(10'000), scratch_);
    const SwapSpace::Statistics stored = manager_->store().statistics();
    EXPECT_EQ(stored.stored, PageCount(3 * kPages));
    EXPECT_EQ(stored.deduplicated, merge ? 2 * kPages : 0);
    EXPECT_EQ(stored.in_pool, PageCount(merge ? kPages : 3 * kPages));
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    for (size_t g = 0; g < 3; ++g) {
      for (uint64_t gfn = 0; gfn < kPages; ++gfn) EXPECT_TRUE(Has(g, gfn + g, 1 + gfn)) << g << ' ' << gfn;
    }
    Write(1, 5 + 1, 1000);
    EXPECT_TRUE(Has(0, 5, 6)) << "each has its own again";
  }
}

TEST_F(MergeTest, AWriteBreaksTheSharingForThatPageOnly) {
  for (size_t g = 0; g < 3; ++g) Write(g, 1, 7);
  Pass();
  for (size_t g = 0; g < 3; ++g) EXPECT_TRUE(Has(g, 1, 7));  // all map the shared frame
  Write(1, 1, 9);
  EXPECT_EQ(StateOf(1, 1), PageState::kResident);
  EXPECT_TRUE(Has(1, 1, 9));
  for (const size_t g : {0u, 2u}) {
    EXPECT_EQ(StateOf(g, 1), PageState::kShared);
    EXPECT_TRUE(Has(g, 1, 7));
  }
  EXPECT_EQ(manager_->faults().unshare.value(), 1u);
}

TEST_F(MergeTest, TheLastPageTakesTheFrameAlong) {
  for (size_t g = 0; g < 2; ++g) Write(g, 1, 7);
  Pass();
  guests_[0].memory->Discard(GfnRange(Gfn(1), kOnePage));
  EXPECT_EQ(manager_->shared().frames(), kOnePage);
  Write(1, 1, 8);
  EXPECT_EQ(manager_->shared().frames(), PageCount());
  EXPECT_EQ(guests_[0].mmu->Read(Gfn(1)), 0u);
}

TEST_F(MergeTest, ZeroPagesGiveTheirFramesUp) {
  for (uint64_t gfn = 0; gfn < 10; ++gfn) Write(0, gfn, gfn);
  for (uint64_t gfn = 0; gfn < 5; ++gfn) Write(0, gfn, 0, Content::kZero);
  const PageCount held = guests_[0].memory->frames_held();
  Pass();
  EXPECT_EQ(counters().zero.value(), 0u) << "they may just have been brought in";
  Pass();
  EXPECT_GE(counters().zero.value(), 5u);
  EXPECT_LE(guests_[0].memory->frames_held() + PageCount(5), held);
  EXPECT_EQ(StateOf(0, 4), PageState::kAbsent);
  EXPECT_TRUE(Has(0, 4, 0, Content::kZero));
  EXPECT_TRUE(Has(0, 5, 5));
}

// At first sight the scanner reads one line in eight.
TEST_F(MergeTest, APageThatOnlyLooksLikeZerosKeepsItsContentAndIsMergedLater) {
  for (size_t g = 0; g < 2; ++g) guests_[g].mmu->Page(Gfn(1)).value()[100] = std::byte{7};
  for (int pass = 0; pass < 3; ++pass) {
    Pass();
    EXPECT_EQ(counters().zero.value(), 0u);
    for (size_t g = 0; g < 2; ++g) {
      EXPECT_EQ(guests_[g].mmu->Page(Gfn(1), Access::kRead).value()[100], std::byte{7});
    }
  }
  EXPECT_EQ(FrameOf(0, 1), FrameOf(1, 1));
  EXPECT_EQ(StateOf(0, 1), PageState::kShared);
}

TEST_F(MergeTest, ManySharedFramesAreFoundAndLetGoTogether) {
  for (uint64_t gfn = 0; gfn < 2; ++gfn) {
    for (size_t g = 0; g < 2; ++g) Write(g, gfn, gfn + 1);
  }
  Pass();
  std::vector<uint64_t> hashes;
  for (int i = 0; i < 2; ++i) hashes.push_back(manager_->shared().HashOf(*manager_->shared().Next()));
  std::vector<SharedFrames::Hold> holds;
  for (std::optional<SharedFrames::Hold>& found : manager_->shared().FindAll({hashes[0], 0, hashes[1], ~hashes[0]})) {
    if (found.has_value()) holds.push_back(*std::move(found));
  }
  ASSERT_EQ(holds.size(), 2u);
  EXPECT_EQ(manager_->shared().HashOf(holds[0]), hashes[0]);
  EXPECT_EQ(manager_->shared().HashOf(holds[1]), hashes[1]);
  for (size_t g = 0; g < 2; ++g) guests_[g].memory->Discard(GfnRange(Gfn(0), PageCount(2)));
  EXPECT_EQ(manager_->shared().frames(), PageCount(2)) << "they are held";
  manager_->shared().Release(std::move(holds));
  EXPECT_EQ(manager_->shared().frames(), PageCount());
}

TEST_F(MergeTest, APageThatWasSampledAndThenWrittenIsNotMerged) {
  Write(0, 1, 7);
  Write(1, 1, 7);
  GuestMemory::Samples samples;
  guests_[1].memory->SamplePages(
      GfnRange(Gfn(1), kOnePage), 1, [](Gfn) { return GuestMemory::HowToSample::kWhole; }, samples);
  ASSERT_EQ(samples.size(), 1u);
  std::array<GuestMemory::Merge, 1> merge = {
      {{.gfn = Gfn(1), .into = GuestMemory::Merge::Into::kNewFrame, .hash = samples[0].hash}}};
  Write(1, 1, 8);
  guests_[1].memory->MergePages(BlockNumber(0), 1, absl::MakeSpan(merge));
  EXPECT_EQ(merge[0].outcome, GuestMemory::Merge::Outcome::kChanged);
  EXPECT_EQ(StateOf(1, 1), PageState::kResident);
  EXPECT_TRUE(guests_[1].mmu->maps(Gfn(1))) << "nobody had to be told";
  Write(1, 1, 7);
  guests_[1].memory->MergePages(BlockNumber(0), 1, absl::MakeSpan(merge));
  EXPECT_EQ(merge[0].outcome, GuestMemory::Merge::Outcome::kMerged);
  EXPECT_TRUE(Has(1, 1, 7));
}

TEST_F(MergeTest, ChainsAreBoundedAndAFullOneBeginsASecondFrame) {
  for (uint64_t gfn = 0; gfn < SharedFrames::kMaxSharing + 10; ++gfn) Write(0, gfn, 7);
  Pass();
  Pass();
  Pass();
  EXPECT_EQ(manager_->shared().frames(), PageCount(2));
  EXPECT_EQ(manager_->shared().sharers(), PageCount(SharedFrames::kMaxSharing + 10));
  for (uint64_t gfn = 0; gfn < SharedFrames::kMaxSharing + 10; ++gfn) EXPECT_TRUE(Has(0, gfn, 7));
}

TEST_F(MergeTest, APageThatIsWrittenWhileSharedIsLeftAloneForAWhile) {
  for (size_t g = 0; g < 3; ++g) Write(g, 1, 7);
  Pass();
  ASSERT_EQ(StateOf(1, 1), PageState::kShared);
  Write(1, 1, 8);
  Write(1, 1, 7);
  Pass();
  EXPECT_EQ(StateOf(1, 1), PageState::kResident);
  EXPECT_EQ(counters().Refused(MergeRefusal::kBroken), 1u);
  for (int pass = 0; pass < 20; ++pass) Pass();
  EXPECT_EQ(StateOf(1, 1), PageState::kShared);
}

// As much is merged as before, and nobody gains by it.
TEST_F(MergeTest, TheScannerRestsWhileWhatItGainsIsLostAgain) {
  constexpr uint64_t kPages = 60;
  const double most = manager_->merger().cpu_share();
  uint64_t next = 0;
  const auto share_after = [&](int passes, bool write_again) {
    for (int pass = 0; pass < passes; ++pass, next += kPages) {
      for (size_t g = 0; g < 2; ++g) {
        for (uint64_t gfn = next; gfn < next + kPages; ++gfn) Write(g, gfn, 1 + gfn);
        for (uint64_t gfn = next - kPages; write_again && gfn < next; ++gfn) Write(g, gfn, 10'000 + 2 * gfn + g);
      }
      Pass();
    }
    return manager_->merger().cpu_share();
  };
  EXPECT_EQ(share_after(5, false), most);
  const uint64_t merged = counters().merged.value();
  EXPECT_LT(share_after(6, true), most / 4);
  EXPECT_EQ(counters().merged.value() - merged, 6 * kPages);
  EXPECT_EQ(share_after(3, false), most);
}

TEST_F(MergeTest, PagesThatChangeFromPassToPassAreLeftAlone) {
  Write(0, 1, 1);
  Write(1, 1, 2);
  for (uint64_t pass = 0; pass < 40; ++pass) {
    Pass();
    // Equal for a moment, but other than the last time.
    Write(0, 1, 100 + pass);
    Write(1, 1, 100 + pass);
  }
  // One change in 64 goes unnoticed: few bits of the hash are remembered.
  EXPECT_GT(counters().Refused(MergeRefusal::kChanged), 4u);
  EXPECT_LT(counters().merged.value() * 2, counters().Refused(MergeRefusal::kChanged));
}

TEST_F(MergeTest, PagesThatNeverMergeAreSkippedEverLonger) {
  for (uint64_t gfn = 0; gfn < 100; ++gfn) Write(0, gfn, gfn + 1);
  for (int pass = 0; pass < 40; ++pass) Pass();
  EXPECT_GT(counters().skipped.value(), counters().scanned.value() * 2);
  Write(1, 1, 50);
  for (int pass = 0; pass < 10; ++pass) Pass();
  EXPECT_EQ(StateOf(0, 49), PageState::kShared) << "they are looked at again some time";
}

TEST_F(MergeTest, AWholeBlockIsTakenApartOnlyIfThatPays) {
  MakeGuests(2, {});
  for (size_t g = 0; g < 2; ++g) {
    for (uint64_t gfn = 0; gfn < kPagesPerBlock; ++gfn) Write(g, gfn, 1000 * g + gfn + 1);
  }
  ASSERT_TRUE(guests_[0].memory->IsWhole(BlockNumber(0)));
  Write(0, 3, 5000);
  Write(1, 3, 5000);
  Pass();
  EXPECT_TRUE(guests_[0].memory->IsWhole(BlockNumber(0)));
  EXPECT_TRUE(guests_[1].memory->IsWhole(BlockNumber(0)));
  EXPECT_GT(counters().Refused(MergeRefusal::kWholeBlock), 0u);

  for (uint64_t gfn = 0; gfn < kPagesPerBlock; ++gfn) Write(1, gfn, gfn + 1);
  for (int pass = 0; pass < 20; ++pass) Pass();
  EXPECT_FALSE(guests_[0].memory->IsWhole(BlockNumber(0)));
  EXPECT_GT(manager_->shared().frames(), PageCount(400));
  for (uint64_t gfn = 10; gfn < kPagesPerBlock; ++gfn) {
    EXPECT_TRUE(Has(0, gfn, gfn + 1));
    EXPECT_TRUE(Has(1, gfn, gfn + 1));
  }
}

TEST_F(MergeTest, AWholeBlockThatIsTakenApartIsScannedOnceInAPass) {
  MakeGuests(2, {});
  for (size_t g = 0; g < 2; ++g) {
    for (uint64_t gfn = 0; gfn < kPagesPerBlock; ++gfn) Write(g, gfn, gfn % 32 == 0 ? 1000 * (g + 1) + gfn : gfn);
  }
  ASSERT_TRUE(guests_[0].memory->IsWhole(BlockNumber(0)));
  ASSERT_TRUE(guests_[1].memory->IsWhole(BlockNumber(0)));
  Pass();
  EXPECT_FALSE(guests_[0].memory->IsWhole(BlockNumber(0)));
  EXPECT_FALSE(guests_[1].memory->IsWhole(BlockNumber(0)));
  EXPECT_EQ(counters().scanned.value(), 2 * kPagesPerBlock);
}

// --- How much is found, and the limit of windows.

// What there is to gain at best, by a look at everything.
class MergeOracleTest : public MergeTest, public ::testing::WithParamInterface<Placement> {
 protected:
  void MakeMachine(PageCount islands) {
    RemoveGuests();
    manager_ = MemoryManager::Create({.limit = PageCount::OfBlocks(16),
                                      .reservations = kSize * 4,
                                      .use_memfd = true,
                                      .granularity = {.blocks = false},
                                      .islands = islands})
                   .value();
    guests_.resize(4);
    for (Guest& guest : guests_) {
      guest.memory = manager_->AddGuest(kSize, GetParam()).value();
      guest.mmu = std::make_unique<FakeMmu>(*guest.memory);
    }
  }
  void Fill(size_t guest, uint64_t gfn, uint64_t version) {
    const RealPage page =
        Variant(pages_[gfn % pages_.size()], version == 0 ? gfn : gfn + (guest << 20) + (version << 32));
    std::memcpy(guests_[guest].mmu->Page(Gfn(gfn)).value(), page.data(), kPageSize);
  }
  // The frames that could go if all equal pages shared one each.
  PageCount SavedByOracle(uint64_t first) {
    std::set<std::string> contents;
    uint64_t pages = 0;
    for (Guest& guest : guests_) {
      for (uint64_t gfn = first; gfn < kSize.in_pages(); ++gfn, ++pages) {
        const auto* const page = reinterpret_cast<char*>(guest.mmu->Page(Gfn(gfn), Access::kRead).value());
        contents.emplace(page, kPageSize);
      }
    }
    return PageCount(pages - contents.size());
  }
  PageCount Saved() { return manager_->shared().sharers() - manager_->shared().frames(); }

  const std::vector<RealPage> pages_ = RealPages();
};

TEST_P(MergeOracleTest, TwoPassesFindWhatThereIsWhileGuestsWriteToATwentiethOfThePages) {
  MakeMachine(kSize * 4);
  const uint64_t written = kSize.in_pages() / 20;
  for (size_t g = 0; g < guests_.size(); ++g) {
    for (uint64_t gfn = 0; gfn < kSize.in_pages(); ++gfn) Fill(g, gfn, 0);
  }
  for (uint64_t pass = 1; pass <= 2; ++pass) {
    for (size_t g = 0; g < guests_.size(); ++g) {
      for (uint64_t gfn = 0; gfn < written; ++gfn) Fill(g, gfn, pass);
    }
    Pass();
  }
  const PageCount possible = SavedByOracle(written);
  ASSERT_GT(possible, PageCount(2'500));
  EXPECT_GE(Saved() * 100, possible * 95);
  for (size_t g = 0; g < guests_.size(); ++g) {
    for (uint64_t gfn = 0; gfn < kSize.in_pages(); ++gfn) {
      const RealPage page =
          Variant(pages_[gfn % pages_.size()], gfn < written ? gfn + (g << 20) + (uint64_t{2} << 32) : gfn);
      ASSERT_EQ(std::memcmp(guests_[g].mmu->Page(Gfn(gfn), Access::kRead).value(), page.data(), kPageSize), 0) << gfn;
    }
  }
}

TEST_P(MergeOracleTest, PastTheIslandLimitWindowsShareNoMoreAndNothingFails) {
  MakeMachine(PageCount(10));
  for (size_t g = 0; g < guests_.size(); ++g) {
    for (uint64_t gfn = 0; gfn < 200; ++gfn) Fill(g, gfn, 0);
  }
  Pass();
  Pass();
  const bool windows = GetParam() == Placement::kReservation;
  EXPECT_EQ(manager_->shared().sharers(), PageCount(windows ? 10 : 800));
  EXPECT_EQ(counters().Refused(MergeRefusal::kMapping) > 0, windows);
  // A page that is written to makes place for another.
  Fill(0, 0, 1);
  for (int pass = 0; pass < 20; ++pass) Pass();
  EXPECT_EQ(manager_->islands().charged(), PageCount(windows ? 10 : 0));
}

TEST_P(MergeOracleTest, WhoWritesInOrderUnsharesWhatFollowsAlong) {
  MakeMachine(kSize * 4);
  constexpr uint64_t kPages = 64;
  for (size_t g = 0; g < 2; ++g) {
    for (uint64_t gfn = 0; gfn < kPages; ++gfn) Fill(g, gfn, 0);
  }
  Pass();
  Pass();
  ASSERT_EQ(manager_->shared().sharers(), PageCount(2 * kPages));
  const auto faults_of = [&](std::vector<uint64_t> order) {
    // A fault that unshares invalidates, and is then tried again.
    const auto faults = [&] { return manager_->faults().total.value() - manager_->faults().already_resident.value(); };
    const uint64_t before = faults();
    for (const uint64_t gfn : order) Fill(0, gfn, 1);
    return faults() - before;
  };
  EXPECT_EQ(faults_of({60, 40, 50, 30}), 4u) << "one each, whoever writes at random";
  EXPECT_EQ(StateOf(0, 31), PageState::kShared);
  const bool windows = GetParam() == Placement::kReservation;
  std::vector<uint64_t> first(28);
  std::iota(first.begin(), first.end(), 0);
  EXPECT_EQ(faults_of(first), windows ? 3u : 28u);  // 0, 1 to 15, 16 to 29
  EXPECT_EQ(StateOf(0, 29), windows ? PageState::kResident : PageState::kShared);
  EXPECT_EQ(manager_->faults().unshare.value(), windows ? 34u : 32u);
  for (const uint64_t gfn : {28, 29, 31, 63}) {
    const RealPage page = Variant(pages_[gfn % pages_.size()], gfn);
    for (size_t g = 0; g < 2; ++g) {
      EXPECT_EQ(std::memcmp(guests_[g].mmu->Page(Gfn(gfn), Access::kRead).value(), page.data(), kPageSize), 0);
    }
  }
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(Placements, MergeOracleTest, ::testing::Values(Placement::kArena, Placement::kReservation),
                         [](const auto& info) { return info.param == Placement::kArena ? "Arena" : "Reservation"; });

// --- Shared pages are ordinary pages.

TEST_F(MergeTest, ASharedFrameIsStoredOnceForAllItsPages) {
  for (size_t g = 0; g < 3; ++g) Write(g, 1, 7);
  Pass();
  // Once to unmap it, and once to find that nobody has used it since.
  manager_->reclaimer().MakeRoom(*guests_[0].memory, kOnePage).IgnoreError();
  manager_->reclaimer().MakeRoom(*guests_[0].memory, kOnePage).IgnoreError();
  EXPECT_EQ(manager_->shared().frames(), PageCount());
  EXPECT_EQ(manager_->shared_reclaim().evicted.value(), 1u);
  EXPECT_EQ(manager_->store().statistics().stored, PageCount(3));
  EXPECT_EQ(manager_->store().statistics().shared, PageCount(2));
  EXPECT_EQ(manager_->store().statistics().in_pool, kOnePage);
  for (size_t g = 0; g < 3; ++g) {
    EXPECT_EQ(StateOf(g, 1), PageState::kSwapped);
    EXPECT_EQ(guests_[g].memory->EntryOf(Gfn(1)).slot(), guests_[0].memory->EntryOf(Gfn(1)).slot());
  }
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
  Write(0, 1, 8);
  EXPECT_TRUE(Has(1, 1, 7));
  EXPECT_TRUE(Has(2, 1, 7));
  EXPECT_TRUE(Has(0, 1, 8));
}

// Private pages that do not compress go to a swap area; shared ones must not be worse off.
TEST_F(MergeTest, ASharedFrameThatDoesNotCompressGoesToASwapArea) {
  RemoveGuests();
  manager_ = MemoryManager::Create({.limit = PageCount::OfBlocks(16),
                                    .reservations = {},
                                    .use_memfd = true,
                                    .granularity = {.blocks = false},
                                    .open_swap =
                                        [] {
                                          std::vector<std::unique_ptr<BackingStore>> stores;
                                          stores.push_back(std::make_unique<FakeBackingStore>(ByteCount::MiB(16)));
                                          return stores;
                                        }})
                 .value();
  guests_.resize(2);
  for (Guest& guest : guests_) {
    guest.memory = manager_->AddGuest(kSize, Placement::kArena).value();
    guest.mmu = std::make_unique<FakeMmu>(*guest.memory);
  }
  for (size_t g = 0; g < 2; ++g) Write(g, 1, 7, Content::kNoise);
  Pass();
  ASSERT_EQ(manager_->shared().frames(), kOnePage);
  manager_->ReclaimShared(/*many=*/true);
  EXPECT_EQ(manager_->shared().frames(), PageCount());
  EXPECT_GT(manager_->store().WriteOut(ByteCount::Bytes(1)), ByteCount());
  EXPECT_EQ(manager_->store().statistics().held, PageCount());
  EXPECT_EQ(manager_->store().areas()[0]->counters().pages.value(), 1u);
  for (size_t g = 0; g < 2; ++g) EXPECT_TRUE(Has(g, 1, 7, Content::kNoise));
}

// However many there are, and although each has been used.
TEST_F(MergeTest, SharedFramesAreReclaimedWhenThereIsNothingElse) {
  for (uint64_t gfn = 0; gfn < 500; ++gfn) {
    for (size_t g = 0; g < 2; ++g) Write(g, gfn, gfn + 1);
  }
  Pass();
  for (uint64_t gfn = 0; gfn < 500; ++gfn) EXPECT_TRUE(Has(0, gfn, gfn + 1));
  ASSERT_EQ(manager_->shared().frames(), PageCount(500));
  EXPECT_GT(manager_->ReclaimShared(/*many=*/true), PageCount());
  for (uint64_t gfn = 0; gfn < 500; ++gfn) EXPECT_TRUE(Has(1, gfn, gfn + 1));
}

TEST_F(MergeTest, ASharedFrameThatIsUsedStays) {
  for (size_t g = 0; g < 2; ++g) Write(g, 1, 7);
  Pass();
  ReverseMap map(manager_->shared(), manager_->store(),
                 [&](GuestId id) { return guests_[static_cast<size_t>(id)].memory; });
  CompressionScratch scratch;
  for (int round = 0; round < 5; ++round) {
    EXPECT_EQ(map.Reclaim(kOnePage, kOnePage, scratch), PageCount());
    EXPECT_FALSE(guests_[1].mmu->maps(Gfn(1)));
    EXPECT_TRUE(Has(1, 1, 7));
  }
  EXPECT_EQ(StateOf(1, 1), PageState::kShared);
  EXPECT_EQ(map.Reclaim(kOnePage, kOnePage, scratch), PageCount());
  EXPECT_EQ(map.Reclaim(kOnePage, kOnePage, scratch), kOnePage);
  EXPECT_EQ(StateOf(1, 1), PageState::kSwapped);
}

TEST_F(MergeTest, CompactionMovesASharedFrameWithAllItsPages) {
  for (uint64_t gfn = 0; gfn < 600; ++gfn) {
    for (size_t g = 0; g < 3; ++g) Write(g, gfn, gfn + 1);
  }
  Pass();
  ASSERT_EQ(manager_->shared().frames(), PageCount(600));
  // Single frames are left here and there.
  for (uint64_t gfn = 0; gfn < 600; ++gfn) {
    if (gfn % 8 == 0) continue;
    for (size_t g = 0; g < 3; ++g) guests_[g].memory->Discard(GfnRange(Gfn(gfn), kOnePage));
  }
  const uint64_t moved = manager_->pool().compaction()->counters().migrated_pages.value();
  ASSERT_GT(manager_->pool().compaction()->MakeFreeBlocks(1), 0u);
  EXPECT_GT(manager_->pool().compaction()->counters().migrated_pages.value(), moved);
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
  EXPECT_EQ(manager_->shared().frames(), PageCount(75));
  for (uint64_t gfn = 0; gfn < 600; gfn += 8) {
    for (size_t g = 0; g < 3; ++g) EXPECT_TRUE(Has(g, gfn, gfn + 1));
  }
}

TEST_F(MergeTest, AGuestThatEndsLeavesTheOthersTheirPages) {
  for (size_t g = 0; g < 3; ++g) Write(g, 1, 7);
  Pass();
  guests_[0].mmu.reset();
  manager_->RemoveGuest(guests_[0].memory);
  guests_.erase(guests_.begin());
  EXPECT_TRUE(Has(0, 1, 7));
  EXPECT_TRUE(Has(1, 1, 7));
}

// Compaction finds a frame by its descriptor, and may want it as soon as that says that it is shared.
TEST_F(MergeTest, APageSharesTheFrameThatIsPublishedForItHoweverSoonTheFrameIsGivenUp) {
  constexpr int kEnough = 10'000;
  SharedFrames shared(manager_->pool());
  std::atomic<uint64_t> next = 0;
  std::atomic<int> given_up = 0;
  std::thread compactor([&] {
    while (given_up < kEnough) {
      const std::optional<SharedFrames::Hold> hold = shared.HoldFrame(FrameNumber(next));
      if (!hold.has_value()) continue;
      shared.Retire(*hold);
      ++given_up;
    }
  });
  const Sharer page{.guest = GuestId(guests_[0].memory->id()), .gfn = Gfn(7)};
  while (given_up < kEnough) {
    const FrameNumber frame = shared.Allocate().value();
    next = frame.value();
    const ShareLink link = shared.Publish(frame, /*hash=*/1, page);
    EXPECT_TRUE(shared.Has(frame, link, page));
    shared.Leave(frame, link);
  }
  compactor.join();
  EXPECT_EQ(shared.frames(), PageCount());
}

// Guests write and read while their pages are merged, compacted and evicted: each finds what it wrote.
TEST_F(MergeTest, NothingIsLostWhileGuestsWriteAndPagesAreMergedMovedAndEvicted) {
  constexpr uint64_t kPages = 64;
  constexpr uint64_t kContents = 4;
  constexpr uint64_t kEnough = 200;
  std::atomic<int> running = static_cast<int>(guests_.size());
  std::vector<std::thread> threads;
  for (size_t g = 0; g < guests_.size(); ++g) {
    threads.emplace_back([&, g] {
      std::mt19937 random(static_cast<uint32_t>(g));
      std::array<uint64_t, kPages> seeds = {};
      while (counters().merged.value() < kEnough || manager_->faults().unshare.value() < kEnough) {
        const uint64_t gfn = random() % kPages;
        bool right = true;
        const bool write = random() % 4 == 0;
        const absl::Status status =
            guests_[g].mmu->WithPage(Gfn(gfn), write ? Access::kWrite : Access::kRead, [&](std::byte* page) {
              right = seeds[gfn] == 0 ? HasContent(page, Content::kZero, 0)
                                      : HasContent(page, Content::kCompressible, seeds[gfn]);
              if (write) FillPage(page, Content::kCompressible, seeds[gfn] = random() % kContents + 1);
            });
        ASSERT_EQ(status, absl::OkStatus());
        ASSERT_TRUE(right) << "page " << gfn << " of guest " << g;
      }
      --running;
    });
  }
  threads.emplace_back([&] {
    EvictionScratch scratch;
    while (running > 0) {
      manager_->reclaimer().Reclaim(PageCount(8), scratch);
      manager_->reclaimer().MakeRoom(*guests_[0].memory, kOnePage).IgnoreError();
      manager_->pool().compaction()->MakeFreeBlocks(1);
    }
  });
  while (running > 0) manager_->merger().Pass();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace quire
