#include "mmu/ept.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "mmu/fake_memory.h"
#include "notifiers/notifier_chain.h"

namespace quire {
namespace {

GfnRange Pages(uint64_t begin, uint64_t end) { return GfnRange(Gfn(begin), Gfn(end)); }

class EptTest : public testing::Test {
 protected:
  absl::Status Use(uint64_t gfn, Access access, EptVcpu& vcpu) {
    return vcpu.WithPage(Gfn(gfn), access, [&](std::byte* page) {
      EXPECT_EQ(*FakeMemory::Word(page), FakeMemory::kTag + gfn);
      EXPECT_EQ(page, memory_.HostAddress(memory_.FrameOf(Gfn(gfn))));
      if (access == Access::kWrite) ++*FakeMemory::Word(page, 1);
    });
  }
  void Read(uint64_t gfn) { ASSERT_TRUE(Use(gfn, Access::kRead, vcpu_).ok()); }
  void Write(uint64_t gfn) { ASSERT_TRUE(Use(gfn, Access::kWrite, vcpu_).ok()); }

  FakeMemory memory_{4};
  Ept ept_{memory_};
  EptVcpu vcpu_{ept_};
};

TEST_F(EptTest, FaultsOnceThenHits) {
  Read(3);
  Read(3);
  Read(3);
  const EptStatistics s = ept_.statistics();
  EXPECT_EQ(s.faults, 1u);
  EXPECT_EQ(s.tlb_hits, 2u);
  EXPECT_EQ(s.tlb_misses, 2u);  // before the fault and after it
  EXPECT_EQ(memory_.resolves(), 1u);
}

TEST_F(EptTest, AnotherVcpuWalksInsteadOfFaulting) {
  Read(3);
  EptVcpu other(ept_);
  ASSERT_TRUE(Use(3, Access::kRead, other).ok());
  EXPECT_EQ(ept_.statistics().faults, 1u);
}

TEST_F(EptTest, FirstWriteAfterAReadSetsTheDirtyBitWithoutAFault) {
  Read(3);
  EXPECT_FALSE(ept_.Lookup(Gfn(3)).dirty());
  Write(3);
  EXPECT_TRUE(ept_.Lookup(Gfn(3)).dirty());
  EXPECT_EQ(ept_.statistics().faults, 1u);
}

TEST_F(EptTest, WriteToAReadOnlyPageFaults) {
  memory_.WriteProtect(Pages(3, 4));
  Read(3);
  EXPECT_FALSE(ept_.Lookup(Gfn(3)).writable());
  Write(3);
  EXPECT_TRUE(ept_.Lookup(Gfn(3)).writable());
  EXPECT_EQ(ept_.statistics().faults, 2u);
}

TEST_F(EptTest, WriteProtectionReachesTheTlb) {
  Write(3);
  memory_.WriteProtect(Pages(3, 4));
  Write(3);
  EXPECT_EQ(ept_.statistics().faults, 2u);
  EXPECT_EQ(memory_.ProtectionOf(Gfn(3)), Protection::kReadWrite);
}

TEST_F(EptTest, FaultAroundMarksOnlyThePageThatFaulted) {
  memory_.set_around(PageCount(16));
  Read(5);
  EXPECT_TRUE(ept_.Lookup(Gfn(15)).present());
  EXPECT_FALSE(ept_.Lookup(Gfn(16)).present());
  EXPECT_TRUE(ept_.TestYoung(Gfn(5)));
  EXPECT_FALSE(ept_.TestYoung(Gfn(6)));
  Read(6);
  EXPECT_TRUE(ept_.TestYoung(Gfn(6)));
  EXPECT_EQ(ept_.statistics().faults, 1u);
}

TEST_F(EptTest, WholeBlockIsOneLeafAndOneFault) {
  memory_.set_around(kOneBlock);
  for (uint64_t gfn = 0; gfn < 512; ++gfn) Write(gfn);
  const EptStatistics s = ept_.statistics();
  EXPECT_EQ(s.blocks, 1u);
  EXPECT_EQ(s.faults, 1u);
  EXPECT_EQ(s.tlb_misses, 2u);
}

TEST_F(EptTest, MetadataCountsTablesAndTablesAreUsedAgain) {
  const uint64_t before = ept_.statistics().metadata.in_bytes();
  for (int i = 1; i < 10; ++i) {
    Read(3);
    EXPECT_EQ(ept_.statistics().metadata.in_bytes(), before + 3 * kPageSize);
    memory_.Move(Pages(0, 512), i % 2);
  }
}

TEST_F(EptTest, MovedPageIsFoundWhereItIs) {
  Write(3);
  memory_.Move(Pages(3, 4), 1);
  EXPECT_FALSE(ept_.Lookup(Gfn(3)).present());
  Read(3);
  EXPECT_EQ(ept_.statistics().faults, 2u);
}

TEST_F(EptTest, PartOfABlockMovesAndTheRestIsFoundAgain) {
  memory_.set_around(kOneBlock);
  Read(3);
  memory_.Move(Pages(100, 101), 1);
  EXPECT_EQ(ept_.statistics().blocks, 0u);
  for (uint64_t gfn = 0; gfn < 512; ++gfn) Read(gfn);
  memory_.Move(Pages(100, 101), 0);
  Read(100);
  EXPECT_EQ(ept_.statistics().blocks, 1u);  // in one piece again, in place of its table
  for (uint64_t gfn = 0; gfn < 512; ++gfn) Write(gfn);
}

TEST_F(EptTest, InvalidationElsewhereLeavesTheTlbAlone) {
  Read(3);
  memory_.Move(Pages(600, 700), 1);
  Read(3);
  EXPECT_EQ(ept_.statistics().tlb_hits, 1u);
  EXPECT_EQ(ept_.statistics().flushes, 0u);
}

TEST_F(EptTest, ClearFlushYoungSeesTheNextAccess) {
  Read(3);
  EXPECT_TRUE(memory_.notifiers().ClearFlushYoung(Pages(0, 8)));
  EXPECT_FALSE(memory_.notifiers().ClearFlushYoung(Pages(0, 8)));
  Read(3);
  EXPECT_TRUE(memory_.notifiers().TestYoung(Gfn(3)));
  EXPECT_EQ(ept_.statistics().faults, 1u);
}

TEST_F(EptTest, ClearYoungIsStaleUntilAFlush) {
  Read(3);
  EXPECT_TRUE(memory_.notifiers().ClearYoung(Pages(0, 8)));
  Read(3);
  EXPECT_FALSE(ept_.TestYoung(Gfn(3)));  // from the TLB, unseen: as documented
  EXPECT_FALSE(memory_.notifiers().ClearFlushYoung(Pages(0, 8)));
  Read(3);
  EXPECT_TRUE(ept_.TestYoung(Gfn(3)));
}

TEST_F(EptTest, AgingAPartOfABlockAgesAllOfIt) {
  memory_.set_around(kOneBlock);
  Read(3);
  EXPECT_TRUE(ept_.ClearFlushYoung(Pages(100, 101)));
  EXPECT_FALSE(ept_.TestYoung(Gfn(3)));
  Read(3);
  EXPECT_TRUE(ept_.TestYoung(Gfn(100)));
}

TEST_F(EptTest, ErrorsOfTheHandlerComeBack) {
  bool used = false;
  const absl::Status status = vcpu_.WithPage(Gfn(4 * 512), Access::kRead, [&](std::byte*) { used = true; });
  EXPECT_TRUE(absl::IsOutOfRange(status)) << status;
  EXPECT_FALSE(used);
}

TEST_F(EptTest, NothingIsUsedAfterTheRelease) {
  Read(3);
  memory_.notifiers().Release();
  EXPECT_FALSE(ept_.Lookup(Gfn(3)).present());
  EXPECT_TRUE(absl::IsCancelled(Use(3, Access::kRead, vcpu_)));
}

TEST_F(EptTest, NonBlockableInvalidationIsNotRefused) {
  Read(3);
  EXPECT_TRUE(ScopedInvalidation::TryStart(memory_.notifiers(), {.range = Pages(3, 4)}).ok());
  EXPECT_FALSE(ept_.Lookup(Gfn(3)).present());
}

// The page moves after Resolve has found it and before the EPT has installed it.
TEST_F(EptTest, FaultIsRetriedWhenAnInvalidationComesInBetween) {
  int moves = 0;
  memory_.before_return = [&] {
    if (moves < 3) memory_.Move(Pages(3, 4), ++moves % 2);
  };
  Read(3);
  EXPECT_EQ(ept_.statistics().retries, 3u);
  EXPECT_EQ(ept_.statistics().faults, 1u);
}

TEST_F(EptTest, InvalidationWaitsForThePageInUse) {
  absl::Notification in_use;
  std::atomic<bool> go_on{false}, done{false};
  std::thread user([&] {
    EptVcpu vcpu(ept_);
    const absl::Status status = vcpu.WithPage(Gfn(3), Access::kWrite, [&](std::byte* page) {
      in_use.Notify();
      while (!go_on) std::this_thread::yield();
      *FakeMemory::Word(page, 1) = 42;
      done = true;
    });
    EXPECT_TRUE(status.ok());
  });
  in_use.WaitForNotification();
  std::thread mover([&] {
    memory_.Move(Pages(3, 4), 1);
    EXPECT_TRUE(done);
  });
  for (int i = 0; i < 100; ++i) std::this_thread::yield();
  go_on = true;
  user.join();
  mover.join();
  ASSERT_TRUE(vcpu_
                  .WithPage(Gfn(3), Access::kRead,
                            [](std::byte* page) {  // the last write moved along
                              EXPECT_EQ(*FakeMemory::Word(page, 1), 42u);
                            })
                  .ok());
}

// Two invalidations of the same page: the second finds nothing mapped any more, and must wait all the same.
TEST_F(EptTest, SecondInvalidationWaitsForTheSameUser) {
  absl::Notification in_use;
  std::atomic<bool> go_on{false}, done{false};
  std::thread user([&] {
    EptVcpu vcpu(ept_);
    const absl::Status status = vcpu.WithPage(Gfn(3), Access::kRead, [&](std::byte*) {
      in_use.Notify();
      while (!go_on) std::this_thread::yield();
      done = true;
    });
    EXPECT_TRUE(status.ok());
  });
  in_use.WaitForNotification();
  std::vector<std::thread> invalidators;
  for (int i = 0; i < 2; ++i) {
    invalidators.emplace_back([&] {
      ScopedInvalidation invalidation(memory_.notifiers(), {.range = Pages(3, 4)});
      EXPECT_TRUE(done);
    });
  }
  while (ept_.Lookup(Gfn(3)).present()) std::this_thread::yield();
  for (int i = 0; i < 100; ++i) std::this_thread::yield();
  go_on = true;
  user.join();
  for (std::thread& t : invalidators) t.join();
}

TEST_F(EptTest, VcpuInAFaultIsNotWaitedFor) {
  absl::Notification resolving, go_on;
  memory_.before_return = [&] {
    if (resolving.HasBeenNotified()) return;
    resolving.Notify();
    go_on.WaitForNotification();
  };
  std::thread user([&] {
    EptVcpu vcpu(ept_);
    EXPECT_TRUE(Use(3, Access::kRead, vcpu).ok());
  });
  resolving.WaitForNotification();
  memory_.Move(Pages(0, 512), 1);  // would hang
  go_on.Notify();
  user.join();
}

TEST_F(EptTest, SeatsAreUsedAgain) {
  Read(3);
  const ByteCount before = ept_.statistics().metadata;
  for (int i = 0; i < 10; ++i) {
    EptVcpu vcpu(ept_);
    ASSERT_TRUE(Use(3, Access::kRead, vcpu).ok());
  }
  EXPECT_LT(ept_.statistics().metadata.in_bytes(), before.in_bytes() + 2 * sizeof(EptVcpu));
  EXPECT_EQ(ept_.statistics().tlb_misses, 12u);
}

// Random operations of two vCPUs and the manager on one thread: what a vCPU sees is where the page is, what it writes
// is there afterwards, and the entry says what has happened to the page.
TEST(EptModelTest, RandomOperationsMatchANaiveMap) {
  constexpr uint64_t kBlocks = 4, kPages = 512 * kBlocks;
  std::mt19937 random(7);
  FakeMemory memory(kBlocks);
  Ept ept(memory);
  EptVcpu vcpus[2] = {EptVcpu(ept), EptVcpu(ept)};
  std::vector<uint64_t> written(kPages);
  for (int i = 0; i < 50'000; ++i) {
    const Gfn gfn(random() % kPages);
    const PageCount length(random() % 3 == 0 ? 512 : 1 + random() % 4);
    const GfnRange range =
        random() % 3 == 0 ? PagesOf(BlockOf(gfn)) : GfnRange(gfn, length).Intersect(Pages(0, kPages));
    switch (random() % 64) {
      case 0:
        memory.Move(range, random() % 2);
        ASSERT_FALSE(ept.Lookup(gfn).present());
        break;
      case 1:
        memory.WriteProtect(range);
        ASSERT_FALSE(ept.Lookup(gfn).present());
        break;
      case 2:
        memory.set_around(PageCount(uint64_t{1} << random() % 10));
        break;
      case 3:
        ept.ClearFlushYoung(range);
        ASSERT_FALSE(ept.TestYoung(gfn));
        break;
      default: {
        const Access access = random() % 2 == 0 ? Access::kRead : Access::kWrite;
        uint64_t seen = 0;
        ASSERT_TRUE(vcpus[random() % 2]
                        .WithPage(gfn, access,
                                  [&](std::byte* page) {
                                    ASSERT_EQ(*FakeMemory::Word(page), FakeMemory::kTag + gfn.value());
                                    ASSERT_EQ(page, memory.HostAddress(memory.FrameOf(gfn)));
                                    seen = *FakeMemory::Word(page, 1);
                                    if (access == Access::kWrite) ++*FakeMemory::Word(page, 1);
                                  })
                        .ok());
        ASSERT_EQ(seen, written[gfn.value()]);
        written[gfn.value()] += access == Access::kWrite ? 1 : 0;
        const EptEntry leaf = ept.Lookup(gfn);
        ASSERT_TRUE(leaf.Allows(access));
        ASSERT_TRUE(leaf.dirty() || access == Access::kRead);
        ASSERT_TRUE(!leaf.writable() || memory.ProtectionOf(gfn) == Protection::kReadWrite);
      }
    }
  }
  EXPECT_GT(ept.statistics().tlb_hits, 1000u);
}

// Four vCPUs against a thread that moves, protects and ages pages as fast as it can. Frames are poisoned once their
// pages have moved: a vCPU that uses one too late reads poison, or its increment is lost.
TEST(EptStressTest, VcpusAgainstInvalidations) {
  constexpr uint64_t kBlocks = 3, kPages = 512 * kBlocks;
  constexpr int kVcpus = 4;
  FakeMemory memory(kBlocks);
  Ept ept(memory);
  std::atomic<uint64_t> wrong{0};
  std::atomic<int> running{kVcpus};
  std::vector<uint64_t> increments(kVcpus * kPages);
  std::vector<std::thread> threads;
  for (int v = 0; v < kVcpus; ++v) {
    threads.emplace_back([&, v] {
      std::mt19937 random(v);
      EptVcpu vcpu(ept);
      for (int i = 0; i < 50'000; ++i) {
        const uint64_t gfn = random() % 2 == 0 ? random() % 16 : random() % kPages;
        const bool write = random() % 2 == 0;
        const absl::Status status = vcpu.WithPage(Gfn(gfn), write ? Access::kWrite : Access::kRead, [&](std::byte* p) {
          wrong += *FakeMemory::Word(p) != FakeMemory::kTag + gfn;
          if (write) ++*FakeMemory::Word(p, 1 + v);
        });
        wrong += !status.ok();
        increments[v * kPages + gfn] += write;
      }
      --running;
    });
  }
  std::mt19937 random(99);
  while (running > 0) {
    const Gfn gfn(random() % 2 == 0 ? random() % 16 : random() % kPages);
    const GfnRange range = random() % 2 == 0 ? PagesOf(BlockOf(gfn)) : GfnRange(gfn, kOnePage);
    memory.set_around(PageCount(uint64_t{1} << random() % 10));
    switch (random() % 8) {
      case 0:
        memory.WriteProtect(range);
        break;
      case 1:
        ept.ClearFlushYoung(range);
        break;
      default:
        memory.Move(range, random() % 2);
    }
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong, 0u);
  for (uint64_t gfn = 0; gfn < kPages; ++gfn) {
    std::byte* const page = memory.HostAddress(memory.FrameOf(Gfn(gfn)));
    for (int v = 0; v < kVcpus; ++v) {
      ASSERT_EQ(*FakeMemory::Word(page, 1 + v), increments[v * kPages + gfn]) << "gfn " << gfn << " vCPU " << v;
    }
  }
}

}  // namespace
}  // namespace quire
