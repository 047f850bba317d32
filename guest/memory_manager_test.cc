#include "guest/memory_manager.h"

#include <atomic>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/guest_limits.h"
#include "guest/testing/eventually.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr PageCount kLimit = PageCount::OfBlocks(16);

class MemoryManagerTest : public ::testing::TestWithParam<Placement> {
 protected:
  // A guest and its MMU. Pages hold the content of their number.
  struct Guest {
    GuestMemory* memory;
    std::unique_ptr<FakeMmu> mmu;

    absl::Status Write(uint64_t gfn, Content content) {
      return mmu->WithPage(Gfn(gfn), Access::kWrite, [&](std::byte* page) { FillPage(page, content, Seed(gfn)); });
    }
    bool Reads(uint64_t gfn, Content content) {
      bool equal = false;
      const absl::Status status = mmu->WithPage(Gfn(gfn), Access::kRead,
                                                [&](std::byte* page) { equal = HasContent(page, content, Seed(gfn)); });
      return status.ok() && equal;
    }
    uint64_t Seed(uint64_t gfn) const { return (uint64_t{memory->id()} + 1) << 32 | gfn; }
  };

  void SetUp() override {
    manager_ = MemoryManager::Create({.limit = kLimit,
                                      .reservations = kLimit * 8,
                                      .use_memfd = true,
                                      .on_stopped =
                                          [this](GuestMemory& guest, const absl::Status& status) {
                                            absl::MutexLock lock(&lock_);
                                            stopped_.emplace_back(guest.id(), status);
                                          }})
                   .value();
  }
  void TearDown() override {
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    for (Guest& guest : guests_) {
      guest.mmu.reset();
      manager_->RemoveGuest(guest.memory);
    }
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    EXPECT_EQ(manager_->store().statistics().held, PageCount());
  }

  Guest& AddGuest(PageCount size, const GuestLimits& limits = {}) {
    GuestMemory* const memory = manager_->AddGuest(size, GetParam(), limits).value();
    guests_.push_back({memory, std::make_unique<FakeMmu>(*memory)});
    return guests_.back();
  }
  // How many pages from `first` on the guest could write before it was stopped.
  uint64_t WriteAsLongAsPossible(Guest& guest, uint64_t first, Content content) {
    uint64_t gfn = first;
    while (gfn < guest.memory->size().in_pages() && guest.Write(gfn, content).ok()) ++gfn;
    return gfn - first;
  }
  std::vector<std::pair<unsigned, absl::Status>> stopped() {
    absl::MutexLock lock(&lock_);
    return stopped_;
  }

  absl::Mutex lock_;
  std::vector<std::pair<unsigned, absl::Status>> stopped_ ABSL_GUARDED_BY(lock_);
  std::unique_ptr<MemoryManager> manager_;
  std::deque<Guest> guests_;
};

TEST_P(MemoryManagerTest, GuestsThatCompressRunInLessMemoryThanTheyHave) {
  constexpr uint64_t kPages = 4'500;  // each of three, in a pool of 8192; compressed, three in 6400
  for (int i = 0; i < 3; ++i) AddGuest(PageCount(kPages));
  for (uint64_t gfn = 0; gfn < kPages; ++gfn) {
    for (Guest& guest : guests_) ASSERT_EQ(guest.Write(gfn, Content::kCompressible), absl::OkStatus());
  }
  ASSERT_EQ(manager_->Check(), absl::OkStatus());
  std::mt19937 random(1);
  for (int i = 0; i < 5'000; ++i) {
    ASSERT_TRUE(guests_[random() % 3].Reads(random() % kPages, Content::kCompressible)) << i;
  }
  EXPECT_LE(manager_->pool().budget().peak(), kLimit);
  EXPECT_TRUE(stopped().empty());
}

TEST_P(MemoryManagerTest, OutOfMemoryStopsTheGuestThatHoldsTheMostAndTheOthersGoOn) {
  Guest& small = AddGuest(kLimit);
  Guest& large = AddGuest(kLimit);
  Guest& growing = AddGuest(kLimit);
  ASSERT_EQ(WriteAsLongAsPossible(small, kLimit.in_pages() - 1'000, Content::kNoise), 1'000u);
  for (uint64_t gfn = 0; gfn < 3'500; ++gfn) ASSERT_EQ(large.Write(gfn, Content::kNoise), absl::OkStatus());
  uint64_t written = 0;
  while (stopped().empty()) {
    ASSERT_EQ(growing.Write(written, Content::kNoise), absl::OkStatus()) << "not the largest";
    ASSERT_LT(++written, kLimit.in_pages());
  }

  ASSERT_EQ(stopped().size(), 1u);
  EXPECT_EQ(stopped()[0].first, large.memory->id());
  const absl::Status reason = stopped()[0].second;
  EXPECT_EQ(reason.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(reason.message()), AllOf(HasSubstr("limit of 32 MiB"), HasSubstr("guest-1")));
  EXPECT_EQ(large.memory->status(), reason);
  EXPECT_EQ(large.Write(0, Content::kZero), reason);
  EXPECT_EQ(large.memory->frames_held(), PageCount());

  // What it held is there for the others, who have lost nothing.
  for (uint64_t end = written + 1'000; written < end; ++written) {
    ASSERT_EQ(growing.Write(written, Content::kNoise), absl::OkStatus());
  }
  for (uint64_t gfn = 0; gfn < written; ++gfn) ASSERT_TRUE(growing.Reads(gfn, Content::kNoise)) << gfn;
  for (uint64_t i = 1; i <= 1'000; ++i) {
    ASSERT_TRUE(small.Reads(kLimit.in_pages() - i, Content::kNoise)) << i;
  }
  EXPECT_EQ(stopped().size(), 1u);
}

// What a stopped guest leaves behind are holes in blocks of compressed pages, and these must serve the others too.
TEST_P(MemoryManagerTest, OneGuestIsEnoughToStopWhenAllIsCompressed) {
  constexpr uint64_t kGuests = 4;
  for (uint64_t i = 0; i < kGuests; ++i) AddGuest(kLimit);
  uint64_t page = 0;
  for (; stopped().empty(); ++page) {
    for (Guest& guest : guests_) (void)guest.Write(page, Content::kCompressible);
    ASSERT_LT(page, kLimit.in_pages());
  }
  const uint64_t end = page + page / (2 * kGuests);
  for (; page < end; ++page) {
    for (Guest& guest : guests_) {
      if (guest.memory->stopped()) continue;
      ASSERT_EQ(guest.Write(page, Content::kCompressible), absl::OkStatus()) << page;
    }
  }
  EXPECT_EQ(stopped().size(), 1u);
}

TEST_P(MemoryManagerTest, AGuestAloneThatDoesNotFitIsToldSo) {
  Guest& guest = AddGuest(kLimit);
  const uint64_t written = WriteAsLongAsPossible(guest, 0, Content::kNoise);
  // Nothing was given up before all of the pool was in use but the reserve for reclaim, and what tables may take.
  const PageCount tables = GetParam() == Placement::kArena ? kOneBlock : Pool::kTableReserve + PageCount(32);
  EXPECT_GE(PageCount(written) + PageCount(Arena::kCpuListCapacity * std::thread::hardware_concurrency()) +
                manager_->pool().watermarks().min + tables,
            kLimit);
  EXPECT_EQ(guest.memory->status().code(), absl::StatusCode::kResourceExhausted);
  ASSERT_EQ(stopped().size(), 1u);
  EXPECT_EQ(manager_->PagesIn(PageState::kResident), PageCount());
}

TEST_P(MemoryManagerTest, ContentThatCompressesIsStoredBeforeAnybodyIsStopped) {
  Guest& guest = AddGuest(kLimit * 2);
  // As much of each as fits only if nearly all that compresses is compressed: 4000 + 4800 * 0.47 = 6256, of 7040.
  for (uint64_t i = 0; i < 8'800; ++i) {
    ASSERT_EQ(guest.Write(i, i % 11 < 5 ? Content::kNoise : Content::kCompressible), absl::OkStatus())
        << i << ": " << guest.memory->status();
  }
  for (uint64_t i = 0; i < 8'800; i += 7) {
    ASSERT_TRUE(guest.Reads(i, i % 11 < 5 ? Content::kNoise : Content::kCompressible)) << i;
  }
  EXPECT_TRUE(stopped().empty());
}

TEST_P(MemoryManagerTest, ThreadsOutOfMemoryAtTheSameTimeDoNotStopMoreGuestsThanNeeded) {
  constexpr int kGuests = 4;
  for (int i = 0; i < kGuests; ++i) AddGuest(kLimit);
  manager_->StartReclaim();
  // Together they want 1.2 times what there is: one has to go, and with it a quarter of what is wanted.
  constexpr uint64_t kPages = 2'100;
  std::vector<std::thread> threads;
  for (Guest& guest : guests_) {
    threads.emplace_back([&] {
      for (uint64_t gfn = 0; gfn < kPages && guest.Write(gfn, Content::kNoise).ok();) ++gfn;
    });
  }
  for (std::thread& thread : threads) thread.join();
  manager_->StopReclaim();
  EXPECT_EQ(stopped().size(), 1u);
  for (Guest& guest : guests_) {
    if (guest.memory->stopped()) continue;
    for (uint64_t gfn = 0; gfn < kPages; ++gfn) ASSERT_TRUE(guest.Reads(gfn, Content::kNoise)) << gfn;
  }
}

TEST_P(MemoryManagerTest, APageTakenBackWhileItIsBeingStoredKeepsWhatIsWrittenToIt) {
  Guest& guest = AddGuest(kOneBlock);
  for (uint64_t gfn = 0; gfn < kPagesPerBlock; ++gfn) {
    ASSERT_EQ(guest.Write(gfn, Content::kCompressible), absl::OkStatus());
  }
  Block& block = guest.memory->BlockAt(BlockNumber(0));
  std::atomic<bool> done = false;
  std::thread evictor([&] {
    EvictionScratch scratch;
    while (!done) {
      guest.memory->Age(block);
      guest.memory->Evict(block, scratch);
    }
  });
  // Until it has happened often enough; the number of tries only ends a test that has failed.
  std::mt19937 random(1);
  std::vector<Content> content(kPagesPerBlock, Content::kCompressible);
  const Counter& taken_back = manager_->swap().taken_back;
  for (int tries = 0; taken_back.value() < 50 && tries < 5'000'000; ++tries) {
    const uint64_t gfn = random() % kPagesPerBlock;
    ASSERT_TRUE(guest.Reads(gfn, content[gfn])) << gfn;
    content[gfn] = static_cast<Content>(random() % kContents);
    ASSERT_EQ(guest.Write(gfn, content[gfn]), absl::OkStatus());
  }
  done = true;
  evictor.join();
  EXPECT_GE(taken_back.value(), 50u);
  for (uint64_t gfn = 0; gfn < kPagesPerBlock; ++gfn) ASSERT_TRUE(guest.Reads(gfn, content[gfn])) << gfn;
}

TEST_P(MemoryManagerTest, ARemovedGuestLeavesNothingBehind) {
  Guest& stays = AddGuest(PageCount(3'000));
  ASSERT_EQ(WriteAsLongAsPossible(stays, 0, Content::kCompressible), 3'000u);
  const PageCount before = manager_->pool().FreePages();
  for (int round = 0; round < 3; ++round) {
    GuestMemory* const memory = manager_->AddGuest(PageCount(8'000), GetParam()).value();
    Guest goes{memory, std::make_unique<FakeMmu>(*memory)};
    ASSERT_EQ(WriteAsLongAsPossible(goes, 0, Content::kCompressible), 8'000u);
    EXPECT_GT(manager_->store().statistics().stored, PageCount());
    goes.mmu.reset();
    manager_->RemoveGuest(memory);
    ASSERT_EQ(manager_->Check(), absl::OkStatus());
  }
  EXPECT_GE(manager_->pool().FreePages() + PageCount(3'000), before);  // some of `stays` may be compressed by now
  for (uint64_t gfn = 0; gfn < 3'000; ++gfn) ASSERT_TRUE(stays.Reads(gfn, Content::kCompressible)) << gfn;
}

TEST_P(MemoryManagerTest, ASlotThatNoPageHasIsFound) {
  std::byte page[kPageSize];
  FillPage(page, Content::kSameFilled, 1);
  CompressionScratch scratch;
  const SwapSlot slot = manager_->store().Store(page, scratch).slot;
  EXPECT_THAT(std::string(manager_->Check().message()), HasSubstr("invariant 5"));
  manager_->store().Free(slot);
}

TEST_P(MemoryManagerTest, StoredBytesAreMovedTogetherInTheBackground) {
  SwapSpace& store = manager_->store();
  CompressionScratch scratch;
  std::vector<SwapSlot> slots;
  for (uint64_t seed = 1; seed <= 6'000; ++seed) {
    std::byte page[kPageSize];
    FillPage(page, Content::kCompressible, seed);
    slots.push_back(store.Store(page, scratch).slot);
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    if (i % 4 != 0) store.Free(slots[i]);
  }
  EXPECT_TRUE(store.IsScattered());
  manager_->StartReclaim();
  EXPECT_TRUE(Eventually([&] { return !store.IsScattered(); }));
  manager_->StopReclaim();
  for (size_t i = 0; i < slots.size(); i += 4) {
    std::byte page[kPageSize];
    ASSERT_EQ(store.Load(slots[i], page), absl::OkStatus());
    EXPECT_TRUE(HasContent(page, Content::kCompressible, i + 1));
    store.Free(slots[i]);
  }
}

// DESIGN: at most 0.4 % of guest memory with all of it resident. Sizes as they are used: 512 MiB in 576 MiB.
TEST_P(MemoryManagerTest, BookkeepingOfResidentMemoryTakesLessThan4InAThousand) {
  const PageCount size = PageCount::OfBlocks(256);
  const auto manager =
      MemoryManager::Create({.limit = PageCount::OfBlocks(288), .reservations = size, .use_memfd = true}).value();
  GuestMemory* const guest = manager->AddGuest(size, GetParam()).value();
  for (Gfn gfn; gfn < Gfn(0) + size; ++gfn) ASSERT_TRUE(guest->Resolve(gfn, Access::kWrite, Wait::kMay).ok());
  ASSERT_EQ(guest->frames_held(), size);
  const double share = static_cast<double>(manager->metadata().in_bytes()) / static_cast<double>(size.in_bytes());
  RecordProperty("metadata_per_thousand", std::to_string(share * 1000));
  EXPECT_LE(share, 0.004);
  EXPECT_GE(share, 8.0 / kPageSize);  // the entries are counted, at least
}

TEST_P(MemoryManagerTest, AGuestAtItsLimitGoesOnInItWhileThePoolHasPlentyAndOthersAreLeftAlone) {
  constexpr PageCount kMost = PageCount::OfBlocks(3);
  Guest& other = AddGuest(kOneBlock);
  Guest& guest = AddGuest(PageCount(4'000), {.frames = kMost});
  for (uint64_t gfn = 0; gfn < 512; ++gfn) ASSERT_EQ(other.Write(gfn, Content::kCompressible), absl::OkStatus());
  for (uint64_t gfn = 0; gfn < 4'000; ++gfn) {
    ASSERT_EQ(guest.Write(gfn, Content::kCompressible), absl::OkStatus()) << guest.memory->status();
    ASSERT_LE(guest.memory->frames_held(), kMost);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 5'000; ++i) ASSERT_TRUE(guest.Reads(random() % 4'000, Content::kCompressible)) << i;
  EXPECT_LE(guest.memory->peak_held(), kMost);
  EXPECT_GE(guest.memory->peak_held(), kMost - kOneBlock);
  EXPECT_GE(guest.memory->peak_swapped(), PageCount(4'000) - kMost);
  EXPECT_EQ(other.memory->counts()[PageState::kResident], kOneBlock);
  EXPECT_EQ(other.memory->peak_held(), kOneBlock);
  EXPECT_EQ(other.memory->peak_swapped(), PageCount());
  EXPECT_GT(manager_->reclaimer().counters().at_limit.value(), 0u);
  EXPECT_EQ(manager_->reclaimer().counters().direct.value(), 0u);
  EXPECT_TRUE(stopped().empty());
}

TEST_P(MemoryManagerTest, AGuestThatDoesNotCompressIsStoppedAtItsLimitAndNamesIt) {
  Guest& other = AddGuest(kOneBlock);
  ASSERT_EQ(WriteAsLongAsPossible(other, 0, Content::kNoise), 512u);
  Guest& guest = AddGuest(kLimit, {.frames = PageCount::OfBlocks(2), .advice = "give it more"});
  const uint64_t written = WriteAsLongAsPossible(guest, 0, Content::kNoise);
  EXPECT_GE(written, 2 * kPagesPerBlock);
  ASSERT_EQ(stopped().size(), 1u);
  EXPECT_EQ(stopped()[0].first, guest.memory->id());
  const absl::Status reason = guest.memory->status();
  EXPECT_EQ(reason.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(reason.message()),
              AllOf(HasSubstr("guest-1 is at its limit of 4 MiB"), HasSubstr("give it more")));
  EXPECT_EQ(guest.memory->frames_held(), PageCount());
  for (uint64_t gfn = 0; gfn < 512; ++gfn) ASSERT_TRUE(other.Reads(gfn, Content::kNoise)) << gfn;
}

TEST_P(MemoryManagerTest, NoMorePagesOfAGuestAreStoredThanItMayHave) {
  constexpr PageCount kMost(300);
  Guest& guest = AddGuest(PageCount(2'000), {.swapped = kMost});
  EvictionScratch scratch;
  for (uint64_t gfn = 0; gfn < 2'000; ++gfn) {
    ASSERT_EQ(guest.Write(gfn, gfn % 4 == 0 ? Content::kZero : Content::kCompressible), absl::OkStatus());
  }
  manager_->reclaimer().Reclaim(kLimit, scratch);
  EXPECT_EQ(guest.memory->counts()[PageState::kSwapped], kMost);
  EXPECT_EQ(guest.memory->peak_swapped(), kMost);
  EXPECT_GT(manager_->swap().refused_limit.value(), 0u);
  EXPECT_EQ(guest.memory->counts()[PageState::kAbsent], PageCount(500)) << "zero pages take no room";
  ASSERT_EQ(manager_->Check(), absl::OkStatus());
  for (uint64_t gfn = 0; gfn < 2'000; ++gfn) {
    ASSERT_TRUE(guest.Reads(gfn, gfn % 4 == 0 ? Content::kZero : Content::kCompressible)) << gfn;
  }
  // What came back made room for others, and so does what is given up.
  manager_->reclaimer().Reclaim(kLimit, scratch);
  EXPECT_EQ(guest.memory->counts()[PageState::kSwapped], kMost);
  guest.memory->Discard(GfnRange(Gfn(0), guest.memory->size()));
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
}

TEST_P(MemoryManagerTest, AGuestWithBothLimitsIsStoppedWhenItHasUsedThemUp) {
  Guest& guest = AddGuest(kLimit, {.frames = PageCount::OfBlocks(2), .swapped = PageCount(512)});
  const uint64_t written = WriteAsLongAsPossible(guest, 0, Content::kCompressible);
  EXPECT_EQ(written, 3 * kPagesPerBlock);
  EXPECT_THAT(std::string(guest.memory->status().message()),
              AllOf(HasSubstr("guest-0 is at its limit of 4 MiB"), HasSubstr("of at most 2 MiB")));
}

TEST_P(MemoryManagerTest, ThreadsOfOneGuestStayWithinItsLimitTogether) {
  constexpr PageCount kMost = PageCount::OfBlocks(4);
  constexpr uint64_t kPages = 4'000;
  Guest& guest = AddGuest(PageCount(kPages), {.frames = kMost});
  manager_->StartReclaim();
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&guest, t] {
      for (uint64_t gfn = t; gfn < kPages; gfn += 4)
        EXPECT_EQ(guest.Write(gfn, Content::kCompressible), absl::OkStatus());
    });
  }
  for (std::thread& thread : threads) thread.join();
  manager_->StopReclaim();
  EXPECT_LE(guest.memory->peak_held(), kMost);
  for (uint64_t gfn = 0; gfn < kPages; ++gfn) ASSERT_TRUE(guest.Reads(gfn, Content::kCompressible)) << gfn;
}

TEST_P(MemoryManagerTest, ALimitThatIsTooLowIsRefused) {
  const absl::Status status = manager_->AddGuest(kOneBlock, GetParam(), {.frames = PageCount(1'023)}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("1023"), HasSubstr("less than 1024")));
}

INSTANTIATE_TEST_SUITE_P(Placements, MemoryManagerTest, ::testing::Values(Placement::kArena, Placement::kReservation),
                         [](const auto& info) { return info.param == Placement::kArena ? "Arena" : "Reservation"; });

TEST(MemoryManagerOptionsTest, AReservationThatWasNotPlannedForIsRefused) {
  const auto manager =
      MemoryManager::Create({.limit = kLimit, .reservations = PageCount::OfBlocks(2), .use_memfd = true}).value();
  EXPECT_TRUE(manager->AddGuest(kOneBlock, Placement::kReservation).ok());
  EXPECT_EQ(manager->AddGuest(PageCount::OfBlocks(2), Placement::kReservation).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(MemoryManagerOptionsTest, APoolTooSmallIsRefused) {
  EXPECT_EQ(MemoryManager::Create({.limit = kOneBlock, .reservations = {}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire
