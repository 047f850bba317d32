#include "mmu/iotlb.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "mmu/fake_memory.h"
#include "notifiers/notifier_chain.h"

namespace quire {
namespace {

constexpr uint64_t kBlocks = 4, kPages = kBlocks * kPagesPerBlock;

GfnRange Pages(uint64_t begin, uint64_t end) { return GfnRange(Gfn(begin), Gfn(end)); }
ByteCount Place(uint64_t gfn, uint64_t word = 0) { return ByteCount::Bytes(gfn * kPageSize + word * 8); }

absl::StatusOr<uint64_t> Load(Iotlb& iotlb, uint64_t gfn, uint64_t word = 0) {
  uint64_t value = 0;
  const absl::Status status =
      iotlb.Read(Place(gfn, word), absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof value));
  if (!status.ok()) return status;
  return value;
}
absl::Status Store(Iotlb& iotlb, uint64_t gfn, uint64_t word, uint64_t value) {
  return iotlb.Write(Place(gfn, word), absl::MakeConstSpan(reinterpret_cast<std::byte*>(&value), sizeof value));
}

class IotlbTest : public testing::Test {
 protected:
  void Read(uint64_t gfn) { ASSERT_EQ(Load(iotlb_, gfn).value(), FakeMemory::kTag + gfn); }
  void Write(uint64_t gfn, uint64_t value) { ASSERT_EQ(Store(iotlb_, gfn, 1, value), absl::OkStatus()); }
  uint64_t InMemory(uint64_t gfn) { return *FakeMemory::Word(memory_.HostAddress(memory_.FrameOf(Gfn(gfn))), 1); }
  uint64_t hits() const { return iotlb_.counters().hits.value(); }
  uint64_t misses() const { return iotlb_.counters().misses.value(); }

  FakeMemory memory_{kBlocks};
  Iotlb iotlb_{memory_};
};

TEST_F(IotlbTest, MissesOnceThenHits) {
  for (int i = 0; i < 3; ++i) Read(3);
  EXPECT_EQ(misses(), 1u);
  EXPECT_EQ(hits(), 2u);
  EXPECT_EQ(memory_.resolves(), 1u);
}

TEST_F(IotlbTest, WhatIsWrittenIsInTheGuestsMemory) {
  Write(3, 17);
  EXPECT_EQ(InMemory(3), 17u);
  EXPECT_EQ(Load(iotlb_, 3, 1).value(), 17u);
}

TEST_F(IotlbTest, ARangeMayCrossPages) {
  std::array<std::byte, 2 * kPageSize> bytes;
  ASSERT_EQ(iotlb_.Read(ByteCount::Bytes(10 * kPageSize - 8), absl::MakeSpan(bytes)), absl::OkStatus());
  uint64_t tags[2];
  std::memcpy(&tags[0], &bytes[8], 8);
  std::memcpy(&tags[1], &bytes[8 + kPageSize], 8);
  EXPECT_EQ(tags[0], FakeMemory::kTag + 10);
  EXPECT_EQ(tags[1], FakeMemory::kTag + 11);
  EXPECT_EQ(misses(), 3u);
  bytes.fill(std::byte{7});
  ASSERT_EQ(iotlb_.Write(ByteCount::Bytes(20 * kPageSize + 8), bytes), absl::OkStatus());
  EXPECT_EQ(InMemory(20), 0x0707070707070707u);
  EXPECT_EQ(InMemory(22), 0u);
  EXPECT_EQ(Load(iotlb_, 22).value(), 0x0707070707070707u);
}

TEST_F(IotlbTest, PagesThatCameAlongAreAtHand) {
  memory_.set_around(kOneBlock);
  for (uint64_t gfn = 0; gfn < 512; ++gfn) Read(gfn);
  EXPECT_EQ(misses(), 1u);
}

TEST_F(IotlbTest, WriteToAReadOnlyPageIsResolvedAgain) {
  memory_.WriteProtect(Pages(3, 4));
  Read(3);
  Write(3, 1);
  EXPECT_EQ(misses(), 2u);
  EXPECT_EQ(memory_.ProtectionOf(Gfn(3)), Protection::kReadWrite);
  Read(3);
  EXPECT_EQ(misses(), 2u) << "what may be written may be read";
}

TEST_F(IotlbTest, WriteProtectionReachesIt) {
  Write(3, 1);
  memory_.WriteProtect(Pages(3, 4));
  Write(3, 2);
  EXPECT_EQ(misses(), 2u);
}

TEST_F(IotlbTest, AMovedPageIsFoundWhereItIs) {
  Write(3, 5);
  memory_.Move(Pages(3, 4), 1);
  EXPECT_EQ(iotlb_.Lookup(Gfn(3)), std::nullopt);
  EXPECT_EQ(Load(iotlb_, 3, 1).value(), 5u);
  EXPECT_EQ(iotlb_.Lookup(Gfn(3)), memory_.FrameOf(Gfn(3)));
  EXPECT_EQ(iotlb_.counters().dropped.value(), 1u);
}

TEST_F(IotlbTest, InvalidationOfAPartDropsAllThatCameWithIt) {
  memory_.set_around(kOneBlock);
  Read(3);
  memory_.Move(Pages(100, 101), 1);
  for (uint64_t gfn = 0; gfn < 512; ++gfn) Read(gfn);
}

TEST_F(IotlbTest, InvalidationOfBlocksThatItHasNothingOfDoesNotTakeTheLock) {
  Read(3);
  for (int i = 1; i < 10; ++i) memory_.Move(Pages(1024, 1034), i % 2);
  EXPECT_EQ(iotlb_.counters().invalidations.value(), 9u);
  EXPECT_EQ(iotlb_.counters().filtered.value(), 9u);
  Read(3);
  EXPECT_EQ(hits(), 1u);
  memory_.Move(Pages(500, 1034), 1);  // from the last pages of its block on
  EXPECT_EQ(iotlb_.counters().filtered.value(), 9u);
  Read(3);
  EXPECT_EQ(hits(), 2u);
}

TEST_F(IotlbTest, TheFilterForgetsWhatWasDropped) {
  Read(3);
  memory_.Move(Pages(3, 4), 1);
  memory_.Move(Pages(3, 4), 0);
  EXPECT_EQ(iotlb_.counters().filtered.value(), 1u);
}

TEST_F(IotlbTest, TheTranslationThatWasUsedTheLongestTimeAgoMakesRoom) {
  for (uint64_t gfn = 0; gfn < Iotlb::kTranslations; ++gfn) Read(gfn * 16);
  Read(0);
  Read(2000);
  EXPECT_EQ(iotlb_.counters().displaced.value(), 1u);
  EXPECT_TRUE(iotlb_.Lookup(Gfn(0)).has_value());
  EXPECT_FALSE(iotlb_.Lookup(Gfn(16)).has_value());
  EXPECT_TRUE(iotlb_.Lookup(Gfn(2000)).has_value());
}

TEST_F(IotlbTest, ErrorsOfTheHandlerComeBackAndEndTheCopy) {
  uint64_t word = 0;
  const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(&word), 8);
  EXPECT_TRUE(absl::IsOutOfRange(iotlb_.Read(Place(kPages), bytes)));
  EXPECT_TRUE(absl::IsOutOfRange(iotlb_.Write(ByteCount::Bytes(kPages * kPageSize - 4), bytes)));
}

TEST_F(IotlbTest, NothingIsCachedAfterTheRelease) {
  Read(3);
  memory_.notifiers().Release();
  EXPECT_EQ(iotlb_.Lookup(Gfn(3)), std::nullopt);
  EXPECT_TRUE(absl::IsCancelled(Load(iotlb_, 3).status()));
  EXPECT_TRUE(absl::IsCancelled(Load(iotlb_, 4).status()));
}

TEST_F(IotlbTest, NonBlockableInvalidationIsNotRefused) {
  Read(3);
  EXPECT_TRUE(ScopedInvalidation::TryStart(memory_.notifiers(), {.range = Pages(3, 4)}).ok());
  EXPECT_EQ(iotlb_.Lookup(Gfn(3)), std::nullopt);
}

// The page moves after Resolve has found it and before its translation is used.
TEST_F(IotlbTest, AMissIsResolvedAgainWhenAnInvalidationComesInBetween) {
  int moves = 0;
  memory_.before_return = [&] {
    if (moves < 3) memory_.Move(Pages(3, 4), ++moves % 2);
  };
  Write(3, 9);
  EXPECT_EQ(iotlb_.counters().retries.value(), 3u);
  EXPECT_EQ(misses(), 1u);
  EXPECT_EQ(InMemory(3), 9u);
}

TEST_F(IotlbTest, ADeviceThatResolvesIsNotWaitedFor) {
  absl::Notification resolving, go_on;
  memory_.before_return = [&] {
    if (resolving.HasBeenNotified()) return;
    resolving.Notify();
    go_on.WaitForNotification();
  };
  std::thread device([&] { Read(3); });
  resolving.WaitForNotification();
  memory_.Move(Pages(0, 512), 1);  // would hang
  go_on.Notify();
  device.join();
}

// While a page is being invalidated it cannot be resolved: the access waits for the end and not the other way round.
TEST_F(IotlbTest, AnAccessDuringAnInvalidationFindsThePageAfterIt) {
  Read(3);
  std::atomic<bool> ended = false;
  std::thread device;
  {
    ScopedInvalidation invalidation(memory_.notifiers(), {.range = Pages(3, 4)});
    device = std::thread([&] {
      Read(3);
      EXPECT_TRUE(ended);
    });
    for (int i = 0; i < 100; ++i) std::this_thread::yield();
    EXPECT_EQ(iotlb_.Lookup(Gfn(3)), std::nullopt);
    ended = true;
  }
  device.join();
}

// Random operations on one thread: what is read is where the page is, what is written is there afterwards.
TEST(IotlbModelTest, RandomOperationsMatchANaiveMap) {
  std::mt19937 random(7);
  FakeMemory memory(kBlocks);
  Iotlb iotlb(memory);
  std::vector<uint64_t> written(kPages);
  for (int i = 0; i < 50'000; ++i) {
    const uint64_t gfn = random() % 2 == 0 ? random() % 64 : random() % kPages;
    const GfnRange range = random() % 3 == 0
                               ? PagesOf(BlockOf(Gfn(gfn)))
                               : GfnRange(Gfn(gfn), PageCount(1 + random() % 4)).Intersect(Pages(0, kPages));
    switch (random() % 64) {
      case 0:
        memory.Move(range, random() % 2);
        ASSERT_EQ(iotlb.Lookup(Gfn(gfn)), std::nullopt);
        break;
      case 1:
        memory.WriteProtect(range);
        ASSERT_EQ(iotlb.Lookup(Gfn(gfn)), std::nullopt);
        break;
      case 2:
        memory.set_around(PageCount(uint64_t{1} << random() % 10));
        break;
      default:
        ASSERT_EQ(Load(iotlb, gfn).value(), FakeMemory::kTag + gfn);
        ASSERT_EQ(Load(iotlb, gfn, 1).value(), written[gfn]);
        if (random() % 2 == 0) {
          ASSERT_EQ(Store(iotlb, gfn, 1, ++written[gfn]), absl::OkStatus());
        }
        ASSERT_EQ(iotlb.Lookup(Gfn(gfn)), memory.FrameOf(Gfn(gfn)));
    }
  }
  EXPECT_GT(iotlb.counters().hits.value(), 1000u);
  EXPECT_GT(iotlb.counters().displaced.value(), 1000u);
  EXPECT_GT(iotlb.counters().filtered.value(), 10u);
}

// Devices against a thread that moves and protects pages as fast as it can. Frames are poisoned once their pages have
// moved: a device that uses one too late reads poison, or what it writes is lost.
TEST(IotlbStressTest, DevicesAgainstInvalidations) {
  constexpr int kDevices = 3;
  FakeMemory memory(kBlocks);
  Iotlb iotlb(memory);
  std::atomic<uint64_t> wrong{0};
  std::atomic<int> running{kDevices};
  std::vector<uint64_t> written(kDevices * kPages);
  std::vector<std::thread> devices;
  for (int d = 0; d < kDevices; ++d) {
    devices.emplace_back([&, d] {
      std::mt19937 random(d);
      for (int i = 0; i < 30'000; ++i) {
        const uint64_t gfn = random() % 2 == 0 ? random() % 16 : random() % kPages;
        uint64_t& value = written[d * kPages + gfn];
        wrong += Load(iotlb, gfn).value() != FakeMemory::kTag + gfn;
        wrong += Load(iotlb, gfn, 1 + d).value() != value;
        if (random() % 2 == 0) wrong += !Store(iotlb, gfn, 1 + d, ++value).ok();
      }
      --running;
    });
  }
  std::mt19937 random(99);
  while (running > 0) {
    const Gfn gfn(random() % 2 == 0 ? random() % 16 : random() % kPages);
    const GfnRange range = random() % 2 == 0 ? PagesOf(BlockOf(gfn)) : GfnRange(gfn, kOnePage);
    memory.set_around(PageCount(uint64_t{1} << random() % 10));
    if (random() % 8 == 0) {
      memory.WriteProtect(range);
    } else {
      memory.Move(range, random() % 2);
    }
  }
  for (std::thread& device : devices) device.join();
  EXPECT_EQ(wrong, 0u);
  for (uint64_t gfn = 0; gfn < kPages; ++gfn) {
    std::byte* const page = memory.HostAddress(memory.FrameOf(Gfn(gfn)));
    for (int d = 0; d < kDevices; ++d) {
      ASSERT_EQ(*FakeMemory::Word(page, 1 + d), written[d * kPages + gfn]) << "gfn " << gfn << " device " << d;
    }
  }
}

}  // namespace
}  // namespace quire
