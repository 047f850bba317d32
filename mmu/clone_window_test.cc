// Windows of clones, without KVM: threads of this process touch them as vCPUs would. Needs userfaultfd.
#include <sys/utsname.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/guest_memory.h"
#include "guest/memory_manager.h"
#include "mmu/kvm_window.h"
#include "mmu/touched_windows.h"
#include "mmu/userfaultfd.h"

namespace quire {
namespace {

constexpr PageCount kSize = PageCount::OfBlocks(3) + PageCount(40);  // the last block is a partial one

bool IsLinuxAtLeast(int major, int minor) {
  utsname name;
  int has_major = 0, has_minor = 0;
  if (uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &has_major, &has_minor) != 2) return false;
  return std::pair(has_major, has_minor) >= std::pair(major, minor);
}

class CloneWindowTest : public ::testing::Test {
 protected:
  struct Guest {
    GuestMemory* memory = nullptr;
    std::unique_ptr<KvmWindow> window;
  };

  void SetUp() override {
    absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Create();
    if (!uffd.ok()) GTEST_SKIP() << uffd.status().message();
    can_show_ = uffd->can_continue_protected();
    ASSERT_TRUE(can_show_ || !IsLinuxAtLeast(6, 4));
    manager_ =
        MemoryManager::Create(
            {.limit = PageCount::OfBlocks(24), .reservations = PageCount::OfBlocks(4 * 12), .islands = PageCount(2000)})
            .value();
    Adopt(manager_->AddGuest(kSize, Placement::kReservation).value());
  }
  void TearDown() override {
    if (manager_ == nullptr) return;
    manager_->StopReclaim();
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    for (Guest& guest : guests_) {
      if (guest.window != nullptr) {
        EXPECT_EQ(AnonymousKiBOf(*guest.window), 0u) << "the kernel copied a page for itself";
      }
      guest.window.reset();
      manager_->RemoveGuest(guest.memory);
    }
  }

  size_t Adopt(GuestMemory* memory) {
    const std::vector<WindowView> views = memory->Views();
    guests_.push_back(
        {.memory = memory,
         .window = KvmWindow::Create(*memory, manager_->pool().file().fd(), memory->reservation(), {}, views).value()});
    touched_.Add(*guests_.back().window);
    return guests_.size() - 1;
  }
  void Freeze(size_t guest) {
    EXPECT_EQ(AnonymousKiBOf(*guests_[guest].window), 0u);
    guests_[guest].window.reset();
    guests_[guest].memory->Freeze();
  }
  size_t Clone(size_t guest) { return Adopt(manager_->Clone(*guests_[guest].memory).value()); }
  volatile uint64_t& Word(size_t guest, uint64_t page, uint64_t word = 0) {
    return reinterpret_cast<volatile uint64_t*>(guests_[guest].window->base().pointer())[page * (kPageSize / 8) + word];
  }
  PageCount HeldBy(size_t guest) const { return guests_[guest].memory->frames_held(); }
  void ReclaimAll() {
    EvictionScratch scratch;
    while (manager_->reclaimer().Reclaim(PageCount(512), scratch) > PageCount()) {
    }
  }

  bool can_show_ = false;
  TouchedWindows touched_;
  std::unique_ptr<MemoryManager> manager_;
  std::vector<Guest> guests_;
};

TEST_F(CloneWindowTest, ShowsTheTemplatesFramesAndTakesNone) {
  for (uint64_t page = 0; page < kSize.in_pages(); page += 3) Word(0, page) = page + 1;
  Freeze(0);
  const size_t clone = Clone(0);
  if (can_show_) {
    EXPECT_EQ(MappingsOf(*guests_[clone].window), 1);
  }
  for (uint64_t page = 0; page < kSize.in_pages(); page += 3) ASSERT_EQ(Word(clone, page), page + 1);
  if (can_show_) {
    EXPECT_EQ(HeldBy(clone), PageCount());
    EXPECT_EQ(MappingsOf(*guests_[clone].window), 1);
  }
}

TEST_F(CloneWindowTest, ReadsZeroWhereTheTemplateHasNothing) {
  Freeze(0);
  const size_t clone = Clone(0);
  EXPECT_EQ(Word(clone, 5), 0u);
  EXPECT_EQ(Word(clone, kSize.in_pages() - 1), 0u);
}

TEST_F(CloneWindowTest, AWriteGivesItABlockOfItsOwnAndTheOthersStay) {
  for (uint64_t page = 0; page < kSize.in_pages(); ++page) Word(0, page) = page + 1;
  Freeze(0);
  const size_t a = Clone(0), b = Clone(0);
  EXPECT_EQ(Word(a, 700), 701u);
  EXPECT_EQ(Word(a, 701), 702u);
  Word(a, 700, 1) = 99;  // a page that is mapped
  Word(b, 3) = 98;       // and one that is not
  EXPECT_EQ(Word(a, 700), 701u);
  EXPECT_EQ(Word(a, 700, 1), 99u);
  EXPECT_EQ(Word(a, 701), 702u);
  EXPECT_EQ(Word(b, 700, 1), 0u);
  EXPECT_EQ(Word(b, 3), 98u);
  EXPECT_EQ(Word(b, 4), 5u);
  EXPECT_EQ(Word(a, 3), 4u);
  EXPECT_EQ(Word(Clone(0), 3), 4u);
  if (can_show_) {
    EXPECT_EQ(guests_[a].window->counters().views_left.value(), 1u);
    EXPECT_EQ(MappingsOf(*guests_[a].window), 3);
  }
}

TEST_F(CloneWindowTest, TheLastPartialBlockIsLikeTheOthers) {
  const uint64_t last = kSize.in_pages() - 1;
  Word(0, last) = 5;
  Freeze(0);
  const size_t clone = Clone(0);
  EXPECT_EQ(Word(clone, last), 5u);
  Word(clone, last, 1) = 6;
  EXPECT_EQ(Word(clone, last), 5u);
  EXPECT_EQ(Word(clone, last, 1), 6u);
}

TEST_F(CloneWindowTest, WhatIsReclaimedFromTheTemplateComesBack) {
  for (uint64_t page = 0; page < kSize.in_pages(); ++page) Word(0, page) = page + 1;
  Freeze(0);
  const size_t a = Clone(0), b = Clone(0);
  for (uint64_t page = 0; page < kSize.in_pages(); ++page) ASSERT_EQ(Word(a, page) + Word(b, page), 2 * (page + 1));
  ReclaimAll();
  EXPECT_GT(manager_->PagesIn(PageState::kSwapped), PageCount());
  for (uint64_t page = 0; page < kSize.in_pages(); ++page) ASSERT_EQ(Word(a, page) + Word(b, page), 2 * (page + 1));
  if (can_show_) {
    EXPECT_EQ(HeldBy(a) + HeldBy(b), PageCount());
  }
}

TEST_F(CloneWindowTest, AClonesCloneIsShownThePiecesOfBoth) {
  for (uint64_t page = 0; page < kSize.in_pages(); ++page) Word(0, page) = page + 1;
  Freeze(0);
  const size_t child = Clone(0);
  Word(child, 600) = 77;
  Freeze(child);
  const size_t grandchild = Clone(child);
  EXPECT_EQ(Word(grandchild, 600), 77u);
  EXPECT_EQ(Word(grandchild, 3), 4u);
  EXPECT_EQ(Word(grandchild, 900), 901u);
  Word(grandchild, 3) = 1;
  EXPECT_EQ(Word(grandchild, 4), 5u);
}

// No increment is lost while the template's and the clones' pages are reclaimed and merged as fast as can be.
TEST_F(CloneWindowTest, ClonesCountOnWhileEverythingIsReclaimed) {
  constexpr uint64_t kPages = 64;
  constexpr uint64_t kRounds = 20000;
  for (uint64_t page = 0; page < kSize.in_pages(); ++page) Word(0, page) = page + 1;
  Freeze(0);
  const size_t first = Clone(0), second = Clone(0);
  std::atomic<bool> done = false;
  std::thread reclaim([&] {
    EvictionScratch scratch;
    while (!done) {
      manager_->reclaimer().Reclaim(PageCount(256), scratch);
      manager_->merger().Pass();
      manager_->ReclaimShared(/*many=*/true);
    }
  });
  std::atomic<int> wrong = 0;
  std::vector<std::thread> vcpus;
  for (const size_t clone : {first, second}) {
    vcpus.emplace_back([&, clone] {
      for (uint64_t round = 0; round < kRounds; ++round) {
        for (uint64_t i = 0; i < kPages; ++i) {
          const uint64_t page = i * 29 % kSize.in_pages();
          if (Word(clone, page) != page + 1) ++wrong;
          // The other blocks are only ever read, and so shown.
          if (BlockOf(Gfn(page)) != BlockNumber(1)) continue;
          if (Word(clone, page, 1) != round * clone) ++wrong;
          Word(clone, page, 1) = (round + 1) * clone;
        }
      }
    });
  }
  for (std::thread& vcpu : vcpus) vcpu.join();
  done = true;
  reclaim.join();
  EXPECT_EQ(wrong, 0);
  if (can_show_) {
    EXPECT_EQ(guests_[first].memory->Views().size(), 2u) << "block 1 is its own";
    EXPECT_GT(manager_->faults().inherited.value(), 1000u);
  }
}

}  // namespace
}  // namespace quire
