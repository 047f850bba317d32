#include "guest/huge/prefetcher.h"

#include <atomic>
#include <memory>
#include <thread>

#include "gtest/gtest.h"
#include "guest/memory_manager.h"
#include "guest/testing/eventually.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

constexpr uint64_t kBlocks = 24;

class PrefetcherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    guest_ = manager_->AddGuest(PageCount::OfBlocks(kBlocks), Placement::kArena).value();
    mmu_ = std::make_unique<FakeMmu>(*guest_);
  }
  void TearDown() override {
    manager_->StopReclaim();
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
  }

  void Fill() {
    for (uint64_t i = 0; i < kBlocks * 512; ++i) FillPage(mmu_->Page(Gfn(i)).value(), Content::kCompressible, i);
  }
  bool IsRight(FakeMmu& mmu, uint64_t page) {
    bool right = false;
    const auto check = [&](std::byte* bytes) { right = HasContent(bytes, Content::kCompressible, page); };
    return mmu.WithPage(Gfn(page), Access::kRead, check).ok() && right;
  }
  bool IsRight(uint64_t page) { return IsRight(*mmu_, page); }
  void PushOut() {
    EvictionScratch scratch;
    manager_->reclaimer().Reclaim(PageCount::OfBlocks(2 * kBlocks), scratch);
    ASSERT_EQ(guest_->frames_held(), PageCount());
  }
  uint64_t prefetched() { return manager_->faults().prefetched.value(); }

  std::unique_ptr<MemoryManager> manager_ =
      MemoryManager::Create({.limit = PageCount::OfBlocks(4 * kBlocks), .reservations = {}, .use_memfd = true}).value();
  GuestMemory* guest_ = nullptr;
  std::unique_ptr<FakeMmu> mmu_;  // goes before what it maps
};

TEST_F(PrefetcherTest, AStreamFindsTheNextBlocksThere) {
  Fill();
  PushOut();
  manager_->StartReclaim();
  for (uint64_t i = 0; i < 20; ++i) ASSERT_TRUE(IsRight(i));
  ASSERT_TRUE(Eventually([&] { return prefetched() >= 2; }));
  EXPECT_GT(guest_->counts()[PageState::kOut], PageCount());
  for (uint64_t i = 0; i < kBlocks * 512; ++i) ASSERT_TRUE(IsRight(i)) << i;
}

TEST_F(PrefetcherTest, AStreamOfFirstTouchesIsPopulatedAhead) {
  manager_->StartReclaim();
  for (uint64_t block = 0; block < 2; ++block) mmu_->Write(FirstGfn(BlockNumber(block)), 1);
  EXPECT_TRUE(Eventually([&] { return prefetched() > 0; }));
  for (uint64_t i = 1024; i < kBlocks * 512; ++i) ASSERT_EQ(mmu_->Read(Gfn(i)), 0u);
}

TEST_F(PrefetcherTest, WithoutItsThreadsRequestsAreDropped) {
  Fill();
  PushOut();
  for (uint64_t i = 0; i < kBlocks * 512; ++i) ASSERT_TRUE(IsRight(i));
  EXPECT_EQ(prefetched(), 0u);
}

TEST_F(PrefetcherTest, AGuestMayGoWhileItsBlocksAreAskedFor) {
  manager_->StartReclaim();
  for (int round = 0; round < 20; ++round) {
    GuestMemory* const guest = manager_->AddGuest(PageCount::OfBlocks(8), Placement::kArena).value();
    for (uint64_t block = 0; block < 8; ++block) manager_->prefetcher().Request(*guest, BlockNumber(block));
    manager_->RemoveGuest(guest);
  }
}

// Two vCPUs of one guest stream through its memory while it is aged and evicted.
TEST_F(PrefetcherTest, NothingIsReadWronglyWhileBlocksComeAndGo) {
  Fill();
  manager_->StartReclaim();
  FakeMmu other(*guest_);
  std::atomic<bool> stop = false;
  std::thread reclaim([&] {
    EvictionScratch scratch;
    while (!stop) manager_->reclaimer().Reclaim(PageCount(512), scratch);
  });
  const auto sweep = [&](FakeMmu& mmu) {
    for (uint64_t pass = 0; pass < 2; ++pass) {
      for (uint64_t i = 0; i < kBlocks * 512; i += 3) {
        ASSERT_TRUE(IsRight(mmu, i)) << i;
      }
    }
  };
  std::thread vcpu([&] { sweep(other); });
  sweep(*mmu_);
  vcpu.join();
  stop = true;
  reclaim.join();
}

}  // namespace
}  // namespace quire
