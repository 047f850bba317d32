// Islands under KVM: a guest with two vCPUs increments counters in pages that are shared again and again.

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mapping.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/frames/pool_file.h"
#include "mmu/kvm_window.h"
#include "mmu/sharing_memory.h"
#include "vmm/kvm/elf_loader.h"
#include "vmm/kvm/kvm_exit.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/kvm/kvm_vcpu.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/wired_memory.h"
#include "vmm/machine/counter_guest.h"

namespace quire {
namespace {

constexpr PageCount kPages(4);  // of the guest, in a window of one block
constexpr int kVcpus = 2;       // each has every other page
constexpr FrameRange kArena(FrameNumber(0), kOneBlock);
constexpr FrameRange kHome(kArena.end(), kOneBlock);

// The laboratory, where QUIRE_LAB is set, takes milliseconds for each.
uint64_t Times(uint64_t here, uint64_t in_laboratory) {
  return std::getenv("QUIRE_LAB") != nullptr ? in_laboratory : here;
}

class KvmIslandsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<KvmSystem> system = KvmSystem::Open();
    if (!system.ok()) GTEST_SKIP() << system.status().message();
    system_.emplace(*std::move(system));
    const PageCount size = kArena.size() + kHome.size();
    file_.emplace(PoolFile::Create({.size = size, .arena = kArena.size(), .limit = size}).value());
    // As the manager's arena is: what is shared is a piece of a 2 MiB page.
    ASSERT_EQ(file_->PopulateBlock(kArena), absl::OkStatus());
    memory_.emplace(*file_, kHome);
    memory_->on_left = [this](FrameNumber frame) { std::memset(file_->SmallAlias(frame), 0xdb, kPageSize); };
    window_ = KvmWindow::Create(*memory_, file_->fd(), kHome).value();
    if (!window_->can_share()) GTEST_SKIP() << "this kernel does not report writes to protected pages of a file";
    Assemble();
  }
  void TearDown() override {
    if (!wired_) return;
    wired_->RequestStop();
    Join();
  }

  // A VM whose memory is the window.
  void Assemble() {
    const ElfImage image = *ParseElf("the counter guest", CounterGuestProgram(), ByteCount::MiB(1));
    const WiredLayout layout = *PlanWiredMemory({.image = image,
                                                 .memory = kPages.bytes(),
                                                 .vcpus = kVcpus,
                                                 .aux = {},
                                                 .physical_address_bits = system_->physical_address_bits()});
    wired_bytes_ = *Mapping::MapAligned(layout.size, ByteCount::Bytes(kBlockSize), PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    wired_.emplace(layout, absl::Span<std::byte>(wired_bytes_.data(), layout.size.in_bytes()));
    wired_->Load(image, 0);
    vm_ = *KvmVm::Create(*system_);
    ASSERT_TRUE(
        vm_->SetMemslot(Memslot::kMemory, Gpa(0), kPages.bytes(), window_->base(), Protection::kReadWrite).ok());
    ASSERT_TRUE(
        vm_->SetMemslot(Memslot::kWired, layout.gpa, layout.size, wired_bytes_.hva(), Protection::kReadWrite).ok());
    for (int i = 0; i < kVcpus; ++i) vcpus_[i].cpu = *KvmVcpu::Create(*vm_, *wired_, i);
  }

  void Start() {
    for (Vcpu& vcpu : vcpus_) {
      vcpu.thread = std::thread([this, &vcpu] {
        vcpu.end = RunToEnd(*vcpu.cpu);
        ended_ = true;
      });
    }
  }
  // An access that KVM cannot translate ends this guest at once, unless the window says that it was for a remapping.
  std::string RunToEnd(KvmVcpu& cpu) {
    for (;;) {
      const KvmWindow::RemapSequence before = window_->remappings();
      const VcpuExit exit = cpu.Run();
      if (const auto* end = std::get_if<GuestExit>(&exit)) return "exit " + std::to_string(end->status);
      if (const auto* death = std::get_if<Death>(&exit)) return death->sentence;
      if (std::holds_alternative<MemoryFault>(exit)) {
        if (!window_->AwaitRemapping(before)) return "memory fault";
        ++retries_;
      }
    }
  }
  // How both vCPUs ended.
  std::string Join() {
    for (Vcpu& vcpu : vcpus_) {
      if (vcpu.thread.joinable()) vcpu.thread.join();
    }
    return vcpus_[0].end == vcpus_[1].end ? vcpus_[0].end : vcpus_[0].end + ", " + vcpus_[1].end;
  }
  // Until each vCPU has been in each of its pages after this was called.
  void AwaitARound() {
    uint64_t before[kVcpus];
    for (int i = 0; i < kVcpus; ++i) before[i] = wired_->ReadProgress(i).operations;
    for (int i = 0; i < kVcpus; ++i) {
      while (wired_->ReadProgress(i).operations < before[i] + 2 && !ended_) absl::SleepFor(absl::Microseconds(20));
    }
  }

  void ExpectThatNothingWasLost() {
    EXPECT_FALSE(ended_);
    wired_->RequestStop();
    EXPECT_EQ(Join(), "exit 0");
    for (int i = 0; i < kVcpus; ++i) EXPECT_EQ(wired_->ReadProgress(i).mismatched_pages, 0u);
    memory_->Unshare(GfnRange(Gfn(0), kPages));
    EXPECT_EQ(AnonymousKiBAndMappings(), std::make_pair(uint64_t{0}, 1));
    RecordProperty("remappings_that_vcpus_met", std::to_string(retries_));
  }

  // "Anonymous" of the window's mappings, and how many there are.
  std::pair<uint64_t, int> AnonymousKiBAndMappings() {
    std::ifstream smaps("/proc/self/smaps");
    std::pair<uint64_t, int> result;
    bool inside = false;
    for (std::string line; std::getline(smaps, line);) {
      uint64_t begin, end, kib;
      char protection;
      if (std::sscanf(line.c_str(), "%lx-%lx %c", &begin, &end, &protection) == 3) {
        inside = begin < window_->base().value() + kBlockSize && window_->base().value() < end;
        if (inside) ++result.second;
      } else if (inside && std::sscanf(line.c_str(), "Anonymous: %lu", &kib) == 1) {
        result.first += kib;
      }
    }
    return result;
  }

  std::optional<KvmSystem> system_;
  std::optional<PoolFile> file_;
  std::optional<SharingMemory> memory_;
  std::unique_ptr<KvmWindow> window_;
  Mapping wired_bytes_;
  std::optional<WiredMemory> wired_;
  std::unique_ptr<KvmVm> vm_;
  struct Vcpu {
    std::unique_ptr<KvmVcpu> cpu;
    std::thread thread;
    std::string end;
  };
  Vcpu vcpus_[kVcpus];
  std::atomic<bool> ended_ = false;  // one of them
  std::atomic<uint64_t> retries_ = 0;
};

// Each round shares all pages of the guest, or one, and waits until it has written to one of them. The guest adds up at
// the end. Frames that it has left are overwritten at once.
TEST_F(KvmIslandsTest, NoIncrementIsLostInPagesThatAreSharedAgainAndAgain) {
  const uint64_t unshared = Times(10'000, 1'000);
  memory_->set_around(kPages);
  Start();
  for (uint64_t round = 0; memory_->unshared() < unshared && !ended_; ++round) {
    const uint64_t before = memory_->unshared();
    if (round % 2 == 0) {
      memory_->Share(GfnRange(Gfn(0), kPages), FrameNumber(64 + round % 64 * kPages.in_pages()));
    } else {
      memory_->Share(GfnRange(Gfn(round / 2 % kPages.in_pages()), kOnePage), FrameNumber(round % 64));
    }
    while (memory_->unshared() == before && !ended_) absl::SleepFor(absl::Microseconds(20));
  }
  ExpectThatNothingWasLost();
}

// The same with islands that are taken back before or after the guest comes to write to them, as reclaim would.
TEST_F(KvmIslandsTest, NoIncrementIsLostInIslandsThatAreTakenBackByOthers) {
  const uint64_t rounds = Times(2'000, 200);
  memory_->set_around(kPages);
  Start();
  for (uint64_t round = 0; round < rounds && !ended_; ++round) {
    memory_->Share(GfnRange(Gfn(0), kPages), FrameNumber(64 + round % 64 * kPages.in_pages()));
    if (round % 2 == 0) absl::SleepFor(absl::Microseconds(20));
    memory_->Invalidate(GfnRange(Gfn(0), kOneBlock));
    memory_->Unshare(GfnRange(Gfn(1), PageCount(2)));
    AwaitARound();  // so that none is shared any more
  }
  ExpectThatNothingWasLost();
}

TEST_F(KvmIslandsTest, AStoppedGuestWithIslandsEnds) {
  Start();
  AwaitARound();
  // Islands by now, or about to be.
  memory_->Share(GfnRange(Gfn(0), PageCount(2)), FrameNumber(64));
  memory_->Stop();
  EXPECT_EQ(Join(), "memory fault");
  EXPECT_EQ(AnonymousKiBAndMappings().first, 0u);
}

}  // namespace
}  // namespace quire
