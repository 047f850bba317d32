// Guests that are cloned from a frozen one, and what becomes of the pages that they inherit.
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/fault_handler.h"
#include "guest/guest_limits.h"
#include "guest/guest_memory.h"
#include "guest/memory_manager.h"
#include "guest/testing/fake_mmu.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

constexpr PageCount kSize = PageCount::OfBlocks(4);
constexpr PageCount kPool = PageCount::OfBlocks(16);

// Both ways in which guests' pages can lie. The first guest is the one that the others come from.
class CloneTest : public ::testing::TestWithParam<Placement> {
 protected:
  struct Guest {
    GuestMemory* memory = nullptr;
    std::unique_ptr<FakeMmu> mmu;  // null: frozen, or gone
  };

  void SetUp() override { Make({}); }
  void Make(const GranularityOptions& granularity, PageCount islands = PageCount(1000)) {
    RemoveAll();
    manager_ = MemoryManager::Create({.limit = kPool,
                                      .reservations = kSize * 64,
                                      .use_memfd = true,
                                      .granularity = granularity,
                                      .islands = islands})
                   .value();
    Adopt(manager_->AddGuest(kSize, GetParam()).value());
  }
  void TearDown() override { RemoveAll(); }
  void RemoveAll() {
    if (manager_ == nullptr) return;
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    for (size_t g = 0; g < guests_.size(); ++g) Remove(g);
    guests_.clear();
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
    EXPECT_EQ(manager_->shared().frames(), PageCount());
    EXPECT_EQ(manager_->store().statistics().stored, PageCount());
    EXPECT_EQ(manager_->islands().charged(), PageCount());
    EXPECT_EQ(manager_->PagesIn(PageState::kAbsent), PageCount()) << "no guest is left";
  }
  size_t Adopt(GuestMemory* memory) {
    guests_.push_back({.memory = memory, .mmu = std::make_unique<FakeMmu>(*memory)});
    return guests_.size() - 1;
  }
  void Freeze(size_t guest) {
    guests_[guest].mmu.reset();
    guests_[guest].memory->Freeze();
  }
  size_t Clone(size_t guest) { return Adopt(manager_->Clone(*guests_[guest].memory).value()); }
  void Remove(size_t guest) {
    guests_[guest].mmu.reset();
    if (guests_[guest].memory != nullptr) manager_->RemoveGuest(std::exchange(guests_[guest].memory, nullptr));
  }

  void Write(size_t guest, uint64_t gfn, uint64_t seed) {
    FillPage(guests_[guest].mmu->Page(Gfn(gfn)).value(), Content::kCompressible, seed);
  }
  ::testing::AssertionResult Has(size_t guest, uint64_t gfn, uint64_t seed, Content content = Content::kCompressible) {
    const absl::StatusOr<std::byte*> page = guests_[guest].mmu->Page(Gfn(gfn), Access::kRead);
    if (!page.ok()) return ::testing::AssertionFailure() << page.status();
    if (HasContent(*page, content, seed)) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "page " << gfn << " of guest " << guest << " is not " << seed;
  }
  ::testing::AssertionResult IsZero(size_t guest, uint64_t gfn) { return Has(guest, gfn, 0, Content::kZero); }
  PageState StateOf(size_t guest, uint64_t gfn) { return guests_[guest].memory->EntryOf(Gfn(gfn)).state(); }
  PageCount HeldBy(size_t guest) const { return guests_[guest].memory->frames_held(); }
  // Out of the guest, and into the store.
  void EvictAll(size_t guest) {
    GuestMemory& memory = *guests_[guest].memory;
    for (uint64_t b = 0; b < kSize.in_blocks_ceil(); ++b) {
      memory.Age(memory.BlockAt(BlockNumber(b)));
      memory.Age(memory.BlockAt(BlockNumber(b)));
      memory.Evict(memory.BlockAt(BlockNumber(b)), scratch_);
    }
  }
  bool in_arena() const { return GetParam() == Placement::kArena; }

  std::unique_ptr<MemoryManager> manager_;
  std::vector<Guest> guests_;
  EvictionScratch scratch_;
};

TEST_P(CloneTest, ReadsWhatItsTemplateHeldAndTakesNoMemoryForIt) {
  for (uint64_t i = 0; i < 40; ++i) Write(0, i * 13, i + 1);
  Freeze(0);
  const size_t clone = Clone(0);
  EXPECT_EQ(guests_[clone].memory->counts()[PageState::kInherited], kSize);
  for (uint64_t i = 0; i < 40; ++i) EXPECT_TRUE(Has(clone, i * 13, i + 1));
  EXPECT_EQ(HeldBy(clone), PageCount());
  EXPECT_EQ(StateOf(clone, 13), PageState::kInherited);
}

TEST_P(CloneTest, ReadsZeroWhereItsTemplateHadNothing) {
  Write(0, 1000, 1);
  Freeze(0);
  const size_t clone = Clone(0);
  EXPECT_TRUE(IsZero(clone, 7));
  EXPECT_TRUE(IsZero(clone, 1001));
  EXPECT_TRUE(Has(clone, 1000, 1));
}

TEST_P(CloneTest, ABlockThatNobodyTouchedComesWholeToTheClone) {
  Make({.blocks = true});
  Freeze(0);
  const size_t clone = Clone(0);
  Write(clone, 512, 1);
  if (in_arena() || manager_->pool().reservations_have_blocks()) {
    EXPECT_EQ(manager_->faults().whole.value(), 1u);
    EXPECT_EQ(HeldBy(clone), kOneBlock);
  }
  EXPECT_TRUE(IsZero(clone, 1023));
}

TEST_P(CloneTest, WhatItWritesIsItsOwn) {
  for (uint64_t gfn = 0; gfn < 32; ++gfn) Write(0, gfn, gfn + 1);
  Freeze(0);
  const size_t a = Clone(0), b = Clone(0);
  EXPECT_TRUE(Has(a, 5, 6));
  EXPECT_TRUE(Has(b, 5, 6));
  Write(a, 5, 100);
  Write(b, 6, 200);  // without having read it
  EXPECT_TRUE(Has(a, 5, 100));
  EXPECT_TRUE(Has(a, 6, 7));
  EXPECT_TRUE(Has(b, 5, 6));
  EXPECT_TRUE(Has(b, 6, 200));
  EXPECT_TRUE(Has(a, 4, 5));
  EXPECT_EQ(StateOf(a, 5), PageState::kResident);
  EXPECT_TRUE(Has(Clone(0), 5, 6)) << "the template is as it was";
}

TEST_P(CloneTest, ATemplatesPageThatIsReclaimedComesBackOnceForAll) {
  for (uint64_t gfn = 0; gfn < 16; ++gfn) Write(0, gfn, gfn + 1);
  Freeze(0);
  std::vector<size_t> clones;
  for (int i = 0; i < 5; ++i) clones.push_back(Clone(0));
  for (size_t clone : clones) EXPECT_TRUE(Has(clone, 3, 4));
  EXPECT_EQ(guests_[0].memory->InheritorsOf(Gfn(3)), 5u);
  EvictAll(0);
  EXPECT_EQ(StateOf(0, 3), PageState::kSwapped);
  EXPECT_EQ(guests_[0].memory->InheritorsOf(Gfn(3)), 0u);
  for (size_t clone : clones) EXPECT_FALSE(guests_[clone].mmu->maps(Gfn(3)));
  EXPECT_TRUE(Has(clones[0], 3, 4));
  const uint64_t in = manager_->faults().swap_in.value();
  EXPECT_GT(in, 0u);
  for (size_t clone : clones) EXPECT_TRUE(Has(clone, 3, 4));
  EXPECT_EQ(manager_->faults().swap_in.value(), in);
  for (size_t clone : clones) EXPECT_EQ(HeldBy(clone), PageCount());
}

TEST_P(CloneTest, AWriteToAPageThatTheTemplateHasStoredTakesItFromThere) {
  Write(0, 3, 4);
  Freeze(0);
  const size_t clone = Clone(0);
  EvictAll(0);
  *guests_[clone].mmu->Page(Gfn(3)).value() ^= std::byte{1};
  *guests_[clone].mmu->Page(Gfn(3)).value() ^= std::byte{1};
  EXPECT_TRUE(Has(clone, 3, 4));
  EXPECT_EQ(StateOf(clone, 3), PageState::kResident);
}

TEST_P(CloneTest, WhatTheCloneHasForItselfIsReclaimedAsAnyPage) {
  Write(0, 3, 4);
  Freeze(0);
  const size_t clone = Clone(0);
  Write(clone, 3, 9);
  Write(clone, 4, 10);
  EvictAll(clone);
  EXPECT_EQ(StateOf(clone, 3), PageState::kSwapped);
  EXPECT_TRUE(Has(clone, 3, 9));
  EXPECT_TRUE(Has(clone, 4, 10));
}

TEST_P(CloneTest, OnlyClonesThatMapAPageAreToldOfItsEnd) {
  for (uint64_t gfn = 0; gfn < 64; ++gfn) Write(0, gfn, gfn + 1);
  Freeze(0);
  std::vector<size_t> clones;
  for (int i = 0; i < 20; ++i) clones.push_back(Clone(0));
  // Each has pages of its own; three read page 40 of the template.
  for (size_t clone : clones) Write(clone, 512 + 3, clone);
  for (int i : {2, 7, 11}) EXPECT_TRUE(Has(clones[i], 40, 41));
  EXPECT_EQ(guests_[0].memory->InheritorsOf(Gfn(40)), 3u);
  EXPECT_EQ(guests_[0].memory->InheritorsOf(Gfn(3)), 0u);
  std::vector<size_t> before;
  for (size_t clone : clones) before.push_back(guests_[clone].mmu->invalidations().size());
  guests_[0].memory->Age(guests_[0].memory->BlockAt(BlockNumber(0)));
  for (size_t i = 0; i < clones.size(); ++i) {
    const size_t told = guests_[clones[i]].mmu->invalidations().size() - before[i];
    EXPECT_EQ(told, i == 2 || i == 7 || i == 11 ? 1u : 0u) << i;
  }
}

TEST_P(CloneTest, APageThatAnyCloneReadsIsYoung) {
  Write(0, 0, 1);
  Freeze(0);
  const size_t idle = Clone(0), busy = Clone(0);
  guests_[busy].mmu->set_has_access_bits(true);
  EXPECT_TRUE(Has(idle, 0, 1));
  EXPECT_TRUE(Has(busy, 0, 1));
  EXPECT_TRUE(Has(busy, 0, 1));
  guests_[0].memory->Age(guests_[0].memory->BlockAt(BlockNumber(0)));
  EXPECT_EQ(StateOf(0, 0), PageState::kResident);
  EXPECT_TRUE(guests_[idle].mmu->maps(Gfn(0)));
  guests_[0].memory->Age(guests_[0].memory->BlockAt(BlockNumber(0)));
  EXPECT_EQ(StateOf(0, 0), PageState::kOut);
  EXPECT_FALSE(guests_[idle].mmu->maps(Gfn(0)));
}

TEST_P(CloneTest, ClonesOfClonesReadFromWhicheverAncestorHasThePage) {
  for (uint64_t gfn = 0; gfn < 4; ++gfn) Write(0, gfn, 10 + gfn);
  size_t last = 0;
  for (uint64_t depth = 1; depth <= 6; ++depth) {
    Freeze(last);
    last = Clone(last);
    EXPECT_TRUE(Has(last, 0, 10));
    EXPECT_TRUE(Has(last, 1, depth == 1 ? 11 : 100 + depth - 1));
    Write(last, 1, 100 + depth);
    if (depth == 3) Write(last, 2, 77);
  }
  Freeze(last);
  const size_t a = Clone(last), b = Clone(last);
  EXPECT_TRUE(Has(a, 0, 10));
  EXPECT_TRUE(Has(a, 1, 106));
  EXPECT_TRUE(Has(a, 2, 77));
  EXPECT_TRUE(Has(b, 3, 13));
  EXPECT_TRUE(IsZero(b, 4));
  EXPECT_TRUE(IsZero(b, 2000));
  if (in_arena()) {
    EXPECT_EQ(guests_[0].memory->InheritorsOf(Gfn(0)), 1u) << "none of those between";
  }
}

TEST_P(CloneTest, TheTemplateMayGoFirst) {
  for (uint64_t gfn = 0; gfn < 600; ++gfn) Write(0, gfn, gfn + 1);
  Freeze(0);
  const size_t child = Clone(0);
  Write(child, 1, 100);
  Freeze(child);
  const size_t grandchild = Clone(child), sibling = Clone(0);
  Remove(0);
  Remove(child);
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
  EXPECT_TRUE(Has(grandchild, 1, 100));
  EXPECT_TRUE(Has(grandchild, 2, 3));
  EXPECT_TRUE(Has(sibling, 1, 2));
  Remove(sibling);
  EXPECT_TRUE(Has(grandchild, 599, 600));
  Remove(grandchild);
  EXPECT_EQ(manager_->PagesIn(PageState::kResident), PageCount()) << "with the last clone goes all that it came from";
}

TEST_P(CloneTest, WhatACloneGivesUpReadsAsZero) {
  for (uint64_t gfn = 0; gfn < 32; ++gfn) Write(0, gfn, gfn + 1);
  Freeze(0);
  const size_t clone = Clone(0);
  EXPECT_TRUE(Has(clone, 3, 4));
  guests_[clone].memory->Discard(GfnRange(Gfn(2), PageCount(3)));
  EXPECT_EQ(guests_[0].memory->InheritorsOf(Gfn(3)), 0u);
  EXPECT_TRUE(IsZero(clone, 3));
  EXPECT_TRUE(Has(clone, 1, 2));
  EXPECT_TRUE(Has(clone, 5, 6));
}

TEST_P(CloneTest, ATemplatesPageThatIsPoisonedStopsTheClonesThatTouchIt) {
  for (uint64_t gfn = 0; gfn < 8; ++gfn) Write(0, gfn, gfn + 1);
  Freeze(0);
  const size_t reads = Clone(0), has_its_own = Clone(0), leaves_it = Clone(0);
  for (size_t clone : {reads, has_its_own, leaves_it}) EXPECT_TRUE(Has(clone, 3, 4));
  Write(has_its_own, 3, 9);
  EXPECT_EQ(manager_->PoisonPage(*guests_[leaves_it].memory, Gfn(3)).value().lost, kOnePage) << "the template's";
  EXPECT_EQ(StateOf(0, 3), PageState::kPoisoned);
  EXPECT_FALSE(guests_[reads].mmu->maps(Gfn(3)));
  EXPECT_TRUE(absl::IsDataLoss(guests_[reads].mmu->Page(Gfn(3), Access::kRead).status()));
  EXPECT_TRUE(guests_[reads].memory->stopped());
  EXPECT_TRUE(Has(has_its_own, 3, 9));
  EXPECT_TRUE(Has(leaves_it, 5, 6));
  guests_[leaves_it].memory->Discard(GfnRange(Gfn(3), kOnePage));
  EXPECT_TRUE(IsZero(leaves_it, 3));
  EXPECT_FALSE(guests_[leaves_it].memory->stopped());
}

TEST_P(CloneTest, ATemplateDoesNotRun) {
  Freeze(0);
  EXPECT_TRUE(absl::IsFailedPrecondition(guests_[0].memory->Resolve(Gfn(0), Access::kRead, Wait::kMay).status()));
}

TEST_P(CloneTest, TemplatesAndClonesMerge) {
  Make({.blocks = false});
  for (uint64_t gfn = 0; gfn < 8; ++gfn) Write(0, gfn, 1);  // the template has equal pages of its own
  Freeze(0);
  const size_t a = Clone(0), b = Clone(0);
  EXPECT_TRUE(Has(a, 2, 1));
  Write(a, 100, 1);
  Write(b, 101, 1);
  manager_->merger().Pass();
  manager_->merger().Pass();
  EXPECT_EQ(manager_->Check(), absl::OkStatus());
  EXPECT_EQ(StateOf(0, 2), PageState::kShared);
  EXPECT_EQ(StateOf(a, 100), PageState::kShared);
  EXPECT_FALSE(guests_[a].mmu->maps(Gfn(2))) << "its frame is another one";
  EXPECT_TRUE(Has(a, 2, 1));
  EXPECT_TRUE(Has(b, 2, 1));
  if (in_arena()) {
    EXPECT_EQ(guests_[0].memory->InheritorsOf(Gfn(2)), 2u);
  }
  // Given up again by all: what the clones read moves with it.
  while (manager_->ReclaimShared(/*many=*/true) > PageCount()) {
  }
  EXPECT_EQ(manager_->shared().frames(), PageCount());
  EXPECT_FALSE(in_arena() && guests_[b].mmu->maps(Gfn(2)));
  EXPECT_TRUE(Has(b, 2, 1));
  Write(b, 2, 9);
  EXPECT_TRUE(Has(a, 2, 1));
}

TEST_P(CloneTest, AtItsOwnLimitACloneMakesRoomAmongItsOwnPages) {
  for (uint64_t gfn = 0; gfn < kSize.in_pages(); ++gfn) Write(0, gfn, gfn + 1);
  Freeze(0);
  const size_t clone = Adopt(manager_->Clone(*guests_[0].memory, {.frames = GuestLimits::kLeast}).value());
  for (uint64_t gfn = 0; gfn < kSize.in_pages(); gfn += 2) Write(clone, gfn, gfn + 7);
  EXPECT_LE(HeldBy(clone), GuestLimits::kLeast);
  for (uint64_t gfn = 0; gfn < kSize.in_pages(); ++gfn) ASSERT_TRUE(Has(clone, gfn, gfn % 2 == 0 ? gfn + 7 : gfn + 1));
}

TEST_P(CloneTest, AFamilyLivesInLessMemoryThanItHas) {
  for (uint64_t gfn = 0; gfn < kSize.in_pages(); ++gfn) Write(0, gfn, gfn + 1);
  Freeze(0);
  std::vector<size_t> clones;
  for (int i = 0; i < 6; ++i) clones.push_back(Clone(0));
  for (uint64_t gfn = 0; gfn < kSize.in_pages(); gfn += 2) {
    for (size_t clone : clones) Write(clone, gfn, clone * 10000 + gfn);
  }
  for (uint64_t gfn = 0; gfn < kSize.in_pages(); ++gfn) {
    for (size_t clone : clones) ASSERT_TRUE(Has(clone, gfn, gfn % 2 == 0 ? clone * 10000 + gfn : gfn + 1));
  }
  EXPECT_GT(manager_->swap().pages_out.value(), 0u);
}

TEST_P(CloneTest, ACloneCostsNextToNothingUntilItIsUsed) {
  Freeze(0);
  const ByteCount before = manager_->metadata();
  const PageCount charged = manager_->pool().budget().charged();
  Clone(0);
  EXPECT_EQ(manager_->pool().budget().charged(), charged);
  EXPECT_LE((manager_->metadata() - before).in_bytes() * 100, kSize.in_bytes());
}

// What the views say is what a window is to show; a page is resolved to the frame that it shows there, or to the
// clone's own.
TEST_P(CloneTest, ViewsShowWhatReadsAreResolvedTo) {
  if (in_arena()) {
    Freeze(0);
    EXPECT_TRUE(guests_[Clone(0)].memory->Views().empty());
    return;
  }
  for (uint64_t gfn = 0; gfn < kSize.in_pages(); ++gfn) Write(0, gfn, gfn + 1);
  Freeze(0);
  const size_t child = Clone(0);
  ASSERT_EQ(guests_[child].memory->Views().size(), 1u);
  EXPECT_EQ(guests_[child].memory->Views()[0].range, GfnRange(Gfn(0), kSize));
  EXPECT_EQ(guests_[child].memory->Views()[0].frame, guests_[0].memory->reservation().begin());
  Write(child, 512 + 7, 99);  // the second block is its own now
  EXPECT_EQ(guests_[child].memory->Views().size(), 2u);
  Freeze(child);
  const size_t grandchild = Clone(child);
  const std::vector<WindowView> views = guests_[grandchild].memory->Views();
  ASSERT_EQ(views.size(), 3u);
  EXPECT_EQ(views[1].range, PagesOf(BlockNumber(1)));
  EXPECT_EQ(views[1].frame, guests_[child].memory->reservation().begin() + kOneBlock);
  EXPECT_TRUE(Has(grandchild, 512 + 7, 99));
  EXPECT_EQ(guests_[grandchild].memory->Views().size(), 3u);
  EXPECT_EQ(HeldBy(grandchild), PageCount());
  EXPECT_TRUE(Has(grandchild, 512 + 100, 512 + 101)) << "of the first one, where the view shows the second: copied";
  EXPECT_GT(HeldBy(grandchild), PageCount());
  EXPECT_EQ(guests_[grandchild].memory->Views().size(), 2u);
  EXPECT_TRUE(Has(grandchild, 512 + 7, 99));
}

TEST_P(CloneTest, WithoutMappingsForAViewPagesAreCopied) {
  Make({}, /*islands=*/PageCount());
  Write(0, 3, 4);
  Freeze(0);
  const size_t clone = Clone(0);
  EXPECT_TRUE(guests_[clone].memory->Views().empty());
  EXPECT_TRUE(Has(clone, 3, 4));
  EXPECT_EQ(HeldBy(clone) == PageCount(), in_arena());
}

// Clones come, read, write, give up and go, while their templates are reclaimed and merged, and compacted.
TEST_P(CloneTest, ManyClonesAtOnceReadWhatTheyShould) {
  constexpr uint64_t kPages = 1200;
  for (uint64_t gfn = 0; gfn < kPages; ++gfn) Write(0, gfn, gfn % 50 + 1);
  Freeze(0);
  manager_->StartReclaim();
  std::atomic<bool> done = false;
  std::thread others([&] {
    EvictionScratch scratch;
    while (!done) {
      manager_->reclaimer().Reclaim(PageCount(64), scratch);
      manager_->ReclaimShared(/*many=*/true);
      manager_->merger().Pass();
    }
  });
  std::vector<std::thread> family;
  std::atomic<int> wrong = 0;
  for (uint64_t t = 0; t < 3; ++t) {
    family.emplace_back([&, t] {
      for (uint64_t life = 0; life < 4; ++life) {
        GuestMemory* const memory = manager_->Clone(*guests_[0].memory).value();
        {
          FakeMmu mmu(*memory);
          std::vector<uint64_t> seeds(kPages);
          for (uint64_t gfn = 0; gfn < kPages; ++gfn) seeds[gfn] = gfn % 50 + 1;
          for (uint64_t i = 0; i < 1500; ++i) {
            const uint64_t gfn = (i * 7919 + t * 31 + life) % kPages;
            const bool write = i % 3 == 0;
            const absl::Status status =
                mmu.WithPage(Gfn(gfn), write ? Access::kWrite : Access::kRead, [&](std::byte* p) {
                  if (!HasContent(p, Content::kCompressible, seeds[gfn])) ++wrong;
                  if (write) FillPage(p, Content::kCompressible, seeds[gfn] = (t + 1) * 1000 + i % 100);
                });
            if (!status.ok()) ++wrong;
          }
        }
        manager_->RemoveGuest(memory);
      }
    });
  }
  for (std::thread& thread : family) thread.join();
  done = true;
  others.join();
  manager_->StopReclaim();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(guests_[0].memory->InheritorsOf(Gfn(0)), 0u);
}

INSTANTIATE_TEST_SUITE_P(Placements, CloneTest, ::testing::Values(Placement::kReservation, Placement::kArena),
                         [](const auto& param) {
                           return std::string(param.param == Placement::kArena ? "Arena" : "Reservation");
                         });

}  // namespace
}  // namespace quire
