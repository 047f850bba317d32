#include "vmm/memory_failure.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/guest_memory.h"
#include "guest/memory_manager.h"
#include "guest/page_entry.h"
#include "guest/testing/eventually.h"
#include "guest/testing/fake_mmu.h"

namespace quire {
namespace {

// As the host kernel sends it.
void SendBusError(int code, const void* address) {
  siginfo_t info = {};
  info.si_signo = SIGBUS;
  info.si_code = code;
  info.si_addr = const_cast<void*>(address);
  ASSERT_EQ(syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGBUS, &info), 0) << std::strerror(errno);
}

class MemoryFailureTest : public ::testing::Test {
 protected:
  void SetUp() override {
    manager_ = MemoryManager::Create({.limit = PageCount::OfBlocks(16), .reservations = {}, .use_memfd = true}).value();
    guest_ = manager_->AddGuest(PageCount::OfBlocks(1), Placement::kArena).value();
    mmu_ = std::make_unique<FakeMmu>(*guest_);
    mmu_->Write(Gfn(7), 42);
    mmu_->Write(Gfn(8), 43);
  }
  void TearDown() override {
    watch_.reset();
    mmu_.reset();
    manager_->RemoveGuest(guest_);
  }
  void Watch(const std::vector<MemoryFailureWatch::Window>& windows = {}) {
    watch_ = std::make_unique<MemoryFailureWatch>(*manager_, windows, [this](const auto& result) {
      if (result.ok()) {
        ++poisoned_;
      } else {
        ++refused_;
      }
    });
  }
  const std::byte* AddressOf(Gfn gfn) { return manager_->pool().Frame(guest_->EntryOf(gfn).frame()); }

  std::unique_ptr<MemoryManager> manager_;
  GuestMemory* guest_ = nullptr;
  std::unique_ptr<FakeMmu> mmu_;
  std::atomic<int> poisoned_ = 0;
  std::atomic<int> refused_ = 0;
  std::unique_ptr<MemoryFailureWatch> watch_;
};

TEST_F(MemoryFailureTest, AFrameThatNobodyRanIntoIsPoisoned) {
  Watch();
  SendBusError(BUS_MCEERR_AO, AddressOf(Gfn(7)) + 100);
  EXPECT_TRUE(Eventually([&] { return poisoned_ == 1; }));
  EXPECT_EQ(guest_->EntryOf(Gfn(7)).state(), PageState::kPoisoned);
  EXPECT_EQ(mmu_->Read(Gfn(8)), 43u);
  EXPECT_FALSE(guest_->stopped());
  EXPECT_TRUE(absl::IsDataLoss(mmu_->Page(Gfn(7)).status()));
  EXPECT_TRUE(guest_->stopped());
}

TEST_F(MemoryFailureTest, AVcpuThatRunsIntoItInAWindowGoesOnToFindThePageLost) {
  const std::vector<std::byte> window(kBlockSize);
  Watch({{.begin = Hva(window.data()), .guest = guest_}});
  SendBusError(BUS_MCEERR_AR, window.data() + 7 * kPageSize);
  EXPECT_TRUE(Eventually([&] { return poisoned_ == 1; }));
  EXPECT_EQ(guest_->EntryOf(Gfn(7)).state(), PageState::kPoisoned);
  // By the time that it is told again there is nothing left to lose.
  SendBusError(BUS_MCEERR_AR, window.data() + 7 * kPageSize);
  EXPECT_TRUE(Eventually([&] { return refused_ == 1; }));
}

TEST_F(MemoryFailureTest, MemoryOfTheProgramItselfIsLetBeUntilItIsNeeded) {
  Watch();
  const int here = 0;
  SendBusError(BUS_MCEERR_AO, &here);
  EXPECT_EQ(manager_->pool().poisoned(), PageCount());
}

using MemoryFailureDeathTest = MemoryFailureTest;

TEST_F(MemoryFailureDeathTest, WhoeverCannotGoOnEndsWithASentence) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto die = [&](int code, const void* address) {
    Watch();
    SendBusError(code, address);
  };
  EXPECT_EXIT(die(BUS_MCEERR_AR, AddressOf(Gfn(7))), ::testing::KilledBySignal(SIGBUS),
              "memory of the pool failed while the manager itself was using it");
  EXPECT_EXIT(die(BUS_MCEERR_AR, &poisoned_), ::testing::KilledBySignal(SIGBUS), "memory of the program itself failed");
  EXPECT_EXIT(die(BUS_ADRERR, &poisoned_), ::testing::KilledBySignal(SIGBUS), "");
}

TEST_F(MemoryFailureTest, TheSignalIsWhatItWasWhenTheWatchEnds) {
  struct sigaction before, after;
  sigaction(SIGBUS, nullptr, &before);
  Watch();
  watch_.reset();
  sigaction(SIGBUS, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
}

}  // namespace
}  // namespace quire
