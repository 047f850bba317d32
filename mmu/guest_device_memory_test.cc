// With a real memory manager, whose pages are aged, stored, merged, discarded and inherited.

#include "mmu/guest_device_memory.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/memory_manager.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

constexpr PageCount kLimit = PageCount::OfBlocks(8);
constexpr PageCount kSize = PageCount::OfBlocks(4);
// The second half of the memory lies behind a hole.
constexpr uint64_t kHigh = uint64_t{4} << 30;

class GuestDeviceMemoryTest : public ::testing::TestWithParam<Placement> {
 protected:
  void SetUp() override {
    manager_ = MemoryManager::Create({.limit = kLimit,
                                      .reservations = kSize * 4,
                                      .granularity = {.blocks = false},
                                      .merge = true,
                                      .islands = PageCount(100)})
                   .value();
    guest_ = manager_->AddGuest(kSize, GetParam()).value();
    memory_ = std::make_unique<GuestDeviceMemory>(*guest_, Regions());
  }
  void TearDown() override {
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    memory_.reset();
    manager_->RemoveGuest(guest_);
    EXPECT_EQ(manager_->wiring().limit.charged(), PageCount());
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
  }

  static GuestRegions Regions() {
    const Gfn middle = Gfn(0) + kSize / 2;
    return {{Gpa(0), GfnRange(Gfn(0), middle)}, {Gpa(kHigh), GfnRange(middle, Gfn(0) + kSize)}};
  }
  static Gpa AddressOf(uint64_t page) {
    const uint64_t half = kSize.in_pages() / 2;
    return page < half ? Gpa(page * kPageSize) : Gpa(kHigh + (page - half) * kPageSize);
  }

  void Write(GuestDeviceMemory& memory, uint64_t page, uint64_t seed, Content content = Content::kCompressible) {
    ASSERT_EQ(memory.Write(AddressOf(page), MakePage(content, seed)), absl::OkStatus());
  }
  bool Holds(GuestDeviceMemory& memory, uint64_t page, uint64_t seed, Content content = Content::kCompressible) {
    std::array<std::byte, kPageSize> bytes;
    EXPECT_EQ(memory.Read(AddressOf(page), absl::MakeSpan(bytes)), absl::OkStatus());
    return HasContent(bytes.data(), content, seed);
  }
  void ReclaimAll() {
    for (int i = 0; i < 3; ++i) manager_->reclaimer().Reclaim(kLimit * 2, scratch_);
  }

  std::unique_ptr<MemoryManager> manager_;
  GuestMemory* guest_ = nullptr;
  std::unique_ptr<GuestDeviceMemory> memory_;
  EvictionScratch scratch_;
};

TEST_P(GuestDeviceMemoryTest, ContentComesBackFromTheStore) {
  for (uint64_t page = 0; page < kSize.in_pages(); page += 3) Write(*memory_, page, page + 1);
  ReclaimAll();
  EXPECT_EQ(guest_->frames_held(), PageCount());
  for (uint64_t page = 0; page < kSize.in_pages(); page += 3) ASSERT_TRUE(Holds(*memory_, page, page + 1)) << page;
}

TEST_P(GuestDeviceMemoryTest, APageThatWasAgedMissesOnceAndKeepsItsContent) {
  Write(*memory_, 5, 1);
  guest_->Age(guest_->BlockAt(BlockNumber(0)));
  EXPECT_EQ(memory_->iotlb().Lookup(Gfn(5)), std::nullopt);
  const uint64_t misses = memory_->counters().misses.value();
  EXPECT_TRUE(Holds(*memory_, 5, 1));
  EXPECT_TRUE(Holds(*memory_, 5, 1));
  EXPECT_EQ(memory_->counters().misses.value(), misses + 1);
}

TEST_P(GuestDeviceMemoryTest, EqualPagesPartWhenADeviceWrites) {
  for (uint64_t page = 0; page < 40; ++page) Write(*memory_, page, 7);
  for (int pass = 0; pass < 4; ++pass) manager_->merger().Pass();
  ASSERT_GT(manager_->merger().counters().merged.value(), 30u);
  for (uint64_t page = 0; page < 40; ++page) ASSERT_TRUE(Holds(*memory_, page, 7));
  Write(*memory_, 20, 8);
  for (uint64_t page = 0; page < 40; ++page) ASSERT_TRUE(Holds(*memory_, page, page == 20 ? 8 : 7)) << page;
}

TEST_P(GuestDeviceMemoryTest, RangesThatAreNotMemoryAreRefusedAsAWhole) {
  const uint64_t end = kHigh / 2;  // in the hole
  std::array<std::byte, 16> bytes;
  bytes.fill(std::byte{7});
  const Gpa across = Gpa(kSize.in_bytes() / 2 - 8);
  EXPECT_TRUE(absl::IsOutOfRange(memory_->Write(across, bytes)));
  EXPECT_EQ(guest_->EntryOf(Gfn(kSize.in_pages() / 2 - 1)).state(), PageState::kAbsent);
  EXPECT_TRUE(absl::IsOutOfRange(memory_->Read(Gpa(end), absl::MakeSpan(bytes))));
  EXPECT_TRUE(absl::IsOutOfRange(memory_->Wire(across, ByteCount::Bytes(16)).status()));
  EXPECT_TRUE(absl::IsOutOfRange(memory_->Wire(Gpa(16), ByteCount::Bytes(~uint64_t{0})).status()));
  EXPECT_TRUE(absl::IsOutOfRange(memory_->Discard(Gpa(0), kSize)));
  EXPECT_TRUE(absl::IsOutOfRange(memory_->Discard(Gpa(0), PageCount(~uint64_t{0}))));
  EXPECT_TRUE(absl::IsInvalidArgument(memory_->Discard(Gpa(8), kOnePage)));
  EXPECT_EQ(guest_->wired(), PageCount());
}

TEST_P(GuestDeviceMemoryTest, PiecesOfABufferAreTheGuestsBytesInOrder) {
  for (uint64_t page = 0; page < 600; ++page) Write(*memory_, page, page + 1);
  {
    const auto buffer = memory_->Wire(Gpa(kPageSize / 2), ByteCount::Bytes(590 * kPageSize));
    ASSERT_EQ(buffer.status(), absl::OkStatus());
    EXPECT_EQ(guest_->wired(), PageCount(591));
    std::vector<std::byte> all;
    for (const absl::Span<std::byte> piece : (*buffer)->pieces()) all.insert(all.end(), piece.begin(), piece.end());
    ASSERT_EQ(all.size(), 590 * kPageSize);
    for (uint64_t page = 1; page < 590; ++page) {
      ASSERT_TRUE(HasContent(&all[page * kPageSize - kPageSize / 2], Content::kCompressible, page + 1)) << page;
    }
    EXPECT_LT((*buffer)->pieces().size(), 591u) << "frames that lie side by side are one piece";
  }
  EXPECT_EQ(guest_->wired(), PageCount());
}

TEST_P(GuestDeviceMemoryTest, WhatIsTransferredIntoABufferIsTheGuests) {
  Write(*memory_, 10, 1);
  ReclaimAll();
  auto buffer = memory_->Wire(AddressOf(9), PageCount(3).bytes());
  ASSERT_EQ(buffer.status(), absl::OkStatus());
  ReclaimAll();  // passes it by
  for (const absl::Span<std::byte> piece : (*buffer)->pieces()) {
    for (uint64_t at = 0; at < piece.size(); at += kPageSize) FillPage(&piece[at], Content::kNoise, 3);
  }
  buffer->reset();
  ReclaimAll();
  for (uint64_t page = 9; page < 12; ++page) EXPECT_TRUE(Holds(*memory_, page, 3, Content::kNoise));
}

TEST_P(GuestDeviceMemoryTest, DiscardedPagesReadAsZeroAndTheirMemoryIsFree) {
  for (uint64_t page = 0; page < 64; ++page) Write(*memory_, page, page + 1);
  ASSERT_EQ(memory_->Discard(AddressOf(8), PageCount(40)), absl::OkStatus());
  for (uint64_t page = 8; page < 48; ++page) {
    ASSERT_EQ(guest_->EntryOf(Gfn(page)).state(), PageState::kAbsent);
  }
  for (uint64_t page = 0; page < 64; ++page) {
    const bool discarded = page >= 8 && page < 48;
    ASSERT_TRUE(Holds(*memory_, page, discarded ? 0 : page + 1, discarded ? Content::kZero : Content::kCompressible));
  }
}

TEST_P(GuestDeviceMemoryTest, AStoppedGuestSaysWhy) {
  Write(*memory_, 3, 1);
  guest_->Stop(absl::CancelledError("enough"));
  std::array<std::byte, 8> bytes = {};
  EXPECT_EQ(memory_->Read(AddressOf(3), absl::MakeSpan(bytes)), absl::CancelledError("enough"));
  EXPECT_EQ(memory_->Write(AddressOf(4), bytes), absl::CancelledError("enough"));
  EXPECT_EQ(memory_->Wire(AddressOf(3), kOnePage.bytes()).status(), absl::CancelledError("enough"));
  EXPECT_EQ(memory_->Discard(AddressOf(3), kOnePage), absl::OkStatus());
}

// The frames of a transfer that is under way must not become another guest's.
TEST_P(GuestDeviceMemoryTest, ABuffersMemoryIsNobodyElsesWhenTheGuestIsStopped) {
  auto buffer = memory_->Wire(AddressOf(0), PageCount(100).bytes());
  ASSERT_EQ(buffer.status(), absl::OkStatus());
  guest_->Stop(absl::CancelledError("enough"));
  guest_->Discard(GfnRange(Gfn(0), kSize));
  EXPECT_EQ(guest_->frames_held(), PageCount(100));

  GuestMemory* const other = manager_->AddGuest(kSize, GetParam()).value();
  {
    GuestDeviceMemory others(*other, {{Gpa(0), GfnRange(Gfn(0), kSize)}});
    for (uint64_t page = 0; page < 1000; ++page) {
      ASSERT_EQ(others.Write(Gpa(page * kPageSize), MakePage(Content::kNoise, page)), absl::OkStatus());
    }
    for (const absl::Span<std::byte> piece : (*buffer)->pieces()) std::memset(piece.data(), 0xdb, piece.size());
    for (uint64_t page = 0; page < 1000; ++page) {
      std::array<std::byte, kPageSize> bytes;
      ASSERT_EQ(others.Read(Gpa(page * kPageSize), absl::MakeSpan(bytes)), absl::OkStatus());
      ASSERT_TRUE(HasContent(bytes.data(), Content::kNoise, page)) << page;
    }
    buffer->reset();
    EXPECT_EQ(guest_->frames_held(), PageCount());
  }
  manager_->RemoveGuest(other);
}

TEST_P(GuestDeviceMemoryTest, ALimitOnWhatIsWiredIsAnErrorThatLeavesNothingWired) {
  auto buffer = memory_->Wire(AddressOf(0), (kSize / 2).bytes());
  ASSERT_EQ(buffer.status(), absl::OkStatus());
  auto more = memory_->Wire(AddressOf(kSize.in_pages() / 2), (kSize / 2).bytes());
  ASSERT_EQ(more.status(), absl::OkStatus());  // half of the pool in all
  GuestMemory* const other = manager_->AddGuest(kSize, GetParam()).value();
  {
    GuestDeviceMemory others(*other, {{Gpa(0), GfnRange(Gfn(0), kSize)}});
    EXPECT_TRUE(absl::IsResourceExhausted(others.Wire(Gpa(0), ByteCount::Bytes(1)).status()));
    EXPECT_EQ(other->wired(), PageCount());
  }
  manager_->RemoveGuest(other);
  EXPECT_EQ(guest_->wired(), kSize);
}

TEST_P(GuestDeviceMemoryTest, AClonesDeviceReadsWhatItInheritsAndWritesItsOwn) {
  for (uint64_t page = 0; page < 32; ++page) Write(*memory_, page, page + 1);
  memory_.reset();
  guest_->Freeze();
  GuestMemory* const clone = manager_->Clone(*guest_).value();
  {
    GuestDeviceMemory clones(*clone, Regions());
    for (uint64_t page = 0; page < 32; ++page) ASSERT_TRUE(Holds(clones, page, page + 1));
    Write(clones, 3, 100);
    EXPECT_TRUE(Holds(clones, 3, 100));
    auto buffer = clones.Wire(AddressOf(4), kOnePage.bytes());
    ASSERT_EQ(buffer.status(), absl::OkStatus());
    FillPage((*buffer)->pieces()[0].data(), Content::kNoise, 5);
    buffer->reset();
    EXPECT_TRUE(Holds(clones, 4, 5, Content::kNoise));
  }
  GuestMemory* const second = manager_->Clone(*guest_).value();
  {
    GuestDeviceMemory seconds(*second, Regions());
    for (uint64_t page = 0; page < 32; ++page) ASSERT_TRUE(Holds(seconds, page, page + 1)) << page;
  }
  manager_->RemoveGuest(second);
  manager_->RemoveGuest(clone);
}

INSTANTIATE_TEST_SUITE_P(BothPlacements, GuestDeviceMemoryTest,
                         ::testing::Values(Placement::kReservation, Placement::kArena), [](const auto& info) {
                           return info.param == Placement::kReservation ? "Reservation" : "Arena";
                         });

}  // namespace
}  // namespace quire
