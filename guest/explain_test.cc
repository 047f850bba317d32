#include "guest/explain.h"

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/guest_memory.h"
#include "guest/huge/block_refusal.h"
#include "guest/huge/granularity.h"
#include "guest/memory_manager.h"
#include "guest/merge/merger.h"
#include "guest/page_entry.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr PageCount kSize = PageCount::OfBlocks(2) + PageCount(8);

class ExplainTest : public ::testing::Test {
 protected:
  void SetUp() override { Make({.blocks = false}); }
  void TearDown() override { Remove(); }
  void Make(const GranularityOptions& granularity, bool merge = true) {
    Remove();
    manager_ = MemoryManager::Create({.limit = PageCount::OfBlocks(16),
                                      .reservations = {},
                                      .use_memfd = true,
                                      .granularity = granularity,
                                      .merge = merge})
                   .value();
    guest_ = manager_->AddGuest(kSize, Placement::kArena).value();
    mmu_ = std::make_unique<FakeMmu>(*guest_);
  }
  void Remove() {
    if (manager_ == nullptr) return;
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    mmu_.reset();
    manager_->RemoveGuest(guest_);
  }
  void Write(uint64_t gfn, uint64_t seed, Content content = Content::kCompressible) {
    FillPage(mmu_->Page(Gfn(gfn)).value(), content, seed);
  }
  Explanation Explain(uint64_t gfn) { return quire::Explain(*manager_, *guest_, Gfn(gfn)).value(); }
  // Takes the block of the page out, and stores what compresses.
  void SwapOut(uint64_t gfn) {
    Block& block = guest_->BlockAt(BlockOf(Gfn(gfn)));
    EvictionScratch scratch;
    guest_->Age(block);
    guest_->Evict(block, scratch);
  }

  std::unique_ptr<MemoryManager> manager_;
  GuestMemory* guest_ = nullptr;
  std::unique_ptr<FakeMmu> mmu_;
};

TEST_F(ExplainTest, APageThatWasNeverTouchedIsAbsent) {
  const Explanation e = Explain(7);
  EXPECT_EQ(e.state, PageState::kAbsent);
  EXPECT_THAT(e.residence, HasSubstr("reads as zero"));
  EXPECT_EQ(e.merging, "There is nothing to merge.");
  EXPECT_FALSE(e.frame.has_value());
}

TEST_F(ExplainTest, APageThatThereIsNotIsAnError) {
  const absl::Status status = quire::Explain(*manager_, *guest_, Gfn(0) + kSize).status();
  EXPECT_TRUE(absl::IsOutOfRange(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("its memory ends at page 1032"));
}

TEST_F(ExplainTest, APageInMemoryIsResidentUntilItIsTakenOutAndStored) {
  Write(7, 1);
  EXPECT_THAT(Explain(7).residence, HasSubstr("It is resident, in frame "));
  guest_->Age(guest_->BlockAt(BlockNumber(0)));
  EXPECT_THAT(Explain(7).residence, HasSubstr("It is out"));
  SwapOut(7);
  const Explanation e = Explain(7);
  EXPECT_EQ(e.state, PageState::kSwapped);
  EXPECT_THAT(e.residence, HasSubstr("in the pool, in "));
  EXPECT_THAT(e.residence, HasSubstr("(with LZ4)"));
  EXPECT_GT(e.stored->length, 0u);
  EXPECT_LT(e.stored->length, kPageSize);
  mmu_->Read(Gfn(7));
  EXPECT_THAT(Explain(7).residence, HasSubstr("A copy from the time before is kept in the pool"));
}

TEST_F(ExplainTest, APageOfOneWordTakesNoMemory) {
  Write(7, 5, Content::kSameFilled);
  SwapOut(7);
  EXPECT_THAT(Explain(7).residence, HasSubstr("as one word that fills it"));
}

TEST_F(ExplainTest, AMergedPageNamesItsFrameAndHowManyShareIt) {
  for (const uint64_t gfn : {1, 2, 600}) Write(gfn, 9);
  manager_->merger().Pass();
  const Explanation e = Explain(600);
  EXPECT_EQ(e.state, PageState::kShared);
  EXPECT_EQ(e.sharers, 3u);
  EXPECT_THAT(e.residence, HasSubstr("3 pages share it"));
  EXPECT_THAT(e.merging, HasSubstr("It is merged"));
  EXPECT_THAT(e.merge_refused, IsEmpty());
  // Swapped, it is stored once for all of them.
  while (manager_->ReclaimShared(/*many=*/true) == PageCount()) {
  }
  EXPECT_THAT(Explain(600).residence, HasSubstr("3 pages have this content"));
  EXPECT_THAT(Explain(600).merging, HasSubstr("merged when it was stored"));
}

TEST_F(ExplainTest, APageLikeNoOtherIsUniqueAndSkippedAfterSomePasses) {
  Write(1, 9);
  EXPECT_THAT(Explain(1).merging, HasSubstr("has not come to it yet"));
  for (int pass = 0; pass < 3; ++pass) manager_->merger().Pass();
  const Explanation e = Explain(1);
  EXPECT_EQ(e.merge_refused, Name(MergeRefusal::kUnique));
  EXPECT_EQ(e.skipped_passes, 1);
  EXPECT_THAT(e.merging, HasSubstr("It is not looked at in the next 1 pass."));
  EXPECT_GE(manager_->merger().counters().Refused(MergeRefusal::kUnique), 3u);
}

TEST_F(ExplainTest, APageThatChangesSaysSo) {
  Write(1, 9);
  manager_->merger().Pass();
  // Some bits of the hash are compared only: another content may look the same.
  for (uint64_t seed = 10; Explain(1).merge_refused != Name(MergeRefusal::kChanged); ++seed) {
    Write(1, seed);
    manager_->merger().Pass();
    ASSERT_LT(seed, 100u);
  }
  EXPECT_THAT(Explain(1).merging, HasSubstr("changes too often"));
}

TEST_F(ExplainTest, APageThatWasWrittenToWhileItWasSharedIsLeftAlone) {
  for (const uint64_t gfn : {1, 2}) Write(gfn, 9);
  manager_->merger().Pass();
  Write(1, 10);
  manager_->merger().Pass();
  const Explanation e = Explain(1);
  EXPECT_EQ(e.merge_refused, Name(MergeRefusal::kBroken));
  EXPECT_GT(e.skipped_passes, 1);
}

TEST_F(ExplainTest, AZeroPageIsFreshOnce) {
  Write(1, 0, Content::kZero);
  manager_->merger().Pass();
  const Explanation e = Explain(1);
  EXPECT_TRUE(e.zero);
  EXPECT_EQ(e.merge_refused, Name(MergeRefusal::kFresh));
  manager_->merger().Pass();
  EXPECT_EQ(Explain(1).state, PageState::kAbsent);
}

TEST_F(ExplainTest, SwitchesAreNamed) {
  Make({.blocks = false}, /*merge=*/false);
  Write(1, 9);
  EXPECT_THAT(Explain(1).merging, HasSubstr("--merge=off"));
  EXPECT_THAT(Explain(1).huge, HasSubstr("--huge=never"));
  Make({.advised_only = true});
  Write(1, 9);
  EXPECT_THAT(Explain(1).huge, HasSubstr("--huge=advise"));
}

TEST_F(ExplainTest, AWholeBlockIsMappedByOneEntryAndItsPagesStay) {
  Make({});
  for (const uint64_t gfn : {1, 2}) Write(gfn, 9);
  manager_->merger().Pass();
  const Explanation e = Explain(1);
  EXPECT_TRUE(e.whole);
  EXPECT_THAT(e.huge, HasSubstr("Its block, 0, is whole"));
  EXPECT_THAT(e.huge_refused, IsEmpty());
  EXPECT_EQ(e.merge_refused, Name(MergeRefusal::kWholeBlock));
}

TEST_F(ExplainTest, ABlockInPiecesSaysWhy) {
  Make({});
  EXPECT_THAT(Explain(1025).huge, HasSubstr("the guest's memory ends within it"));
  for (uint64_t gfn = 0; gfn < 1024; ++gfn) Write(gfn, gfn % 512);
  manager_->merger().Pass();
  const Explanation e = Explain(1);
  EXPECT_FALSE(e.whole);
  EXPECT_THAT(e.huge, HasSubstr("shared): pages of it share frames"));
  EXPECT_GT(e.block_pages[static_cast<size_t>(PageState::kShared)], 500);
  // A fault that would bring it in whole counts that.
  for (uint64_t gfn = 0; gfn < 64; ++gfn) Write(gfn, 10);
  EXPECT_GT(manager_->faults().whole_refused.value(BlockRefusal::kShared), 0u);
}

TEST_F(ExplainTest, AFirstTouchThatGetsNoWholeBlockIsCountedOnce) {
  for (const uint64_t gfn : {1, 100, 513}) Write(gfn, 9);
  EXPECT_EQ(manager_->faults().whole_refused.value(BlockRefusal::kNotAsked), 2u);
}

}  // namespace
}  // namespace quire
