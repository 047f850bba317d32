// Guests under KVM on managed memory: what KVM's own statistics say, and what the guests see.

#include "vmm/machine/kvm_machine.h"

#include <cstdlib>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/memory_manager.h"
#include "vmm/kvm/elf_loader.h"
#include "vmm/machine/counter_guest.h"
#include "workloads/payload/testing/guest_programs.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class KvmMachineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<KvmSystem> system = KvmSystem::Open();
    if (!system.ok()) GTEST_SKIP() << system.status().message();
    system_ = std::make_unique<KvmSystem>(*std::move(system));
    program_ = ParseElf("the counter guest", CounterGuestProgram(), ByteCount::MiB(1)).value();
  }
  void TearDown() override { End(); }
  void End() {
    if (machine_ != nullptr) {
      machine_->Kill(absl::CancelledError("the test is over"));
      machine_->Join();
    }
    machine_.reset();
    if (manager_ != nullptr) {
      EXPECT_EQ(manager_->Check(), absl::OkStatus());
    }
  }

  void Start(ByteCount memory, PageCount pool, int vcpus) {
    const PageCount pages = PageCount::Ceil(memory);
    manager_ =
        MemoryManager::Create({.limit = pool, .reservations = PageCount::OfBlocks(pages.in_blocks_ceil())}).value();
    guest_ = manager_->AddGuest(pages, Placement::kReservation).value();
    KvmMachineOptions options;
    options.name = "guest";
    options.memory = memory;
    options.vcpus = vcpus;
    options.program = &program_;
    options.seed = seed_;
    absl::StatusOr<std::unique_ptr<KvmMachine>> machine =
        KvmMachine::Create(*system_, options, &manager_->pool(), guest_);
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
    manager_->StartReclaim();
    machine_->Start();
  }
  void WaitForOperations(uint64_t operations) {
    while (machine_->ReadProgress().operations < operations && !machine_->finished()) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  void Stop() {
    machine_->RequestStop();
    machine_->Join();
    manager_->StopReclaim();
  }
  uint64_t MappedPages() { return machine_->KvmStatistic("pages_4k") + 512 * machine_->KvmStatistic("pages_2m"); }

  std::unique_ptr<KvmSystem> system_;
  ElfImage program_;
  uint64_t seed_ = 0;
  std::unique_ptr<MemoryManager> manager_;
  GuestMemory* guest_ = nullptr;
  std::unique_ptr<KvmMachine> machine_;
};

TEST_F(KvmMachineTest, InvalidationRemovesTheMappingFromKvm) {
  Start(ByteCount::MiB(4), PageCount::OfBlocks(16), /*vcpus=*/1);
  WaitForOperations(2);
  Stop();
  ASSERT_TRUE(machine_->exit().ok()) << machine_->exit();
  const uint64_t before = MappedPages();
  if (before == 0) GTEST_SKIP() << "this kernel's KVM does not count its pages";
  ASSERT_GE(before, 1024u);
  // The first block goes out of the guest, the second stays.
  EXPECT_EQ(guest_->Age(guest_->BlockAt(BlockNumber(0))), kOneBlock);
  EXPECT_EQ(MappedPages(), before - 512);
  EXPECT_EQ(guest_->Age(guest_->BlockAt(BlockNumber(1))), kOneBlock);
  EXPECT_EQ(MappedPages(), before - 1024);
}

TEST_F(KvmMachineTest, NoIncrementIsLostInPagesThatAreTakenOutAndPutBack) {
  // The laboratory, where QUIRE_LAB is set, takes milliseconds for each.
  const uint64_t times = std::getenv("QUIRE_LAB") != nullptr ? 10'000 : 50'000;
  Start(ByteCount::Bytes(4 * kPageSize), PageCount::OfBlocks(16), /*vcpus=*/1);
  Block& block = guest_->BlockAt(BlockNumber(0));
  uint64_t taken_out = 0;
  // Only what was in counts: the guest has brought it back since the last time.
  while (taken_out < times && !machine_->finished()) {
    if (guest_->Age(block) > PageCount()) {
      ++taken_out;
    } else {
      absl::SleepFor(absl::Microseconds(20));  // the guest may need this CPU
    }
  }
  Stop();
  EXPECT_TRUE(machine_->exit().ok()) << machine_->exit();
  EXPECT_EQ(taken_out, times);
  EXPECT_EQ(machine_->ReadProgress().mismatched_pages, 0u);
  EXPECT_GE(manager_->faults().second_chance.value(), times - 4);
}

// The same for a block that is mapped whole, taken out, stored, brought back whole, in pieces or ahead of its fault,
// split and brought together again.
TEST_F(KvmMachineTest, NoIncrementIsLostInABlockThatGoesAndComesWholeAndInPieces) {
  const uint64_t times = std::getenv("QUIRE_LAB") != nullptr ? 500 : 20'000;
  Start(kOneBlock.bytes(), PageCount::OfBlocks(16), /*vcpus=*/1);
  Block& block = guest_->BlockAt(BlockNumber(0));
  EvictionScratch scratch;
  for (uint64_t taken_out = 0; taken_out < times && !machine_->finished();) {
    if (guest_->Age(block) == PageCount()) {
      absl::SleepFor(absl::Microseconds(20));
      continue;
    }
    // At once, so that all is stored, or after the guest has had time to take pages back.
    if (++taken_out % 8 == 0) absl::SleepFor(absl::Microseconds(50));
    if (taken_out % 4 == 0) guest_->Evict(block, scratch);
    if (taken_out % 8 == 4) guest_->Prefetch(BlockNumber(0));
  }
  Stop();
  EXPECT_TRUE(machine_->exit().ok()) << machine_->exit();
  EXPECT_EQ(machine_->ReadProgress().mismatched_pages, 0u);
  EXPECT_GT(manager_->faults().swap_in.value(), 0u);
  if (manager_->pool().reservations_have_blocks()) {
    EXPECT_GT(manager_->faults().whole.value(), 0u);
  }
}

TEST_F(KvmMachineTest, ADenselyUsedGuestIsMappedByWholeBlocksAgainAfterItWasSwappedOut) {
  constexpr PageCount kGuest = PageCount::OfBlocks(6);
  Start(kGuest.bytes(), PageCount::OfBlocks(16), /*vcpus=*/1);
  if (!manager_->pool().reservations_have_blocks()) GTEST_SKIP() << "no whole blocks in reservations on this host";
  EvictionScratch scratch;
  WaitForOperations(1);
  if (machine_->KvmStatistic("pages_2m") == 0) GTEST_SKIP() << "this KVM maps no whole blocks, or does not count them";
  for (int cycle = 0; cycle < 4; ++cycle) {
    manager_->reclaimer().Reclaim(PageCount(1 << 20), scratch);
    WaitForOperations(machine_->ReadProgress().operations + 3);
  }
  Stop();
  EXPECT_TRUE(machine_->exit().ok()) << machine_->exit();
  EXPECT_GE(manager_->swap().pages_out.value(), kGuest.in_pages() * 3);
  EXPECT_GE(machine_->KvmStatistic("pages_2m") * kPagesPerBlock, kGuest.in_pages() * 9 / 10);
}

TEST_F(KvmMachineTest, AnSmpGuestLosesNoIncrementWhilePagesAreStoredAndLoaded) {
  Start(ByteCount::MiB(6), PageCount::OfBlocks(16), /*vcpus=*/2);
  EvictionScratch scratch;
  for (uint64_t round = 1; round <= 10 && !machine_->finished(); ++round) {
    WaitForOperations(round * 2);
    manager_->reclaimer().Reclaim(PageCount(1 << 20), scratch);
  }
  Stop();
  EXPECT_TRUE(machine_->exit().ok()) << machine_->exit();
  EXPECT_EQ(machine_->ReadProgress().mismatched_pages, 0u);
  EXPECT_EQ(machine_->ReadProgress().verified_pages, 1536u);
  EXPECT_GT(manager_->faults().swap_in.value(), 0u);
}

TEST_F(KvmMachineTest, AdviceOnMemoryThatTheGuestDoesNotHaveEndsItAndSaysWhy) {
  program_ = ParseElf("bad advice", BadAdviceProgram(), ByteCount::MiB(1)).value();
  for (seed_ = 0; seed_ < kBadAdviceCases; ++seed_) {
    Start(ByteCount::MiB(4), PageCount::OfBlocks(16), /*vcpus=*/1);
    machine_->Join();
    const absl::Status exit = machine_->exit();
    const char* const why = seed_ + 1 < kBadAdviceCases ? "it gave advice on 0x" : "it wrote 3 to port 0xf6";
    EXPECT_THAT(std::string(exit.message()), AllOf(HasSubstr(why), HasSubstr("\nrip="))) << "case " << seed_;
    manager_->StopReclaim();
    End();
  }
}

TEST_F(KvmMachineTest, AGuestWiresPartsOfItsMemoryAsFarAsItMay) {
  program_ = ParseElf("wire", WireProgram(), ByteCount::MiB(1)).value();
  Start(ByteCount::MiB(32), PageCount::OfBlocks(16), /*vcpus=*/1);
  machine_->Join();
  EXPECT_EQ(machine_->exit(), absl::OkStatus());
  EXPECT_EQ(guest_->wired(), PageCount());
  EXPECT_EQ(manager_->wiring().refused_limit.value(), 1u);
}

TEST_F(KvmMachineTest, AWireRequestForMemoryThatTheGuestDoesNotHaveEndsItAndSaysWhy) {
  program_ = ParseElf("wire", WireProgram(), ByteCount::MiB(1)).value();
  for (seed_ = 1; seed_ < kWireCases; ++seed_) {
    Start(ByteCount::MiB(4), PageCount::OfBlocks(16), /*vcpus=*/1);
    machine_->Join();
    const char* const why = seed_ + 1 < kWireCases ? "it asked to wire 0x" : "it wrote 3 to port 0xf7";
    EXPECT_THAT(std::string(machine_->exit().message()), AllOf(HasSubstr(why), HasSubstr("\nrip=")))
        << "case " << seed_;
    EXPECT_EQ(guest_->wired(), PageCount());
    manager_->StopReclaim();
    End();
  }
}

TEST_F(KvmMachineTest, AKilledGuestEndsWhereverItIs) {
  Start(ByteCount::MiB(6), PageCount::OfBlocks(16), /*vcpus=*/2);
  WaitForOperations(1);
  guest_->Stop(absl::CancelledError("stopped by the manager"));
  guest_->Discard(GfnRange(Gfn(0), guest_->size()));
  // Its vCPUs sleep in faults by now, which nobody will answer.
  machine_->Kill(absl::AbortedError("killed"));
  machine_->Join();
  EXPECT_EQ(machine_->exit(), absl::AbortedError("killed"));
  EXPECT_EQ(guest_->frames_held(), PageCount());
}

}  // namespace
}  // namespace quire
