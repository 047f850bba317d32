// The window without KVM: threads of this process touch it as vCPUs would. Needs userfaultfd.

#include "mmu/kvm_window.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "guest/memory_manager.h"

namespace quire {
namespace {

constexpr PageCount kSize = PageCount::OfBlocks(16);

class KvmWindowTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Create(); !uffd.ok()) {
      GTEST_SKIP() << uffd.status().message();
    }
    absl::StatusOr<std::unique_ptr<MemoryManager>> manager =
        MemoryManager::Create({.limit = PageCount::OfBlocks(16), .reservations = kSize});
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
    guest_ = manager_->AddGuest(kSize, Placement::kReservation).value();
    absl::StatusOr<std::unique_ptr<KvmWindow>> window =
        KvmWindow::Create(*guest_, manager_->pool().file().fd(), guest_->reservation());
    ASSERT_TRUE(window.ok()) << window.status();
    window_ = *std::move(window);
  }
  void TearDown() override {
    if (manager_ == nullptr) return;
    manager_->StopReclaim();
    EXPECT_EQ(manager_->Check(), absl::OkStatus());
  }

  volatile uint64_t& Word(uint64_t page, uint64_t word = 0) {
    return reinterpret_cast<volatile uint64_t*>(window_->base().pointer())[page * (kPageSize / 8) + word];
  }
  void ReclaimAll() { manager_->reclaimer().Reclaim(PageCount(1 << 20), scratch_); }
  PageState StateOf(uint64_t page) { return guest_->EntryOf(Gfn(page)).state(); }

  std::unique_ptr<MemoryManager> manager_;
  GuestMemory* guest_ = nullptr;
  std::unique_ptr<KvmWindow> window_;  // goes before what it maps
  EvictionScratch scratch_;
};

TEST_F(KvmWindowTest, FreshMemoryReadsAsZeroAndHoldsWhatIsWritten) {
  EXPECT_EQ(Word(1000), 0u);
  Word(1000) = 17;
  EXPECT_EQ(Word(1000), 17u);
  EXPECT_EQ(StateOf(1000), PageState::kResident);
  // What the window shows is what the manager sees.
  EXPECT_EQ(*reinterpret_cast<uint64_t*>(guest_->HostAddress(guest_->EntryOf(Gfn(1000)).frame())), 17u);
}

TEST_F(KvmWindowTest, AFaultInMapsTheNeighboursThatCameAlong) {
  Word(32) = 1;
  const uint64_t faults = window_->counters().faults.value();
  for (uint64_t i = 32; i < 48; ++i) Word(i) = i;
  EXPECT_EQ(window_->counters().faults.value(), faults);
}

TEST_F(KvmWindowTest, APageThatIsOutFaultsAgainAndKeepsItsContent) {
  for (uint64_t i = 0; i < 100; ++i) Word(i) = i + 1;
  const uint64_t faults = window_->counters().faults.value();
  guest_->Age(guest_->BlockAt(BlockNumber(0)));
  ASSERT_EQ(StateOf(5), PageState::kOut);
  for (uint64_t i = 0; i < 100; ++i) ASSERT_EQ(Word(i), i + 1);
  EXPECT_GT(window_->counters().faults.value(), faults);
  EXPECT_EQ(StateOf(5), PageState::kResident);
}

TEST_F(KvmWindowTest, StoredPagesComeBackThroughTheWindow) {
  for (uint64_t i = 0; i < kSize.in_pages(); i += 5) Word(i, i % 512) = i + 1;
  ReclaimAll();
  EXPECT_EQ(guest_->frames_held(), PageCount());
  for (uint64_t i = 0; i < kSize.in_pages(); i += 5) ASSERT_EQ(Word(i, i % 512), i + 1);
}

TEST_F(KvmWindowTest, TheFileHoldsNoMoreThanWhatIsCharged) {
  for (uint64_t i = 0; i < kSize.in_pages(); i += 7) Word(i) = i + 1;
  EXPECT_EQ(manager_->pool().file().PopulatedPages(), manager_->pool().budget().charged());
  ReclaimAll();
  EXPECT_EQ(manager_->pool().file().PopulatedPages(), manager_->pool().budget().charged());
}

// As KVM does, the kernel touches the window here: it gets an error, where the program itself would get a signal.
TEST_F(KvmWindowTest, AStoppedGuestsFaultEndsInAnErrorInsteadOfWaiting) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const UniqueFd read_end(pipe_fds[0]), write_end(pipe_fds[1]);
  const auto touch = [&](uint64_t page) { return write(write_end.get(), const_cast<uint64_t*>(&Word(page)), 8); };
  ASSERT_EQ(touch(7), 8);
  guest_->Stop(absl::CancelledError("stopped"));
  for (uint64_t page : {1000, 7, 2000}) {
    errno = 0;
    EXPECT_EQ(touch(page), -1) << page;
    EXPECT_EQ(errno, EFAULT) << page;
  }
}

// KVM's way of touching it: the kernel does, and gets an error.
class LostPageTest : public KvmWindowTest {
 protected:
  void SetUp() override {
    KvmWindowTest::SetUp();
    if (manager_ == nullptr) return;
    guest_->LiveWithLoss();
    window_.reset();
    window_ = KvmWindow::Create(*guest_, manager_->pool().file().fd(), guest_->reservation(), {.bars_lost_pages = true})
                  .value();
    ASSERT_EQ(pipe(pipe_fds_), 0);
  }
  void TearDown() override {
    close(pipe_fds_[0]);
    close(pipe_fds_[1]);
    KvmWindowTest::TearDown();
  }

  // 0, or the error that the kernel got.
  int Touch(uint64_t page) {
    uint64_t value = 0;
    if (write(pipe_fds_[1], const_cast<uint64_t*>(&Word(page)), sizeof value) != sizeof value) return errno;
    EXPECT_EQ(read(pipe_fds_[0], &value, sizeof value), ssize_t{sizeof value});
    return 0;
  }
  void Lose(uint64_t page) {
    Word(page) = page;
    ASSERT_TRUE(manager_->PoisonPage(*guest_, Gfn(page)).ok());
  }

  int pipe_fds_[2] = {-1, -1};
};

TEST_F(LostPageTest, EachTouchOfALostPageIsAnErrorThatSomebodyTakes) {
  Word(1001) = 5;
  Lose(1000);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(window_->TakeLostPage(), std::nullopt) << "nobody has touched it";
    EXPECT_EQ(Touch(1000), EFAULT);
    EXPECT_EQ(Touch(1001), 0) << "its neighbour is there";
    EXPECT_EQ(window_->TakeLostPage(), Gfn(1000));
    EXPECT_EQ(Word(1001), 5u);
  }
  EXPECT_FALSE(guest_->stopped());
  EXPECT_EQ(window_->counters().lost_pages.value(), 3u);
}

TEST_F(LostPageTest, ALostPageThatIsGivenUpReadsAsZero) {
  Lose(1000);
  EXPECT_EQ(Touch(1000), EFAULT);
  guest_->Discard(GfnRange(Gfn(1000), kOnePage));
  EXPECT_EQ(window_->TakeLostPage(), std::nullopt);
  EXPECT_EQ(Word(1000), 0u);
  Word(1000) = 3;
  EXPECT_EQ(Word(1000), 3u);
}

// One is barred at a time. Whoever waits for another comes to its own in the end, also if nobody takes the first.
TEST_F(LostPageTest, SeveralLostPagesAreTakenOneByOne) {
  constexpr uint64_t kLost[] = {1000, 1001, 3000};
  for (const uint64_t page : kLost) Lose(page);
  for (const uint64_t page : kLost) {
    EXPECT_EQ(Touch(page), EFAULT);
    if (page != 1000) {
      EXPECT_EQ(window_->TakeLostPage(), Gfn(page));
    }
  }
  EXPECT_EQ(window_->TakeLostPage(), std::nullopt);
  EXPECT_EQ(Touch(1002), 0);
}

TEST_F(LostPageTest, AStoppedGuestHasNone) {
  Lose(1000);
  EXPECT_EQ(Touch(1000), EFAULT);
  guest_->Stop(absl::CancelledError("stopped"));
  EXPECT_EQ(window_->TakeLostPage(), std::nullopt);
  EXPECT_EQ(Touch(1000), EFAULT);
  EXPECT_EQ(Touch(5), EFAULT);
}

// Increments, from several threads, of counters in pages that are taken out and put back, stored and loaded all the
// while: none may be lost.
TEST_F(KvmWindowTest, NoIncrementIsLostWhilePagesAreTakenOutAndEvicted) {
  constexpr int kThreads = 4;
  constexpr uint64_t kCounters = 64;
  constexpr uint64_t kRounds = 20;
  manager_->StartReclaim();
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> increments = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::minstd_rand random(static_cast<unsigned>(t) + 1);
      for (; !stop; ++increments) {
        auto* const word = const_cast<uint64_t*>(&Word(random() % kCounters * 97 % kSize.in_pages(), 3));
        __atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
      }
    });
  }
  // However the threads are scheduled: until pages have come back both ways, and often.
  const auto enough = [&](uint64_t rounds) {
    return rounds >= kRounds && manager_->faults().second_chance.value() >= kCounters &&
           manager_->faults().swap_in.value() >= kCounters;
  };
  for (uint64_t rounds = 0; !enough(rounds); ++rounds) {
    for (uint64_t b = 0; b < guest_->size().in_blocks_ceil(); ++b) guest_->Age(guest_->BlockAt(BlockNumber(b)));
    const uint64_t before = increments;
    while (increments < before + kCounters) std::this_thread::yield();
    if (rounds % 4 == 0) ReclaimAll();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  uint64_t sum = 0;
  for (uint64_t i = 0; i < kSize.in_pages(); ++i) sum += Word(i, 3);
  EXPECT_EQ(sum, increments);
}

// A guest twice as large as what the pool leaves it: sweeps verify every page's content.
TEST_F(KvmWindowTest, AGuestLargerThanThePoolRunsCorrectly) {
  manager_->StartReclaim();
  constexpr int kSweeps = 3;
  for (uint64_t sweep = 0; sweep < kSweeps; ++sweep) {
    for (uint64_t i = 0; i < kSize.in_pages(); ++i) {
      if (sweep > 0) {
        ASSERT_EQ(Word(i, i % 512), i * 3 + sweep);
      }
      for (uint64_t w = 0; w < 512; w += 2) Word(i, w) = (i * 512 + w) * 0x9e3779b97f4a7c15;
      Word(i, i % 512) = i * 3 + sweep + 1;
    }
  }
  EXPECT_LE(manager_->pool().budget().peak(), manager_->pool().budget().limit());
  EXPECT_GT(manager_->swap().pages_out.value(), 0u);
}

}  // namespace
}  // namespace quire
