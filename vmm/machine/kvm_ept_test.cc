// What becomes of the entries of KVM's own page tables when the manager invalidates: the kernel's trace says which of
// them go, where KVM has two-dimensional paging, and KVM's statistics whether large ones come back.
//
// The guest stands still while its memory is changed: its vCPU runs on the test's thread, from freeze point to freeze
// point.

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/mapping.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/guest_memory.h"
#include "guest/memory_manager.h"
#include "mmu/kvm_window.h"
#include "vmm/kvm/elf_loader.h"
#include "vmm/kvm/kvm_exit.h"
#include "vmm/kvm/kvm_stats.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/kvm/kvm_vcpu.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/wired_memory.h"
#include "vmm/machine/touch_guest.h"
#include "vmm/machine/trace_instance.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;

constexpr uint64_t kBlocks = 4;
constexpr PageCount kGuest = PageCount::OfBlocks(kBlocks);

enum class MappedBy { kBlocks, kPages };

// --- What the kernel's trace says.

// "kvm_tdp_mmu_spte_changed": an entry of the TDP MMU changes.
struct EntryChange {
  Gfn gfn;
  int level = 0;  // 1: of a page; above: of a table, or of a large page
  uint64_t before = 0;
  uint64_t after = 0;

  // SPTE_MMU_PRESENT_MASK and PT_PAGE_SIZE_MASK, the same in Intel's and in AMD's tables (Linux 5.12 and later,
  // arch/x86/kvm/mmu/spte.h).
  static bool IsPresent(uint64_t entry) { return (entry >> 11 & 1) != 0; }
  static bool IsLarge(uint64_t entry) { return (entry >> 7 & 1) != 0; }

  // It mapped memory, and maps none any more.
  bool is_zap() const { return IsPresent(before) && !IsPresent(after) && (level == 1 || IsLarge(before)); }
  GfnRange pages() const { return GfnRange(gfn, PageCount::OfOrder(kBlockOrder * (level - 1))); }
};

std::optional<EntryChange> ParseEntryChange(const std::string& event) {
  EntryChange change;
  uint64_t gfn;
  if (std::sscanf(event.c_str(), "kvm_tdp_mmu_spte_changed: as id %*d gfn %lx level %d old_spte %lx new_spte %lx", &gfn,
                  &change.level, &change.before, &change.after) != 4) {
    return std::nullopt;
  }
  change.gfn = Gfn(gfn);
  return change;
}

// "kvm_unmap_hva_range": KVM is told that a part of this process's memory is no longer what it was.
struct Notice {
  uint64_t begin = 0;  // addresses
  uint64_t end = 0;

  // Of a guest whose memory is at `base`.
  GfnRange PagesOf(Hva base, PageCount size) const {
    const uint64_t first = base.value();
    const uint64_t last = first + size.in_bytes();
    const auto page = [&](uint64_t address) { return Gfn((std::clamp(address, first, last) - first) >> kPageShift); };
    return GfnRange(page(begin), page(end));
  }
};

std::optional<Notice> ParseNotice(const std::string& event) {
  Notice notice;
  if (std::sscanf(event.c_str(), "kvm_unmap_hva_range: mmu notifier unmap range: %lx -- %lx", &notice.begin,
                  &notice.end) != 2) {
    return std::nullopt;
  }
  return notice;
}

// In ascending order, neighbours joined. What is there twice stays apart.
std::vector<GfnRange> Joined(std::vector<GfnRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](GfnRange a, GfnRange b) { return a.begin() < b.begin(); });
  std::vector<GfnRange> joined;
  for (const GfnRange range : ranges) {
    if (!joined.empty() && joined.back().end() == range.begin()) {
      joined.back() = joined.back().Hull(range);
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

// Why KVM's tables cannot be watched here; empty: they can.
std::string WhyNoTdpMmu() {
  const auto on = [](const char* parameter) {
    std::ifstream file(std::string("/sys/module/") + parameter);
    char value = 'N';
    file >> value;
    return value == 'Y' || value == '1';
  };
  if (!on("kvm_intel/parameters/ept") && !on("kvm_amd/parameters/npt")) return "this KVM has no two-dimensional paging";
  if (!on("kvm/parameters/tdp_mmu")) return "this KVM does not use its TDP MMU";
  return "";
}

// --- A guest that stands still.

class KvmEptTest : public ::testing::Test {
 protected:
  explicit KvmEptTest(MappedBy mapped_by) : mapped_by_(mapped_by) {}

  // All of the guest's memory is mapped. Nobody reclaims but the test.
  void SetUp() override {
    absl::StatusOr<KvmSystem> system = KvmSystem::Open();
    if (!system.ok()) GTEST_SKIP() << system.status().message();
    system_.emplace(*std::move(system));
    MemoryManagerOptions options;
    options.limit = options.reservations = kGuest * 4;
    options.granularity.blocks = mapped_by_ == MappedBy::kBlocks;
    manager_ = MemoryManager::Create(std::move(options)).value();
    if (mapped_by_ == MappedBy::kBlocks && !manager_->pool().reservations_have_blocks()) {
      GTEST_SKIP() << "no whole blocks in reservations on this host";
    }
    guest_ = manager_->AddGuest(kGuest, Placement::kReservation).value();
    window_ = KvmWindow::Create(*guest_, manager_->pool().file().fd(), guest_->reservation()).value();
    Assemble();
    if (vm_->stats() == nullptr || !vm_->stats()->Read("pages_2m").ok()) {
      GTEST_SKIP() << "this kernel's KVM does not count its pages";
    }
    ASSERT_NO_FATAL_FAILURE(TouchAll());
    if (mapped_by_ == MappedBy::kBlocks && BlocksMappedWhole() == 0) GTEST_SKIP() << "this KVM maps no whole blocks";
    ASSERT_EQ(BlocksMappedWhole(), mapped_by_ == MappedBy::kBlocks ? kBlocks : 0);
  }
  void TearDown() override {
    vcpu_.reset();
    vm_.reset();
    window_.reset();
    if (manager_ != nullptr) {
      EXPECT_EQ(manager_->Check(), absl::OkStatus());
    }
  }

  // A VM whose memory is the window.
  void Assemble() {
    const ElfImage image = ParseElf("the touch guest", TouchGuestProgram(), ByteCount::MiB(1)).value();
    const WiredLayout layout = PlanWiredMemory({.image = image,
                                                .memory = kGuest.bytes(),
                                                .vcpus = 1,
                                                .aux = {},
                                                .physical_address_bits = system_->physical_address_bits()})
                                   .value();
    wired_bytes_ = Mapping::Map(layout.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0).value();
    wired_.emplace(layout, absl::Span<std::byte>(wired_bytes_.data(), layout.size.in_bytes()));
    wired_->Load(image, 0);
    vm_ = KvmVm::Create(*system_).value();
    ASSERT_TRUE(
        vm_->SetMemslot(Memslot::kMemory, Gpa(0), kGuest.bytes(), window_->base(), Protection::kReadWrite).ok());
    ASSERT_TRUE(
        vm_->SetMemslot(Memslot::kWired, layout.gpa, layout.size, wired_bytes_.hva(), Protection::kReadWrite).ok());
    vcpu_ = KvmVcpu::Create(*vm_, *wired_, 0).value();
  }

  // The guest adds one to a counter in each of its pages, kPasses times: the host kernel may have unmapped by itself
  // what was mapped at the beginning of a pass.
  static constexpr uint64_t kPasses = 2;
  void TouchAll() {
    for (uint64_t pass = 0; pass < kPasses; ++pass) {
      VcpuExit exit = vcpu_->Run();
      while (std::holds_alternative<Interrupted>(exit)) exit = vcpu_->Run();
      if (const auto* death = std::get_if<Death>(&exit)) FAIL() << death->sentence;
      ASSERT_TRUE(std::holds_alternative<FreezePoint>(exit));
    }
  }
  uint64_t CounterIn(Gfn gfn) {
    uint64_t value;
    std::memcpy(&value, window_->base().pointer() + (gfn - Gfn(0)).in_bytes(), sizeof value);
    return value;
  }

  // By one entry of KVM's. Wired memory, of less than a block, has none.
  uint64_t BlocksMappedWhole() { return vm_->stats()->Read("pages_2m").value(); }

  const MappedBy mapped_by_;
  std::optional<KvmSystem> system_;
  std::unique_ptr<MemoryManager> manager_;
  GuestMemory* guest_ = nullptr;
  std::unique_ptr<KvmWindow> window_;
  Mapping wired_bytes_;
  std::optional<WiredMemory> wired_;
  std::unique_ptr<KvmVm> vm_;
  std::unique_ptr<KvmVcpu> vcpu_;
};

// --- What an invalidation zaps.

class KvmZapTest : public KvmEptTest, public ::testing::WithParamInterface<MappedBy> {
 protected:
  KvmZapTest() : KvmEptTest(GetParam()) {}
  void SetUp() override {
    if (const std::string why = WhyNoTdpMmu(); !why.empty()) GTEST_SKIP() << why;
    absl::StatusOr<std::unique_ptr<TraceInstance>> trace = TraceInstance::Create("quire-kvm-ept-test");
    if (!trace.ok()) GTEST_SKIP() << trace.status().message();
    trace_ = *std::move(trace);
    ASSERT_EQ(trace_->Enable("kvm/kvm_unmap_hva_range"), absl::OkStatus());
    ASSERT_EQ(trace_->Enable("kvmmmu/kvm_tdp_mmu_spte_changed"), absl::OkStatus());
    KvmEptTest::SetUp();
  }

  // What happened to the guest's memory. The calls that bring it about are this thread's, and return when it is done.
  struct Trace {
    std::vector<GfnRange> told;    // what KVM was told of, in that order
    std::vector<GfnRange> zapped;  // what it had mapped and does not any more, joined
  };
  Trace TraceOf(absl::FunctionRef<void()> action) {
    Trace trace;
    const absl::StatusOr<std::vector<std::string>> events = trace_->Record(action);
    if (!events.ok()) {
      ADD_FAILURE() << events.status();
      return trace;
    }
    for (const std::string& event : *events) Note(event, trace);
    trace.zapped = Joined(std::move(trace.zapped));
    return trace;
  }
  void Note(const std::string& event, Trace& trace) {
    if (const std::optional<Notice> notice = ParseNotice(event)) {
      const GfnRange pages = notice->PagesOf(window_->base(), kGuest);
      if (!pages.empty()) trace.told.push_back(pages);  // else it is about the manager's own mappings of the pool
    } else if (const std::optional<EntryChange> change = ParseEntryChange(event)) {
      EXPECT_TRUE(change->is_zap()) << event;
      trace.zapped.push_back(change->pages());
    } else {
      ADD_FAILURE() << "not understood: " << event;
    }
  }

  std::unique_ptr<TraceInstance> trace_;
};

INSTANTIATE_TEST_SUITE_P(Blocks, KvmZapTest, ::testing::Values(MappedBy::kBlocks));
INSTANTIATE_TEST_SUITE_P(Pages, KvmZapTest, ::testing::Values(MappedBy::kPages));

TEST_P(KvmZapTest, AgingABlockZapsItsPagesAndNoOthers) {
  const Trace trace = TraceOf([&] { EXPECT_EQ(guest_->Age(guest_->BlockAt(BlockNumber(1))), kOneBlock); });
  EXPECT_THAT(trace.told, ElementsAre(PagesOf(BlockNumber(1))));
  EXPECT_THAT(trace.zapped, ElementsAre(PagesOf(BlockNumber(1))));
}

TEST_P(KvmZapTest, AgingBlocksSideBySideZapsTheirPagesAndNoOthers) {
  const GfnRange both(FirstGfn(BlockNumber(1)), PageCount::OfBlocks(2));
  const Trace trace = TraceOf([&] { EXPECT_EQ(guest_->AgeBlocks(BlockNumber(1), 2), both.size()); });
  EXPECT_THAT(trace.zapped, ElementsAre(both));
  if (mapped_by_ == MappedBy::kBlocks) {
    EXPECT_THAT(trace.told, ElementsAre(both));  // one interrupt of the CPUs that run the guest, not two
  } else {
    EXPECT_THAT(Joined(trace.told), ElementsAre(both));
  }
}

class KvmZapOfPagesTest : public KvmZapTest {};
INSTANTIATE_TEST_SUITE_P(Pages, KvmZapOfPagesTest, ::testing::Values(MappedBy::kPages));

TEST_P(KvmZapOfPagesTest, DiscardingAPageZapsItAndNoneOfItsNeighbours) {
  const GfnRange page(FirstGfn(BlockNumber(1)) + PageCount(100), kOnePage);
  const Trace trace = TraceOf([&] { guest_->Discard(page); });
  // By the window, and by the hole in the file, which finds nothing left to unmap.
  EXPECT_THAT(trace.told, Each(page));
  EXPECT_THAT(trace.zapped, ElementsAre(page));
}

TEST_P(KvmZapOfPagesTest, DiscardingPagesOfTwoBlocksZapsThemAndNoneOfTheirNeighbours) {
  const GfnRange pages(FirstGfn(BlockNumber(2)) - PageCount(3), PageCount(10));
  EXPECT_THAT(TraceOf([&] { guest_->Discard(pages); }).zapped, ElementsAre(pages));
}

class KvmZapOfBlocksTest : public KvmZapTest {};
INSTANTIATE_TEST_SUITE_P(Blocks, KvmZapOfBlocksTest, ::testing::Values(MappedBy::kBlocks));

// KVM is told of the discarded pages only, and takes the whole entry that maps them: it splits entries only to log
// writes (tdp_mmu_zap_leafs in arch/x86/kvm/mmu/tdp_mmu.c). It could not keep the rest of the block anyway, for the
// host kernel then drops its own 2 MiB entry of the window, which it does not split for files either
// (__split_huge_pmd_locked in mm/huge_memory.c), and tells KVM of the whole block.
TEST_P(KvmZapOfBlocksTest, DiscardingPagesOfABlockZapsAllOfItAndNoOthers) {
  const GfnRange block = PagesOf(BlockNumber(1));
  const GfnRange pages(block.begin() + PageCount(100), PageCount(10));
  const Trace trace = TraceOf([&] { guest_->Discard(pages); });
  EXPECT_THAT(trace.told, AllOf(Contains(pages), Contains(block)));
  EXPECT_THAT(trace.zapped, ElementsAre(block));
  // The neighbours have lost their entries and nothing else.
  ASSERT_NO_FATAL_FAILURE(TouchAll());
  for (Gfn gfn = block.begin(); gfn < block.end(); ++gfn) {
    ASSERT_EQ(CounterIn(gfn), pages.contains(gfn) ? kPasses : 2 * kPasses) << gfn;
  }
}

// --- Blocks are mapped whole again.

class KvmWholeBlocksTest : public KvmEptTest {
 protected:
  KvmWholeBlocksTest() : KvmEptTest(MappedBy::kBlocks) {}
};

TEST_F(KvmWholeBlocksTest, TheyAreMappedWholeAgainAfterASecondChance) {
  EXPECT_EQ(guest_->AgeBlocks(BlockNumber(1), 2), PageCount::OfBlocks(2));
  EXPECT_EQ(BlocksMappedWhole(), kBlocks - 2);
  ASSERT_NO_FATAL_FAILURE(TouchAll());
  EXPECT_EQ(BlocksMappedWhole(), kBlocks);
}

TEST_F(KvmWholeBlocksTest, TheyAreMappedWholeAgainAfterTheyWereStored) {
  EvictionScratch scratch;
  for (uint64_t i = 0; i < kBlocks; ++i) {
    Block& block = guest_->BlockAt(BlockNumber(i));
    EXPECT_EQ(guest_->Age(block), kOneBlock);
    EXPECT_EQ(BlocksMappedWhole(), kBlocks - i - 1);
    EXPECT_EQ(guest_->Evict(block, scratch), kOneBlock);
  }
  ASSERT_EQ(manager_->PagesIn(PageState::kSwapped), kGuest);
  ASSERT_NO_FATAL_FAILURE(TouchAll());
  EXPECT_EQ(BlocksMappedWhole(), kBlocks);
}

TEST_F(KvmWholeBlocksTest, TheyAreMappedWholeAgainAfterPagesOfThemWereDiscarded) {
  guest_->Discard(GfnRange(FirstGfn(BlockNumber(2)) - PageCount(3), PageCount(10)));
  EXPECT_EQ(BlocksMappedWhole(), kBlocks - 2);
  ASSERT_NO_FATAL_FAILURE(TouchAll());
  EXPECT_EQ(BlocksMappedWhole(), kBlocks);
}

}  // namespace
}  // namespace quire
