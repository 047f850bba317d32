#include "mmu/shootdown.h"

#include <atomic>
#include <cstddef>
#include <thread>

#include "gtest/gtest.h"

namespace quire {
namespace {

GfnRange Pages(uint64_t begin, uint64_t end) { return GfnRange(Gfn(begin), Gfn(end)); }

class ShootdownTest : public testing::Test {
 protected:
  void Insert(uint64_t gfn) { tlb_.InsertPage(Gfn(gfn), &page_, true); }
  bool Holds(uint64_t gfn) const { return tlb_.Find(Gfn(gfn), Access::kRead) != nullptr; }

  std::byte page_{};
  Tlb tlb_;
  ShootdownGate gate_;
};

TEST_F(ShootdownTest, WhoIsOutsideIsNotWaitedForAndFlushesOnEntry) {
  Insert(1);
  Insert(2);
  const uint64_t ticket = gate_.Request(Pages(1, 2));
  EXPECT_FALSE(gate_.InGuest());
  gate_.Await(ticket);
  EXPECT_TRUE(Holds(1));  // nobody but the vCPU touches its TLB
  gate_.Enter(tlb_);
  EXPECT_FALSE(Holds(1));
  EXPECT_TRUE(Holds(2));
  gate_.Leave();
  EXPECT_EQ(gate_.flushes(), 1u);
}

TEST_F(ShootdownTest, RequestsAreServedOnce) {
  gate_.Request(Pages(1, 2));
  gate_.Enter(tlb_);
  gate_.Leave();
  Insert(1);
  gate_.Enter(tlb_);
  EXPECT_TRUE(Holds(1));
  gate_.Leave();
}

TEST_F(ShootdownTest, AnyNumberOfRequestsAddUp) {
  for (uint64_t gfn = 0; gfn < 100; ++gfn) Insert(gfn);
  for (uint64_t gfn = 0; gfn < 100; gfn += 2) gate_.Request(Pages(gfn, gfn + 1));
  gate_.Enter(tlb_);
  for (uint64_t gfn = 0; gfn < 100; gfn += 2) EXPECT_FALSE(Holds(gfn)) << gfn;
  gate_.Leave();
  EXPECT_EQ(gate_.flushes(), 1u);
}

TEST_F(ShootdownTest, AnEmptyRequestFlushesNothing) {
  Insert(1);
  gate_.Request(GfnRange());
  gate_.Enter(tlb_);
  EXPECT_TRUE(Holds(1));
  gate_.Leave();
}

TEST_F(ShootdownTest, WhoIsInGuestModeIsWaitedForUntilItLeaves) {
  gate_.Enter(tlb_);
  EXPECT_TRUE(gate_.InGuest());
  const uint64_t ticket = gate_.Request(Pages(1, 2));
  std::atomic<bool> left{false};
  std::thread waiter([&] {
    gate_.Await(ticket);
    EXPECT_TRUE(left);
  });
  for (int i = 0; i < 100; ++i) std::this_thread::yield();
  left = true;
  gate_.Leave();
  waiter.join();
}

TEST_F(ShootdownTest, EnteringAnewAcknowledges) {
  gate_.Enter(tlb_);
  const uint64_t ticket = gate_.Request(Pages(1, 2));
  gate_.Leave();
  gate_.Enter(tlb_);
  gate_.Await(ticket);  // returns although the vCPU is in guest mode again
  gate_.Leave();
}

}  // namespace
}  // namespace quire
