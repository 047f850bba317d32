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
};

TEST_F(SwapSpaceChurnTest, WhatIsHeldIsPayload) {
  Grow(8'000);
  std::cout << "payload: " << 100 * Payload() << " % before the churn, ";
  Churn();
  std::cout << 100 * Payload() << " % after it\n";
  ExpectAll();
}

}  // namespace
}  // namespace quire
