// What becomes of the entries of KVM's own page tables, where it has two-dimensional paging, when the manager
// invalidates: they are seen going in the kernel's trace, and coming back in KVM's statistics.
//
// The guest stands still while its memory is changed: its vCPU runs on the test's thread, between two freeze points.

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
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
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
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

using ::testing::Each;
using ::testing::ElementsAre;

constexpr uint64_t kBlocks = 4;
constexpr PageCount kGuest = PageCount::OfBlocks(kBlocks);

enum class MappedBy { kBlocks, kPages };

// --- Entries of KVM's tables.

// "kvm_tdp_mmu_spte_changed", of which the kernel prints one for each entry of the TDP MMU that changes.
struct EntryChange {
  Gfn gfn;
  int level = 0;  // 1: maps a page, or nothing; above: a table, or a large page
  uint64_t before = 0, after = 0;

  // SPTE_MMU_PRESENT_MASK and PT_PAGE_SIZE_MASK of Linux 5.12 and later (arch/x86/kvm/mmu/spte.h), the same for Intel's
  // and AMD's tables.
  static bool IsPresent(uint64_t entry) { return (entry >> 11 & 1) != 0; }
  static bool IsLarge(uint64_t entry) { return (entry >> 7 & 1) != 0; }

  // From mapping memory to nothing.
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
  void SetUp() override {
    absl::StatusOr<KvmSystem> system = KvmSystem::Open();
    if (!system.ok()) GTEST_SKIP() << system.status().message();
    system_.emplace(*std::move(system));
  }
  void TearDown() override {
    vcpu_.reset();
    vm_.reset();
    window_.reset();
    if (manager_ != nullptr) {
      EXPECT_EQ(manager_->Check(), absl::OkStatus());
    }
  }

  // A VM whose memory is managed, and all of it mapped. Nobody reclaims but the test. Skips the test where blocks are
  // wanted and cannot be had.
  void Start(MappedBy mapped_by) {
    MemoryManagerOptions options;
    options.limit = options.reservations = kGuest * 4;
    options.granularity.blocks = mapped_by == MappedBy::kBlocks;
    manager_ = MemoryManager::Create(std::move(options)).value();
    if (mapped_by == MappedBy::kBlocks && !manager_->pool().reservations_have_blocks()) {
      GTEST_SKIP() << "no whole blocks in reservations on this host";
    }
    guest_ = manager_->AddGuest(kGuest, Placement::kReservation).value();
    window_ = KvmWindow::Create(*guest_, manager_->pool().file().fd(), guest_->reservation()).value();
    Assemble();
    if (vm_->stats() == nullptr || !vm_->stats()->Read("pages_2m").ok()) {
      GTEST_SKIP() << "this kernel's KVM does not count its pages";
    }
    TouchAll();
    if (mapped_by == MappedBy::kBlocks && Statistic("pages_2m") == 0) GTEST_SKIP() << "this KVM maps no whole blocks";
    ASSERT_EQ(Statistic("pages_2m"), mapped_by == MappedBy::kBlocks ? kBlocks : 0);
  }

  void Assemble() {
    const ElfImage image = ParseElf("the touch guest", TouchGuestProgram(), ByteCount::MiB(1)).value();
    const WiredLayout layout = PlanWiredMemory({.image = image,
                                                .memory = kGuest.bytes(),
                                                .vcpus = 1,
                                                .aux = {},
                                                .physical_address_bits = system_->physical_address_bits()})
                                   .value();
    wired_bytes_ =
        Mapping::Map(layout.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0).value();
    wired_.emplace(layout, absl::Span<std::byte>(wired_bytes_.data(), layout.size.in_bytes()));
    wired_->Load(image, 0);
    vm_ = KvmVm::Create(*system_).value();
    ASSERT_TRUE(
        vm_->SetMemslot(Memslot::kMemory, Gpa(0), kGuest.bytes(), window_->base(), Protection::kReadWrite).ok());
    ASSERT_TRUE(
        vm_->SetMemslot(Memslot::kWired, layout.gpa, layout.size, wired_bytes_.hva(), Protection::kReadWrite).ok());
    vcpu_ = KvmVcpu::Create(*vm_, *wired_, 0).value();
  }

  // The guest writes to each of its pages, twice: the host kernel itself may unmap what was mapped early in a pass.
  void TouchAll() {
    for (int pass = 0; pass < 2; ++pass) {
      VcpuExit exit = vcpu_->Run();
      while (std::holds_alternative<Interrupted>(exit)) exit = vcpu_->Run();
      if (const auto* death = std::get_if<Death>(&exit)) FAIL() << death->sentence;
      ASSERT_TRUE(std::holds_alternative<FreezePoint>(exit));
    }
  }

  uint64_t Statistic(absl::string_view name) { return vm_->stats()->Read(name).value(); }
  uint64_t MappedPages() { return Statistic("pages_4k") + kPagesPerBlock * Statistic("pages_2m"); }

  std::optional<KvmSystem> system_;
  std::unique_ptr<MemoryManager> manager_;
  GuestMemory* guest_ = nullptr;
  std::unique_ptr<KvmWindow> window_;
  Mapping wired_bytes_;
  std::optional<WiredMemory> wired_;
  std::unique_ptr<KvmVm> vm_;
  std::unique_ptr<KvmVcpu> vcpu_;
};

// --- What invalidations zap.

class KvmZapTest : public KvmEptTest {
 protected:
  void SetUp() override {
    KvmEptTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string why = WhyNoTdpMmu(); !why.empty()) GTEST_SKIP() << why;
    absl::StatusOr<std::unique_ptr<TraceInstance>> trace = TraceInstance::Create("quire-kvm-ept-test");
    if (!trace.ok()) GTEST_SKIP() << trace.status().message();
    trace_ = *std::move(trace);
    ASSERT_EQ(trace_->Enable("kvmmmu/kvm_tdp_mmu_spte_changed"), absl::OkStatus());
  }

  // The pages that KVM had mapped and does not any more, because of `action` on this thread.
  std::vector<GfnRange> ZappedBy(absl::FunctionRef<void()> action) {
    const absl::StatusOr<std::vector<std::string>> events = trace_->Record(action);
    if (!events.ok()) {
      ADD_FAILURE() << events.status();
      return {};
    }
    std::vector<GfnRange> zapped;
    for (const std::string& event : *events) {
      const std::optional<EntryChange> change = ParseEntryChange(event);
      EXPECT_TRUE(change.has_value() && change->is_zap()) << event;
      if (change.has_value()) zapped.push_back(change->pages());
    }
    return Joined(std::move(zapped));
  }

  std::unique_ptr<TraceInstance> trace_;
};

class KvmZapBothWaysTest : public KvmZapTest, public ::testing::WithParamInterface<MappedBy> {};
INSTANTIATE_TEST_SUITE_P(MappedBy, KvmZapBothWaysTest, ::testing::Values(MappedBy::kBlocks, MappedBy::kPages),
                         [](const auto& info) { return info.param == MappedBy::kBlocks ? "Blocks" : "Pages"; });

TEST_P(KvmZapBothWaysTest, AgingABlockZapsItsPagesAndNoOthers) {
  Start(GetParam());
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_THAT(ZappedBy([&] { guest_->Age(guest_->BlockAt(BlockNumber(1))); }), ElementsAre(PagesOf(BlockNumber(1))));
}

TEST_P(KvmZapBothWaysTest, AgingBlocksTogetherZapsTheirPagesAndNoOthers) {
  Start(GetParam());
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_THAT(ZappedBy([&] { guest_->AgeBlocks(BlockNumber(1), 2); }),
              ElementsAre(GfnRange(FirstGfn(BlockNumber(1)), PageCount::OfBlocks(2))));
}

TEST_F(KvmZapTest, DiscardingPagesZapsThemAndNoneOfTheirNeighbours) {
  Start(MappedBy::kPages);
  if (IsSkipped() || HasFatalFailure()) return;
  const GfnRange one(Gfn(kPagesPerBlock + 100), kOnePage);
  EXPECT_THAT(ZappedBy([&] { guest_->Discard(one); }), ElementsAre(one));
  const GfnRange across_blocks(Gfn(2 * kPagesPerBlock - 3), PageCount(10));
  EXPECT_THAT(ZappedBy([&] { guest_->Discard(across_blocks); }), ElementsAre(across_blocks));
}

TEST_F(KvmZapTest, DiscardingPagesOfABlockMappedWholeZapsAllOfIt) {
  Start(MappedBy::kBlocks);
  if (IsSkipped() || HasFatalFailure()) return;
  const GfnRange part(Gfn(kPagesPerBlock + 100), PageCount(10));
  EXPECT_THAT(ZappedBy([&] { guest_->Discard(part); }), ElementsAre(PagesOf(BlockNumber(1))));
  TouchAll();
}

// --- 2 MiB entries come back.

TEST_F(KvmEptTest, BlocksAreMappedWholeAgainAfterASecondChance) {
  Start(MappedBy::kBlocks);
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_EQ(guest_->AgeBlocks(BlockNumber(1), 2), PageCount::OfBlocks(2));
  EXPECT_EQ(Statistic("pages_2m"), kBlocks - 2);
  TouchAll();
  EXPECT_EQ(Statistic("pages_2m"), kBlocks);
}

TEST_F(KvmEptTest, BlocksAreMappedWholeAgainAfterTheyWereStored) {
  Start(MappedBy::kBlocks);
  if (IsSkipped() || HasFatalFailure()) return;
  EvictionScratch scratch;
  for (uint64_t block = 0; block < kBlocks; ++block) {
    guest_->Age(guest_->BlockAt(BlockNumber(block)));
    EXPECT_EQ(Statistic("pages_2m"), kBlocks - block - 1);
    EXPECT_EQ(guest_->Evict(guest_->BlockAt(BlockNumber(block)), scratch), kOneBlock);
  }
  EXPECT_EQ(guest_->frames_held(), PageCount());
  TouchAll();
  EXPECT_EQ(Statistic("pages_2m"), kBlocks);
}

}  // namespace
}  // namespace quire
