// What the store holds for the pages in it, when pages have come and gone for a while.
#include <cstdint>
#include <iostream>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/frames/pool.h"
#include "guest/swap/swap_slot.h"
#include "guest/swap/swap_space.h"
#include "guest/swap/testing/real_pages.h"

namespace quire {
namespace {

class SwapSpaceChurnTest : public ::testing::Test {
 protected:
  struct Stored {
    SwapSlot slot;
    size_t page;
    uint64_t seed;
  };

  void TearDown() override {
    for (const Stored& s : stored_) space_.Free(s.slot);
    EXPECT_EQ(space_.statistics().held, PageCount());
    EXPECT_EQ(space_.Check(), absl::OkStatus());
  }

  RealPage PageOf(const Stored& s) const { return Variant(pages_[s.page], s.seed); }
  void StoreOne() {
    Stored s = {.slot = {}, .page = random_() % pages_.size(), .seed = random_()};
    const StoreResult result = space_.Store(PageOf(s).data(), scratch_);
    if (result.outcome != StoreOutcome::kStored) return;  // it does not compress
    s.slot = result.slot;
    stored_.push_back(s);
  }
  void FreeOne() {
    std::swap(stored_[random_() % stored_.size()], stored_.back());
    space_.Free(stored_.back().slot);
    stored_.pop_back();
  }
  void Grow(size_t to) {
    while (stored_.size() < to) StoreOne();
  }
  void Shrink(size_t to) {
    while (stored_.size() > to) FreeOne();
  }
  // In waves, as guests' phases come and go.
  void Churn() {
    for (int wave = 0; wave < 3; ++wave) {
      Grow(16'000);
      Shrink(8'000);
    }
  }
  // The share of what is held that is stored bytes.
  double Payload() const {
    const SwapSpace::Statistics s = space_.statistics();
    return static_cast<double>(s.stored_bytes.in_bytes()) / static_cast<double>(s.held.in_bytes());
  }
  void ExpectAll() {
    for (const Stored& s : stored_) {
      RealPage page;
      ASSERT_EQ(space_.Load(s.slot, page.data()), absl::OkStatus());
      ASSERT_EQ(page, PageOf(s));
    }
  }

  const std::vector<RealPage> pages_ = RealPages();
  std::unique_ptr<Pool> pool_ =
      Pool::Create({.limit = PageCount::OfBlocks(32), .reservations = {}, .use_memfd = true}).value();
  SwapSpace space_{*pool_};
  CompressionScratch scratch_;
  std::mt19937_64 random_{1};
  std::vector<Stored> stored_;
  int told_ = 0;  // that it is scattered
};

TEST_F(SwapSpaceChurnTest, WhatIsHeldIsPayload) {
  Grow(8'000);
  std::cout << "payload: " << 100 * Payload() << " % before the churn, ";
  Churn();
  std::cout << 100 * Payload() << " % after it, ";
  const PageCount held = space_.statistics().held;
  const PageCount freed = space_.CompactZone(held);
  std::cout << 100 * Payload() << " % when compacted\n";
  EXPECT_GE(Payload(), 0.95);
  EXPECT_EQ(space_.statistics().held, held - freed);
  EXPECT_EQ(space_.CompactZone(held), PageCount()) << "nothing is left to be won";
  EXPECT_EQ(space_.Check(), absl::OkStatus());
  ExpectAll();
}

TEST_F(SwapSpaceChurnTest, WhoeverAskedIsToldThatStoredPagesAreScattered) {
  space_.SetScatteredCallback([this] { ++told_; });
  Grow(8'000);
  Shrink(7'900);
  EXPECT_FALSE(space_.IsScattered());
  EXPECT_EQ(told_, 0);
  Shrink(4'000);
  EXPECT_TRUE(space_.IsScattered());
  EXPECT_GT(told_, 0);
  // A part of it, and then the rest.
  const PageCount held = space_.statistics().held;
  const PageCount freed = space_.CompactZone(PageCount(100));
  EXPECT_GE(freed, PageCount(100));
  EXPECT_LT(freed, PageCount(150));
  EXPECT_EQ(space_.statistics().held, held - freed);
  EXPECT_TRUE(space_.IsScattered());
  space_.CompactZone(held);
  EXPECT_FALSE(space_.IsScattered());
  ExpectAll();
}

}  // namespace
}  // namespace quire
